"""Where a predictor's heads come from: a state that is being learnt into, or files that are being exported to."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_cl.backbones import Backbone, BackboneInfo, reopen_backbone
from edge_cl.backbones.preprocessing import METADATA_KEY, resolve
from edge_cl.backbones.session import has_cuda
from edge_cl.errors import ExportError, InputError, StateError
from edge_cl.feature_map import FeatureMap
from edge_cl.head import Head, arrays_equal
from edge_cl.origin import BACKBONE, HEAD, SHA256_KEY, Origin
from edge_cl.state import StateFile

if TYPE_CHECKING:
    import onnx

    from edge_cl.export.read import Export


@dataclass(frozen=True)
class Served:
    """A head that answers, with all that belongs to it: replaced as one, and never changed.

    Attributes:
        head: of K classes, or M outputs.
        feature_map: before the head.
        version: of the state it comes from.
        origin: of its features.
        export: the file it was read from; None of a state.
    """

    head: Head
    feature_map: FeatureMap
    version: int
    origin: Origin
    export: Export | None = None

    def is_same(self, other: Served) -> bool:
        """Return whether another answers likewise, under the same version and names."""
        mine, theirs = ((s.version, s.head.classes, s.feature_map) for s in (self, other))
        return mine == theirs and arrays_equal(self.head, other.head)

    def ready(self, before: Served | None) -> Served:
        """Return it with what would otherwise be drawn by the first call to predict: random features."""
        if before is not None and before.feature_map == self.feature_map:
            return replace(self, feature_map=before.feature_map)
        self.feature_map.apply(np.zeros((1, self.feature_map.n_inputs), np.float32))
        return self


class Source(ABC):
    """Something that heads come from; used by one thread at a time.

    Attributes:
        name: for errors.
        backbone: the same for all its heads; None where samples are features.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.backbone: Backbone | None = None

    @abstractmethod
    def stamp(self) -> Any:
        """Return what differs after the source has changed; a matter of microseconds."""

    @abstractmethod
    def read(self) -> tuple[Served, Any]:
        """Return the head that is there now, and the stamp of what was read.

        Raises:
            EdgeClError: there is none that can be used.
        """

    def close(self) -> None:  # noqa: B027 - most hold nothing open
        """Let go of files."""


def open_source(path: str | os.PathLike[str], backbone: str | None, device: str) -> Source:
    """Return the source at a path.

    Args:
        path: of a state, of the folder of a split export, or of an exported .onnx file.
        backbone: where the state's backbone is now, if it was moved.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        InputError: there is nothing, or a backbone was named for an export.
    """
    place = Path(path)
    is_file = place.suffix.lower() == ".onnx"
    if (place.is_dir() or is_file) and backbone is not None:
        raise InputError(f"backbone: {place} has its own; leave it out")
    if place.is_dir():
        return FileSource(place / HEAD, place / BACKBONE, device)
    return FileSource(place, None, device) if is_file else StateSource(str(path), backbone, device)


class StateSource(Source):
    """A state file; whoever learns into it may be another process."""

    def __init__(self, path: str, backbone: str | None, device: str) -> None:
        super().__init__(path)
        self._state = StateFile.open(path, read_only=True, is_shared=True)
        self._seen = self._state.change
        text = self._state.settings.backbone
        if text:
            info = BackboneInfo.from_json(text)
            precision = self._state.settings.precision
            folder = Path(path).resolve().parent
            self.backbone = reopen_backbone(info, folder, backbone, device=device, precision=precision)

    def stamp(self) -> Any:
        """Return what differs after a commit, and after another file has taken its place."""
        return self._files(), self._change()

    def read(self) -> tuple[Served, Any]:
        """Return the current version's head, and the stamp of what was read.

        Raises:
            StateError: the file is damaged or has no classes.
        """
        files, change = self._files(), self._change()
        if change is None or change == self._seen:  # the files changed, and it did not see it
            renewed = StateFile.open(self.name, read_only=True, is_shared=True)
            self._state.close()
            self._state, change = renewed, renewed.change
        self._seen = change
        with self._state.reading():
            settings = self._state.settings
            head, version = self._state.read_head()
        if head is None or not head.classes:
            raise StateError(f"{self.name}: has no classes yet; learn some: edge-cl learn {self.name} DIR")
        info = BackboneInfo.from_json(settings.backbone) if settings.backbone else None
        dim = info.dim if info else settings.input_dim or head.weights.shape[1]
        return Served(head, settings.feature_map(dim), version, Origin.of_info(info, dim)), (files, change)

    def close(self) -> None:
        """Close the state."""
        with contextlib.suppress(sqlite3.Error):
            self._state.close()

    def _change(self) -> int | None:
        """Return what differs after a commit; None where the connection has come to its end with the file."""
        try:
            return self._state.change
        except StateError:
            return None

    def _files(self) -> list[Any]:
        """Return what differs after a write to the state or to its log."""
        return [_stat(path) for path in (self.name, f"{self.name}-wal")]


