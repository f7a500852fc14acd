"""Where an export goes, checked before anything is computed, and written whole."""

from __future__ import annotations

from pathlib import Path

from edge_cl.backbones import BackboneInfo
from edge_cl.errors import ExportError
from edge_cl.files import write_whole


def check_target(path: Path, info: BackboneInfo | None) -> None:
    """Refuse a path at which no file can be put, or at which one lies that must not be replaced.

    Raises:
        ExportError: it is a folder, a state file, or the backbone itself, or its folder is none.
    """
    if path.is_dir():
        raise ExportError(f"{path}: expected the name of a file to write; found a folder")
    if path.exists() and not path.is_file():
        raise ExportError(f"{path}: expected the name of a file to write; found a device or a pipe")
    if not path.parent.is_dir():
        raise ExportError(f"{path}: cannot be written: there is no folder {path.parent}; make it first")
    if _is_source(path, info):
        raise ExportError(f"{path}: is a state file or the backbone itself; choose another name, such as NAME.onnx")


def write_target(path: Path, data: bytes) -> None:
    """Put data at the path, whole.

    Raises:
        ExportError: it cannot be written; an older file stays.
    """
    try:
        write_whole(path, data)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error.strerror}; an older file was left as it is") from None


def make_folder(path: Path) -> None:
    """Make the folder of a split export.

    Raises:
        ExportError: it cannot be made.
    """
    if path.exists() and not path.is_dir():
        raise ExportError(f"{path}: expected a folder, for backbone.onnx and head.onnx; found a file")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"{path}: cannot be made: {error.strerror}") from None


def _is_source(path: Path, info: BackboneInfo | None) -> bool:
    """Return whether the file at the path is a state, or the backbone of this one."""
    try:
        with path.open("rb") as file:
            is_database = file.read(16) == b"SQLite format 3\0"
    except OSError:
        return False
    sources = [Path(info.path)] if info and info.path else []
    return is_database or any(source.exists() and source.samefile(path) for source in sources)
