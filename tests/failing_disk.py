"""A process whose disk fails: it prints, as JSON, what each change said of it and what the file then held.

Started with a folder and `EIO` or `ENOSPC` (LD_PRELOAD has to name the shim of failing_writes.c), `limit`, `full` or
`read-only`. The last two mount a file system there: the process has to be in a mount namespace of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_cl import Learner
from edge_cl.errors import EdgeClError
from edge_cl.state import opening
from edge_cl.state.check import check_file

from .examine import batch

Change = Callable[[Learner], object]
CHANGES: dict[str, Change] = {
    "learn": lambda learner: learner.learn(*batch(50), min_retention=0),
    "forget": lambda learner: learner.forget("class-1"),
    "rollback": lambda learner: learner.rollback(2),
    "resize": lambda learner: learner.resize(replay_bytes=500),
}


@dataclass
class Outcome:
    """What became of a file.

    Attributes:
        what: was tried.
        said: the error's line, or `done`.
        before: version, digest and limit of the replay; so are the next two.
        after: what they are where the change is made undisturbed.
        found: what they were then.
        complaints: of `check`.
        later: versions by which an update increased the number when the disk was whole again; 1.
    """

    what: str
    said: str
    before: list[Any]
    after: list[Any]
    found: list[Any]
    complaints: list[str]
    later: int


def content(learner: Learner) -> list[Any]:
    """Return version, digest and limit of the replay."""
    state = learner._current.state
    return [state.current_version(), state.digest(), state.settings.replay_bytes]


def make(path: Path) -> Path:
    """Make a state with some versions, the last ones in a log that a killed process left."""
    with Learner.create(path, device="cpu", replay_bytes=1_000, history_bytes=100_000) as learner:
        for seed in range(3):
            learner.learn(*batch(seed), min_retention=0)
    if not os.fork():
        learner = Learner.open(path)
        learner.learn(*batch(3), min_retention=0)
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
    return path


def copy(source: Path, target: Path) -> Path:
    """Copy a state and its log."""
    for suffix in ("", "-wal"):
        Path(f"{target}{suffix}").unlink(missing_ok=True)
        if Path(f"{source}{suffix}").exists():
            shutil.copy(f"{source}{suffix}", f"{target}{suffix}")
    Path(f"{target}-shm").unlink(missing_ok=True)
    return target


def attempt(change: Callable[[], object]) -> str:
    """Return `done` or the line of the error."""
    try:
        change()
    except EdgeClError as error:
        return str(error)
    return "done"


def both(base: Path, path: Path, change: Change) -> tuple[list[Any], list[Any]]:
    """Return the contents before and after an undisturbed change."""
    with Learner.open(copy(base, path)) as learner:
        before = content(learner)
        change(learner)
        return before, content(learner)


def suffer(path: Path, change: Change, broken: contextlib.AbstractContextManager[object], *, anew: bool) -> list[Any]:
    """Change a state while the disk is broken, and go on when it is whole: with the same learner, or with a new one.

    Returns:
        What an `Outcome` has but for `what`, `before` and `after`.
    """

    def open_and_change() -> None:
        with Learner.open(path) as opened:
            change(opened)

    learner = None if anew else Learner.open(path)
    with broken:
        said = attempt(lambda: change(learner) if learner else open_and_change())
    with learner or Learner.open(path) as learner:
        found = content(learner)
        complaints = [text for text in check_file(str(path)) if not text.startswith("what was forgotten is not erased")]
        later = learner.learn(*batch(60), min_retention=0).version - found[0]
    Learner.open(path).close()  # finishes an erasure
    return [said, found, [*complaints, *check_file(str(path))], later]


class Shim:
    """Lets calls fail; see failing_writes.c."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self.n_failed = 0

    @contextlib.contextmanager
    def broken(self, first: int, every: int, number: int) -> Iterator[None]:
        """Let call `first` fail within the context, and then each `every`-th after it."""
        self._library.failing_writes_arm(ctypes.c_long(first), ctypes.c_long(every), number)
        try:
            yield
        finally:
            self.n_failed = self._library.failing_writes_disarm()


