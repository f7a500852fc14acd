"""Heads on Linux: deployed into a folder, tried, confirmed or taken back, whatever is interrupted when.

    DIR/key.pub.pem                  the key, since the first deployment
    DIR/pointer.json                 which folder runs: `pointer`
    DIR/versions/000007-0123abcd/    `versions`

An app starts what `current` gives it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_cl.errors import BundleError, EdgeClError, SlotError, reason_of
from edge_cl.files import sync_folder, write_whole
from edge_firmware.bundle import Bundle, at_path, from_bytes, read_bytes
from edge_firmware.keys import PublicKey
from edge_firmware.locks import alone
from edge_firmware.pointer import POINTER, VERSIONS, FolderSlots, read_pointer
from edge_firmware.versions import name_of, remove_versions, write_version

KEY = "key.pub.pem"
CHECK_SECONDS = 60.0
MOST_TRIES = 255
PATIENCE_SECONDS = 0.5  # that an app waits for a deployment, before it takes the head that is confirmed
FIRST = "type: edge-cl deploy out.edgehead --to {} --key key.pub.pem"


@dataclass(frozen=True)
class DeployReport:
    """What became of a head.

    Attributes:
        path: of its folder.
        state: `active`, or `trial`: it becomes active when `confirm` is called.
        version: of the head.
        counter: its security counter.
        n_classes: K.
        before: folder of the head that ran before; None: there was none, or it is the same.
        was_running: whether it is the same.
    """

    path: str
    state: str
    version: int
    counter: int
    n_classes: int
    before: str | None
    was_running: bool


def deploy(
    bundle: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    key: PublicKey | str | os.PathLike[str] | None = None,
    check: Sequence[str] = (),
    check_seconds: float = CHECK_SECONDS,
    tries: int = 0,
) -> DeployReport:
    """Put a head into a folder; when its canaries and the check have passed, it is the one that runs.

    Args:
        bundle: path of `edge-cl pack`'s file.
        folder: that heads are deployed to; made if there is none.
        key: public, that bundles are signed with; needed the first time, and remembered.
        check: a command that is given the head's folder as its last argument, and ends with 0 where all is well.
        check_seconds: that it may take.
        tries: how many starts of the app the head has to be confirmed in, by `confirm`; 0: it is confirmed now.

    Raises:
        BundleError: it is damaged, of another key, product or backbone, or of a lower counter; nothing was written.
        SlotError: the check failed, and the head before runs on; or the folder cannot be written.
    """
    root, data = Path(folder), read_bytes(bundle)
    if isinstance(tries, bool) or not isinstance(tries, int) or not 0 <= tries <= MOST_TRIES:
        raise SlotError(f"tries: expected 0 to {MOST_TRIES}; found {tries!r}")
    if not check_seconds > 0:
        raise SlotError(f"check_seconds: expected a number above 0; found {check_seconds!r}")
    if isinstance(check, str):
        raise SlotError(f"check: expected a list of words, such as ['test', '-d']; found {check!r}")
    opened = key if key is None or isinstance(key, PublicKey) else PublicKey.open(key)
    try:
        _verified(bundle, data, _key_of(root, opened))
        _make(root)
        with alone(root) as is_alone:
            if not is_alone:
                raise SlotError(f"{root}: another process is deploying there; wait until it is done")
            pinned = _key_of(root, opened)
            found = _verified(bundle, data, pinned)
            slots = FolderSlots(root, pinned)
            if slots.record.active is None and slots.name(0) is not None:
                try:
                    slots.boot()  # the pointer was lost
                except SlotError:
                    slots.keep_counter()
            try:
                slots.check_fits(found.head)
            except BundleError as error:
                raise BundleError(f"{bundle}: {error}; {root} was left as it is") from None
            if not (root / KEY).exists():
                write_whole(root / KEY, pinned.to_pem())
            return _install(slots, data, (check, check_seconds), tries)
    except OSError as error:
        where = error.filename or root
        raise SlotError(f"{where}: cannot be written: {error.strerror}; what ran before runs on") from None


def current(folder: str | os.PathLike[str]) -> Path:
    """Return the folder of the head to run; its `head.onnx` is for onnxruntime or `edge_cl.Predictor`.

    To be called once at each start of an app: of a head on trial it counts the tries. A head is not given before its
    signature holds and its canaries get their answers; where it does not pass, the other one is.

    Args:
        folder: that heads are deployed to.

    Raises:
        SlotError: there is no head that may run.
    """
    root = Path(folder)
    key = pinned_key(root)
    with alone(root, PATIENCE_SECONDS) as is_alone:
        slots = FolderSlots(root, key, is_writable=is_alone)
        try:
            slot, _ = slots.boot()
        except SlotError:
            raise SlotError(f"{root}: there is no head that may run: {_reason(slots)}; {FIRST.format(root)}") from None
        return slots.path(slot)


def confirm(folder: str | os.PathLike[str], started: str | os.PathLike[str] | None = None) -> Path:
    """Make the head on trial the one that runs from now on, and return its folder.

    Args:
        folder: that heads are deployed to.
        started: what `current` gave to the app, which no head that was deployed since then may stand in for; None: it
            is left to the caller that the head on trial is the one that proved itself. An app may confirm what it
            started at each start: that of a head which is confirmed changes nothing.

    Raises:
        SlotError: none is on trial, or another one than was started; or the folder cannot be written.
        BundleError: it does not pass any more.
    """
    with _slots_of(Path(folder)) as slots:
        active, trial = slots.record.active, slots.record.spare
        confirmed = None if active is None or slots.record.tries is not None else slots.path(active)
        if confirmed is not None and started is not None and Path(started).name == confirmed.name:
            return confirmed
        _check_trial(slots)
        if started is not None and Path(started).name != slots.name(trial):
            raise SlotError(
                f"{folder}: {slots.name(trial)} is on trial there, not {Path(started).name}; start it first"
            )
        slots.check(trial, slots.record.counter)
        slots.chosen = trial
        slots.confirm()
        _clean(slots)
        return slots.path(trial)


def reject(folder: str | os.PathLike[str]) -> None:
    """End a trial: the head that was confirmed runs on.

    Raises:
        SlotError: none is on trial, or the folder cannot be written.
    """
    with _slots_of(Path(folder)) as slots:
        _check_trial(slots)
        slots.reject()
        _clean(slots)


def _install(slots: FolderSlots, data: bytes, check: tuple[Sequence[str], float], tries: int) -> DeployReport:
    """Return what became of a head that may be put into the spare slot.

    Raises:
        SlotError: its check failed, or the folder cannot be written.
    """
    active = slots.record.active
    before = None if active is None else slots.path(active)
    slots.begin()
    if active is not None and slots.name(active) == name_of(data):
        if slots.record.tries is not None:
            slots.reject()  # of the two heads this one is wanted
            _clean(slots)
        if not slots.passes(active):
            write_version(slots.folder / VERSIONS, data)  # it was damaged
        if check[0]:
            _run(check[0], slots.path(active), check[1])
        return _report(slots, "active", active, None, was_running=True)
    name = write_version(slots.folder / VERSIONS, data)
    slots.put(name)
    try:
        if tries:
            slots.try_out(tries)
            return _report(slots, "trial", slots.record.spare, before)
        trial = slots.try_once()
        try:
            if check[0]:
                _run(check[0], slots.path(trial), check[1])
        except BaseException:
            with contextlib.suppress(SlotError):
                slots.reject()
            raise
        slots.confirm()
    finally:
        _clean(slots)
    return _report(slots, "active", trial, before)


def _make(folder: Path) -> None:
    """Make a folder, and those that it is in, so that they outlast a power cut."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def _run(command: Sequence[str], folder: Path, seconds: float) -> None:
    """Run the user's check; what it prints goes to stderr.

    Raises:
        SlotError: it failed.
    """
    shown = f"check {command[0]}"
    try:
        process = subprocess.Popen(  # noqa: S603 - the user's own command, no shell
            [*command, str(folder)], stdin=subprocess.DEVNULL, stdout=2, start_new_session=True
        )
    except (OSError, ValueError) as error:
        raise SlotError(f"{shown}: cannot be run: {reason_of(error)}; what ran before runs on") from None
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise SlotError(f"{shown}: took more than {seconds:g} seconds; what ran before runs on") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if status:
        raise SlotError(f"{shown}: expected exit status 0; found {status}; what ran before runs on")


