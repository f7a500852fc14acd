"""Versions as lists of chunks: what two versions have in common is stored once, and going back copies nothing."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np
from edge_kernels.arrays import Codes, Ints

from edge_cl.errors import StateError
from edge_cl.inputs import MAX_DIM
from edge_cl.state.parts import CHUNK_BYTES, NEWER, Parts, parse_json

DIGEST_BYTES = 16
MAX_VERSION = (1 << 32) - 1
MAX_CHUNK = 1 << 62
MAX_KEPT = 64  # versions: what is small would otherwise grow for thousands of updates before its bytes are too many


@dataclass(frozen=True)
class Kept:
    """A version that can be restored.

    Attributes:
        version: its number.
        header: see `edge_cl.state.schema`.
        dim: D.
        sizes: bytes of each part.
        ids: (C,) int64 of its chunks.
        sums: (C, 16) uint8 digests of them.
        digest: of its content.
    """

    version: int
    header: str
    dim: int
    sizes: dict[str, int]
    ids: Ints
    sums: Codes
    digest: bytes

    @classmethod
    def from_row(cls, version: int, header: str, ids: bytes, sums: bytes, digest: bytes) -> Kept:
        """Return the version of a row of the table.

        Raises:
            StateError: the row does not add up.
        """
        if type(version) is not int or not 1 <= version < MAX_VERSION or not isinstance(header, str):
            raise StateError("a version that is none")
        values = parse_json(header)
        sizes = values.get("bytes") if isinstance(values, dict) else None
        if not isinstance(sizes, dict) or list(sizes) != list(_named(sizes)):
            raise StateError(f"version {version}: a header that is none")
        if not all(type(n) is int and 0 <= n < 1 << 48 for n in (*sizes.values(), values.get("dim"))):
            raise StateError(f"version {version}: a header that is none")
        if not 1 <= values["dim"] <= MAX_DIM:
            raise StateError(f"version {version}: of {values['dim']} features")
        if not isinstance(ids, bytes) or not isinstance(sums, bytes) or len(ids) % 8 or len(sums) != 2 * len(ids):
            raise StateError(f"version {version}: a list of chunks that is none")
        listed = np.frombuffer(ids, "<i8").astype(np.int64)
        n_chunks = sum(-(-n // CHUNK_BYTES[part]) for part, n in sizes.items())
        if len(listed) != n_chunks or len(np.unique(listed)) != n_chunks:
            raise StateError(f"version {version}: a list of {len(listed)} chunks for {n_chunks}")
        if digest != digest_of(header, sums):
            raise StateError(f"version {version}: its list of chunks does not have its digest")
        sizes = {part: sizes.get(part, 0) for part in CHUNK_BYTES}
        return cls(version, header, values["dim"], sizes, listed, np.frombuffer(sums, np.uint8).reshape(-1, 16), digest)

    def to_row(self) -> tuple[int, str, bytes, bytes, bytes]:
        """Return the row of the table."""
        return self.version, self.header, self.ids.astype("<i8").tobytes(), self.sums.tobytes(), self.digest

    @property
    def lengths(self) -> Ints:
        """Bytes of each chunk (C,)."""
        lengths = [stop - start for part, size in self.sizes.items() for start, stop in cuts(part, size)]
        return np.array(lengths, np.int64)

    @property
    def n_bytes(self) -> int:
        """Bytes of the row itself."""
        return len(self.header) + 24 * len(self.ids) + DIGEST_BYTES + 8

    def places(self, name: str) -> slice:
        """Return where the chunks of a part are in the list."""
        n_chunks = {part: -(-size // CHUNK_BYTES[part]) for part, size in self.sizes.items()}
        start = sum(list(n_chunks.values())[: list(n_chunks).index(name)])
        return slice(start, start + n_chunks[name])


def _named(sizes: dict[str, Any]) -> dict[str, Any]:
    """Return the sizes that a header names: those of all parts of format 2, and of newer ones that are not empty."""
    return {part: sizes.get(part) for part in CHUNK_BYTES if part not in NEWER or sizes.get(part)}


def digest_of(header: str, sums: bytes) -> bytes:
    """Return the digest of a version's content."""
    return blake2b(header.encode() + sums, digest_size=DIGEST_BYTES).digest()