def fail_writes(folder: Path, number: int) -> Iterator[Outcome]:
    """Let each call of each change fail with an error number: once, or it and all that follow."""
    shim, base, path = Shim(), make(folder / "base.ecl"), folder / "a.ecl"
    opening.WAL_BYTES = 64 << 10  # so that a change folds the log in
    for name, change in CHANGES.items():
        before, after = both(base, path, change)
        for every in (0, 1):
            for first in range(1, 1_000):
                copy(base, path)
                said, *rest = suffer(path, change, shim.broken(first, every, number), anew=bool(every))
                if not shim.n_failed:
                    break
                what = f"{name}: {errno.errorcode[number]} at call {first}{' and ever after' * every}"
                yield Outcome(what, said, before, after, *rest)


@contextlib.contextmanager
def limited(n_bytes: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes within the context."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def limit_files(folder: Path) -> Iterator[Outcome]:
    """Let files grow to no more than some size: of the log, of what is folded in, of what closing folds in."""
    base, path = make(folder / "base.ecl"), folder / "a.ecl"
    size = base.stat().st_size
    for wal_bytes in (opening.WAL_BYTES, 64 << 10):
        opening.WAL_BYTES = wal_bytes
        for name, change in CHANGES.items():
            before, after = both(base, path, change)
            for n_bytes in (1, 20_000, 50_000, 80_000, size - 1, size, size + opening.PAGE_BYTES, 2 * size):
                for anew in (False, True):
                    copy(base, path)
                    rest = suffer(path, change, limited(n_bytes), anew=anew)
                    what = f"{name}: no file beyond {n_bytes} bytes, {'opened anew' if anew else 'the same learner'}"
                    yield Outcome(what, rest[0], before, after, *rest[1:])


def fill_disk(folder: Path) -> Iterator[Outcome]:
    """Leave more and more room on a small disk."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=True)
    base, path = make(folder / "base.ecl"), folder / "a.ecl"
    filler = folder / "filler"

    @contextlib.contextmanager
    def full(n_bytes: int) -> Iterator[None]:
        status = os.statvfs(folder)
        filler.write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - n_bytes)))
        try:
            yield
        finally:
            filler.unlink()

    for name, change in CHANGES.items():
        before, after = both(base, path, change)
        for n_bytes in (0, 4_096, 40_960, 81_920, 163_840, 409_600):
            for anew in (False, True):
                copy(base, path)
                said, *rest = suffer(path, change, full(n_bytes), anew=anew)
                yield Outcome(f"{name}: {n_bytes} bytes of room", said, before, after, *rest)


def read_only(folder: Path) -> dict[str, Any]:
    """Return what is said of states that cannot be written: a closed one, and two with a log, one without its -shm."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=True)
    with_log = make(folder / "log.ecl")
    closed, bare = copy(with_log, folder / "closed.ecl"), copy(with_log, folder / "bare.ecl")
    with Learner.open(closed) as learner:
        learner.learn(*batch(4), min_retention=0)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    said: dict[str, Any] = {}
    for path in (closed, with_log, bare):
        for is_asked in (True, False):
            said[f"{path.stem}, read_only={is_asked}"] = attempt(lambda: _use(path, read_only=is_asked))  # noqa: B023
        for name, change in CHANGES.items():
            said[f"{path.stem}, {name}"] = attempt(lambda: _change(path, change))  # noqa: B023
        said[f"{path.stem}, check"] = list(check_file(str(path)))
    said["create"] = attempt(lambda: Learner.create(folder / "new.ecl").close())
    said["files"] = sorted(os.listdir(folder))
    return said


def _use(path: Path, *, read_only: bool) -> None:
    with Learner.open(path, read_only=read_only) as learner:
        learner.predict(batch(1)[0])
        learner.versions()


def _change(path: Path, change: Change) -> None:
    with Learner.open(path) as learner:
        change(learner)


def main() -> None:
    """Print what came of it."""
    kind, folder = sys.argv[1], Path(sys.argv[2])
    if kind == "read-only":
        print(json.dumps(read_only(folder)))
        return
    outcomes = {
        "EIO": lambda: fail_writes(folder, errno.EIO),
        "ENOSPC": lambda: fail_writes(folder, errno.ENOSPC),
        "limit": lambda: limit_files(folder),
        "full": lambda: fill_disk(folder),
    }[kind]()
    print(json.dumps([asdict(outcome) for outcome in outcomes]))


if __name__ == "__main__":
    main()
