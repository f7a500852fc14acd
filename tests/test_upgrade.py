"""An older format becomes this one, in a copy that takes its place; a file is never in between."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_cl import Learner
from edge_cl.errors import StateBusyError, StateError
from edge_cl.state import StateFile
from edge_cl.state.check import check_file
from edge_cl.state.store import seal

from .test_hostile_files import forge

DUMP = Path(__file__).with_name("format1.sql")  # what the last program of format 1 wrote: 3 classes of 7 samples, D = 5
FIRST_ANSWER = (0.9234659075737, 0.0680505558848381, 0.00848351325839758)  # and what it said of the first of them
FIRST = (-0.35507670044898987, -0.9405735731124878, 1.6049678325653076, 0.7263308763504028, -0.5644947290420532)


def format1(path: Path) -> Path:
    """Make the file that the dump is of."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA application_id = 0x45434C31")
    connection.execute("PRAGMA user_version = 1")
    connection.executescript(DUMP.read_text(encoding="utf-8"))
    connection.close()
    return path


def damage(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_everything_is_carried_over(tmp_path: Path) -> None:
    path = format1(tmp_path / "a.ecl")
    old = sqlite3.connect(path)
    arrays = dict(old.execute("SELECT name, data FROM arrays").fetchall())
    records = [record for (record,) in old.execute("SELECT record FROM replay ORDER BY slot")]
    old.close()
    with Learner.open(path) as learner:
        assert learner.classes == ("tür", "b'c", "third")
        assert learner.head.weights.tobytes() == arrays["weights"]
        assert learner.head.bias.tobytes() == arrays["bias"]
        memory = learner._current.memory()
        assert memory.statistics.counts.tolist() == [7, 7, 7]
        assert memory.statistics.means.tobytes() == arrays["means"]
        assert memory.statistics.scatter is not None
        np.testing.assert_array_equal(memory.statistics.scatter[np.tril_indices(5)].tobytes(), arrays["scatter"])
        assert memory.replay.codec.name == "float16"
        assert memory.replay.limit_bytes == 300
        assert len(memory.replay.records) == len(records) == 11
        for record, hit, row in zip(memory.replay.records, memory.replay.hits, records, strict=True):
            assert record["code"].tobytes() == row[8:12] + row[16:]  # scale and values
            assert record["label"] == int.from_bytes(row[:4], "little")
            assert record["number"] % (1 << 31) == int.from_bytes(row[4:8], "little")
            assert hit == row[12]
        first, second = learner.versions()
        assert (first.version, first.new_classes, first.n_samples, first.n_seen) == (1, ("tür", "b'c"), 14, 14)
        assert (second.version, second.new_classes, second.n_samples, second.n_seen) == (2, ("third",), 7, 21)
        assert (first.is_kept, second.is_kept) == (False, True)
        assert second.accuracy_before == pytest.approx(0.727273)
        assert (second.created, second.seed) == (first.created, 5)
    assert os.listdir(tmp_path) == ["a.ecl"]
    assert not list(check_file(str(path)))


def test_an_upgraded_state_answers_as_before_and_learns_on(tmp_path: Path) -> None:
    with Learner.open(format1(tmp_path / "a.ecl"), read_only=True) as learner:
        answer = learner.predict(np.array([FIRST], np.float32)).probabilities[0]
        np.testing.assert_allclose(answer, FIRST_ANSWER, rtol=1e-5)  # float32 sums on another machine
    with Learner.open(tmp_path / "a.ecl") as learner:
        assert learner.learn(np.eye(5, dtype=np.float32) * 9, ["x"] * 5, min_retention=0).version == 3
        assert learner.rollback(2).version == 4
    assert not list(check_file(str(tmp_path / "a.ecl")))


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM arrays WHERE name = 'weights'",
        "UPDATE arrays SET data = zeroblob(3) WHERE name = 'weights'",
        "UPDATE arrays SET shape = '[1, 1]', data = zeroblob(4) WHERE name = 'means'",
        "UPDATE arrays SET shape = '\"' WHERE name = 'bias'",
        "UPDATE arrays SET dtype = '|O' WHERE name = 'bias'",
        "UPDATE arrays SET data = x'0000c07f' || substr(data, 5) WHERE name = 'means'",
        "INSERT INTO classes VALUES (7, 'ghost')",
        "UPDATE replay SET record = zeroblob(5) WHERE slot = 0",
        "UPDATE replay SET record = x'ffffffff' || substr(record, 5) WHERE slot = 0",
        "UPDATE replay SET record = 7 WHERE slot = 0",
        "UPDATE versions SET entry = '{}'",
        "UPDATE versions SET entry = '['",
        "DELETE FROM settings WHERE key = 'seed'",
        "DROP TABLE replay",
    ],
)
def test_a_damaged_old_file_is_one_clear_error_and_stays_as_it_was(tmp_path: Path, statement: str) -> None:
    path = format1(tmp_path / "a.ecl")
    damage(path, statement)
    before = dump(path)
    with pytest.raises(StateError, match=r"a\.ecl: ") as caught:
        Learner.open(path)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["a.ecl"]
    assert dump(path) == before


