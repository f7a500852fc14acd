"""Who is writing to a state file right now, where the system tells."""

from __future__ import annotations

import os
from pathlib import Path

WRITE_LOCK = 120  # byte of the shared-memory file that SQLite locks for the one writer of a write-ahead log


def name_holder(path: str) -> str:
    """Return the process that holds the right to write, such as `process 4711 (python3 learn.py)`.

    On Linux the kernel lists who holds a lock. No descriptor of the file is opened for it: closing one would drop this
    process's own locks on the file, whatever else they are held for.
    """
    try:
        status = os.stat(f"{path}-shm")
        table = Path("/proc/locks").read_text()
    except OSError:
        return "another process"
    inode = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for line in table.splitlines():
        fields = line.split()
        if "->" in fields or len(fields) < 8 or fields[3] != "WRITE" or fields[5] != inode:
            continue
        first, last = int(fields[6]), int(fields[7]) if fields[7] != "EOF" else WRITE_LOCK
        if first <= WRITE_LOCK <= last and fields[4].isdigit() and fields[4] != "0":
            return _name(int(fields[4]))
    return "another process"


def _name(process: int) -> str:
    if process == os.getpid():
        return f"another learner of this process ({process})"
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        text = b" ".join(words).decode("utf-8", "replace").strip()
    except OSError:
        text = ""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return f"process {process}" + (f" ({line[:60]})" if line else "")
