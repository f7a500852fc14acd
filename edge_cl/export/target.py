"""Where an export goes, checked before anything is computed, and written whole."""

from __future__ import annotations

from pathlib import Path

from edge_cl.backbones import BackboneInfo
from edge_cl.backbones.cache import sha256_of
from edge_cl.errors import ExportError, reason_of
from edge_cl.export.read import load_onnx, metadata_of
from edge_cl.files import write_whole


def check_target(path: Path, info: BackboneInfo | None) -> None:
    """Refuse a path at which no file can be put, or at which one lies that must not be replaced.

    Raises:
        ExportError: it is a folder, a state file or a backbone, or its folder is none.
    """
    try:
        if path.is_dir():
            raise ExportError(f"{path}: expected the name of a file to write; found a folder")
        if path.exists() and not path.is_file():
            raise ExportError(f"{path}: expected the name of a file to write; found a device or a pipe")
        if not path.parent.is_dir():
            raise ExportError(f"{path}: cannot be written: there is no folder {path.parent}; make it first")
        what = _found_at(path, info)
    except (OSError, ValueError) as error:  # a name that is too long, or has a zero in it
        reason = reason_of(error)
        raise ExportError(f"{str(path)[:80]!r}: cannot be written: {reason}") from None
    if what:
        raise ExportError(f"{path}: is {what}; choose another name, such as NAME.onnx")


def write_target(path: Path, data: bytes) -> None:
    """Put data at the path, whole.

    Raises:
        ExportError: it cannot be written; an older file stays.
    """
    try:
        write_whole(path.resolve(), data)  # a link goes on leading there
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        raise ExportError(f"{path}: cannot be written: {reason}; an older file was left as it is") from None


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


def _found_at(path: Path, info: BackboneInfo | None) -> str:
    """Return what lies at a path and must not be replaced; "" if nothing does."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        state = Path(str(path).removesuffix(suffix)) if suffix and str(path).endswith(suffix) else path
        if state.is_file():
            with state.open("rb") as file:
                if file.read(16) == b"SQLite format 3\0":
                    return "a state file" if state == path else f"part of the state file {state}"
    if not path.is_file():
        return ""
    if info is not None and sha256_of(path) == info.sha256:
        return "the backbone itself"
    try:
        metadata = metadata_of(load_onnx(path))
    except ExportError:
        return ""
    return "the backbone of a split export" if metadata.get("edge_cl.kind") == "backbone" else ""
