"""Deployment: what runs is the head before or the new one, and a head that is refused leaves the folder as it was."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_firmware import confirm, current, deploy, reject
from edge_firmware.bundle import Bundle, read_bundle, sign_blob, write_bundle
from edge_firmware.keys import PublicKey
from edge_firmware.listing import list_slots
from edge_firmware.locks import alone
from edge_firmware.pointer import POINTER, FolderSlots, Pointer, read_pointer
from edge_firmware.records import Record
from hypothesis import given
from hypothesis import strategies as st

from edge_cl import Predictor
from edge_cl.errors import BundleError, SlotError

from .packed import key_of, small_blob, write_key

KEY = key_of(1)
TOOLS = Path(__file__).resolve().parents[1] / "tools"
Make = Callable[..., Path]


@pytest.fixture
def bundle(tmp_path: Path) -> Make:
    """Return a function that writes a bundle of some version and returns its path."""

    def make(version: int, number: int = 1, **changes: Any) -> Path:
        key, path = key_of(number), tmp_path / f"{version}.edgehead"
        blob = small_blob(key, **{"version": version, "canaries": CANARIES, "answers": ANSWERS, **changes})
        write_bundle(path, Bundle(sign_blob(blob, key)), key)
        return path

    return make


CANARIES, ANSWERS = np.array([[50, 0, 0, 0, 0], [0, 0, 50, 0, 0]], np.int8), np.array([0, 2])


@pytest.fixture
def root(tmp_path: Path, bundle: Make) -> Path:
    """Return a folder that version 7 is deployed in."""
    deploy(bundle(7), tmp_path / "heads", key=KEY.public)
    return tmp_path / "heads"


def version_of(folder: Path) -> int:
    return read_bundle(folder / "head.edgehead", KEY.public).version


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def states(folder: Path) -> list[tuple[int | None, str, int | None]]:
    return [(line.version, line.state, line.tries) for line in list_slots(folder)]


def test_the_first_head_brings_its_key_and_later_ones_need_none(tmp_path: Path, bundle: Make) -> None:
    root, first = tmp_path / "a" / "heads", bundle(7)
    with pytest.raises(SlotError, match=r"has no key yet; pass it the first time: --key key\.pub\.pem"):
        deploy(first, root)
    with pytest.raises(BundleError, match="signed with another key"):
        deploy(first, root, key=key_of(2).public)
    assert not root.parent.exists()
    report = deploy(first, root, key=write_key(tmp_path / "key.pem"))
    assert (report.state, report.version, report.counter, report.before) == ("active", 7, 2, None)
    assert PublicKey.open(root / "key.pub.pem") == KEY.public
    assert current(root) == Path(report.path)
    again = deploy(bundle(8), root)
    assert again.before == report.path
    assert version_of(current(root)) == 8
    assert deploy(bundle(9), root, key=KEY.public).version == 9
    assert states(root) == [(9, "active", None), (8, "before", None)]
    assert sorted(path.name[:6] for path in (root / "versions").iterdir()) == ["000008", "000009"]


def test_an_app_runs_what_is_deployed(root: Path) -> None:
    with Predictor(current(root) / "head.onnx", poll_seconds=0) as predictor:
        found = predictor.predict(25 * np.eye(5, dtype=np.float32)[:3])
    assert found.labels == ("door", "größe", "日")
    assert found.version == 7


Change = dict[str, Any]
REFUSED: dict[str, tuple[Change, type[Exception], str]] = {
    "key": ({"number": 2}, BundleError, f"expected {KEY.key_id.hex()}; found {key_of(2).key_id.hex()}"),
    "product": ({"product": "gate cam"}, BundleError, "the head is for product 'gate cam'; expected 'door cam'"),
    "backbone": ({"backbone": bytes(32)}, BundleError, "the head is for backbone 0000000000000000; expected 000102030"),
    "counter": ({"counter": 1}, BundleError, "the security counter is 1; expected at least 2; pack with --counter"),
    "canary": ({"answers": np.array([1, 2])}, BundleError, "canary 0: expected 'größe'; onnxruntime says 'door'"),
    "weights": ({"scales": np.full(4, np.nan, np.float32)}, BundleError, "expected finite weights"),
    "table": ({"table": np.zeros(256, np.int8)}, BundleError, "its table is not that of the power"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_belong_there_is_refused_and_nothing_changes(root: Path, bundle: Make, name: str) -> None:
    changes, kind, text = REFUSED[name]
    before = content(root)
    with pytest.raises(kind, match=text) as caught:
        deploy(bundle(8, **changes), root)
    assert "\n" not in str(caught.value)
    assert content(root) == before
    assert version_of(current(root)) == 7


def test_a_damaged_bundle_is_refused_and_nothing_changes(root: Path, bundle: Make) -> None:
    before, path = content(root), bundle(8)
    data = path.read_bytes()
    for n_bytes in (0, 1, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:n_bytes])
        with pytest.raises(BundleError, match=r"8\.edgehead: the file is cut short"):
            deploy(path, root)
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(BundleError, match=r"8\.edgehead: "):
            deploy(path, root)
    with pytest.raises(BundleError, match="expected a bundle: No such file"):
        deploy(path.with_name("none"), root)
    with pytest.raises(BundleError, match=r"takes heads of one key: .*leave out --key"):
        deploy(path, root, key=key_of(2).public)
    for tries in (-1, 256):
        with pytest.raises(SlotError, match="tries: expected 0 to 255"):
            deploy(path, root, tries=tries)
    with pytest.raises(SlotError, match="check: expected a list of words"):
        deploy(path, root, check="true")
    assert content(root) == before


def test_the_counter_of_a_confirmed_head_is_the_lowest_from_then_on(root: Path, bundle: Make) -> None:
    deploy(bundle(8, counter=5), root, tries=1)
    reject(root)
    deploy(bundle(8, counter=2), root)
    deploy(bundle(9, counter=5), root)
    with pytest.raises(BundleError, match="the security counter is 4; expected at least 5"):
        deploy(bundle(10, counter=4), root)
    assert deploy(bundle(6, counter=5), root).version == 6


CHECKS: dict[str, tuple[str, str]] = {
    "status": ("raise SystemExit(3)", "expected exit status 0; found 3"),
    "killed": ("import os; os.kill(os.getpid(), 9)", "expected exit status 0; found -9"),
    "time": ("import time; time.sleep(60)", "took more than 0.7 seconds"),
}


@pytest.mark.parametrize("name", CHECKS)
def test_a_head_whose_check_fails_is_taken_back(root: Path, bundle: Make, name: str) -> None:
    code, text = CHECKS[name]
    deploy(bundle(8), root)
    with pytest.raises(SlotError, match=f"{text}; what ran before runs on"):
        deploy(bundle(9), root, check=[sys.executable, "-c", code], check_seconds=0.7)
    assert version_of(current(root)) == 8
    assert states(root) == [(8, "active", None), (7, "before", None)]
    assert len(list((root / "versions").iterdir())) == 2


def test_the_check_sees_the_head_and_nothing_else_runs(root: Path, bundle: Make, tmp_path: Path) -> None:
    code = "import os, sys; open(sys.argv[1], 'w').write(str(sorted(os.listdir(sys.argv[2]))) + sys.argv[2])"
    report = deploy(bundle(8), root, check=[sys.executable, "-c", code, str(tmp_path / "seen; exit 1")])
    assert (tmp_path / "seen; exit 1").read_text() == f"['head.edgehead', 'head.onnx']{report.path}"
    with pytest.raises(SlotError, match=r"check /none/such: cannot be run: .*what ran before runs on"):
        deploy(bundle(9), root, check=["/none/such"])
    assert version_of(current(root)) == 8


def test_a_first_head_that_fails_leaves_none_and_the_next_may_be_of_another_product(
    tmp_path: Path, bundle: Make
) -> None:
    root = tmp_path / "heads"
    with pytest.raises(SlotError, match="found 1"):
        deploy(bundle(7), root, key=KEY.public, check=["false"])
    with pytest.raises(SlotError, match="there is no head that may run: none is confirmed; type: edge-cl deploy"):
        current(root)
    deploy(bundle(8, product="gate cam"), root)
    assert version_of(current(root)) == 8


def test_a_trial_counts_the_starts_and_ends_in_the_head_before(root: Path, bundle: Make) -> None:
    report = deploy(bundle(8), root, tries=2)
    assert (report.state, states(root)) == ("trial", [(7, "active", None), (8, "trial", 2)])
    assert [version_of(current(root)) for _ in range(4)] == [8, 8, 7, 7]
    with pytest.raises(SlotError, match="no head is on trial there"):
        confirm(root)
    deploy(bundle(8), root, tries=2)
    current(root)
    assert version_of(confirm(root)) == 8
    assert [version_of(current(root)) for _ in range(3)] == [8, 8, 8]
    deploy(bundle(9), root, tries=1)
    reject(root)
    with pytest.raises(SlotError, match="no head is on trial there"):
        reject(root)
    assert states(root) == [(8, "active", None), (7, "before", None)]


def test_of_two_heads_the_one_that_was_deployed_last_runs(root: Path, bundle: Make) -> None:
    first = bundle(7)
    deploy(bundle(8), root, tries=3)
    assert deploy(first, root).state == "active"
    assert states(root) == [(7, "active", None)]
    assert version_of(current(root)) == 7


def test_a_head_that_was_never_started_is_not_confirmed_for_another(root: Path, bundle: Make) -> None:
    deploy(bundle(8), root, tries=3)
    started = current(root)
    deploy(bundle(9), root, tries=3)
    with pytest.raises(SlotError, match=r"000009-\w+ is on trial there, not 000008-\w+; start it first"):
        confirm(root, started)
    assert states(root) == [(7, "active", None), (9, "trial", 3)]
    assert version_of(confirm(root, current(root))) == 9
    assert version_of(confirm(root, current(root))) == 9  # at each start, of a head that was confirmed long ago
    with pytest.raises(SlotError, match="no head is on trial there"):
        confirm(root, started)


def test_a_head_that_runs_already_is_checked_again(root: Path, bundle: Make) -> None:
    report = deploy(bundle(7), root, check=["test", "-d"])
    assert (report.state, report.was_running) == ("active", True)
    with pytest.raises(SlotError, match="check false: expected exit status 0; found 1"):
        deploy(bundle(7), root, check=["false"])
    assert states(root) == [(7, "active", None)]


def test_a_first_head_whose_canaries_fail_leaves_no_folder(tmp_path: Path, bundle: Make) -> None:
    root = tmp_path / "heads"
    with pytest.raises(BundleError, match="canary 0"):
        deploy(bundle(7, answers=np.array([1, 2])), root, key=KEY.public)
    assert not list((root / "versions").iterdir())


@pytest.mark.parametrize("asked", [{"tries": 1.5}, {"tries": 256}, {"check_seconds": float("nan")}])
def test_numbers_that_are_none_are_refused(root: Path, bundle: Make, asked: dict[str, Any]) -> None:
    before = content(root)
    with pytest.raises(SlotError, match=f"{next(iter(asked))}: expected"):
        deploy(bundle(8), root, **asked)
    assert content(root) == before


def test_a_trial_that_waits_gives_way_to_a_newer_head(root: Path, bundle: Make) -> None:
    deploy(bundle(8), root, tries=3)
    deploy(bundle(9), root, tries=1)
    assert states(root) == [(7, "active", None), (9, "trial", 1)]
    assert len(list((root / "versions").iterdir())) == 2


def test_the_same_head_again_changes_nothing_and_mends_what_is_damaged(root: Path, bundle: Make) -> None:
    before, path = content(root), bundle(7)
    report = deploy(path, root)
    assert (report.state, report.version, report.before) == ("active", 7, None)
    assert content(root) == before
    for name in ("head.onnx", "head.edgehead"):
        (current(root) / name).write_bytes(b"damaged")
        with pytest.raises(SlotError, match=f"there is no head that may run: .*{name}"):
            current(root)
        deploy(path, root)
        assert content(root) == before
    deploy(bundle(8), root)
    assert version_of(Path(deploy(path, root).path)) == 7
    assert states(root) == [(7, "active", None), (8, "before", None)]


def damage(folder: Path, name: str) -> None:
    if name == "gone":
        shutil.rmtree(folder)
    elif name == "another head":
        blob = read_bundle(folder / "head.edgehead").head
        mixed = replace(blob, rows=blob.rows[[1, 0, 2, 3]], classes=blob.classes)
        from edge_firmware.onnx_head import head_onnx

        (folder / "head.onnx").write_bytes(head_onnx(mixed))
    else:
        path = folder / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


@pytest.mark.parametrize("name", ["gone", "head.edgehead", "another head"])
def test_where_the_confirmed_head_is_damaged_the_one_before_starts(root: Path, bundle: Make, name: str) -> None:
    deploy(bundle(8), root)
    damage(current(root), name)
    assert version_of(current(root)) == 7
    assert states(root)[0] == (7, "active", None)
    deploy(bundle(9), root)
    assert version_of(current(root)) == 9


def test_a_damaged_head_on_trial_does_not_start(root: Path, bundle: Make) -> None:
    path = deploy(bundle(8), root, tries=5).path
    damage(Path(path), "another head")
    assert version_of(current(root)) == 7
    assert [line.problem for line in list_slots(root)] == [""]


def test_where_pointer_and_head_are_lost_the_counter_is_not(root: Path, bundle: Make) -> None:
    (current(root) / "head.onnx").write_bytes(b"damaged")
    (root / POINTER).unlink()
    with pytest.raises(BundleError, match="the security counter is 1; expected at least 2"):
        deploy(bundle(8, counter=1), root)
    assert deploy(bundle(9, counter=2), root).version == 9


NAME = "000007-01234567"
POINTERS: dict[str, Callable[[bytes], bytes | None]] = {
    "gone": lambda data: None,  # noqa: ARG005
    "empty": lambda data: b"",  # noqa: ARG005
    "torn": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "deep": lambda data: b"[" * 50_000,  # noqa: ARG005
    "large": lambda data: data + b" " * (1 << 20),
    "a list": lambda data: b"[]",  # noqa: ARG005
    "another counter": lambda data: data.replace(b'"counter": 2', b'"counter": 0'),
    "a path": lambda data: Pointer(Record(1, 0), ("../../etc", None), None, "door cam", bytes(32)).to_json(),  # noqa: ARG005
    "no name": lambda data: Pointer(Record(1, 1), (None, None), None, "door cam", bytes(32)).to_json(),  # noqa: ARG005
    "a third slot": lambda data: Pointer(Record(1, 2), (NAME, NAME), None, "door cam", bytes(32)).to_json(),  # noqa: ARG005
    "no number": lambda data: Pointer(Record(1, 0, 1, 1 << 40), (NAME, NAME)).to_json(),  # noqa: ARG005
}


@pytest.mark.parametrize("name", POINTERS)
def test_where_the_pointer_is_lost_the_newest_verified_head_starts(root: Path, bundle: Make, name: str) -> None:
    deploy(bundle(8), root)
    left = POINTERS[name]((root / POINTER).read_bytes())
    (root / POINTER).unlink()
    if left is not None:
        (root / POINTER).write_bytes(left)
    assert read_pointer(root / POINTER) is None
    shutil.copytree(root / "versions", root / "copy")
    damage(current(root), "head.edgehead")
    assert version_of(current(root)) == 7
    shutil.rmtree(root / "versions")
    (root / "copy").rename(root / "versions")
    assert read_pointer(root / POINTER) is not None
    with pytest.raises(BundleError, match="the security counter is 1; expected at least 2"):
        deploy(bundle(9, counter=1), root)
    deploy(bundle(9), root)
    assert version_of(current(root)) == 9


@given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 255))
def test_whatever_a_pointer_holds_is_ours_or_nothing(data: bytes, place: int, mask: int) -> None:
    import tempfile

    whole = Pointer(Record(5, 1, 2, 7, 6, 2), ("000007-01234567", "000008-01234567"), None, "cam", bytes(32))
    changed = bytearray(whole.to_json())
    changed[place % len(changed)] ^= mask
    with tempfile.NamedTemporaryFile() as file:
        for content in (data, bytes(changed)):
            Path(file.name).write_bytes(content)
            found = read_pointer(Path(file.name))
            assert found is None or (found == whole and content == whole.to_json())


def test_what_was_signed_by_others_never_starts(root: Path, bundle: Make, tmp_path: Path) -> None:
    deploy(bundle(8, number=2), tmp_path / "theirs", key=key_of(2).public)
    for folder in (tmp_path / "theirs" / "versions").iterdir():
        shutil.copytree(folder, root / "versions" / folder.name)
    (root / POINTER).unlink()
    assert version_of(current(root)) == 7


def test_without_a_key_or_a_folder_it_says_what_to_type(root: Path, tmp_path: Path, bundle: Make) -> None:
    with pytest.raises(SlotError, match=r"none: nothing is deployed there; type: edge-cl deploy out\.edgehead --to"):
        current(tmp_path / "none")
    (root / "key.pub.pem").write_text("nothing")
    for start in (lambda: current(root), lambda: list_slots(root), lambda: deploy(bundle(8), root)):
        with pytest.raises(
            SlotError, match=r"expected a key in PEM; found none; .*put the public key of its heads there"
        ):
            start()
    (tmp_path / "file").write_text("")
    with pytest.raises(SlotError, match="file: cannot be written"):
        deploy(bundle(8), tmp_path / "file", key=KEY.public)


def test_two_deployments_at_once_do_not_mix(root: Path, bundle: Make) -> None:
    path, before = bundle(8), content(root)
    with alone(root) as is_alone:
        assert is_alone
        for act in (lambda: deploy(path, root), lambda: confirm(root), lambda: reject(root)):
            with pytest.raises(SlotError, match="another process is deploying there; wait until it is done"):
                act()
        assert content(root) == before
    deploy(path, root, tries=3)
    with alone(root):
        assert version_of(current(root)) == 7  # a try could not be counted
    assert states(root)[1] == (8, "trial", 3)
    assert version_of(current(root)) == 8


def test_an_app_that_may_not_write_gets_the_confirmed_head(root: Path, bundle: Make) -> None:
    deploy(bundle(8), root, tries=3)
    before = content(root)
    slots = FolderSlots(root, KEY.public, is_writable=False)
    assert (slots.boot()[1], slots.chosen) == (False, slots.record.active)
    assert content(root) == before
    with pytest.raises(SlotError, match="is only read here"):
        slots.reject()


def test_an_interrupt_during_the_check_takes_the_head_back(
    root: Path, bundle: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*words: object, **options: object) -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", interrupt)
    with pytest.raises(KeyboardInterrupt):
        deploy(bundle(8), root, check=["true"])
    assert states(root) == [(7, "active", None)]


def said_by(act: Callable[[], object]) -> str:
    try:
        act()
    except SlotError as error:
        return str(error)
    return ""


def test_a_full_disk_leaves_what_ran_before(root: Path, bundle: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    real, path, before = os.fsync, bundle(8), version_of(current(root))
    for fails_at in range(1, 30):
        n_calls = 0

        def fsync(descriptor: int, fails_at: int = fails_at) -> None:
            nonlocal n_calls
            n_calls += 1
            if n_calls == fails_at:
                raise OSError(28, "No space left on device")
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        said = said_by(lambda: deploy(path, root))
        monkeypatch.undo()
        assert version_of(current(root)) in {before, 8}
        if not said:
            break
        assert "No space left on device" in said
    assert n_calls < fails_at
    assert fails_at > 6
    assert version_of(current(root)) == 8


def run_tool(*options: str) -> list[dict[str, Any]]:
    command = [sys.executable, str(TOOLS / "deploy_cuts.py"), "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 2:
        pytest.skip(done.stderr.strip())
    assert not done.stderr, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("case", ["first", "first fails", "update", "failing"])
def test_a_power_cut_at_any_change_leaves_a_head_that_starts(case: str) -> None:
    (found,) = run_tool("--case", case, "--states", "12")
    assert (found["states"], found["broken"]) == (12, [])
    assert found["changes"] > 15


def test_without_syncs_a_power_cut_would_break_it() -> None:
    (found,) = run_tool("--case", "update", "--states", "12", "--unsynced")
    assert found["broken"]
