"""Reading and writing a state file: one transaction for each change, one writer at a time, any number of readers."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

from edge_cl.errors import InputError, StateBusyError, StateError, StateReadOnlyError
from edge_cl.head import Head
from edge_cl.memory import Memory
from edge_cl.state import opening, upgrade
from edge_cl.state.holder import name_holder
from edge_cl.state.opening import MEMORY, TIMEOUT, translate
from edge_cl.state.parts import CHUNK_BYTES, NEWER, head_from, memory_from, to_parts
from edge_cl.state.schema import FORMAT, OLDEST, Settings
from edge_cl.state.store import (
    Kept,
    add_version,
    load_current,
    load_kept,
    load_parts,
    prune,
    restore_version,
    seal,
    split_history,
)
from edge_cl.state.versions import LINE_BYTES, Version, as_version, decode_line, encode_line, n_lines

HEAD_PARTS = ("classes", "weights", "bias", "frame", "hidden", "hidden_fisher", "look_rows")


class StateFile:
    """An open state file.

    Attributes:
        name: what the user called it; every error begins with it.
        is_read_only: whether `writing` is refused.
        timeout: seconds that `writing` waits for another writer.
    """

    def __init__(self, connection: sqlite3.Connection, name: str, *, is_read_only: bool, timeout: float) -> None:
        self.name = name
        self.is_read_only = is_read_only
        self.timeout = timeout
        self._connection = connection

    @classmethod
    def create(cls, path: str, settings: Settings, timeout: float = TIMEOUT) -> StateFile:
        """Return a new state with no version; the file appears whole or not at all.

        Raises:
            StateError: the path exists, or its folder cannot be written.
        """
        if path == MEMORY:
            connection = sqlite3.connect(MEMORY, isolation_level=None)
            opening.write_empty(connection, settings)
            return cls(connection, MEMORY, is_read_only=False, timeout=timeout)
        opening.create_file(path, settings)
        return cls.open(path, timeout=timeout)

    @classmethod
    def open(
        cls, path: str, *, read_only: bool = False, timeout: float = TIMEOUT, is_shared: bool = False
    ) -> StateFile:
        """Return the state at the path; one of an older format is upgraded in a copy, which then takes its place.

        Args:
            path: of the file.
            read_only: whether `writing` is refused.
            timeout: seconds that `writing` waits for another writer.
            is_shared: whether several threads use it, one at a time.

        Raises:
            StateError: it is missing, empty, no state, of a newer format, or damaged.
        """  # noqa: DOC501
        connection, is_read_only = opening.connect(path, read_only=read_only, timeout=timeout, is_shared=is_shared)
        try:
            if opening.read_format(connection) < OLDEST:
                connection.close()
                upgrade.upgrade_file(path)
                connection, is_read_only = opening.connect(
                    path, read_only=read_only, timeout=timeout, is_shared=is_shared
                )
            opening.check_tables(connection, path)
        except sqlite3.Error as error:
            connection.close()
            raise translate(error, path) from None
        except BaseException:
            connection.close()
            raise
        state = cls(connection, path, is_read_only=is_read_only, timeout=timeout)
        if not is_read_only:
            with contextlib.suppress(StateError):
                state.erase()
        return state

    def close(self) -> None:
        """Close the file; the write-ahead log is folded in by the last one who closes."""
        self._connection.close()

    @property
    def change(self) -> int:
        """A number that differs after another process has committed."""
        with self._named():
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    @property
    def settings(self) -> Settings:
        """What `create` fixed, and `change_settings` changed.

        Raises:
            StateError: it cannot be read.
        """
        try:
            with self._named():
                return opening.read_settings(self._connection)
        except StateError:
            raise
        except ValueError as error:
            raise StateError(f"{self.name}: damaged: settings: {error}; restore a copy of it") from None

    def versions(self) -> tuple[Version, ...]:
        """Return every committed change that the log still has a line of, the oldest first.

        Raises:
            StateError: it cannot be read.
        """
        settings = self.settings
        with self.reading():
            lines = self._connection.execute("SELECT line FROM log WHERE line <> zeroblob(?)", (LINE_BYTES,)).fetchall()
            found = [fields for (line,) in lines if (fields := decode_line(line)) is not None]
            born: dict[int, list[str]] = {}
            for version, name in self._connection.execute("SELECT version, name FROM births ORDER BY rowid"):
                born.setdefault(version, []).append(str(name))
            kept = {version for (version,) in self._connection.execute("SELECT version FROM kept")}
        return tuple(
            as_version(fields, settings.recipe, settings.seed, tuple(born.get(fields[0], ())), fields[0] in kept)
            for fields in sorted(found)
        )

    def current_version(self) -> int:
        """Return the number of the current version, 0 before the first."""
        with self.reading():
            return int(self._connection.execute("SELECT coalesce(max(version), 0) FROM kept").fetchone()[0])

    def read_head(self) -> tuple[Head | None, int]:
        """Return the head and its version; None and 0 before the first update.

        Raises:
            StateError: its parts do not fit together.
        """
        with self.reading():
            settings, kept = self.settings, load_current(self._connection)
            if kept is None:
                return None, 0
            return head_from(load_parts(self._connection, kept, HEAD_PARTS), kept.dim, settings), kept.version

    def read_memory(self, version: int | None = None) -> Memory | None:
        """Return all that is remembered by the current version, or by a kept one; None before the first update.

        Raises:
            StateError: the parts do not fit together.
            InputError: the version is not kept.
        """
        with self.reading():
            settings = self.settings
            kept = load_current(self._connection) if version is None else self._find(version)
            if kept is None:
                return None
            return memory_from(load_parts(self._connection, kept), kept.dim, settings)

    def digest(self) -> str:
        """Return the digest of the current version's content, hexadecimal; of equal content it is equal."""
        with self.reading():
            kept = load_current(self._connection)
        return kept.digest.hex() if kept else ""

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """See one version throughout, whatever another process commits meanwhile.

        Raises:
            StateError: what is read is damaged.
        """
        with self._named():
            if self._connection.in_transaction:
                yield
                return
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.rollback()

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
            StateBusyError: another process holds the right for longer than the timeout.
            StateError: the disk is full or broken; nothing was changed.
        """  # noqa: DOC501
        self.check_writable()
        with self._named():
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise
                raise StateBusyError(
                    f"{self.name}: {name_holder(self.name)} is writing to it; waited {self.timeout:g} s; try again "
                    "when it has finished, or wait longer: --timeout"
                ) from None
            is_committing = False
            try:
                yield
                seal(self._connection)
                is_committing = True
                self._connection.execute("COMMIT")
            except BaseException as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if is_committing and isinstance(error, sqlite3.OperationalError) and "disk I/O" in str(error):
                    raise StateError(
                        f"{self.name}: the disk is full or broken ({error}); it may hold the state before or after; "
                        f"make room and look: edge-cl log {self.name}"
                    ) from None
                raise
        with contextlib.suppress(StateError):  # what a reader held up is done as soon as it can be
            self.erase()

    def write(self, memory: Memory, version: Version) -> None:
        """Put a version into the open transaction: the chunks that differ from the version before, and its log line."""
        settings, parts = self.settings, to_parts(memory)
        limit = settings.history_bytes
        add_version(self._connection, version.version, memory.head.weights.shape[1], parts, limit)
        self._need(FORMAT if any(parts[name] for name in NEWER) else settings.format)
        self._log(version)

    def restore(self, version: Version) -> None:
        """Put a version with the content of `version.restored` into the open transaction.

        Raises:
            InputError: that version is not kept.
        """
        source = self._find(version.restored)
        restore_version(self._connection, version.version, source, self.settings.history_bytes)
        self._log(version)

    def change_settings(self, settings: Settings) -> None:
        """Put other settings into the open transaction; history that is too much goes, oldest first."""
        execute, old = self._connection.execute, self.settings
        execute("DELETE FROM settings WHERE key NOT IN ('erasing', 'seal')")
        self._connection.executemany("INSERT INTO settings VALUES (?, ?)", settings.to_rows())
        self._need(settings.format)
        prune(self._connection, load_kept(self._connection), settings.history_bytes)
        if settings.history_bytes != old.history_bytes:
            lines = [line for (line,) in execute("SELECT line FROM log") if decode_line(line) is not None]
            execute("DELETE FROM log")
            opening.make_log(self._connection, settings.history_bytes)
            self._write_lines(sorted(lines, key=_number))

    def forget_history(self, names: tuple[str, ...]) -> None:
        """Drop every version but the current one, and names from the log, in the open transaction."""
        self._connection.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten with zeros
        prune(self._connection, load_kept(self._connection), -1)
        self._connection.executemany("DELETE FROM births WHERE name = ?", [(name,) for name in names])
        mark = (str(self.current_version()),)
        self._connection.execute("INSERT OR REPLACE INTO settings VALUES ('erasing', ?)", mark)

    def erase(self) -> None:
        """Overwrite whatever earlier transactions left in free space, and empty the write-ahead log, where that is due.

        Raises:
            StateBusyError: another process is reading.
            StateError: the disk is full or broken; what is current stays as it is.
        """
        with self._named():
            execute = self._connection.execute
            for (mark,) in execute("SELECT value FROM settings WHERE key = 'erasing'").fetchall():
                self._fold_in()
                execute("PRAGMA temp_store = MEMORY")  # or a copy of what is left would go to a temporary folder
                execute("VACUUM")
                self._fold_in()  # only now may the mark go: a power cut before it does all again
                execute("DELETE FROM settings WHERE key = 'erasing' AND value = ?", (mark,))
                execute("PRAGMA secure_delete = OFF")

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each part: head, statistics, fisher, replay, versions (kept ones and the log)."""
        with self.reading():
            kept = load_kept(self._connection)
            log = self._connection.execute("SELECT sum(length(line)) FROM log").fetchone()[0] or 0
        sizes = kept[-1].sizes if kept else dict.fromkeys(CHUNK_BYTES, 0)
        return {
            "head": sum(
                sizes[part] for part in ("weights", "bias", "classes", "frame", "hidden", "look_rows", "companion")
            ),
            "statistics": sizes["counts"] + sizes["means"] + sizes["scatter"] + sizes["looks"],
            "fisher": sizes["fisher"] + sizes["hidden_fisher"],
            "replay": sizes["records"] + sizes["hits"] + sizes["codebook"],
            "versions": log + split_history(kept, 1 << 62)[1],
        }

    def _need(self, number: int) -> None:
        """Make the file one of that format, in the open transaction, if it is of an older one."""
        if opening.read_format(self._connection) < number:
            rows = self.settings.to_rows()  # under the names of today
            self._connection.execute(f"PRAGMA user_version = {number}")
            self._connection.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", rows)

    def _find(self, version: int) -> Kept:
        found = load_kept(self._connection, version)
        if found:
            return found[0]
        kept = [number for (number,) in self._connection.execute("SELECT version FROM kept ORDER BY version")]
        text = f"{kept[0]} to {kept[-1]}" if kept else "one; nothing was learnt yet"
        raise InputError(f"{self.name}: version: expected {text}; found {version}; see them: edge-cl log {self.name}")

    def _log(self, version: Version) -> None:
        self._write_lines([encode_line(version)])
        rows = [(version.version, name) for name in version.new_classes]
        self._connection.executemany("INSERT INTO births VALUES (?, ?)", rows)

    def _write_lines(self, lines: list[bytes]) -> None:
        """Put lines, the oldest first, over those in their slots.

        Raises:
            StateError: the log is damaged.
        """
        n_slots = n_lines(self.settings.history_bytes)
        slots = self._connection.execute("SELECT count(*), min(slot), max(slot) FROM log").fetchone()
        if slots != (n_slots, 0, n_slots - 1):
            raise StateError("its log has lines too few or too many")
        rows = [(line, _number(line) % n_slots) for line in lines]
        self._connection.executemany("UPDATE log SET line = ? WHERE slot = ?", rows)
        for line in lines[-1:]:
            self._connection.execute("DELETE FROM births WHERE version <= ?", (_number(line) - n_slots,))

    def _fold_in(self) -> None:
        is_busy = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if is_busy:
            raise StateBusyError(
                f"{self.name}: what was forgotten cannot be erased while another process reads it; it will be when the "
                "file is next opened for writing"
            )

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Make errors begin with the file's name."""  # noqa: DOC501
        try:
            yield
        except sqlite3.Error as error:
            raise translate(error, self.name) from None
        except StateError as error:
            if str(error).startswith(f"{self.name}: ") or isinstance(error, StateBusyError):
                raise
            raise StateError(f"{self.name}: damaged: {error}; restore a copy of it") from None


def _number(line: bytes) -> int:
    """Return the version of a line of the log."""
    return int.from_bytes(line[:4], "little")
