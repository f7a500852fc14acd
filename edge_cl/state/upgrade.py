"""From an older format to this one: in a copy, which then takes the file's place.

Format 1 had one version, tables of arrays and records of float16 values, and no digests:

| table    | columns | meaning |
|----------|---------|---------|
| settings | key, value | as now, without `codec`, `selection`, `history_bytes`; `precision` may be missing |
| classes  | row, name | |
| arrays   | name, dtype, shape, data | weights, bias, counts, means, scatter (triangle), fisher |
| replay   | slot, record | u32 label, u32 sequence, f32 scale, u8 hit, u8 x 3, f16 x D |
| versions | version, parent, entry | JSON of what is in the log now |
"""

from __future__ import annotations

import contextlib
import glob
import math
import os
import shutil
import sqlite3
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from edge_kernels.arrays import Floats, Ints

from edge_cl.codecs import open_codec
from edge_cl.companion import Companion
from edge_cl.errors import StateBusyError, StateError, StateReadOnlyError
from edge_cl.files import sync_folder
from edge_cl.head import Head
from edge_cl.looks import Looks
from edge_cl.memory import Memory
from edge_cl.replay import HELD_OUT, Replay, is_held_out, record_type
from edge_cl.state import opening
from edge_cl.state.parts import memory_from, parse_json, to_parts, unpack_triangle
from edge_cl.state.schema import Settings
from edge_cl.state.store import add_version, seal
from edge_cl.state.versions import Version, encode_line
from edge_cl.statistics import Statistics

IN_USE = "{}: another process has it open; its format can be upgraded when it is closed"
MARK = ".upgrade-"
TABLES = {"settings", "classes", "arrays", "replay", "versions"}
ARRAYS = {"weights": "<f4", "bias": "<f4", "counts": "<i8", "means": "<f4", "scatter": "<f4", "fisher": "<f4"}


def upgrade_file(path: str) -> None:
    """Replace a file of format 1 by one of this format with the same content; at any moment one of them is there.

    Raises:
        StateError: it is damaged.
        StateReadOnlyError: it cannot be replaced.
        StateBusyError: another process has it open.
    """
    target = Path(path).resolve()
    uri = f"{target.as_uri()}?mode=rw"
    try:
        with _alone(target.parent), contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as old:
            old.execute("PRAGMA trusted_schema = OFF")
            if opening.read_format(old) != 1:
                return  # another process was faster
            old.execute("PRAGMA journal_mode = DELETE")  # nothing left beside the file
            old.execute("BEGIN EXCLUSIVE")
            if old.execute("PRAGMA journal_mode").fetchone()[0] != "delete":  # or opened by another one in between
                raise StateBusyError(IN_USE.format(path))
            _remove_left(target)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}{MARK}") as folder:
                temporary = Path(folder) / "state"
                _copy(old, temporary)
                os.chmod(temporary, target.stat().st_mode & 0o777)
                os.replace(temporary, target)
            sync_folder(target.parent)
    except StateBusyError:
        raise
    except StateError as error:
        raise StateError(f"{path}: damaged: {error}; restore a copy of it") from None
    except (ValueError, TypeError, ArithmeticError, AttributeError, struct.error) as error:
        raise StateError(f"{path}: damaged: its entries cannot be read: {error}; restore a copy of it") from None
    except (OSError, sqlite3.Error) as error:
        text = " ".join(str(error).split())
        if "locked" in text:
            raise StateBusyError(IN_USE.format(path)) from None
        if "readonly" in text or "unable to open" in text or isinstance(error, PermissionError):
            raise StateReadOnlyError(
                f"{path}: its format is 1 and has to be upgraded; make file and folder writable: chmod u+w {path}"
            ) from None
        raise StateError(f"{path}: cannot be upgraded: {text}; nothing was changed") from None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Be the only one who upgrades in a folder: a lock on the file itself would stay with the file that is replaced."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network drives have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_left(target: Path) -> None:
    """Remove the copies that a power cut left beside the file: what is forgotten later would live on in them."""
    names = {f"state{suffix}" for suffix in ("", *opening.COMPANIONS)}
    for folder in target.parent.glob(f".{glob.escape(target.name)}{MARK}*"):
        if folder.is_dir() and {entry.name for entry in folder.iterdir()} <= names:
            shutil.rmtree(folder, ignore_errors=True)


