"""The log: a line for every committed change, in a ring that was made whole when the state was.

| offset | size | type    | name            | meaning |
|--------|------|---------|-----------------|---------|
| 0      | 4    | u32     | version         | from 1; 0: no line |
| 4      | 4    | u32     | parent          | the version that was current; 0: the empty state |
| 8      | 8    | i64     | created         | seconds since 1970, UTC, as the clock said |
| 16     | 4    | u32     | n_samples       | learnt in this update |
| 20     | 4    | u32     | n_seen          | by the version, in all |
| 24     | 4    | u32     | restored        | of a rollback: the version whose content it is; else 0 |
| 28     | 16   | f32 x 4 | figures         | accuracy before and after, retention, seconds |
| 44     | 4    | u32     | kind            | 0 learn, 1 rollback, 2 forget, 3 set |
| 48     | 4    | u32     | crc             | CRC-32 of bytes 0 to 47 |
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from edge_cl.errors import StateError

LINE = struct.Struct("<IIqIIIffffI")
CRC = struct.Struct("<I")
LINE_BYTES = LINE.size + CRC.size
KINDS = ("learn", "rollback", "forget", "set")
LOG_SHARE = 60  # of the history's bytes: 10,256 lines of the default
MIN_LINES, MAX_LINES = 256, 1 << 16
MAX_CREATED = (1 << 36) - 1


@dataclass(frozen=True)
class Version:
    """A committed change.

    Attributes:
        version: its number, from 1.
        parent: the version it was made from.
        created: UTC, ISO 8601, as the clock said.
        kind: `learn`, `rollback`, `forget` or `set`.
        recipe: name of the recipe.
        seed: of the draws.
        n_samples: learnt in this update.
        n_seen: samples that the version has learnt in all.
        new_classes: names that were new, but for those forgotten since.
        accuracy_before: see `UpdateReport`.
        accuracy_after: see `UpdateReport`.
        retention: see `UpdateReport`.
        seconds: of the update without decoding and extraction.
        restored: of a rollback: the version whose content it has; else 0.
        is_kept: whether it can be restored.
    """

    version: int
    parent: int
    created: str
    kind: str
    recipe: str
    seed: int
    n_samples: int
    n_seen: int
    new_classes: tuple[str, ...]
    accuracy_before: float
    accuracy_after: float
    retention: float
    seconds: float
    restored: int = 0
    is_kept: bool = True


def encode_line(version: Version) -> bytes:
    """Return the line of a version; recipe and seed are the settings', the names of classes in a table of their own."""
    created = min(max(int(datetime.fromisoformat(version.created).timestamp()), 0), MAX_CREATED)
    counts = (min(n, 0xFFFFFFFF) for n in (version.n_samples, version.n_seen))
    figures = (version.accuracy_before, version.accuracy_after, version.retention, version.seconds)
    kind = KINDS.index(version.kind)
    line = LINE.pack(version.version, version.parent, created, *counts, version.restored, *figures, kind)
    return line + CRC.pack(zlib.crc32(line))


def decode_line(line: Any) -> tuple[Any, ...] | None:
    """Return what `encode_line` packed; None for a line that was never written.

    Raises:
        StateError: the line is damaged.
    """
    if line == bytes(LINE_BYTES):
        return None
    if not isinstance(line, bytes) or len(line) != LINE_BYTES or zlib.crc32(line[:-4]) != CRC.unpack(line[-4:])[0]:
        raise StateError("a line of its log does not have its checksum")
    fields = LINE.unpack(line[:-4])
    if fields[-1] >= len(KINDS) or not all(map(math.isfinite, fields[6:10])) or not 0 <= fields[2] <= MAX_CREATED:
        raise StateError("a line of its log is out of range")
    return fields


def as_version(fields: tuple[Any, ...], recipe: str, seed: int, new_classes: tuple[str, ...], kept: bool) -> Version:
    """Return the version of a line's fields."""
    number, parent, created, n_samples, n_seen, restored, *figures, kind = fields
    time = datetime.fromtimestamp(created, timezone.utc).isoformat(timespec="seconds")
    before, after, retention, seconds = (round(figure, 6) for figure in figures)
    return Version(
        version=number,
        parent=parent,
        created=time,
        kind=KINDS[kind],
        recipe=recipe,
        seed=seed,
        n_samples=n_samples,
        n_seen=n_seen,
        new_classes=new_classes,
        accuracy_before=before,
        accuracy_after=after,
        retention=retention,
        seconds=seconds,
        restored=restored,
        is_kept=kept,
    )


def n_lines(history_bytes: int) -> int:
    """Return how many lines the log has."""
    return min(MAX_LINES, max(MIN_LINES, history_bytes // LOG_SHARE // LINE_BYTES))


def utc_now() -> str:
    """Return the time for a version's `created`."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
