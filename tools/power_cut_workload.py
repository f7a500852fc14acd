"""What the power is cut of: a process that makes a state file, changes it in every way, and says what it has finished.

    python tools/power_cut_workload.py FOLDER TOLD SYNCHRONOUS

It upgrades `old.ecl` of the folder, if it is there, at last. TOLD gets a line of JSON for each operation, when it is
finished. SYNCHRONOUS is SQLite's; with any but FULL, which edge_cl uses, updates that were acknowledged can be lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from edge_kernels.arrays import Floats
from numpy.typing import NDArray

from edge_cl import Learner
from edge_cl.state import opening, utc_now
from edge_cl.state.parts import pack_triangle
from edge_cl.state.schema import APPLICATION_ID

DIM = 24
NEW, OLD = "new.ecl", "old.ecl"
FORGOTTEN = ("someone who asked to be forgotten", "another one who left")
OLD_CLASSES = ("a", "known to the old file only")
HISTORY_BYTES = 15_000  # of a few versions: older ones are dropped
N_CODES = 3  # of each version: all of them would take long to look for
WAL_PAGES = 40  # after so many the log is folded in: several times, and in the middle of what is learnt

OLD_TABLES = """
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE classes (row INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE arrays (name TEXT PRIMARY KEY, dtype TEXT NOT NULL, shape TEXT NOT NULL, data BLOB NOT NULL);
CREATE TABLE replay (slot INTEGER PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE versions (version INTEGER PRIMARY KEY, parent INTEGER NOT NULL, entry TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Mark:
    """What tells the state after one operation from every other.

    Attributes:
        version: of the state.
        digest: of its content.
        replay_bytes: its budget.
        history_bytes: its budget.
    """

    version: int
    digest: str
    replay_bytes: int
    history_bytes: int

    @classmethod
    def of(cls, learner: Learner) -> Mark:
        """Return the mark of what a learner has open."""
        settings = learner._current.settings
        return cls(learner.version, learner._current.state.digest(), settings.replay_bytes, settings.history_bytes)


@dataclass(frozen=True)
class Told:
    """An operation that was finished.

    Attributes:
        name: of it.
        file: name of the state file.
        mark: of the state after it.
        secrets: what must be nowhere in a file from then on, each hexadecimal.
    """

    name: str
    file: str
    mark: Mark
    secrets: tuple[str, ...] = ()

    def to_line(self) -> bytes:
        """Return a line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @property
    def secret_bytes(self) -> frozenset[bytes]:
        """The secrets as they would stand in a file."""
        return frozenset(bytes.fromhex(secret) for secret in self.secrets)

    @classmethod
    def from_line(cls, line: bytes) -> Told:
        """Return what `to_line` wrote."""
        values = json.loads(line)
        return cls(values["name"], values["file"], Mark(**values["mark"]), tuple(values["secrets"]))


class Workload:
    """One learner after another of one state file; each operation is acknowledged when it is finished."""

    def __init__(self, path: Path, told: int) -> None:
        self._path, self._told = path, told
        self._rng = np.random.default_rng(0)
        self._secrets: dict[str, set[bytes]] = {name: {name.encode()} for name in FORGOTTEN}
        self._learner: Learner | None = None

    def create(self) -> None:
        """Make the state file."""
        self._learner = Learner.create(self._path, replay_bytes=3600, history_bytes=HISTORY_BYTES)
        self._tell("create")

    def open(self) -> None:
        """Open the state file anew; the last one who closes it folds its log in."""
        if self._learner:
            self._learner.close()
        self._learner = Learner.open(self._path)

    def close(self) -> None:
        """Close the state file."""
        self.learner.close()

    @property
    def learner(self) -> Learner:
        """The learner."""
        assert self._learner is not None
        return self._learner

    def learn(self, *names: str) -> None:
        """Learn twelve samples of each class."""
        samples, labels = draw(self._rng, names)
        assert self.learner.learn(samples, labels, min_retention=0).committed
        for name in self._secrets.keys() & set(self.learner.classes):
            self._secrets[name] |= secrets_of(self.learner, name)
        self._tell("learn " + ", ".join(names))

    def rollback(self, version: int) -> None:
        """Go back to a version."""
        self.learner.rollback(version)
        self._tell(f"rollback {version}")

    def resize(self, **budgets: int) -> None:
        """Change a budget."""
        self.learner.resize(**budgets)
        self._tell(f"resize {budgets}")

    def forget(self, name: str) -> None:
        """Forget a class."""
        self.learner.forget(name)
        self._tell(f"forget {name}", *self._secrets[name])

    def upgrade(self) -> None:
        """Open a file of the format before."""
        self.open()
        self._tell("upgrade")

    def _tell(self, name: str, *secrets: bytes) -> None:
        hexadecimal = tuple(sorted(secret.hex() for secret in secrets))
        told = Told(name, self._path.name, Mark.of(self.learner), hexadecimal)
        os.write(self._told, told.to_line())


def run(folder: Path, told: int) -> None:
    """Do everything that changes a state file."""
    new = Workload(folder / NEW, told)
    new.create()
    new.learn("a", "b")
    new.learn("c")
    new.learn("a", FORGOTTEN[0])
    new.learn("d")
    new.rollback(2)
    new.learn("e", FORGOTTEN[0])
    new.open()
    new.learn("f")
    new.resize(replay_bytes=2400)
    new.learn(FORGOTTEN[0])
    new.forget(FORGOTTEN[0])
    new.learn("g")
    new.learn("a", "h", FORGOTTEN[1])
    new.resize(history_bytes=1_200_000)  # more lines of the log
    new.rollback(new.learner.version - 1)
    new.learn("b", FORGOTTEN[1])
    new.open()
    new.forget(FORGOTTEN[1])
    new.open()
    for name in "ijka":
        new.learn(name)
    new.resize(replay_bytes=3000, history_bytes=30_000)
    new.learn("l")
    new.close()
    if (folder / OLD).exists():
        old = Workload(folder / OLD, told)
        old.upgrade()
        old.learn("c")
        old.close()


def draw(rng: np.random.Generator, names: tuple[str, ...]) -> tuple[Floats, list[str]]:
    """Return features (12 * len(names), DIM) around a centre for each class, and their labels."""
    centres = [np.random.default_rng(list(name.encode())).standard_normal(DIM) for name in names]
    features = np.repeat(centres, 12, axis=0) + 0.5 * rng.standard_normal((12 * len(names), DIM))
    return features.astype(np.float32), [name for name in names for _ in range(12)]


def secrets_of(learner: Learner, name: str) -> set[bytes]:
    """Return bytes that a class has in a state: its mean, its row of the weights, the codes of some samples."""
    memory = learner._current.memory()
    row = memory.head.classes.index(name)
    codes: NDArray[np.uint8] = memory.replay.records["code"][memory.replay.labels == row][:N_CODES]
    return {memory.statistics.means[row].tobytes(), memory.head.weights[row].tobytes(), *(c.tobytes() for c in codes)}


def write_old_format(path: Path) -> None:
    """Write a state file of format 1, which has one version; see `edge_cl.state.upgrade`.

    One of its settings is newer, `history_bytes`: the log of the file that it becomes is short then.
    """
    with Learner.create(":memory:", replay_bytes=3000, history_bytes=HISTORY_BYTES, codec="float16") as learner:
        learner.learn(*draw(np.random.default_rng(1), OLD_CLASSES))
        memory, settings = learner._current.memory(), learner._current.settings
    statistics, replay = memory.statistics, memory.replay
    scatter = pack_triangle(statistics.scatter)
    arrays: dict[str, NDArray[np.generic]] = {"weights": memory.head.weights, "bias": memory.head.bias}
    arrays |= {"counts": statistics.counts, "means": statistics.means, "scatter": scatter, "fisher": memory.fisher}
    entry = {"created": utc_now(), "recipe": settings.recipe, "seed": settings.seed, "n_samples": 24, "seconds": 0.0}
    entry |= {"accuracy_before": 0.5, "accuracy_after": 1.0, "retention": 1.0, "new_classes": OLD_CLASSES}
    ours = ("backbone", "recipe", "replay_bytes", "seed", "device", "precision", "history_bytes")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size = {opening.PAGE_BYTES}")
        opening.set_durable(connection)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 1")
        connection.executescript(OLD_TABLES)
        rows = [(key, str(getattr(settings, key))) for key in ours]
        connection.executemany("INSERT INTO settings VALUES (?, ?)", rows)
        connection.executemany("INSERT INTO classes VALUES (?, ?)", enumerate(memory.head.classes))
        for name, array in arrays.items():
            shape = json.dumps(array.shape)
            values = (name, array.dtype.str, shape, array.tobytes())
            connection.execute("INSERT INTO arrays VALUES (?, ?, ?, ?)", values)
        for slot, record in enumerate(replay.records):
            number = int(record["number"]) & 0x7FFFFFFF
            header = np.array([record["label"], number], "<u4").tobytes()
            code, hit = record["code"].tobytes(), replay.hits[slot].tobytes()
            connection.execute(
                "INSERT INTO replay VALUES (?, ?)", (slot, header + code[:4] + hit + b"\0\0\0" + code[4:])
            )
        connection.execute("INSERT INTO versions VALUES (1, 0, ?)", (json.dumps(entry),))


def configure(synchronous: str) -> None:
    """Have SQLite sync as told, and leave what is deleted in free pages, as it does unless a system says otherwise."""
    set_durable = opening.set_durable

    def set_both(connection: sqlite3.Connection) -> None:
        set_durable(connection)
        connection.execute("PRAGMA secure_delete = OFF")
        if synchronous != "FULL":
            connection.execute(f"PRAGMA synchronous = {synchronous}")

    opening.set_durable = set_both


def main(folder: str, told: str, synchronous: str) -> None:
    """Run it."""
    opening.WAL_BYTES = WAL_PAGES * opening.PAGE_BYTES
    configure(synchronous)
    descriptor = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    run(Path(folder), descriptor)
    os.close(descriptor)


if __name__ == "__main__":
    main(*sys.argv[1:])
