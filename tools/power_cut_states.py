"""What a power cut may leave on a disk, of the changes that a process made to the files in one folder.

Of what was done to a file since it was last synced, writes persist in any subset, torn at sectors, and sizes in order:
up to some change, and none after it. A size may persist without its data, and then reads as zeros; what was written
beyond the size that persisted, or into blocks that a truncation not yet persisted had freed, is lost. Names persist in
order as well. To sync a folder persists the names in it, with all that were changed before; to sync a file that has no
name on the disk yet persists its name, as ext4 does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from random import Random

SECTOR_BYTES = 512
FOLDER = 0  # stands for any folder where a file's number is expected
KINDS = ("random", "nothing", "everything", "names", "data")


@dataclass(frozen=True)
class Write:
    """Bytes written at an offset of a file."""

    file: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Resize:
    """A file cut to a size, or grown to it by zeros."""

    file: int
    size: int


@dataclass(frozen=True)
class Rename:
    """Paths that got another file, or none, all at once; relative to the folder."""

    changes: tuple[tuple[str, int | None], ...]


@dataclass(frozen=True)
class Sync:
    """A file that was synced."""

    file: int


@dataclass(frozen=True)
class SyncFolder:
    """A folder that was synced; `.` is the one that all is about."""

    path: str


@dataclass(frozen=True)
class Acknowledge:
    """What the process said, so that it counts on whatever it did before."""

    data: bytes


Op = Write | Resize | Rename | Sync | SyncFolder | Acknowledge


class Disk:
    """The files of one folder: what is safe of them, and what a power cut can take away.

    Attributes:
        files: by their numbers.
        names: paths that are safe, each with the number of its file.
        pending: changes of names that are not, in order.
        known_as: the last name that each file was given.
    """

    def __init__(self) -> None:
        self.files: dict[int, _File] = {}
        self.names: dict[str, int] = {}
        self.pending: list[Rename] = []
        self.known_as: dict[int, str] = {}

    def apply(self, op: Op) -> None:
        """Do what the process did."""
        match op:
            case Write() | Resize():
                self.files.setdefault(op.file, _File()).pending.append(op)
            case Rename():
                self.pending.append(op)
                self.known_as |= {file: path for path, file in op.changes if file is not None}
            case Sync():
                self.files.setdefault(op.file, _File()).sync()
                if op.file not in self.names.values():
                    self._sync_names(self._first_naming(op.file))
            case SyncFolder():
                self._sync_names(self._last_within(op.path))
            case Acknowledge():
                pass

    def cut(self, rng: Random, kind: str = "random") -> dict[str, bytes | None]:
        """Return a state that a power cut may leave now: the content of every path, None for a folder.

        Args:
            rng: draws it.
            kind: `random`; or of what is not synced `nothing`, `everything`, all `names` and sizes without any data,
                or all `data` without any names and sizes.
        """
        names = dict(self.names)
        for op in self.pending[: _draw_count(rng, kind, len(self.pending))]:
            _rename(names, op)
        left: dict[str, bytes | None] = {}
        for path, file in sorted(names.items()):  # a folder comes before what is in it
            left[path] = None if file == FOLDER else self.files.get(file, _File()).cut(rng, kind)
        return left

    def describe(self, op: Op) -> str:
        """Return what the process did, in words."""
        match op:
            case Write():
                return f"{len(op.data)} bytes at {op.offset} of {self.known_as[op.file]}"
            case Resize():
                return f"{self.known_as[op.file]} resized to {op.size}"
            case Rename():
                return ", ".join(f"{path} {'made' if file is not None else 'gone'}" for path, file in op.changes)
            case Sync():
                return f"{self.known_as[op.file]} synced"
            case SyncFolder():
                return f"folder {op.path} synced"
            case Acknowledge():
                return "acknowledged"

    def _sync_names(self, n_changes: int) -> None:
        for op in self.pending[:n_changes]:
            _rename(self.names, op)
        del self.pending[:n_changes]

    def _first_naming(self, file: int) -> int:
        for n, op in enumerate(self.pending):
            if any(number == file for _, number in op.changes):
                return n + 1
        return 0

    def _last_within(self, folder: str) -> int:
        within = [any(str(PurePosixPath(path).parent) == folder for path, _ in op.changes) for op in self.pending]
        return max((n + 1 for n, is_within in enumerate(within) if is_within), default=0)


class _File:
    """A file: what is safe, and what was done to it since."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.pending: list[Write | Resize] = []

    def sync(self) -> None:
        for op in self.pending:
            if isinstance(op, Resize):
                _resize(self.data, op.size)
            else:
                _resize(self.data, max(len(self.data), op.offset + len(op.data)))
                self.data[op.offset : op.offset + len(op.data)] = op.data
        self.pending.clear()

    def cut(self, rng: Random, kind: str) -> bytes:
        left, sizes = bytearray(self.data), list(self._sizes())
        n_sizes = _draw_count(rng, kind, sum(before != after for before, after in sizes))
        share = {"nothing": 0.0, "names": 0.0, "everything": 1.0, "data": 1.0}.get(kind)
        if share is None:
            share = rng.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        lost_from = math.inf  # blocks that the disk still has for the longer file, while the process wrote to new ones
        for op, (before, after) in zip(self.pending, sizes, strict=True):
            if before != after and n_sizes > 0:
                n_sizes -= 1
                _resize(left, after)
            elif isinstance(op, Resize) and after < before:
                lost_from = min(lost_from, after)
            if isinstance(op, Write):
                for start, stop in _sectors(op):
                    if rng.random() < share and start < min(lost_from, len(left)):
                        end = min(stop, len(left))
                        left[start:end] = op.data[start - op.offset : end - op.offset]
        return bytes(left)

    def _sizes(self) -> Iterator[tuple[int, int]]:
        """Yield the file's size before and after each pending change, as the process saw it."""
        size = len(self.data)
        for op in self.pending:
            after = op.size if isinstance(op, Resize) else max(size, op.offset + len(op.data))
            yield size, after
            size = after


def _draw_count(rng: Random, kind: str, n: int) -> int:
    """Return how many of n changes persist that do so in order."""
    fixed = {"nothing": 0, "data": 0, "everything": n, "names": n}
    return fixed[kind] if kind in fixed else rng.randint(0, n)


def _rename(names: dict[str, int], op: Rename) -> None:
    for path, file in op.changes:
        if file is None:
            names.pop(path, None)
        else:
            names[path] = file


def _resize(data: bytearray, size: int) -> None:
    if size < len(data):
        del data[size:]
    else:
        data.extend(bytes(size - len(data)))


def _sectors(op: Write) -> Iterator[tuple[int, int]]:
    """Yield start and stop in the file of each piece of a write that a sector takes."""
    start, end = op.offset, op.offset + len(op.data)
    while start < end:
        stop = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        yield start, stop
        start = stop
