"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Put data at the path: a sibling temporary file, fsync, then one rename; an older file stays until then.

    Raises:
        OSError: the folder cannot be written or is full; nothing is left behind.
    """
    target = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(target.parent)


def move_new(source: Path, target: Path) -> None:
    """Give a finished file its name, which nothing must have yet.

    Raises:
        FileExistsError: another process was faster.
    """
    try:
        os.link(source, target)  # unlike a rename, it never replaces anything
    except FileExistsError:
        raise
    except OSError:  # FAT, as on memory cards, has no links
        os.rename(source, target)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlast a power cut, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
