"""Models made once and kept in the user's cache folder; a name holds its file's hash, so a damaged one is made anew."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from edge_cl.files import write_whole


def cache_folder() -> Path:
    """Return `$EDGE_CL_CACHE`, else edge_cl in the XDG cache folder."""
    if chosen := os.environ.get("EDGE_CL_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge_cl"


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the hexadecimal sha256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def find(pattern: str) -> Path | None:
    """Return the sound cached file whose key matches the glob pattern, if there is one."""
    folder = cache_folder()
    for path in sorted(folder.glob(f"{pattern}.????????????????.onnx")) if folder.is_dir() else ():
        if sha256_of(path)[:16] == path.suffixes[-2][1:]:
            return path
        path.unlink(missing_ok=True)
    return None


def store(key: str, build: Callable[[], bytes]) -> Path | bytes:
    """Return the cached model of that key, built first if need be; its bytes where the folder cannot be written."""
    if cached := find(key):
        return cached
    data = build()
    path = cache_folder() / f"{key}.{hashlib.sha256(data).hexdigest()[:16]}.onnx"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)
    except OSError:
        return data
    return path