TABLES = ("settings", "classes", "arrays", "replay", "versions")


def dump(path: Path) -> list[list[object]]:
    connection = sqlite3.connect(path)
    connection.text_factory = bytes
    present = connection.execute("SELECT CAST(name AS BLOB) FROM sqlite_master").fetchall()
    rows = [connection.execute(f"SELECT * FROM {t}").fetchall() for t in TABLES if (t.encode(),) in present]
    connection.close()
    return rows


def test_an_old_file_in_use_is_not_upgraded(tmp_path: Path) -> None:
    path = format1(tmp_path / "a.ecl")
    other = sqlite3.connect(path)
    other.execute("BEGIN")
    assert other.execute("SELECT count(*) FROM classes").fetchone() == (3,)
    with pytest.raises(StateBusyError, match="another process has it open"):
        Learner.open(path)
    other.close()
    with Learner.open(path) as learner:
        assert learner.version == 2


def test_power_that_fails_before_the_swap_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = format1(tmp_path / "a.ecl")
    before = dump(path)

    def fail(*paths: object) -> None:
        raise OSError(5, f"Input/output error: {paths}")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StateError, match="cannot be upgraded"):
        StateFile.open(str(path))
    assert dump(path) == before
    assert os.listdir(tmp_path) == ["a.ecl"]


OPEN_AND_LEARN = """
import sys, time
import numpy as np
from edge_cl import Learner
print("ready", flush=True)
sys.stdin.readline()
for _ in range(50):
    try:
        with Learner.open(sys.argv[1], timeout=30) as learner:
            print(learner.learn(np.eye(5, dtype=np.float32), ["x"] * 5, min_retention=0).version)
        break
    except TimeoutError:
        time.sleep(0.01)
"""


def test_two_processes_that_upgrade_at_once_lose_no_update(tmp_path: Path) -> None:
    for n in range(5):
        path = format1(tmp_path / f"{n}.ecl")
        command = [sys.executable, "-c", OPEN_AND_LEARN, str(path)]
        pipe = subprocess.PIPE
        children = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        assert sorted(child.communicate()[0] for child in children) == ["3\n", "4\n"]
        assert not list(check_file(str(path)))


def test_the_penalty_of_a_format_2_file_is_held_on_as_it_was(tmp_path: Path) -> None:
    """Its `ewc` had the diagonal Fisher around the last head, which is now one anchor among others."""
    path = tmp_path / "a.ecl"
    features, names = np.random.default_rng(0).normal(size=(40, 6)), ["a", "b", "c", "d"] * 10
    with Learner.create(path, recipe="ewc-diagonal") as learner:
        learner.learn(features, names)
        head, wanted = learner.head, learner._current.memory().fisher
    rows = np.concatenate([head.weights, head.bias[:, None]], axis=1)
    np.testing.assert_allclose(wanted[:, 7:], wanted[:, :7] * rows, rtol=1e-5)
    forge(path, None, {"fisher": wanted[:, :7].astype("<f4").tobytes()})
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("UPDATE settings SET value = 'ewc' WHERE key = 'recipe'")
    connection.execute("PRAGMA user_version = 2")
    seal(connection)
    connection.close()
    assert not list(check_file(str(path)))
    with Learner.open(path, read_only=True) as learner:
        assert learner.recipe == "ewc-diagonal"
        np.testing.assert_allclose(learner._current.memory().fisher, wanted, rtol=1e-5)
    assert path.read_bytes()[60:64] == (2).to_bytes(4, "big")
    with Learner.open(path) as learner:
        learner.learn(features[:5], names[:5], min_retention=0)
    assert not list(check_file(str(path)))
    assert path.read_bytes()[60:64] == (3).to_bytes(4, "big")
    with Learner.open(path) as learner:
        assert learner.recipe == "ewc-diagonal"
        assert learner._current.memory().fisher.shape == (4, 14)
