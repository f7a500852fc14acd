"""Files that somebody made to do harm: each is named, nothing of it is executed, and it takes no more than its size."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_cl import Learner
from edge_cl.codecs.learnt import HEADER
from edge_cl.state import store
from edge_cl.state.parts import Parts
from edge_cl.state.versions import n_lines

from .examine import DIM, FORMS, Examiner, teach

HUGE = (1 << 63) - 1
Change = Callable[[bytes], bytes]
NOTHING = dict.fromkeys(("weights", "bias", "counts", "means", "scatter", "fisher", "records", "hits", "codebook"), b"")
SCHEMAS = {
    "a view that never ends": """DROP TABLE log; CREATE VIEW log AS WITH RECURSIVE endless(slot, line) AS
        (SELECT 0, zeroblob(52) UNION ALL SELECT slot + 1, line FROM endless) SELECT slot, line FROM endless""",
    "a view beside the tables": "CREATE VIEW more AS SELECT * FROM kept",
    "a trigger": "CREATE TRIGGER more AFTER INSERT ON births BEGIN DELETE FROM kept; END",
    "an index whose expression takes memory": "CREATE INDEX more ON births (length(hex(zeroblob(80000000))))",
    "a table whose check takes memory": """PRAGMA ignore_check_constraints = ON;
        CREATE TABLE more (a INTEGER CHECK (length(hex(zeroblob(80000000))) > 0)); INSERT INTO more VALUES (1)""",
    "a table that computes": """DROP TABLE births; CREATE TABLE births (version INTEGER NOT NULL,
        name TEXT NOT NULL, more BLOB AS (hex(zeroblob(80000000))))""",
    "one table in another's place": """PRAGMA writable_schema = ON; UPDATE sqlite_master SET rootpage =
        (SELECT rootpage FROM sqlite_master WHERE name = 'log') WHERE name = 'chunks'""",
    "another program's database": "PRAGMA application_id = 7",
    "another format's number": "PRAGMA user_version = 1",
    "no format's number": "PRAGMA user_version = -1",
    "a header in bytes": "UPDATE kept SET header = CAST(header AS BLOB)",
    "a header that is no UTF-8": "UPDATE kept SET header = CAST(x'7bff7d' AS TEXT)",
    "a header nested too deeply": "UPDATE kept SET header = replace(printf('%.500000c', '['), x'00', '')",
    "a header of long numbers": """UPDATE kept SET header = '{"dim": ' || printf('%.9999c', '9') || '}'""",
    "a list of chunks in text": "UPDATE kept SET ids = CAST(ids AS TEXT)",
    "digests in text": "UPDATE kept SET sums = hex(sums)",
    "a digest in text": "UPDATE kept SET digest = hex(digest)",
    "a chunk in text": "UPDATE chunks SET data = hex(data)",
    "a chunk that is gone": "DELETE FROM chunks WHERE id = (SELECT max(id) FROM chunks)",
    "a chunk that nothing uses": "INSERT INTO chunks VALUES (0, zeroblob(50000))",
    "the last number a chunk can have": f"INSERT INTO chunks VALUES ({HUGE}, x'00')",
    "the last number a version can have": "UPDATE kept SET version = 4294967295 WHERE version = 3",
    "a number that no version can have": f"UPDATE kept SET version = {HUGE} WHERE version = 3",
    "more versions than are kept": """INSERT INTO kept WITH RECURSIVE numbers(n) AS (SELECT 10 UNION ALL
        SELECT n + 1 FROM numbers WHERE n < 90) SELECT n, header, ids, sums, digest FROM kept, numbers
        WHERE version = 3""",
    "a version below zero": "DELETE FROM kept WHERE version < 3; UPDATE kept SET version = -3",
    "a log without lines": "DELETE FROM log",
    "a log with lines missing": "DELETE FROM log WHERE slot > 5",
    "a log with lines too many": "INSERT INTO log VALUES (999999, zeroblob(52))",
    "a line in text": "UPDATE log SET line = 'line' WHERE slot = 2",
    "a line that is a number": "UPDATE log SET line = 7 WHERE slot = 200",
    "births before all versions": "INSERT INTO births VALUES (-7, 'more')",
    "births of text": "INSERT INTO births VALUES ('seven', 'more')",
    "no settings": "DELETE FROM settings",
    "a setting more": "INSERT INTO settings VALUES ('more', '7')",
    "settings in bytes": "UPDATE settings SET value = CAST(value AS BLOB)",
    "settings that are no UTF-8": "UPDATE settings SET value = CAST(x'ff' AS TEXT) WHERE key = 'backbone'",
    "history beyond measure": f"UPDATE settings SET value = '{HUGE}' WHERE key = 'history_bytes'",
    "history beyond memory": f"UPDATE settings SET value = '{1 << 45}' WHERE key = 'history_bytes'",
    "a replay limit below what is stored": "UPDATE settings SET value = '0' WHERE key = 'replay_bytes'",
    "a replay limit below zero": "UPDATE settings SET value = '-1' WHERE key = 'replay_bytes'",
    "a number of 5,000 digits": "UPDATE settings SET value = printf('%.5000c', '7') WHERE key = 'seed'",
    "a backbone that is none": "UPDATE settings SET value = '{}' WHERE key = 'backbone'",
    "a backbone nested too deeply": "UPDATE settings SET value = printf('%.90000c', '[') WHERE key = 'backbone'",
    "a recipe that is none": "UPDATE settings SET value = '__class__' WHERE key = 'recipe'",
    "a codec that is none": "UPDATE settings SET value = '../codec' WHERE key = 'codec'",
    "another recipe": "UPDATE settings SET value = 'ewc' WHERE key = 'recipe'",
    "another codec": "UPDATE settings SET value = 'int8' WHERE key = 'codec'",
    "another head": "INSERT INTO settings VALUES ('head', 'cosine')",
    "a head of two layers": "INSERT INTO settings VALUES ('head', 'mlp')",
    "a head of numbers": "INSERT INTO settings VALUES ('head', 'regression')",
    "a head that is none": "INSERT INTO settings VALUES ('head', '__class__')",
    "units beyond measure": f"INSERT INTO settings VALUES ('hidden_units', '{HUGE}')",
    "features that were never drawn": "INSERT INTO settings VALUES ('random_features', '7')",
    "features beyond measure": f"INSERT INTO settings VALUES ('random_features', '{HUGE}')",
    "features of other features": "INSERT INTO settings VALUES ('input_dim', '16')",
    "tasks that there are not": "INSERT INTO settings VALUES ('has_tasks', 'True')",
    "tasks of another kind": "INSERT INTO settings VALUES ('has_tasks', '7')",
    "a balance that is none": "INSERT INTO settings VALUES ('balance', '../balance')",
    "a balance that the recipe has not": "INSERT INTO settings VALUES ('balance', 'classes')",
    "a shrinkage beyond all": "INSERT INTO settings VALUES ('shrinkage', '7')",
    "a shrinkage that is no number": "INSERT INTO settings VALUES ('shrinkage', 'nan')",
    "a penalty beyond all": "INSERT INTO settings VALUES ('penalty', '1e999')",
    "a penalty that is text": "INSERT INTO settings VALUES ('penalty', '../penalty')",
    "a constant beside no random features": "INSERT INTO settings VALUES ('random_constant', '1.5')",
    "a constant that is no number": "INSERT INTO settings VALUES ('random_constant', 'nan')",
    "a constant beyond all features": "INSERT INTO settings VALUES ('random_constant', '-1e30')",
    "half precision without a GPU": "UPDATE settings SET value = '16' WHERE key = 'precision'",
}


def floats(place: Any, value: float) -> Change:
    """Return a change of some float32 values."""
    return lambda data: _put(np.frombuffer(data, "<f4").copy(), place, value)


def counts(value: int) -> Change:
    return lambda data: _put(np.frombuffer(data, "<i8").copy(), 0, value)


def record(offset: int, value: bytes) -> Change:
    """Return a change of the first record of the replay."""
    return lambda data: data[:offset] + value + data[offset + len(value) :]


def names(*texts: object) -> Change:
    return lambda data: json.dumps([*texts, *json.loads(data)[len(texts) :]]).encode()


def _put(array: np.ndarray[Any, Any], place: Any, value: float) -> bytes:
    array[place] = value
    return array.tobytes()


ALL = slice(None)
FORGERIES: dict[str, tuple[str, int | None, dict[str, Change | bytes]]] = {
    "D beyond measure": ("edge", 1 << 47, {}),
    "D beyond measure, and no class": ("edge", 1 << 47, {**NOTHING, "classes": b"[]"}),
    "D beyond memory, and no class": ("ewc", 1 << 20, {**NOTHING, "classes": b"[]"}),
    "D of nothing": ("ewc", 0, {**NOTHING, "classes": b"[]"}),
    "another D": ("edge", DIM + 1, {}),
    "a weight that is none": ("edge", None, {"weights": floats(3, np.nan)}),
    "an infinite mean": ("edge", None, {"means": floats(0, np.inf)}),
    "an infinite square": ("edge", None, {"scatter": floats(0, np.inf)}),
    "a negative square": ("edge", None, {"scatter": floats(0, -1.0)}),
    "squares that contradict each other": ("edge", None, {"scatter": floats(1, 1e6)}),
    "means beyond all samples": ("edge", None, {"means": floats(ALL, 3e38)}),
    "one mean beyond all samples": ("edge", None, {"means": floats(0, 3e38)}),
    "squares beyond all samples": ("edge", None, {"scatter": floats(ALL, 3e38)}),
    "weights beyond all samples": ("edge", None, {"weights": floats(ALL, 3e38)}),
    "trained weights beyond all samples": ("ewc", None, {"weights": floats(ALL, 3e38)}),
    "a Fisher that is none": ("ewc", None, {"fisher": floats(5, np.nan)}),
    "a Fisher below zero": ("ewc", None, {"fisher": floats(ALL, -3.0)}),
    "a Fisher beyond all samples": ("ewc", None, {"fisher": floats(ALL, 3e38)}),
    "a Fisher that the recipe has not": ("edge", None, {"fisher": bytes(4 * 5 * (DIM + 1))}),
    "a second moment that is missing": ("edge", None, {"scatter": b""}),
    "a count below zero": ("edge", None, {"counts": counts(-3)}),
    "a count of nothing": ("edge", None, {"counts": counts(0)}),
    "a count beyond what is counted": ("edge", None, {"counts": counts(1 << 40)}),
    "a count beyond what was learnt": ("edge", None, {"counts": counts((1 << 31) - 1)}),
    "a class without a row": ("edge", None, {"classes": lambda data: data[:-1] + b', "ghost"]'}),
    "two classes of one name": ("edge", None, {"classes": names("class-0", "class-0")}),
    "a class of no name": ("edge", None, {"classes": names("")}),
    "a class that is a number": ("edge", None, {"classes": names(7)}),
    "a name that clears the screen": ("edge", None, {"classes": names("\x1b[2J")}),
    "a name of two lines": ("edge", None, {"classes": names("a\nb")}),
    "a name that cannot be written": ("edge", None, {"classes": names("\ud800")}),
    "a name of 3,000 letters": ("edge", None, {"classes": names("a" * 3_000)}),
    "names nested too deeply": ("edge", None, {"classes": b"[" * 200_000 + b"]" * 200_000}),
    "a label beyond the classes": ("edge", None, {"records": record(0, b"\x05\x00")}),
    "the last label there can be": ("edge", None, {"records": record(0, b"\xff\xff")}),
    "a sample that was never seen": ("edge", None, {"records": record(2, b"\xff\xff\xff\x7f")}),
    "a sample held out that is not": ("edge", None, {"records": record(5, b"\x80")}),
    "a code that is no number": ("edge", None, {"records": record(6, b"\x00\x00\xc0\x7f")}),
    "a code beyond all samples": ("ewc", None, {"records": record(6, b"\xff\xff\x7f\x7f")}),
    "a record cut short": ("edge", None, {"records": lambda data: data[:-1]}),
    "records of more samples than hits": ("edge", None, {"records": lambda data: data + data}),
    "an answer that is none": ("edge", None, {"hits": lambda data: b"\x09" + data[1:]}),
    "replay beyond its limit": ("ewc", None, {"records": lambda data: data * 40, "hits": lambda data: data * 40}),
    "a codebook that the codec has not": ("edge", None, {"codebook": bytes(100)}),
    "a codebook for another D": ("eigen", None, {"codebook": lambda data: data[:12] + bytes(4) + data[16:-8]}),
    "a codebook of endless directions": ("eigen", None, {"codebook": record(8, b"\xff\xff\xff\xff")}),
    "a codebook of no bits": ("eigen", None, {"codebook": record(HEADER.size, b"\x00")}),
    "a codebook of steps that are none": (
        "eigen",
        None,
        {"codebook": lambda data: data[:16] + b"\xff" * 99 + data[115:]},
    ),
    "a codebook of a loss that is none": ("eigen", None, {"codebook": record(HEADER.size - 4, b"\x00\x00\xc0\x7f")}),
    "a frame that is none": ("cosine", None, {"frame": floats(3, np.nan)}),
    "a frame beyond all samples": ("cosine", None, {"frame": floats(ALL, 3e38)}),
    "a frame cut short": ("cosine", None, {"frame": lambda data: data[:-4]}),
    "a frame that is missing": ("cosine", None, {"frame": b""}),
    "a frame that the head has not": ("edge", None, {"frame": bytes(8 * DIM)}),
    "a hidden layer that is none": ("mlp", None, {"hidden": floats(3, np.nan)}),
    "a hidden layer beyond all samples": ("mlp", None, {"hidden": floats(ALL, 3e38)}),
    "a hidden layer cut short": ("mlp", None, {"hidden": lambda data: data[:-4]}),
    "a hidden layer of units beyond its growth": ("mlp", None, {"hidden": lambda data: data * 5}),
    "a hidden layer of fewer units than the first": ("mlp", None, {"hidden": lambda data: data[: len(data) // 6 * 5]}),
    "a hidden layer that is missing": ("mlp", None, {"hidden": b""}),
    "a hidden layer that the head has not": ("edge", None, {"hidden": bytes(4 * 6 * (DIM + 6))}),
    "a hidden Fisher below zero": ("mlp", None, {"hidden_fisher": floats(5, -1.0)}),
    "a hidden Fisher cut short": ("mlp", None, {"hidden_fisher": lambda data: data[:-4]}),
    "a hidden Fisher of no layer": ("edge", None, {"hidden_fisher": bytes(4 * 6 * (DIM + 6))}),
    "anchors that are none": ("ewc", None, {"fisher": floats(-1, np.inf)}),
    "values beyond all samples": ("regression", None, {"means": floats(-1, 3e38)}),
    "a mean of values that is another": ("regression", None, {"means": floats(-1, 1e6)}),
    "a count of nothing in a regression": ("regression", None, {"counts": counts(0)}),
    "an output that was never learnt": ("regression", None, {"classes": b'["y0", "y1"]'}),
    "a regression without outputs": ("regression", None, {"classes": b"[]", "weights": b"", "bias": b""}),
    "squares of values below zero": ("regression", None, {"scatter": floats(-1, -1.0)}),
    "sums of a regression cut short": ("regression", None, {"scatter": lambda data: data[:-4]}),
    "sums of a regression that are missing": ("regression", None, {"scatter": b""}),
    "values that are none": ("regression", None, {"records": record(6 + 4 * DIM, b"\x00\x00\xc0\x7f")}),
    "a class of no task": ("tasks", None, {"classes": names("class-0")}),
    "a class of a task without a name": ("tasks", None, {"classes": names("/class-0")}),
    "another D than was drawn": ("random", DIM, {}),
    "looks that are none": ("edge", None, {"looks": floats(-1, np.nan)}),
    "looks beyond all samples": ("edge", None, {"looks": floats(-1, 3e38)}),
    "looks cut short": ("edge", None, {"looks": lambda data: data[:-4]}),
    "looks of a few bytes": ("edge", None, {"looks": b"looks"}),
    "looks without end": ("edge", None, {"looks": record(0, b"\xff" * 7 + b"\x7f")}),
    "looks of a class that is not there": ("edge", None, {"looks": record(16, b"\x05")}),
    "looks of more samples than the class has": ("edge", None, {"looks": record(16 + 8 * 4, b"\x09")}),
    "looks that the recipe has not": ("ewc", None, {"looks": bytes(16) + bytes(16 + 4 * DIM)}),
    "rows of looks that are not there": ("edge", None, {"look_rows": bytes(8 + 4 * (DIM + 1))}),
    "rows of looks cut short": ("edge", None, {"look_rows": bytes(4 * (DIM + 1))}),
    "rows of looks that are none": ("edge", None, {"look_rows": bytes(8) + b"\xff" * 4 * (DIM + 1)}),
    "rows of looks that the recipe has not": ("ewc", None, {"look_rows": bytes(8 + 4 * (DIM + 1))}),
    "rows of looks that the head has not": ("cosine", None, {"look_rows": bytes(8 + 4 * (DIM + 1))}),
    "codes without a codebook": ("eigen", None, {"codebook": b"", "records": bytes(30), "hits": bytes(5)}),
}


@pytest.fixture(scope="module")
def examiner() -> Iterator[Examiner]:
    made = Examiner()
    yield made
    made.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a whole file of each recipe."""
    folder = tmp_path_factory.mktemp("whole")
    for name, options in {**FORMS, "tasks": {}}.items():
        with Learner.create(folder / name, device="cpu", replay_bytes=2_000, **options) as learner:
            for seed in range(3):
                teach(learner, seed, task="a" if name == "tasks" else None)
            assert len(learner.classes) == (0 if name == "regression" else 5)
    return {name: folder / name for name in (*FORMS, "tasks")}


