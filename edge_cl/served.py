"""Where a predictor's heads come from: a state that is being learnt into, or files that are being exported to."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_cl.backbones import Backbone, BackboneInfo, reopen_backbone
from edge_cl.backbones.preprocessing import METADATA_KEY, resolve
from edge_cl.backbones.session import has_cuda
from edge_cl.errors import BackboneMismatchError, ExportError, InputError, StateError
from edge_cl.feature_map import FeatureMap
from edge_cl.head import Head
from edge_cl.state import StateFile

if TYPE_CHECKING:
    import onnx

    from edge_cl.export.read import Export

HEAD, BACKBONE = "head.onnx", "backbone.onnx"


@dataclass(frozen=True)
class Served:
    """A head that answers, with all that belongs to it: replaced as one, and never changed.

    Attributes:
        head: of K classes, or M outputs.
        feature_map: before the head.
        version: of the state it comes from.
        backbone_sha256: that its features come from; "" where samples are features.
        export: the file it was read from; None of a state.
    """

    head: Head
    feature_map: FeatureMap
    version: int
    backbone_sha256: str
    export: Export | None = None

    def check_follows(self, before: Served, name: str) -> None:
        """Refuse to take the place of a head that reads other features.

        Raises:
            BackboneMismatchError: it does.
        """
        here, there = self.backbone_sha256[:16] or "none", before.backbone_sha256[:16] or "none"
        if here != there:
            raise BackboneMismatchError(
                f"{name}: its head is for backbone {here}, but {there} is being served; open another predictor for it"
            )
        if self.feature_map.n_inputs != before.feature_map.n_inputs:
            raise BackboneMismatchError(
                f"{name}: its head is for {self.feature_map.n_inputs} features, but "
                f"{before.feature_map.n_inputs} are being served; open another predictor for it"
            )


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
    def read(self) -> Served:
        """Return the head that is there now.

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
        self._inode = os.stat(path).st_ino if os.path.exists(path) else 0
        self._state = StateFile.open(path, read_only=True, is_shared=True)
        self._first = self._state.change
        text = self._state.settings.backbone
        if text:
            info = BackboneInfo.from_json(text)
            precision = self._state.settings.precision
            folder = Path(path).resolve().parent
            self.backbone = reopen_backbone(info, folder, backbone, device=device, precision=precision)

    def stamp(self) -> Any:
        """Return what differs after a commit, and after another file has taken its place."""
        with contextlib.suppress(FileNotFoundError):
            inode = os.stat(self.name).st_ino
            if inode != self._inode:
                return inode, 0
        return self._inode, self._state.change - self._first

    def read(self) -> Served:
        """Return the current version's head.

        Raises:
            StateError: the file is damaged or has no classes.
        """
        with contextlib.suppress(FileNotFoundError):
            inode = os.stat(self.name).st_ino
            if inode != self._inode:
                renewed = StateFile.open(self.name, read_only=True, is_shared=True)
                self._state.close()
                self._state, self._inode, self._first = renewed, inode, renewed.change
        with self._state.reading():
            settings = self._state.settings
            head, version = self._state.read_head()
        if head is None or not head.classes:
            raise StateError(f"{self.name}: has no classes yet; learn some: edge-cl learn {self.name} DIR")
        sha256 = BackboneInfo.from_json(settings.backbone).sha256 if settings.backbone else ""
        dim = self.backbone.info.dim if self.backbone else settings.input_dim or head.weights.shape[1]
        return Served(head, settings.feature_map(dim), version, sha256)

    def close(self) -> None:
        """Close the state."""
        with contextlib.suppress(sqlite3.Error):
            self._state.close()


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
        """Return what differs after another file has been moved there."""
        found = os.stat(self._path)
        return found.st_ino, found.st_mtime_ns, found.st_size

    def read(self) -> Served:
        """Return the file's head.

        Raises:
            ExportError: it is none, or damaged.
            BackboneMismatchError: it is for another backbone than the one beside it.
        """
        from edge_cl.export.read import read_export

        export = read_export(self._path)
        return as_served(export, self.backbone)


def as_served(export: Export, backbone: Backbone | None) -> Served:
    """Return the head of an export, for a backbone.

    Raises:
        BackboneMismatchError: it is for another one.
    """
    sha256 = export.metadata.get("edge_cl.backbone_sha256", "")
    if backbone is not None and sha256 != backbone.info.sha256:
        raise BackboneMismatchError(
            f"{export.name}: its head is for backbone {sha256[:16] or 'none'}, but {backbone.info.name} is "
            f"{backbone.info.sha256[:16]}; export both again"
        )
    alone = replace(export, model=type(export.model)())  # the bytes of a backbone need not stay in memory
    return Served(export.head, export.feature_map, export.version, sha256, alone)


def _as_backbone(name: str, model: onnx.ModelProto, device: str) -> Backbone:
    """Return the backbone in an exported file.

    Raises:
        ExportError: there is none.
    """
    from edge_cl.export.base import base_of, open_base
    from edge_cl.export.options import Options

    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if METADATA_KEY not in metadata or "edge_cl.backbone_sha256" not in metadata:
        raise ExportError(f"{name}: expected a backbone that edge_cl exported; found an ONNX model of something else")
    try:
        preprocessing = resolve(metadata[METADATA_KEY], None, None, name)
    except InputError as error:
        raise ExportError(f"{name}: damaged: {error}") from None
    of_file = (metadata.get("edge_cl.backbone", name), "", "", metadata["edge_cl.backbone_sha256"])
    info = BackboneInfo(*of_file, 0, preprocessing)
    base = base_of(model, keeps_resize=False)
    backbone = Backbone(info, base.SerializeToString(), device)
    is_half = metadata.get("edge_cl.precision") == "float16" or '"fp16": true' in metadata.get("edge_cl.options", "")
    if is_half and (device == "cpu" or not has_cuda()):
        backbone.session = open_base(base, Options(fp16=True))
    backbone.info = replace(info, dim=backbone.measure_dim())
    return backbone