class FileSource(Source):
    """An exported file that new ones are moved over."""

    def __init__(self, path: Path, backbone: Path | None, device: str) -> None:
        super().__init__(str(path))
        from edge_cl.export.read import load_onnx, read_export

        self._path = path
        if backbone is not None:
            self.backbone = _as_backbone(backbone.name, load_onnx(backbone), device)
            return
        export = read_export(path)
        if METADATA_KEY in export.metadata and export.options.kind in {"model", "live"}:
            self.backbone = _as_backbone(path.name, export.model, device)

    def stamp(self) -> Any:
        """Return what differs after another file has been moved there.

        Raises:
            ExportError: there is none.
        """
        found = _stat(self._path)
        if found is None:
            raise ExportError(f"{self._path}: cannot be read: there is no such file")
        return found

    def read(self) -> tuple[Served, Any]:
        """Return the file's head, and the stamp of what was read: another file may lie there a moment later.

        Raises:
            ExportError: it is none, or damaged.
            BackboneMismatchError: it is for another backbone than the one that was opened.
        """
        from edge_cl.export.read import export_in

        try:
            with self._path.open("rb") as file:
                stamp, data = _stamp_of(os.fstat(file.fileno())), file.read()
        except OSError as error:
            raise ExportError(f"{self._path}: cannot be read: {error.strerror}") from None
        served = as_served(export_in(data, self.name))
        if self.backbone is not None:
            wanted = Origin.of_info(self.backbone.info, self.backbone.info.dim)
            served.origin.check_same(wanted, self.name, "export both again")
        return served, stamp


def _stat(path: str | Path) -> tuple[int, int, int] | None:
    try:
        return _stamp_of(os.stat(path))
    except OSError:
        return None


def _stamp_of(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_mtime_ns, found.st_size


def as_served(export: Export) -> Served:
    """Return the head of an export."""
    alone = replace(export, model=type(export.model)())  # the bytes of a backbone need not stay in memory
    return Served(export.head, export.feature_map, export.version, export.origin, alone)


def _as_backbone(name: str, model: onnx.ModelProto, device: str) -> Backbone:
    """Return the backbone in an exported file.

    Raises:
        ExportError: there is none.
    """
    from edge_cl.export.base import base_of, open_base
    from edge_cl.export.options import Options
    from edge_cl.export.read import check_backbone_file, metadata_of

    metadata = metadata_of(model)
    if METADATA_KEY not in metadata or SHA256_KEY not in metadata:
        raise ExportError(f"{name}: expected a backbone that edge_cl exported; found an ONNX model of something else")
    try:
        preprocessing = resolve(metadata[METADATA_KEY], None, None, name)
    except InputError as error:
        raise ExportError(f"{name}: damaged: {error}") from None
    of_file = (metadata.get("edge_cl.backbone", name), "", "", metadata[SHA256_KEY])
    info = BackboneInfo(*of_file, 0, preprocessing)
    check_backbone_file(name, model, metadata)
    base = base_of(model, keeps_resize=False)
    backbone = Backbone(info, base.SerializeToString(), device)
    options = Options.from_json(metadata.get("edge_cl.options", "{}"))
    is_half = metadata.get("edge_cl.precision") == "float16" or options.fp16
    if is_half and (device == "cpu" or not has_cuda()):
        backbone.session = open_base(base, Options(fp16=True))
    backbone.info = replace(info, dim=backbone.measure_dim())
    return backbone