def cuts(part: str, n_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield start and stop of each chunk of a part."""
    size = CHUNK_BYTES[part]
    for start in range(0, n_bytes, size):
        yield start, min(start + size, n_bytes)


def load_kept(connection: sqlite3.Connection, version: int | None = None) -> list[Kept]:
    """Return all versions that can be restored, the oldest first, or the one that was asked for, if it is there.

    Raises:
        StateError: one of them does not add up.
    """
    rows = connection.execute(
        "SELECT version, header, ids, sums, digest FROM kept WHERE version = coalesce(?, version) ORDER BY version",
        (version,),
    )
    return [Kept.from_row(*row) for row in rows]


def load_current(connection: sqlite3.Connection) -> Kept | None:
    """Return the current version, or None before the first.

    Raises:
        StateError: it does not add up.
    """
    row = connection.execute("SELECT max(version) FROM kept").fetchone()
    return load_kept(connection, row[0])[0] if row[0] is not None else None


def load_parts(connection: sqlite3.Connection, kept: Kept, names: Sequence[str] = tuple(CHUNK_BYTES)) -> Parts:
    """Return parts of a version.

    Raises:
        StateError: a chunk is missing or does not have its digest.
    """
    parts = {}
    for name in names:
        place, pieces = kept.places(name), []
        for chunk, digest in zip(kept.ids[place].tolist(), kept.sums[place], strict=True):
            row = connection.execute("SELECT data FROM chunks WHERE id = ?", (chunk,)).fetchone()
            if row is None or not isinstance(row[0], bytes) or _digest(row[0]) != digest.tobytes():
                raise StateError(f"version {kept.version}: {name}: chunk {chunk} is missing or altered")
            pieces.append(row[0])
        parts[name] = b"".join(pieces)
        if len(parts[name]) != kept.sizes[name]:
            raise StateError(f"version {kept.version}: {name} has {len(parts[name])} bytes, not {kept.sizes[name]}")
    return parts


def add_version(connection: sqlite3.Connection, version: int, dim: int, parts: Parts, limit_bytes: int) -> None:
    """Store the parts as the current version; the oldest ones that no longer fit the limit go first.

    Args:
        connection: in a transaction.
        version: its number.
        dim: D.
        parts: all of them.
        limit_bytes: of the versions before.

    Raises:
        StateError: the versions before are damaged.
    """
    kept = load_kept(connection)
    last = kept[-1] if kept else None
    ids: list[int] = []
    sums: list[bytes] = []
    fresh: list[memoryview] = []
    next_id = connection.execute("SELECT coalesce(max(id), 0) FROM chunks").fetchone()[0] + 1
    if not 1 <= next_id < MAX_CHUNK:
        raise StateError(f"a chunk of number {next_id - 1}")
    for part, data in parts.items():
        place = last.places(part) if last else slice(0, 0)
        old = [digest.tobytes() for digest in last.sums[place]] if last else []
        old_ids = last.ids[place].tolist() if last else []
        view = memoryview(data)
        for n, (start, stop) in enumerate(cuts(part, len(data))):
            digest = _digest(view[start:stop])
            sums.append(digest)
            if n < len(old) and old[n] == digest:
                ids.append(old_ids[n])
            else:
                ids.append(next_id + len(fresh))
                fresh.append(view[start:stop])
    joined, sizes = b"".join(sums), {part: len(data) for part, data in parts.items()}
    header = json.dumps({"dim": dim, "bytes": _named(sizes)})
    listed = np.frombuffer(joined, np.uint8).reshape(-1, DIGEST_BYTES)
    made = Kept(version, header, dim, sizes, np.array(ids, np.int64), listed, digest_of(header, joined))
    prune(connection, [*kept, made], limit_bytes)
    connection.executemany("INSERT INTO chunks VALUES (?, ?)", enumerate(fresh, start=next_id))
    connection.execute("INSERT INTO kept VALUES (?, ?, ?, ?, ?)", made.to_row())


def restore_version(connection: sqlite3.Connection, version: int, source: Kept, limit_bytes: int) -> None:
    """Make a kept version current once more, as a new version of the same chunks."""
    made = replace(source, version=version)
    connection.execute("INSERT INTO kept VALUES (?, ?, ?, ?, ?)", made.to_row())
    prune(connection, load_kept(connection), limit_bytes)


def prune(connection: sqlite3.Connection, kept: list[Kept], limit_bytes: int) -> None:
    """Drop the oldest versions until the others, but for the last one, fit the limit.

    Args:
        connection: in a transaction.
        kept: all versions; the last one may not be stored yet.
        limit_bytes: of what only they have.
    """
    dropped, _ = split_history(kept, limit_bytes)
    if not dropped:
        return
    stays = np.unique(np.concatenate([version.ids for version in kept[len(dropped) :]]))
    goes = np.setdiff1d(np.concatenate([version.ids for version in dropped]), stays)
    connection.executemany("DELETE FROM chunks WHERE id = ?", ((chunk,) for chunk in goes.tolist()))
    connection.executemany("DELETE FROM kept WHERE version = ?", ((version.version,) for version in dropped))


def split_history(kept: list[Kept], limit_bytes: int) -> tuple[list[Kept], int]:
    """Return the oldest versions, which do not fit, and the bytes of those that do, without the last one's."""
    if len(kept) < 2:
        return [], 0
    *history, current = kept
    ids = np.concatenate([version.ids for version in history])
    lengths = np.concatenate([version.lengths for version in history])
    used_by = np.repeat(np.arange(len(history)), [len(version.ids) for version in history])
    only = ~np.isin(ids, current.ids)
    ids, lengths, used_by = ids[only][::-1], lengths[only][::-1], used_by[only][::-1]
    _, last_use = np.unique(ids, return_index=True)  # of the reversed list: a chunk goes with the last that has it
    frees = np.array([version.n_bytes for version in history], np.int64)
    np.add.at(frees, used_by[last_use], lengths[last_use])
    total, first = int(frees.sum()), 0
    while first < len(history) and (total > limit_bytes or len(kept) - first > MAX_KEPT):
        total -= int(frees[first])
        first += 1
    return kept[:first], total


def _digest(data: Any) -> bytes:
    return blake2b(data, digest_size=DIGEST_BYTES).digest()


SEALED = (
    "SELECT key, value FROM settings WHERE key NOT IN ('erasing', 'seal') ORDER BY key",
    "SELECT version, digest FROM kept ORDER BY version",
    "SELECT version, name FROM births ORDER BY rowid",
)


def seal_of(connection: sqlite3.Connection) -> str:
    """Return the digest of all that no chunk's digest covers."""
    digest = blake2b(digest_size=DIGEST_BYTES)
    for query in SEALED:
        digest.update(repr(connection.execute(query).fetchall()).encode("utf-8", "surrogatepass"))
    written = connection.execute(
        "SELECT CAST(line AS BLOB) FROM log WHERE line != zeroblob(length(line)) ORDER BY slot"
    )
    digest.update(b"".join(line for (line,) in written))
    return digest.hexdigest()


def seal(connection: sqlite3.Connection) -> None:
    """Renew the seal in the open transaction."""
    connection.execute("INSERT OR REPLACE INTO settings VALUES ('seal', ?)", (seal_of(connection),))


def is_sealed(connection: sqlite3.Connection) -> bool:
    """Return whether the seal is right."""
    row = connection.execute("SELECT value FROM settings WHERE key = 'seal'").fetchone()
    return row is not None and row[0] == seal_of(connection)