def forge(path: Path, dim: int | None, changes: dict[str, Change | bytes]) -> None:
    """Change parts of the current version and make all digests anew."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        kept = store.load_kept(connection)[-1]
        parts: Parts = store.load_parts(connection, kept)
        for name, change in changes.items():
            parts[name] = change if isinstance(change, bytes) else change(parts[name])
        connection.execute("BEGIN")
        connection.execute("DELETE FROM kept")
        connection.execute("DELETE FROM chunks")
        store.add_version(connection, kept.version, kept.dim if dim is None else dim, parts, 0)
        store.seal(connection)
        connection.execute("COMMIT")


def assert_named(examiner: Examiner, path: Path) -> None:
    found = examiner.examine(path)
    assert "died" not in found, found
    assert {act: found[act][1] for act in ("check", "read", "learn") if found[act][0] == "crashed"} == {}
    assert found["check"][0] == "works"
    assert found["check"][1] != [], f"check says nothing; {found['read']}, {found['learn']}"
    assert all(len(line.splitlines()) == 1 for line in found["check"][1])


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_hostile_database_is_named_and_not_executed(
    name: str, tmp_path: Path, whole: dict[str, Path], examiner: Examiner
) -> None:
    path = Path(shutil.copy(whole["edge"], tmp_path / "a.ecl"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(SCHEMAS[name])
    assert_named(examiner, path)


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_version_is_named(name: str, tmp_path: Path, whole: dict[str, Path], examiner: Examiner) -> None:
    recipe, dim, changes = FORGERIES[name]
    path = Path(shutil.copy(whole[recipe], tmp_path / "a.ecl"))
    forge(path, dim, changes)
    assert_named(examiner, path)


@pytest.mark.parametrize("recipe", [*FORMS, "tasks"])
def test_forging_nothing_is_harmless(recipe: str, tmp_path: Path, whole: dict[str, Path], examiner: Examiner) -> None:
    path = Path(shutil.copy(whole[recipe], tmp_path / "a.ecl"))
    forge(path, None, {})
    found = examiner.examine(path)
    assert [found[act][0] for act in ("check", "read", "learn")] == ["works"] * 3
    assert found["check"][1] == []


def test_a_trigger_of_a_tables_name_is_named(tmp_path: Path, whole: dict[str, Path], examiner: Examiner) -> None:
    path = Path(shutil.copy(whole["edge"], tmp_path / "a.ecl"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TRIGGER log AFTER INSERT ON births BEGIN DELETE FROM kept; END")
        connection.execute("PRAGMA writable_schema = ON")
        rows = connection.execute("SELECT * FROM sqlite_master ORDER BY name = 'log', type = 'table'").fetchall()
        connection.execute("DELETE FROM sqlite_master")
        connection.executemany("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", rows)
    assert_named(examiner, path)


@pytest.mark.parametrize("n_same", [2, 3])
def test_one_chunk_listed_again_and_again_is_named(
    n_same: int, tmp_path: Path, whole: dict[str, Path], examiner: Examiner
) -> None:
    path = Path(shutil.copy(whole["edge"], tmp_path / "a.ecl"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        kept = store.load_kept(connection)[-1]
        ids = kept.ids.astype("<i8")
        ids[:n_same] = ids[0]
        connection.execute("UPDATE kept SET ids = ? WHERE version = ?", (ids.tobytes(), kept.version))
    assert_named(examiner, path)


@pytest.mark.parametrize("n_bytes", [1, 64_000_000, 1 << 40, 1 << 60])
def test_a_header_that_lies_about_its_bytes_is_named(
    n_bytes: int, tmp_path: Path, whole: dict[str, Path], examiner: Examiner
) -> None:
    path = Path(shutil.copy(whole["edge"], tmp_path / "a.ecl"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        kept = store.load_kept(connection)[-1]
        header = json.dumps({"dim": kept.dim, "bytes": {**kept.sizes, "scatter": n_bytes}})
        digest = store.digest_of(header, kept.sums.tobytes())
        row = (header, digest, kept.version)
        connection.execute("UPDATE kept SET header = ?, digest = ? WHERE version = ?", row)
    assert_named(examiner, path)


def test_a_view_in_an_older_format_is_not_executed(tmp_path: Path, examiner: Examiner) -> None:
    path = tmp_path / "a.ecl"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA application_id = 0x45434C31; PRAGMA user_version = 1"
        )
        connection.execute(
            "CREATE VIEW settings AS WITH RECURSIVE endless(key, value) AS "
            "(SELECT 0, '' UNION ALL SELECT key + 1, value FROM endless) SELECT key, value FROM endless"
        )
    assert_named(examiner, path)


def test_a_pipe_is_no_file_to_wait_for(tmp_path: Path, examiner: Examiner) -> None:
    os.mkfifo(tmp_path / "a.ecl")
    assert_named(examiner, tmp_path / "a.ecl")


@pytest.mark.parametrize("history_bytes", [0, 1 << 40, HUGE])
def test_no_budget_leads_to_a_log_without_end(history_bytes: int) -> None:
    assert 256 <= n_lines(history_bytes) <= 1 << 20
