"""Connections to a state file: how it is made, opened, proven to be one, and what its errors mean."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import tempfile
from pathlib import Path

from edge_cl.errors import StateBusyError, StateError, StateMissingError, StateReadOnlyError
from edge_cl.files import move_new, sync_folder
from edge_cl.state.schema import APPLICATION_ID, FORMAT, OLDEST, TABLES, Settings
from edge_cl.state.store import seal
from edge_cl.state.versions import LINE_BYTES, n_lines

MEMORY = ":memory:"
TIMEOUT = 10.0  # seconds that a writer waits for another one
PAGE_BYTES = 8 << 10
WAL_BYTES = 8 << 20  # the write-ahead log is folded in from this size on, and cut back to it
COMPANIONS = ("-wal", "-shm", "-journal")


def create_file(path: str, settings: Settings) -> None:
    """Make a state with no version; the file appears whole or not at all.

    Raises:
        StateError: the path exists, or its folder cannot be written.
    """  # noqa: DOC501
    target = Path(path)
    stale = [f"{path}{suffix}" for suffix in ("", *COMPANIONS) if os.path.lexists(f"{path}{suffix}")]
    if stale:
        raise StateError(f"{stale[0]}: exists already; open it, remove it, or choose another name")
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            temporary = Path(folder) / "state"
            with contextlib.closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
                write_empty(connection, settings)
            move_new(temporary, target)
        sync_folder(target.parent)
    except FileExistsError:
        raise StateError(f"{path}: exists already; open it, remove it, or choose another name") from None
    except OSError as error:
        raise StateError(f"{path}: cannot be created: {error.strerror}") from None
    except sqlite3.Error as error:
        raise translate(error, path) from None


def write_empty(connection: sqlite3.Connection, settings: Settings) -> None:
    """Make the tables, in a database that has none."""
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    set_durable(connection)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {settings.format}")
    connection.execute("BEGIN IMMEDIATE")
    for statement in TABLES.values():
        connection.execute(statement)
    connection.executemany("INSERT INTO settings VALUES (?, ?)", settings.to_rows())
    make_log(connection, settings.history_bytes)
    seal(connection)
    connection.execute("COMMIT")


def make_log(connection: sqlite3.Connection, history_bytes: int) -> None:
    """Fill the empty log with lines to be overwritten: it never grows."""
    lines = ((slot, bytes(LINE_BYTES)) for slot in range(n_lines(history_bytes)))
    connection.executemany("INSERT INTO log VALUES (?, ?)", lines)


def connect(path: str, *, read_only: bool, timeout: float, is_shared: bool = False) -> tuple[sqlite3.Connection, bool]:
    """Return a connection to a state file, and whether it can only be read; its format may be an older one.

    Raises:
        StateError: it is missing, empty, no state, or cannot be read.
    """  # noqa: DOC501
    check_header(path)
    mode_bits = os.stat(path).st_mode
    is_writable = os.access(path, os.W_OK) and bool(mode_bits & 0o222)
    # "immutable" leaves nothing beside a file that nobody can write; a log left by a crash has to be read, though
    has_log = False
    with contextlib.suppress(FileNotFoundError):
        has_log = os.stat(f"{path}-wal").st_size > 0
    can_change = has_log or (bool(mode_bits & 0o222) and os.access(Path(path).parent, os.W_OK))
    is_still = has_log and not os.access(Path(path).parent, os.W_OK) and not os.path.exists(f"{path}-shm")
    mode = "mode=rw" if is_writable else "mode=ro" if can_change else "mode=ro&immutable=1"
    if is_still and not is_writable:
        mode = "mode=ro&vfs=unix-none"  # a log is read without shared memory by one who is alone with it
    connection = None
    try:
        uri = f"{Path(path).resolve().as_uri()}?{mode}"
        connection = sqlite3.connect(
            uri, uri=True, isolation_level=None, timeout=timeout, check_same_thread=not is_shared
        )
        connection.execute("PRAGMA trusted_schema = OFF")
        if mode.endswith("unix-none"):
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA cell_size_check = ON")
        check_application(connection, path)
        if is_writable and not read_only and read_format(connection) >= OLDEST:
            set_durable(connection)
        if read_only:
            connection.execute("PRAGMA query_only = ON")
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.Error):
            raise translate(error, path) from None
        raise
    return connection, read_only or not is_writable


def set_durable(connection: sqlite3.Connection) -> None:
    """Make a commit outlast a power cut."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_BYTES // PAGE_BYTES}")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")


def check_header(path: str) -> None:
    """Refuse what is not even an SQLite database, before SQLite creates a journal beside it.

    Raises:
        StateMissingError: there is no file.
        StateError: it is none.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise StateError(f"{path}: cannot be read: it is no file")
        with open(path, "rb") as file:
            header, versions = file.read(16), file.read(4)[2:]
    except FileNotFoundError:
        raise StateMissingError(f"{path}: no such state file; type: edge-cl new {path}") from None
    except OSError as error:
        raise StateError(f"{path}: cannot be read: {error.strerror}") from None
    if header != b"SQLite format 3\0":
        found = "an empty file (0 bytes)" if not header else f"a file that begins with {header[:8]!r}"
        raise StateError(f"{path}: expected a state file; found {found}; make one with: edge-cl new NAME.ecl")
    if versions not in (b"\x01\x01", b"\x02\x02"):  # SQLite would only read it
        raise StateError(f"{path}: damaged: its header is none; restore a copy of it")


def check_application(connection: sqlite3.Connection, path: str) -> None:
    """Refuse a database of something else, and a format that is newer than this program.

    Raises:
        StateError: it is one of them.
    """
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application != APPLICATION_ID:
        raise StateError(f"{path}: expected a state file; found an SQLite database of something else")
    version = read_format(connection)
    if not 1 <= version <= FORMAT:
        raise StateError(
            f"{path}: its format is {version}, this edge_cl reads 1 to {FORMAT}; type: pip install --upgrade edge_cl"
        )


def read_format(connection: sqlite3.Connection) -> int:
    """Return the number of the format."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def read_settings(connection: sqlite3.Connection) -> Settings:
    """Return the settings.

    Raises:
        ValueError: they cannot be read.
    """
    rows = connection.execute("SELECT key, value FROM settings").fetchall()
    return Settings.from_rows(rows, read_format(connection))


def check_tables(connection: sqlite3.Connection, path: str) -> None:
    """Refuse a file whose tables are not exactly ours: a view or a trigger could do anything.

    Raises:
        StateError: they are not.
    """
    found = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
    wanted = [("table", name, name, sql) for name, sql in TABLES.items()]
    if sorted(found, key=repr) != sorted(wanted, key=repr):
        names = ", ".join(sorted({repr(row[1])[:40] for row in set(found) ^ set(wanted)}))
        raise StateError(
            f"{path}: damaged: its tables are not those of formats {OLDEST} and {FORMAT}: {names}; restore a copy of it"
        )


def translate(error: sqlite3.Error, name: str) -> StateError:
    """Return our error for one of SQLite's."""
    text = str(error)
    if isinstance(error, sqlite3.ProgrammingError):
        return StateError(f"{name}: {text}; open it again, in the thread that uses it")
    if "locked" in text:
        return StateBusyError(f"{name}: another process is using it; try again when it has finished")
    if "readonly" in text:
        return StateReadOnlyError(f"{name}: its folder or file system is read-only; nothing was changed")
    if "full" in text or "disk I/O" in text:
        return StateError(f"{name}: the disk is full or broken ({text}); nothing was changed; make room and try again")
    return StateError(f"{name}: damaged: {text}; restore a copy of it")
