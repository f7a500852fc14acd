"""Reading and writing a state file: one transaction for each update, one writer at a time, any number of readers."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from edge_kernels.arrays import Floats, Ints

from edge_cl.errors import StateBusyError, StateError, StateMissingError, StateReadOnlyError
from edge_cl.files import move_new, sync_folder
from edge_cl.head import Head
from edge_cl.memory import Memory
from edge_cl.replay import Replay, record_type
from edge_cl.state.schema import (
    APPLICATION_ID,
    FORMAT,
    TABLES,
    Settings,
    Version,
    decode_array,
    encode_array,
    pack_triangle,
    unpack_triangle,
)
from edge_cl.statistics import Statistics

MEMORY = ":memory:"
BUSY_SECONDS = 10.0  # how long a writer waits for another one
PAGE_BYTES = 16 << 10  # blobs of megabytes are written in 0.6 x the time that SQLite's own 4 KiB take
WAL_BYTES = 8 << 20  # the write-ahead log is folded in from this size on, and cut back to it
UPSERT_ARRAY = (
    "INSERT INTO arrays VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
    "dtype = excluded.dtype, shape = excluded.shape, data = excluded.data"
)


class StateFile:
    """An open state file.

    Attributes:
        name: what the user called it; every error begins with it.
        is_read_only: whether `write` is refused.
    """

    def __init__(self, connection: sqlite3.Connection, name: str, *, is_read_only: bool) -> None:
        self.name = name
        self.is_read_only = is_read_only
        self._connection = connection

    @classmethod
    def create(cls, path: str, settings: Settings) -> StateFile:
        """Return a new state with no version; the file appears whole or not at all.

        Raises:
            StateError: the path exists, or its folder cannot be written.
        """  # noqa: DOC501
        if path == MEMORY:
            connection = sqlite3.connect(MEMORY, isolation_level=None)
            _write_empty(connection, settings)
            return cls(connection, MEMORY, is_read_only=False)
        target = Path(path)
        stale = [f"{path}{suffix}" for suffix in ("", "-wal", "-shm", "-journal") if os.path.lexists(f"{path}{suffix}")]
        if stale:
            raise StateError(f"{stale[0]}: exists already; open it, remove it, or choose another name")
        try:
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
                temporary = Path(folder) / "state"
                with contextlib.closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
                    _write_empty(connection, settings)
                move_new(temporary, target)
            sync_folder(target.parent)
        except FileExistsError:
            raise StateError(f"{path}: exists already; open it, remove it, or choose another name") from None
        except OSError as error:
            raise StateError(f"{path}: cannot be created: {error.strerror}") from None
        except sqlite3.Error as error:
            raise _translate(error, path) from None
        return cls.open(path)

    @classmethod
    def open(cls, path: str, *, read_only: bool = False) -> StateFile:
        """Return the state at the path.

        Raises:
            StateError: it is missing, empty, no state, of a newer format, or damaged.
        """  # noqa: DOC501
        _check_header(path)
        mode_bits = os.stat(path).st_mode
        is_writable = os.access(path, os.W_OK) and bool(mode_bits & 0o222)
        # "immutable" leaves nothing beside a file that nobody can write; a log left by a crash has to be read, though
        has_log = os.path.exists(f"{path}-wal") and os.path.getsize(f"{path}-wal") > 0
        can_change = has_log or (bool(mode_bits & 0o222) and os.access(Path(path).parent, os.W_OK))
        mode = "mode=rw" if is_writable else "mode=ro" if can_change else "mode=ro&immutable=1"
        connection = None
        try:
            uri = f"{Path(path).resolve().as_uri()}?{mode}"
            connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_SECONDS)
            _check_format(connection, path)
            if is_writable:
                _set_durable(connection)
            if read_only:
                connection.execute("PRAGMA query_only = ON")
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, sqlite3.Error):
                raise _translate(error, path) from None
            raise
        return cls(connection, path, is_read_only=read_only or not is_writable)

    def close(self) -> None:
        """Close the file; the write-ahead log is folded in by the last one who closes."""
        self._connection.close()

    @property
    def change(self) -> int:
        """A number that differs after another process has committed."""
        return int(self._one("PRAGMA data_version")[0])

    @property
    def settings(self) -> Settings:
        """What `create` fixed.

        Raises:
            StateError: it cannot be read.
        """
        values: dict[str, Any] = dict(self._all("SELECT key, value FROM settings"))
        try:
            values |= {key: int(values[key]) for key in ("replay_bytes", "seed", "precision") if key in values}
            return Settings(**values).checked()
        except (KeyError, ValueError, TypeError) as error:
            raise StateError(f"{self.name}: damaged: settings: {error}") from None

    def versions(self) -> tuple[Version, ...]:
        """Return every committed update, the oldest first.

        Raises:
            StateError: it cannot be read.
        """
        rows = self._all("SELECT version, parent, entry FROM versions ORDER BY version")
        try:
            return tuple(Version.from_row(*row) for row in rows)
        except (ValueError, TypeError, KeyError):
            raise StateError(f"{self.name}: damaged: its log cannot be read") from None

    def read_head(self) -> tuple[Head | None, int]:
        """Return the head and its version; None and 0 before the first update.

        Raises:
            StateError: its parts do not fit together.
        """
        with self._reading():
            return self._head(), int(self._one("SELECT coalesce(max(version), 0) FROM versions")[0])

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """See one version throughout, whatever another process commits meanwhile."""
        if self._connection.in_transaction:
            yield
            return
        self._all("BEGIN")
        try:
            yield
        finally:
            self._connection.rollback()

    def _head(self) -> Head | None:
        classes = tuple(name for (name,) in self._all("SELECT name FROM classes ORDER BY row"))
        if not classes:
            return None
        weights, bias = self._array("weights", (len(classes), -1)), self._array("bias", (len(classes),))
        if not weights.shape[1]:
            raise StateError(f"{self.name}: damaged: its head has no features")
        return Head(classes, weights, bias)

    def read_memory(self, dim: int) -> Memory | None:
        """Return all that is remembered, or None before the first update.

        Args:
            dim: D that the caller expects; 0 takes the state's own.

        Raises:
            StateError: the parts do not fit together.
        """
        with self._reading():
            return self._memory(dim)

    def _memory(self, dim: int) -> Memory | None:
        head = self._head()
        if head is None:
            return None
        n_classes, own = head.weights.shape
        if dim not in (0, own):
            raise StateError(f"{self.name}: damaged: its head has {own} features, its backbone {dim}")
        triangle = self._array("scatter", (-1,))
        if len(triangle) not in (0, own * (own + 1) // 2):
            raise StateError(f"{self.name}: damaged: scatter has {len(triangle)} values for {own} features")
        scatter = unpack_triangle(triangle, own)
        statistics = Statistics(self._array("counts", (n_classes,)), self._array("means", (n_classes, own)), scatter)
        if (statistics.counts < 1).any():
            raise StateError(f"{self.name}: damaged: a class without samples")
        return Memory(head, statistics, self._array("fisher", (-1, own + 1)), self._read_replay(own, n_classes))

    def _read_replay(self, dim: int, n_classes: int) -> Replay:
        settings = self.settings
        rows = self._all("SELECT slot, record FROM replay ORDER BY slot")
        layout = record_type(dim)
        if any(not isinstance(record, bytes) or len(record) != layout.itemsize for _, record in rows):
            raise StateError(f"{self.name}: damaged: a replay record is not {layout.itemsize} bytes long")
        records = np.frombuffer(b"".join(record for _, record in rows), layout).copy()
        if len(records) and records["label"].max() >= n_classes:
            raise StateError(f"{self.name}: damaged: a replay record is of class {records['label'].max()}")
        if not np.isfinite(records["scale"]).all() or not np.isfinite(records["values"]).all():
            raise StateError(f"{self.name}: damaged: a replay record is not finite")
        slots = np.array([slot for slot, _ in rows], np.int64)
        return Replay(settings.replay_bytes, settings.seed, records, slots)

    def check_writable(self) -> None:
        """Refuse to write to a state that was opened for reading.

        Raises:
            StateReadOnlyError: it was, or its file may not be written.
        """
        if self.is_read_only:
            raise StateReadOnlyError(f"{self.name}: read-only; open it for writing; if need be: chmod u+w {self.name}")

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the only right to write; commit at the end, undo on any exception.

        Raises:
            StateReadOnlyError: the file was opened read-only or may not be written.
            StateBusyError: another process holds the right for longer than 10 seconds.
            StateError: the disk is full or broken; nothing was changed.
        """  # noqa: DOC501
        self.check_writable()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise _translate(error, self.name) from None

    def write(self, before: Memory | None, after: Memory, version: Version) -> None:
        """Put an update into the open transaction; replay records that stay as they were are not touched."""
        execute = self._connection.execute
        n_old = len(before.head.classes) if before else 0
        for row, name in enumerate(after.head.classes[n_old:], start=n_old):
            execute("INSERT INTO classes VALUES (?, ?)", (row, name))
        arrays: dict[str, Floats | Ints] = {
            "weights": after.head.weights,
            "bias": after.head.bias,
            "counts": after.statistics.counts,
            "means": after.statistics.means,
            "scatter": pack_triangle(after.statistics.scatter),
            "fisher": after.fisher,
        }
        for name, array in arrays.items():
            execute(UPSERT_ARRAY, encode_array(name, array))
        old = _records(before.replay) if before else {}
        new = _records(after.replay)
        for slot in old.keys() - new.keys():
            execute("DELETE FROM replay WHERE slot = ?", (slot,))
        for slot, record in new.items():
            if old.get(slot) != record:
                execute("INSERT OR REPLACE INTO replay VALUES (?, ?)", (slot, record))
        execute("INSERT INTO versions VALUES (?, ?, ?)", version.to_row())

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each part: head, statistics, fisher, replay, versions."""
        arrays = dict(self._all("SELECT name, length(data) FROM arrays"))
        names = self._one("SELECT coalesce(sum(length(CAST(name AS BLOB))), 0) FROM classes")[0]
        return {
            "head": arrays.get("weights", 0) + arrays.get("bias", 0) + names,
            "statistics": sum(arrays.get(name, 0) for name in ("counts", "means", "scatter")),
            "fisher": arrays.get("fisher", 0),
            "replay": self._one("SELECT coalesce(sum(length(record)), 0) FROM replay")[0],
            "versions": self._one("SELECT coalesce(sum(length(CAST(entry AS BLOB))), 0) FROM versions")[0],
        }

    def _array(self, name: str, shape: tuple[int, ...]) -> Any:
        row = self._all("SELECT dtype, shape, data FROM arrays WHERE name = ?", (name,))
        if not row:
            raise StateError(f"{self.name}: damaged: it has no {name}")
        try:
            array = decode_array(*row[0])
        except (StateError, ValueError, TypeError) as error:
            raise StateError(f"{self.name}: damaged: {name}: {error}") from None
        if (array.dtype.kind == "i") != (name == "counts") or not np.isfinite(array).all():
            raise StateError(f"{self.name}: damaged: {name}: expected finite numbers of its type")
        if len(array.shape) != len(shape) or any(w not in (-1, f) for w, f in zip(shape, array.shape, strict=True)):
            raise StateError(f"{self.name}: damaged: {name}: expected shape {shape}; found {array.shape}")
        return array

    def _all(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise _translate(error, self.name) from None

    def _one(self, query: str) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self._all(query)[0]
        return row


def _records(replay: Replay) -> dict[int, bytes]:
    return {int(slot): record.tobytes() for slot, record in zip(replay.slots, replay.records, strict=True)}


def _write_empty(connection: sqlite3.Connection, settings: Settings) -> None:
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    _set_durable(connection)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    connection.executescript(f"BEGIN IMMEDIATE; {TABLES} COMMIT;")
    rows = [(key, str(value)) for key, value in asdict(settings).items()]
    connection.executemany("INSERT INTO settings VALUES (?, ?)", rows)


def _set_durable(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_BYTES // PAGE_BYTES}")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")


def _check_header(path: str) -> None:
    """Refuse what is not even an SQLite database, before SQLite creates a journal beside it.

    Raises:
        StateMissingError: there is no file.
        StateError: it is none.
    """
    try:
        with open(path, "rb") as file:
            header = file.read(16)
    except FileNotFoundError:
        raise StateMissingError(f"{path}: no such state file; type: edge-cl new {path}") from None
    except OSError as error:
        raise StateError(f"{path}: cannot be read: {error.strerror}") from None
    if header != b"SQLite format 3\0":
        found = "an empty file (0 bytes)" if not header else f"a file that begins with {header[:8]!r}"
        raise StateError(f"{path}: expected a state file; found {found}; make one with: edge-cl new NAME.ecl")


def _check_format(connection: sqlite3.Connection, path: str) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID:
        raise StateError(f"{path}: expected a state file; found an SQLite database of something else")
    if version != FORMAT:
        raise StateError(
            f"{path}: its format is {version}, this edge_cl reads {FORMAT}; type: pip install --upgrade edge_cl"
        )
    connection.execute("SELECT count(*) FROM versions").fetchone()


def _translate(error: sqlite3.Error, name: str) -> StateError:
    text = str(error)
    if isinstance(error, sqlite3.ProgrammingError):
        return StateError(f"{name}: {text}; open it again, in the thread that uses it")
    if "locked" in text:
        return StateBusyError(f"{name}: another process is writing to it; try again when it has finished")
    if "readonly" in text:
        return StateReadOnlyError(f"{name}: its folder or file system is read-only; nothing was changed")
    if "full" in text or "disk I/O" in text:
        return StateError(f"{name}: the disk is full or broken ({text}); nothing was changed")
    return StateError(f"{name}: damaged: {text}; restore a copy of it")
