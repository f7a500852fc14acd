"""The state file: what it refuses, and that a learn is one transaction."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_cl import Learner
from edge_cl.errors import InputError, StateBusyError, StateError, StateMissingError, StateReadOnlyError
from edge_cl.state import file as state_file
from edge_cl.state.check import check_file
from edge_cl.state.parts import pack_triangle, unpack_triangle
from edge_cl.state.schema import NEWER

from .conftest import clusters

DIM = 16


def taught(path: Path, n_classes: int = 3) -> Path:
    with Learner.create(path, replay_bytes=3000) as learner:
        learner.learn(*clusters(n_classes, 8, DIM))
    return path


def damage(path: Path, statement: str, *values: object) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement, values)
    connection.commit()
    connection.close()


def test_golden_file_has_the_documented_marks(tmp_path: Path) -> None:
    data = taught(tmp_path / "a.ecl").read_bytes()
    assert data[:16] == b"SQLite format 3\0"
    assert data[18:20] == b"\x02\x02"  # write-ahead log
    assert data[60:64] == (3).to_bytes(4, "big")  # user_version: the format
    assert data[68:72] == b"ECL1"  # application_id


FORMS: tuple[dict[str, Any], ...] = (
    {},
    {"head": "cosine"},
    {"head": "mlp"},
    {"head": "regression", "recipe": "edge"},
    {"random_features": 20},
    {"recipe": "l2"},
    {"recipe": "edge", "shrinkage": 0.5},
    {"recipe": "l2", "penalty": 2.0},
)


@pytest.mark.parametrize("options", FORMS)
def test_a_file_is_of_the_least_format_that_can_hold_it(tmp_path: Path, options: dict[str, Any]) -> None:
    """Programs of format 2 go on reading what they can."""
    path = tmp_path / "a.ecl"
    with Learner.create(path, **{"recipe": "replay", **options}) as learner:
        features, names = clusters(3, 8, DIM)
        learner.learn(features, np.arange(24.0) if learner.head_kind == "regression" else names)
    assert path.read_bytes()[60:64] == (3 if options else 2).to_bytes(4, "big")
    keys = {key for (key,) in sqlite3.connect(path).execute("SELECT key FROM settings")}
    assert bool(keys & set(NEWER)) == bool(options.keys() - {"recipe"})
    assert not list(check_file(str(path)))


def test_one_file_once_closed(tmp_path: Path) -> None:
    taught(tmp_path / "a.ecl")
    assert os.listdir(tmp_path) == ["a.ecl"]
    with Learner.open(tmp_path / "a.ecl", read_only=True) as learner:
        learner.predict(clusters(1, 2, DIM)[0])
    assert os.listdir(tmp_path) == ["a.ecl"]


def test_a_triangle_comes_back_bit_for_bit() -> None:
    half = np.random.default_rng(0).normal(size=(70, 70)).astype(np.float32)
    full = half + half.T
    np.testing.assert_array_equal(unpack_triangle(pack_triangle(full), 70), full)


def test_a_missing_empty_foreign_or_newer_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    with pytest.raises(StateMissingError, match="no such state file; type: edge-cl new"):
        Learner.open(tmp_path / "gone.ecl")
    (tmp_path / "empty.ecl").write_bytes(b"")
    (tmp_path / "text.ecl").write_bytes(b"hello, this is no database at all")
    (tmp_path / "folder.ecl").mkdir()
    sqlite3.connect(tmp_path / "other.ecl").execute("CREATE TABLE t (x)").connection.close()
    taught(tmp_path / "newer.ecl")
    damage(tmp_path / "newer.ecl", "PRAGMA user_version = 99")
    wanted = {
        "empty.ecl": "empty file",
        "text.ecl": "begins with",
        "folder.ecl": "cannot be read",
        "other.ecl": "something else",
        "newer.ecl": "format is 99, this edge_cl reads 1 to 3",
    }
    before = {name: (tmp_path / name).read_bytes() for name in wanted if name != "folder.ecl"}
    for name, words in wanted.items():
        for read_only in (False, True):
            with pytest.raises(StateError, match=words) as caught:
                Learner.open(tmp_path / name, read_only=read_only)
            assert name in str(caught.value)
            assert "\n" not in str(caught.value)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert not list(tmp_path.glob("*-wal"))


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM chunks WHERE id = 1",
        "DELETE FROM chunks",
        "UPDATE chunks SET data = zeroblob(3) WHERE id = 2",
        "UPDATE chunks SET data = zeroblob(length(data)) WHERE id = 3",
        "UPDATE chunks SET data = 'text' WHERE id = 4",
        "UPDATE chunks SET data = 7 WHERE id = 5",
        "UPDATE kept SET header = '\"'",
        "UPDATE kept SET header = replace(header, '16', '17')",
        "UPDATE kept SET ids = zeroblob(length(ids))",
        "UPDATE kept SET sums = x'00' || substr(sums, 2)",
        "UPDATE kept SET digest = zeroblob(16)",
        "DELETE FROM settings WHERE key = 'seed'",
        "UPDATE settings SET value = 'many' WHERE key = 'replay_bytes'",
        "UPDATE settings SET value = '-5' WHERE key = 'replay_bytes'",
        "UPDATE settings SET value = '{}' WHERE key = 'backbone'",
        "UPDATE settings SET value = 'magic' WHERE key = 'recipe'",
        "UPDATE settings SET value = 'tpu' WHERE key = 'device'",
        "UPDATE settings SET value = 'zip' WHERE key = 'codec'",
        "UPDATE settings SET value = 'int8' WHERE key = 'codec'",
        "UPDATE settings SET value = 'first' WHERE key = 'selection'",
        "INSERT INTO settings VALUES ('colour', 'red')",
        "DROP TABLE kept",
        "DROP TABLE chunks",
        "CREATE TABLE more (x)",
        "CREATE VIEW more AS SELECT 1",
        "CREATE TRIGGER more AFTER INSERT ON kept BEGIN DELETE FROM kept; END",
        "CREATE INDEX more ON births (name)",
    ],
)
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, statement: str) -> None:
    damage(taught(tmp_path / "a.ecl"), statement)
    before = (tmp_path / "a.ecl").read_bytes()
    with pytest.raises(ValueError, match=r"a\.ecl") as caught:  # noqa: SIM117 - both lines may raise
        with Learner.open(tmp_path / "a.ecl") as learner:
            learner.learn(*clusters(4, 5, DIM))
    assert "\n" not in str(caught.value)
    assert (tmp_path / "a.ecl").read_bytes() == before


def test_creating_never_overwrites(tmp_path: Path) -> None:
    before = taught(tmp_path / "a.ecl").read_bytes()
    with pytest.raises(StateError, match="exists already"):
        Learner.create(tmp_path / "a.ecl")
    assert (tmp_path / "a.ecl").read_bytes() == before
    with pytest.raises(StateError, match="cannot be created"):
        Learner.create(tmp_path / "no" / "folder" / "a.ecl")


def test_a_card_without_hard_links_holds_a_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*paths: object) -> None:
        raise PermissionError(1, f"Operation not permitted: {paths}")

    monkeypatch.setattr(os, "link", link)
    taught(tmp_path / "a.ecl")
    assert os.listdir(tmp_path) == ["a.ecl"]


def test_a_read_only_file_predicts_and_does_not_learn(tmp_path: Path) -> None:
    path = taught(tmp_path / "a.ecl")
    path.chmod(0o444)
    before = path.read_bytes()
    with Learner.open(path) as learner:
        assert learner.predict(clusters(1, 1, DIM)[0]).labels == ("c0",)
        with pytest.raises(StateReadOnlyError, match="chmod u"):
            learner.learn(*clusters(1, 2, DIM))
    with Learner.open(path, read_only=True) as learner, pytest.raises(StateReadOnlyError):
        learner.learn(*clusters(1, 2, DIM))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.ecl"]


def test_an_interrupt_just_after_the_commit_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = taught(tmp_path / "a.ecl")
    x, names = clusters(6, 8, DIM)
    with Learner.open(path) as learner:
        real = learner._state.writing

        @contextlib.contextmanager
        def commit_and_stop() -> Iterator[None]:
            with real():
                yield
            raise KeyboardInterrupt

        monkeypatch.setattr(learner._state, "writing", commit_and_stop)
        with pytest.raises(KeyboardInterrupt):
            learner.learn(x[24:32], names[24:32])
        monkeypatch.undo()
        assert learner.version == 2
        assert learner.classes[-1] == "c3"
        assert learner.learn(x[32:], names[32:]).version == 3
    with Learner.open(path) as learner:
        assert learner.classes == ("c0", "c1", "c2", "c3", "c4", "c5")


def test_a_log_left_by_a_deleted_state_does_not_come_back(tmp_path: Path) -> None:
    (tmp_path / "a.ecl-wal").write_bytes(b"left by a crash")
    with pytest.raises(StateError, match=r"a\.ecl-wal: exists already"):
        Learner.create(tmp_path / "a.ecl")
    assert os.listdir(tmp_path) == ["a.ecl-wal"]


def test_a_learner_of_an_empty_state_notices_the_others_features(tmp_path: Path) -> None:
    Learner.create(tmp_path / "a.ecl").close()
    with Learner.open(tmp_path / "a.ecl") as first, Learner.open(tmp_path / "a.ecl") as second:
        second.learn(np.eye(4), ["a", "b", "c", "d"])
        with pytest.raises(InputError, match="features"):
            first.learn(np.eye(5), ["a", "b", "c", "d", "e"])


def test_a_closed_learner_says_so(tmp_path: Path) -> None:
    learner = Learner.create(tmp_path / "a.ecl")
    learner.close()
    with pytest.raises(StateError, match="open it again"):
        learner.predict(np.eye(4))


def test_a_second_writer_is_told_and_readers_go_on(tmp_path: Path) -> None:
    path = taught(tmp_path / "a.ecl")
    with Learner.open(path) as first, Learner.open(path, timeout=0.1) as second:
        with first._state.writing():
            with pytest.raises(
                StateBusyError, match=r"another learner of this process \(\d+\) is writing to it; waited"
            ):
                second.learn(*clusters(4, 5, DIM))
            with Learner.open(path, read_only=True) as reader:
                assert reader.predict(clusters(1, 1, DIM)[0]).labels == ("c0",)
        assert second.learn(*clusters(4, 5, DIM)).version == 2


def test_two_learners_take_turns_and_neither_loses_an_update(tmp_path: Path) -> None:
    path = taught(tmp_path / "a.ecl")
    x, names = clusters(6, 5, DIM)
    with Learner.open(path) as first, Learner.open(path) as second:
        first.learn(x[15:20], names[15:20])
        assert "c3" in second.classes
        second.learn(x[20:25], names[20:25])
        first.learn(x[25:], names[25:])
        assert first.version == second.version == 4
        assert first.classes == second.classes == ("c0", "c1", "c2", "c3", "c4", "c5")


def test_an_error_in_the_middle_of_a_transaction_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = taught(tmp_path / "a.ecl")
    before = path.read_bytes()
    real = state_file.StateFile.write

    def write_and_stop(self: state_file.StateFile, *args: object) -> None:
        real(self, *args)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(state_file.StateFile, "write", write_and_stop)
    with Learner.open(path) as learner:
        with pytest.raises(KeyboardInterrupt):
            learner.learn(*clusters(5, 5, DIM))
        assert learner.version == 1
        assert learner.classes == ("c0", "c1", "c2")
    assert path.read_bytes() == before


HOLD = """
import sys
from edge_cl import Learner
with Learner.open(sys.argv[1]) as learner, learner._state.writing():
    print("holding", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="only Linux tells who holds a lock")
def test_a_writer_that_holds_on_is_named(tmp_path: Path, command: list[str]) -> None:
    path, features = taught(tmp_path / "a.ecl"), tmp_path / "x.npz"
    np.savez(features, X=np.eye(3, DIM, dtype=np.float32), y=["c0", "c1", "c2"])
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    learn = [*command, "learn", str(path), str(features), "--timeout"]
    done = subprocess.run([*learn, "0.2"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"process {holder.pid} (" in done.stderr
    assert "waited 0.2 s" in done.stderr
    assert done.stderr.count("\n") == 1
    waiting = subprocess.Popen([*learn, "60"], stdout=subprocess.DEVNULL)
    holder.communicate("")
    assert waiting.wait() == 0
    with Learner.open(path, read_only=True) as learner:
        assert learner.version == 2
