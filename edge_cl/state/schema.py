"""What stands in a state file.

An SQLite database in WAL mode, `application_id` 0x45434C31 ("ECL1"), `user_version` the format's, now 1. Numbers in
blobs are little-endian, rows one after another.

| table    | column   | type    | meaning |
|----------|----------|---------|---------|
| settings | key      | text    | `backbone`, `recipe`, `replay_bytes`, `seed`, `device`, `precision` |
|          | value    | text    | of `backbone`: JSON, or empty where samples are features |
| classes  | row      | integer | row of the head, from 0 |
|          | name     | text    | |
| arrays   | name     | text    | `weights` (K, D) f4, `bias` (K,) f4, `counts` (K,) i8, `means` (K, D) f4, |
|          |          |         | `scatter` f4: the lower triangle of (D, D) row by row, or empty, |
|          |          |         | `fisher` (K, D + 1) or (0, D + 1) f4 |
|          | dtype    | text    | `<f4` or `<i8` |
|          | shape    | text    | JSON list |
|          | data     | blob    | |
| replay   | slot     | integer | from 0 |
|          | record   | blob    | see `edge_cl.replay` |
| versions | version  | integer | from 1; the last one is what the other tables hold |
|          | parent   | integer | 0: the empty state |
|          | entry    | text    | JSON: time (UTC), recipe, seed, samples and classes learnt, the report's figures |
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from datetime import datetime, timezone

import numpy as np
from edge_kernels.arrays import Floats, Ints

from edge_cl.errors import InputError, StateError

APPLICATION_ID = 0x45434C31
FORMAT = 1

TABLES = """
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE classes (row INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE arrays (name TEXT PRIMARY KEY, dtype TEXT NOT NULL, shape TEXT NOT NULL, data BLOB NOT NULL);
CREATE TABLE replay (slot INTEGER PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE versions (version INTEGER PRIMARY KEY, parent INTEGER NOT NULL, entry TEXT NOT NULL);
"""

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = (32, 16)
BLOCK = 64  # rows and columns mirrored at a time
DTYPES = ("<f4", "<i8")


@dataclass(frozen=True)
class Settings:
    """What `create` fixed.

    Attributes:
        backbone: its description as JSON, or empty where samples are features.
        recipe: its name.
        replay_bytes: limit of the replay records.
        seed: of every draw.
        device: `auto`, `cpu` or `cuda`.
        precision: of the backbone on the GPU, 32 or 16 bits.
    """

    backbone: str
    recipe: str
    replay_bytes: int
    seed: int
    device: str
    precision: int = 32

    def checked(self) -> Settings:
        """Return the settings.

        Raises:
            InputError: one is out of its range.
        """
        check_device(self.device)
        if self.precision not in PRECISIONS or isinstance(self.precision, bool):
            raise InputError(f"precision: expected 32 or 16 bits; found {self.precision!r}")
        if self.precision == 16 and self.device == "cpu":
            raise InputError("precision: 16 bits need device cuda, or auto where there may be one; found device cpu")
        for name, value in (("replay_bytes", self.replay_bytes), ("seed", self.seed)):
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
                raise InputError(f"{name}: expected a whole number of at least 0; found {value!r}")
        return self


def check_device(name: str) -> None:
    """Check the name of a device.

    Raises:
        InputError: there is no such device.
    """
    if name not in DEVICES:
        raise InputError(f"device: expected one of {', '.join(DEVICES)}; found {name!r}")


@dataclass(frozen=True)
class Version:
    """A committed update.

    Attributes:
        version: its number, from 1.
        parent: the version it was made from.
        created: UTC, ISO 8601.
        recipe: name of the recipe.
        seed: of the draws.
        n_samples: learnt in this update.
        new_classes: names that were new.
        accuracy_before: see `UpdateReport`.
        accuracy_after: see `UpdateReport`.
        retention: see `UpdateReport`.
        seconds: of the update without decoding and extraction.
    """

    version: int
    parent: int
    created: str
    recipe: str
    seed: int
    n_samples: int
    new_classes: tuple[str, ...]
    accuracy_before: float
    accuracy_after: float
    retention: float
    seconds: float

    def to_row(self) -> tuple[int, int, str]:
        """Return the row of the table."""
        entry = asdict(self)
        return entry.pop("version"), entry.pop("parent"), json.dumps(entry, ensure_ascii=False)

    @classmethod
    def from_row(cls, version: int, parent: int, entry: str) -> Version:
        """Return what `to_row` wrote."""
        values = json.loads(entry)
        return cls(version, parent, **{**values, "new_classes": tuple(values["new_classes"])})


def utc_now() -> str:
    """Return the time for a version's `created`."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def encode_array(name: str, array: Floats | Ints) -> tuple[str, str, str, bytes]:
    """Return the row of the table `arrays`."""
    dtype = "<f4" if array.dtype.kind == "f" else "<i8"
    return name, dtype, json.dumps(array.shape), np.ascontiguousarray(array, dtype=dtype).tobytes()


def decode_array(dtype: str, shape: str, data: bytes) -> Floats | Ints:
    """Return the array of a row.

    Raises:
        StateError: the three do not fit together.
    """
    sides = json.loads(shape)
    is_shape = isinstance(sides, list) and all(isinstance(side, int) and side >= 0 for side in sides)
    if dtype not in DTYPES or not is_shape or math.prod(sides) * int(dtype[2]) != len(data):
        raise StateError(f"an array of {len(data)} bytes does not have dtype {dtype} and shape {shape}")
    array: Floats | Ints = np.frombuffer(data, dtype).reshape(sides).astype(dtype[1:])
    return array


def pack_triangle(matrix: Floats | None) -> Floats:
    """Return the lower triangle of a symmetric (D, D) row by row, (D (D + 1) / 2,); nothing for None."""
    if matrix is None:
        return np.zeros(0, np.float32)
    return np.concatenate([row[: d + 1] for d, row in enumerate(matrix)])


def unpack_triangle(triangle: Floats, dim: int) -> Floats | None:
    """Return what `pack_triangle` took of a (dim, dim)."""
    if not len(triangle):
        return None
    full, start = np.zeros((dim, dim), np.float32), 0
    for d, row in enumerate(full):  # by rows: a boolean mask takes four times as long
        row[: d + 1] = triangle[start : start + d + 1]
        start += d + 1
    for top in range(0, dim, BLOCK):  # by blocks, for the whole transposed misses the cache at every value
        below = top + BLOCK
        full[top:below, below:] = full[below:, top:below].T
        full[top:below, top:below] += np.tril(full[top:below, top:below], -1).T
    return full
