"""Power cuts: no state that the disk may be left in breaks a promise; and the model of the disk keeps its own laws."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from power_cut_states import Disk, Op

TOOLS = Path(__file__).resolve().parents[1] / "tools"
SECTOR = 512


@pytest.fixture(autouse=True)
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))


def start(*options: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(TOOLS / "power_cut.py"), "--json", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def summary_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate()
    if process.returncode == 2:
        pytest.skip(err.strip())
    assert not err, err
    found: dict[str, Any] = json.loads(out)
    assert process.returncode == bool(found["violations"])
    return found


def test_five_hundred_power_cuts_break_no_promise_and_would_if_less_were_synced() -> None:
    ours, control = start("--states", "500"), start("--states", "60", "--synchronous", "NORMAL")
    found, lost = summary_of(ours), summary_of(control)
    assert found["violations"] == []
    assert found["states"] == sum(kind["states"] for kind in found["kinds"].values()) == 500
    assert min(kind["states"] for kind in found["kinds"].values()) > 0
    assert found["operations"] == lost["operations"] >= 20
    assert any("found Mark(version=" in violation["reason"] for violation in lost["violations"])


def test_without_strace_it_says_what_to_install() -> None:
    command = [sys.executable, str(TOOLS / "power_cut.py")]
    done = subprocess.run(command, env={"PATH": ""}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "strace: not found; install it, for example: apt install strace\n"


def disk_after(*ops: Op) -> Disk:
    from power_cut_states import Disk

    disk = Disk()
    for op in ops:
        disk.apply(op)
    return disk


def states_of(disk: Disk, n_states: int = 200) -> list[dict[str, bytes | None]]:
    return [disk.cut(Random(n)) for n in range(n_states)]


changes = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 1500), st.binary(min_size=1, max_size=1200)),
    st.tuples(st.just("resize"), st.integers(0, 2000), st.just(b"")),
    st.tuples(st.just("sync"), st.just(0), st.just(b"")),
)


@settings(deadline=None)
@given(st.lists(changes, max_size=8), st.randoms(use_true_random=False))
def test_a_file_is_what_it_was_when_synced_or_was_seen_to_be_since(
    told: list[tuple[str, int, bytes]], rng: Random
) -> None:
    from power_cut_states import Rename, Resize, Sync, SyncFolder, Write

    disk, seen = disk_after(Rename((("a", 1),)), SyncFolder(".")), b""
    history = [seen]  # since the last sync
    for what, number, data in told:
        if what == "sync":
            disk.apply(Sync(1))
            history = [seen]
        elif what == "resize":
            disk.apply(Resize(1, number))
            seen = seen[:number].ljust(number, b"\0")
        else:
            disk.apply(Write(1, number, data))
            seen = seen[:number].ljust(number, b"\0") + data + seen[number + len(data) :]
        history.append(seen)
    assert disk.cut(rng, "nothing")["a"] == history[0]
    assert disk.cut(rng, "everything")["a"] == seen
    for kind in ("random", "names", "data"):
        left = disk.cut(rng, kind)["a"]
        assert left is not None
        assert len(left) in {len(data) for data in history}
        for n, byte in enumerate(left):
            assert byte == 0 or byte in {data[n] for data in history if n < len(data)}


def test_a_write_is_torn_at_sectors_and_nowhere_else() -> None:
    from power_cut_states import Rename, Sync, SyncFolder, Write

    old, new = b"o" * 4 * SECTOR, b"n" * 2 * SECTOR
    at = SECTOR // 2
    first = (Rename((("a", 1),)), Write(1, 0, old), Sync(1), SyncFolder("."))
    found = {bytes(state["a"] or b"") for state in states_of(disk_after(*first, Write(1, at, new)))}
    pieces = [(at, SECTOR), (SECTOR, 2 * SECTOR), (2 * SECTOR, at + 2 * SECTOR)]
    want = set()
    for mask in range(8):
        data = bytearray(old)
        for n, (begin, end) in enumerate(pieces):
            if mask >> n & 1:
                data[begin:end] = b"n" * (end - begin)
        want.add(bytes(data))
    assert found == want


def test_what_is_written_after_a_truncation_is_not_seen_without_it() -> None:
    from power_cut_states import Rename, Resize, Sync, SyncFolder, Write

    first = (Rename((("a", 1),)), Write(1, 0, b"old" * 300), Sync(1), SyncFolder("."))
    disk = disk_after(*first, Resize(1, 0), Write(1, 0, b"new" * 300))
    found = {bytes(state["a"] or b"") for state in states_of(disk)}
    assert b"old" * 300 in found
    assert not [data for data in found if b"old" in data and b"new" in data]


def test_names_persist_in_order_and_a_synced_file_has_its_name() -> None:
    from power_cut_states import Rename, Sync, SyncFolder

    made = [Rename((("folder", 0),)), Rename((("folder/a", 1),)), Rename((("b", 2),)), Rename((("a", 1),))]
    content: dict[str, bytes | None] = {"folder": None, "folder/a": b"", "b": b"", "a": b""}
    orders = [dict(list(content.items())[:n]) for n in range(5)]

    def found(*ops: Op) -> list[int]:
        return sorted({orders.index(state) for state in states_of(disk_after(*ops))})

    assert found(*made) == [0, 1, 2, 3, 4]
    assert found(*made, Sync(1)) == [2, 3, 4]  # by its first name
    assert found(*made, SyncFolder("folder")) == [2, 3, 4]
    assert found(*made, SyncFolder(".")) == [4]


@pytest.mark.parametrize("is_synced", [True, False])
def test_a_file_moved_into_place_is_whole_only_if_it_was_synced_before(is_synced: bool) -> None:
    from power_cut_states import Rename, Sync, SyncFolder, Write

    ops: list[Op] = [Rename((("a", 1),)), Write(1, 0, b"old"), Sync(1), SyncFolder(".")]
    ops += [Rename((("t", 2),)), Write(2, 0, b"new"), *([Sync(2)] if is_synced else [])]
    found = {state["a"] for state in states_of(disk_after(*ops, Rename((("t", None), ("a", 2)))))}
    assert found == ({b"old", b"new"} if is_synced else {b"old", b"new", b"", b"\0\0\0"})


def test_lines_of_strace_are_read_as_changes(tmp_path: Path) -> None:
    from power_cut_states import Acknowledge, Rename, Resize, Sync, SyncFolder, Write
    from power_cut_trace import Reader

    def x(text: str) -> str:
        return "".join(f"\\x{byte:02x}" for byte in text.encode())

    root, told = tmp_path / "files", tmp_path / "told"
    at, cwd = f"3<{x(f'{root}/d/a')}>", f"AT_FDCWD<{x('/')}>"
    lines = [
        f'7 mkdir("{x(f"{root}/d")}", 0700) = 0',
        f'7 openat({cwd}, "{x(f"{root}/d/a")}", O_RDWR|O_CREAT|O_CLOEXEC, 0644) = {at}',
        f'7 openat({cwd}, "{x("/etc/hosts")}", O_RDONLY) = 4<{x("/etc/hosts")}>',
        f'7 openat({cwd}, "{x(f"{root}/none")}", O_RDONLY) = -1 ENOENT (No such file or directory)',
        f'7 pwrite64({at}, "{x("page, one")}", 9, 512) = 9',
        f'7 write({at}, "{x("ab")}", 2 <unfinished ...>',
        f'8 write(1<{x("pipe:[1]")}>, "{x("else")}", 4) = 4',
        "7 <... write resumed>) = 2",
        f'7 write({at}, "{x("c")}", 1) = 1',
        f"7 ftruncate({at}, 5) = 0",
        f"7 fdatasync({at}) = 0",
        f'7 link("{x(f"{root}/d/a")}", "{x(f"{root}/b")}") = 0',
        f'7 unlinkat(5<{x(f"{root}/d")}>, "{x("a")}", 0) = 0',
        f"7 close({at}(deleted)) = 0",
        f'7 unlinkat({cwd}, "{x(f"{root}/d")}", AT_REMOVEDIR) = 0',
        f'7 rename("{x(f"{root}/b")}", "{x(f"{root}/c")}") = 0',
        f"7 fsync(6<{x(str(root))}>) = 0",
        f'7 write(9<{x(str(told))}>, "{x("done")}", 4) = 4',
        f"7 mmap(NULL, 32768, PROT_READ|PROT_WRITE, MAP_SHARED, 8<{x(f'{root}/c-shm')}>, 0) = 0x7f00",
        "7 +++ exited with 0 +++",
    ]
    assert list(Reader(root, told).read(lines)) == [
        Rename((("d", 0),)),
        Rename((("d/a", 1),)),
        Write(1, 512, b"page, one"),
        Write(1, 0, b"ab"),
        Write(1, 2, b"c"),
        Resize(1, 5),
        Sync(1),
        Rename((("b", 1),)),
        Rename((("d/a", None),)),
        Rename((("d", None),)),
        Rename((("b", None), ("c", 1))),
        SyncFolder("."),
        Acknowledge(b"done"),
    ]
    for line in (f"7 mmap(NULL, 1, PROT_WRITE, MAP_SHARED, {at}, 0) = 0", f'7 write({at}, "{x("a")}", 1) = 1'):
        with pytest.raises(RuntimeError, match=r"mmap: cannot be followed|a descriptor that nothing opened"):
            list(Reader(root, told).read([line]))


def test_a_process_is_traced(tmp_path: Path) -> None:
    from power_cut_states import Acknowledge, Rename, Sync, Write
    from power_cut_trace import TraceError, trace

    folder, told = tmp_path.resolve() / "files", tmp_path.resolve() / "told"
    folder.mkdir()
    (folder / "was").write_bytes(b"there")
    script = (
        "import os, sys\nfile = os.open(sys.argv[1] + '/a', os.O_WRONLY | os.O_CREAT)\nos.write(file, b'x' * 3)\n"
        "os.fsync(file)\nos.write(os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT), b'done')\n"
    )
    try:
        before, ops = trace([sys.executable, "-c", script, str(folder), str(told)], folder, told)
    except TraceError as error:
        pytest.skip(str(error))
    assert shutil.which("strace")
    assert before == [Rename((("was", 1),)), Write(1, 0, b"there"), Sync(1)]
    assert ops == [Rename((("a", 2),)), Write(2, 0, b"xxx"), Sync(2), Acknowledge(b"done")]
    with pytest.raises(RuntimeError, match="exit status 3"):
        trace([sys.executable, "-c", "raise SystemExit(3)"], folder, told)