def _report(
    slots: FolderSlots, state: str, slot: int, before: Path | None, *, was_running: bool = False
) -> DeployReport:
    head = slots.head(slot)
    told = None if before is None else str(before)
    return DeployReport(str(slots.path(slot)), state, head.version, head.counter, len(head.classes), told, was_running)


def _clean(slots: FolderSlots) -> None:
    """Remove the folders that no slot has."""
    pointer = read_pointer(slots.folder / POINTER)  # as it is, whatever failed before
    if pointer is not None:
        remove_versions(slots.folder / VERSIONS, (*pointer.names, pointer.replaced))


def _verified(path: str | os.PathLike[str], data: bytes, key: PublicKey) -> Bundle:
    """Return the bundle.

    Raises:
        BundleError: it is damaged, or of another key.
    """
    try:
        return from_bytes(data, key)
    except BundleError as error:
        raise BundleError(at_path(path, error)) from None


def _key_of(folder: Path, given: PublicKey | None) -> PublicKey:
    """Return the key of a folder; the one that was given, where it has none yet.

    Raises:
        BundleError: the folder has another one.
        SlotError: there is none.
    """
    if os.path.lexists(folder / KEY):
        pinned = pinned_key(folder)
        if given is not None and given != pinned:
            ids = f"expected {pinned.key_id.hex()}; found {given.key_id.hex()}"
            raise BundleError(f"{folder}: takes heads of one key: {ids}; leave out --key, or deploy to another folder")
        return pinned
    if given is None:
        raise SlotError(f"{folder}: has no key yet; pass it the first time: --key key.pub.pem")
    return given


def pinned_key(folder: Path) -> PublicKey:
    """Return the key of a folder.

    Raises:
        SlotError: it has none.
    """
    if not (folder / KEY).exists():
        raise SlotError(f"{folder}: nothing is deployed there; {FIRST.format(folder)}")
    try:
        return PublicKey.open(folder / KEY)
    except BundleError as error:
        raise SlotError(f"{error}; put the public key of its heads there") from None


def _reason(slots: FolderSlots) -> str:
    """Return why the confirmed head may not run."""
    active = slots.record.active
    if active is None:
        return "none is confirmed"
    try:
        slots.check(active, slots.record.counter)
    except EdgeClError as error:
        return str(error)
    return "the pointer cannot be written"


@contextlib.contextmanager
def _slots_of(folder: Path) -> Iterator[FolderSlots]:
    """Give the slots of a folder.

    Raises:
        SlotError: another process is deploying there.
    """
    key = pinned_key(folder)
    with alone(folder, PATIENCE_SECONDS) as is_alone:
        if not is_alone:
            raise SlotError(f"{folder}: another process is deploying there; wait until it is done")
        yield FolderSlots(folder, key)


def _check_trial(slots: FolderSlots) -> None:
    """Refuse to end a trial where there is none.

    Raises:
        SlotError: there is none.
    """
    if slots.record.tries is None:
        raise SlotError(f"{slots.folder}: no head is on trial there; see edge-cl slots {slots.folder}")
