"""The right to write a folder, held by one process at a time, and given back by its end, whatever that is."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PAUSE_SECONDS = 0.02


@contextlib.contextmanager
def alone(folder: Path, seconds: float = 0.0) -> Iterator[bool]:
    """Hold the right to write a folder, and give whether it could be had in time.

    Where there are no locks it always can: on Windows, and on some network drives.

    Args:
        folder: that is there.
        seconds: to wait for another process.
    """
    if sys.platform == "win32":
        yield True
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        until = time.monotonic() + seconds
        while not (is_alone := _is_locked(descriptor)) and time.monotonic() < until:
            time.sleep(PAUSE_SECONDS)
        yield is_alone
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
