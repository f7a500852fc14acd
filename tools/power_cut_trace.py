"""What a process did to the files in one folder, from its system calls as strace writes them down.

Not followed: memory-mapped files. SQLite maps one, its `-shm`, which it makes anew where it is missing; it is left out
here, as it is after a reboot. Whatever else cannot be followed is an error, so that nothing is left out unseen.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from power_cut_states import FOLDER, Acknowledge, Op, Rename, Resize, Sync, SyncFolder, Write

TRACED = (
    "?open,?openat,?creat,?close,?write,?pwrite64,?writev,?pwritev,?lseek,?ftruncate,?fallocate,?fsync,"
    "?fdatasync,?rename,?renameat,?renameat2,?link,?linkat,?unlink,?unlinkat,?mkdir,?mkdirat,?rmdir"
)  # ?: if the system has it
NOT_FOLLOWED = (
    "?dup,?dup2,?dup3,?mmap,?truncate,?pwritev2,?sync_file_range,?copy_file_range,?sendfile,?splice,?symlink,?symlinkat,"
    "?openat2"
)
LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (\d+)")
STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
DESCRIPTOR = re.compile(r"(-?\d+|AT_FDCWD)(?:<([^>]*)>)?")
LEFT_OUT = "-shm"


class TraceError(RuntimeError):
    """Nothing can be traced here."""


@dataclass
class _Descriptor:
    """An open file.

    Attributes:
        file: its number.
        position: where the next `write` goes, if nothing is read before it; None: to the end.
    """

    file: int
    position: int | None


def trace(command: Sequence[str], folder: Path, told: Path) -> tuple[list[Op], list[Op]]:
    """Run a command and return what makes the files that were in a folder before, and what it did to them.

    Args:
        command: names files by absolute paths.
        folder: whose files are followed, with what is in it; a real path.
        told: a file outside; what is written to it are acknowledgements.

    Raises:
        TraceError: there is no strace, or it may not trace here.
        RuntimeError: the command failed, or did what cannot be followed.
    """
    strace = shutil.which("strace")
    if strace is None:
        raise TraceError("strace: not found; install it, for example: apt install strace")
    found = Reader(folder, told)
    before = list(found.start())
    log = told.with_suffix(".strace")
    options = ["-f", "-y", "-xx", "-s", str(1 << 24), "-o", str(log)]
    options += ["-e", f"trace={TRACED},{NOT_FOLLOWED}"]
    done = subprocess.run([strace, *options, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        for line in done.stderr.splitlines():
            if line.startswith((f"{strace}: ", "strace: ")):
                raise TraceError(f"{line}; it has to be allowed to trace")
        raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}: {done.stderr}")
    with log.open(encoding="ascii") as lines:
        return before, list(found.read(lines))


class Reader:
    """Reads lines of strace, and keeps what it has to know of the ones before: who has which name and descriptor."""

    def __init__(self, folder: Path, told: Path) -> None:
        self._folder, self._told = str(folder), str(told)
        self._names: dict[str, int] = {}
        self._open: dict[int, _Descriptor] = {}
        self._sizes: dict[int, int] = {}
        self._numbers = count(FOLDER + 1)

    def start(self) -> Iterator[Op]:
        """Yield what makes the files and folders that are in the folder now."""
        for path in sorted(Path(self._folder).rglob("*")):
            if path.is_dir():
                yield self._change([(str(path), FOLDER)])
                yield SyncFolder(self._relative(str(path.parent)))
                continue
            data = path.read_bytes()
            yield self._create(str(path))
            file = self._names[str(path)]
            yield from (self._write(file, 0, data), Sync(file))

    def read(self, lines: Iterable[str]) -> Iterator[Op]:
        """Yield what the lines say, in the order in which the calls came back.

        Raises:
            RuntimeError: the process did what cannot be followed.
        """
        begun: dict[str, str] = {}
        for text in lines:
            line = text.rstrip()
            if line.endswith("<unfinished ...>"):
                begun[line.split()[0]] = line.removesuffix("<unfinished ...>")
                continue
            if " resumed>" in line:
                line = begun.pop(line.split()[0]) + line.split(" resumed>", 1)[1]
            match = LINE.match(line)
            if match:
                name, arguments, result = match[2], match[3], int(match[4])
                yield from self._call(name, arguments, result)

    def _call(self, name: str, arguments: str, result: int) -> Iterator[Op]:
        fields = [field.strip() for field in arguments.split(", ")]  # texts and paths are hexadecimal: no comma in them
        strings = [_bytes(text) for text in STRING.findall(arguments)]
        first = DESCRIPTOR.fullmatch(fields[0].removesuffix("(deleted)"))
        at = _bytes(first[2] or "").decode() if first else ""
        number = int(first[1]) if first and first[1] != "AT_FDCWD" else -1
        if name in {"open", "openat", "creat"}:
            yield from self._opened(self._paths(fields)[0], "O_CREAT|O_TRUNC" if name == "creat" else arguments, result)
        elif name == "close":
            self._open.pop(number, None)
        elif name in {"write", "writev", "pwrite64", "pwritev"}:
            if at == self._told:
                yield Acknowledge(b"".join(strings))
            elif self._follows(number, at, name):
                offset = None if name in {"write", "writev"} else int(fields[-1])
                yield self._write_at(self._open[number], offset, b"".join(strings)[:result])
        elif name == "lseek":
            if number in self._open:
                self._open[number].position = result
        elif name in {"fsync", "fdatasync"}:
            if at == self._folder or self._names.get(at) == FOLDER:
                yield SyncFolder(self._relative(at))
            elif self._follows(number, at, name):
                yield Sync(self._open[number].file)
        elif name in {"ftruncate", "fallocate"}:
            if self._follows(number, at, name):
                yield self._resized(self._open[number].file, name, fields)
        elif f"?{name}" in NOT_FOLLOWED.split(","):
            is_read = name == "mmap" and not ("PROT_WRITE" in arguments and "MAP_SHARED" in arguments)
            if not is_read and any(self._is_inside(path) for path in _paths_of(arguments)):
                raise RuntimeError(f"{name}: cannot be followed: {_readable(arguments)}")
        else:
            yield from self._renamed(name, self._paths(fields), "AT_REMOVEDIR" in arguments)

    def _opened(self, path: str, flags: str, number: int) -> Iterator[Op]:
        self._open.pop(number, None)
        if not self._is_inside(path):
            return
        if path not in self._names and "O_CREAT" in flags:
            yield self._create(path)
        file = self._names[path]
        if file == FOLDER:
            return
        self._open[number] = _Descriptor(file, None if "O_APPEND" in flags else 0)
        if "O_TRUNC" in flags and self._sizes[file]:
            yield self._resize(file, 0)

    def _renamed(self, name: str, paths: list[str], is_folder: bool) -> Iterator[Op]:
        """Yield the changes of names of any call that has no other effect.

        Raises:
            RuntimeError: it cannot be followed.
        """
        inside = [self._is_inside(path) for path in paths]
        if not any(inside):
            return
        if not all(inside):
            raise RuntimeError(f"{name}: cannot be followed: {' '.join(paths)}")
        changes: list[tuple[str, int | None]]
        if name.startswith("mkdir"):
            changes = [(paths[0], FOLDER)]
        elif name.startswith("link"):
            changes = [(paths[1], self._names[paths[0]])]
        elif name.startswith("rename"):
            moved = [path for path in sorted(self._names) if path == paths[0] or path.startswith(f"{paths[0]}/")]
            changes = [(path, None) for path in moved]
            changes += [(paths[1] + path.removeprefix(paths[0]), self._names[path]) for path in moved]
        else:  # unlink, unlinkat, rmdir
            assert is_folder or name == "rmdir" or self._names[paths[0]] != FOLDER
            changes = [(paths[0], None)]
        yield self._change(changes)

    def _paths(self, fields: list[str]) -> list[str]:
        """Return the absolute paths that a call names, each by a text and, or not, by a folder's descriptor before."""
        paths, at = [], ""
        for field in fields:
            descriptor, text = DESCRIPTOR.fullmatch(field.removesuffix("(deleted)")), STRING.fullmatch(field)
            if descriptor:
                at = _bytes(descriptor[2] or "").decode()
            elif text:
                paths.append(os.path.normpath(os.path.join(at, os.fsdecode(_bytes(text[1])))))
                at = ""
        return paths

    def _follows(self, number: int, path: str, name: str) -> bool:
        """Return whether a descriptor is of a file that is followed.

        Raises:
            RuntimeError: it is, and was not seen before.
        """
        if number not in self._open and self._is_inside(path):
            raise RuntimeError(f"{name}: a descriptor that nothing opened: {number} of {path}")
        return number in self._open

    def _is_inside(self, path: str) -> bool:
        return path.startswith(f"{self._folder}/") and not path.endswith(LEFT_OUT)

    def _relative(self, path: str) -> str:
        return os.path.relpath(path, self._folder)

    def _change(self, changes: list[tuple[str, int | None]]) -> Rename:
        for path, file in changes:
            if file is None:
                del self._names[path]
            else:
                self._names[path] = file
        return Rename(tuple((self._relative(path), file) for path, file in changes))

    def _create(self, path: str) -> Rename:
        file = next(self._numbers)
        self._sizes[file] = 0
        return self._change([(path, file)])

    def _write_at(self, descriptor: _Descriptor, offset: int | None, data: bytes) -> Write:
        if offset is not None:
            return self._write(descriptor.file, offset, data)
        start = self._sizes[descriptor.file] if descriptor.position is None else descriptor.position
        if descriptor.position is not None:
            descriptor.position += len(data)
        return self._write(descriptor.file, start, data)

    def _write(self, file: int, offset: int, data: bytes) -> Write:
        self._sizes[file] = max(self._sizes[file], offset + len(data))
        return Write(file, offset, data)

    def _resize(self, file: int, size: int) -> Resize:
        self._sizes[file] = size
        return Resize(file, size)

    def _resized(self, file: int, name: str, fields: list[str]) -> Resize:
        if name == "ftruncate":
            return self._resize(file, int(fields[1]))
        if fields[1] != "0":
            raise RuntimeError(f"fallocate: cannot be followed: mode {fields[1]}")
        return self._resize(file, max(self._sizes[file], int(fields[2]) + int(fields[3])))


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _paths_of(arguments: str) -> list[str]:
    """Return every path that stands in the arguments, as a text or beside a descriptor."""
    return [os.fsdecode(_bytes(text)) for text in re.findall(r'[<"]((?:\\x[0-9a-f]{2})+)[>"]', arguments)]


def _readable(arguments: str) -> str:
    return re.sub(r"(?:\\x[0-9a-f]{2})+", lambda match: os.fsdecode(_bytes(match[0])), arguments)