def _copy(old: sqlite3.Connection, path: Path) -> None:
    """Write what an old file holds as a new one.

    Raises:
        StateError: it does not fit together.
    """
    found = [row for row in old.execute("SELECT type, name FROM sqlite_master").fetchall() if row[0] != "index"]
    if sorted(found) != sorted(("table", name) for name in TABLES):
        raise StateError("its tables are not those of format 1")
    rows = dict(old.execute("SELECT key, value FROM settings").fetchall())
    try:
        settings = Settings.from_rows([*{**rows, "codec": "float16"}.items()], 1)
    except ValueError as error:
        raise StateError(f"settings: {error}") from None
    versions: list[Version] = []
    for row in old.execute("SELECT version, parent, entry FROM versions ORDER BY version").fetchall():
        versions.append(_version(*row, n_before=versions[-1].n_seen if versions else 0))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as new:
        opening.write_empty(new, settings)
        new.execute("BEGIN IMMEDIATE")
        n_slots = new.execute("SELECT count(*) FROM log").fetchone()[0]
        for version in versions[-n_slots:]:
            new.execute("UPDATE log SET line = ? WHERE slot = ?", (encode_line(version), version.version % n_slots))
            new.executemany(
                "INSERT INTO births VALUES (?, ?)", [(version.version, name) for name in version.new_classes]
            )
        if versions:
            memory = _memory(old, settings)
            parts, dim = to_parts(memory), memory.head.weights.shape[1]
            memory_from(parts, dim, settings)  # what it will be read as
            add_version(new, versions[-1].version, dim, parts, 0)
        seal(new)
        new.execute("COMMIT")


def _version(version: int, parent: int, entry: str, *, n_before: int) -> Version:
    values = parse_json(entry)
    try:
        names, n_seen = tuple(values.pop("new_classes")), n_before + values["n_samples"]
        return Version(version, parent, kind="learn", n_seen=n_seen, new_classes=names, **values)
    except (AttributeError, KeyError, TypeError):
        raise StateError("its log cannot be read") from None


def _memory(old: sqlite3.Connection, settings: Settings) -> Memory:
    classes = tuple(name for (name,) in old.execute("SELECT name FROM classes ORDER BY row").fetchall())
    arrays: dict[str, Any] = {name: _array(old, name) for name in ARRAYS}
    n_classes, dim = arrays["weights"].shape if arrays["weights"].ndim == 2 else (0, 0)
    shapes = {"bias": (n_classes,), "counts": (n_classes,), "means": (n_classes, dim)}
    triangle = arrays["scatter"]
    fits = all(arrays[name].shape == shape for name, shape in shapes.items()) and len(classes) == n_classes > 0
    if not fits or len(triangle) not in (0, dim * (dim + 1) // 2) or arrays["fisher"].shape[1:] != (dim + 1,):
        raise StateError("its arrays do not fit together")
    scatter = unpack_triangle(triangle, dim) if len(triangle) else None
    statistics = Statistics(arrays["counts"], arrays["means"], scatter)
    replay = _replay(old, settings, dim, arrays["counts"])
    head, companion = Head(classes, arrays["weights"], arrays["bias"]), Companion.empty(dim)
    return Memory(head, statistics, arrays["fisher"], replay, companion, Looks.empty(dim))


def _array(old: sqlite3.Connection, name: str) -> Floats | Ints:
    row = old.execute("SELECT dtype, shape, data FROM arrays WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise StateError(f"it has no {name}")
    dtype, shape, data = row
    sides = parse_json(shape)
    is_shape = isinstance(sides, list) and all(type(side) is int and side >= 0 for side in sides)
    if not isinstance(data, bytes) or dtype != ARRAYS[name] or not is_shape:
        raise StateError(f"{name}: it is none")
    if math.prod(sides) * int(dtype[2]) != len(data):
        raise StateError(f"{name}: {len(data)} bytes do not have dtype {dtype} and shape {shape}")
    array: Floats | Ints = np.frombuffer(data, dtype).reshape(sides).astype(dtype[1:])
    if not np.isfinite(array).all():
        raise StateError(f"{name}: numbers that are none")
    return array


def _replay(old: sqlite3.Connection, settings: Settings, dim: int, counts: Ints) -> Replay:
    header = [("label", "<u4"), ("sequence", "<u4"), ("scale", "<f4"), ("hit", "u1"), ("zero", "u1", (3,))]
    layout = np.dtype([*header, ("values", "<f2", (dim,))])
    rows = [record for (record,) in old.execute("SELECT record FROM replay ORDER BY slot").fetchall()]
    if any(not isinstance(record, bytes) or len(record) != layout.itemsize for record in rows):
        raise StateError(f"a replay record is not {layout.itemsize} bytes long")
    stored = np.frombuffer(b"".join(rows), layout)
    codec = open_codec("float16", dim)
    if not len(stored):
        return Replay.empty(settings.replay_bytes, settings.seed, codec)
    if stored["label"].max() >= len(counts) or stored["hit"].max() > 2 or stored["sequence"].max() >= HELD_OUT:
        raise StateError("a replay record is out of range")
    records = np.zeros(len(stored), record_type(codec.n_bytes))
    records["label"] = stored["label"]
    records["number"] = stored["sequence"] + np.where(is_held_out(stored["sequence"]), HELD_OUT, 0)
    records["code"][:, :4] = np.ascontiguousarray(stored["scale"])[:, None].view(np.uint8)
    records["code"][:, 4:] = np.ascontiguousarray(stored["values"]).view(np.uint8)
    if not np.isfinite(codec.decode(records["code"], Statistics.empty(dim, has_scatter=False))).all():
        raise StateError("a replay record is not finite")
    return Replay(settings.replay_bytes, settings.seed, settings.selection, codec, records, stored["hit"].copy())
