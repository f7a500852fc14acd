"""An export read back: its head, and what it says of itself; whatever does not fit together is refused."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from edge_cl.errors import ExportError, InputError, first_line
from edge_cl.export.build import set_metadata
from edge_cl.export.graph import TABLE
from edge_cl.export.metadata import CHECKSUM, FORMAT
from edge_cl.export.options import Options
from edge_cl.export.tensors import LOOKS, NAMES, Tensors, checksum_of, head_from
from edge_cl.feature_map import MAX_CONSTANT, FeatureMap
from edge_cl.head import HEADS, Head
from edge_cl.inputs import MAX_DIM, clean_name
from edge_cl.origin import Origin

_OTHERS = {
    "backbone": "a backbone alone; its head is head.onnx beside it",
    "delta": "a delta; apply it to an earlier export: edge-cl patch",
}
FORM = ("edge_cl.kind", "edge_cl.options", "edge_cl.input", "edge_cl.backbone_loss")  # of a file, not of its head


@dataclass(frozen=True)
class Export:
    """An export that was read.

    Attributes:
        name: of the file, for errors.
        model: as ONNX.
        metadata: see `edge_cl.export.metadata`.
        options: it was made with.
        tensors: of its head.
        head: the same.
        feature_map: before the head.
        version: of the state it was made from.
    """

    name: str
    model: onnx.ModelProto
    metadata: dict[str, str]
    options: Options
    tensors: Tensors
    head: Head
    feature_map: FeatureMap
    version: int

    @property
    def origin(self) -> Origin:
        """Where its features come from."""
        return Origin.of_metadata(self.metadata, self.feature_map.n_inputs, self.name)


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    """Return what a model says of itself."""
    return {entry.key: entry.value for entry in model.metadata_props}


def load_onnx(path: Path) -> onnx.ModelProto:
    """Return the model in a file.

    Raises:
        ExportError: it cannot be read, or is no ONNX.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ExportError(f"{path}: cannot be read: {error.strerror}") from None
    return _parse(data, str(path))


def _parse(data: bytes, path: str) -> onnx.ModelProto:
    """Return the model in the bytes of a file.

    Raises:
        ExportError: they are no ONNX.
    """
    try:
        model = onnx.load_from_string(data)
    except Exception:  # protobuf's classes differ between its versions
        model = onnx.ModelProto()
    if not (model.graph.node or model.graph.input or model.graph.output):
        raise ExportError(f"{path}: expected an ONNX model; found {len(data):,} bytes of something else")
    if any(weight.data_location == onnx.TensorProto.EXTERNAL for weight in model.graph.initializer):
        raise ExportError(f"{path}: its tensors are in another file; an export of edge_cl is one file")
    return model


def check_backbone_file(name: str, model: onnx.ModelProto, metadata: dict[str, str]) -> None:
    """Refuse a backbone.onnx whose weights are not those that were written.

    Raises:
        ExportError: they are not.
    """
    if metadata.get("edge_cl.kind") != "backbone":
        return
    found = {key: value for key, value in metadata.items() if key != CHECKSUM}
    if checksum_of(_arrays(name, model.graph.initializer), found) != metadata.get(CHECKSUM):
        raise ExportError(f"{name}: damaged: its checksum is that of something else; remove it and export again")


def read_export(path: Path) -> Export:
    """Return the export in a file.

    Raises:
        ExportError: it is no ONNX, no export of a head, of another format, or damaged.
    """
    return _as_read(load_onnx(path), str(path))


def export_in(data: bytes, name: str) -> Export:
    """Return the export in the bytes of a file; see `read_export`."""
    return _as_read(_parse(data, name), name)


def _as_read(model: onnx.ModelProto, name: str) -> Export:
    return as_export(name, model, metadata_of(model), read_tensors(name, model))


def read_tensors(name: str, model: onnx.ModelProto) -> Tensors:
    """Return the head's tensors in a model.

    Raises:
        ExportError: they are none.
    """
    found = _arrays(name, [weight for weight in model.graph.initializer if weight.name in (*NAMES, TABLE)])
    if metadata_of(model).get("edge_cl.head") == "linear":
        table = found.get(TABLE, np.zeros((1, 1), np.int64))  # a graph of one look for each class does without
        found.setdefault(LOOKS, table - np.arange(len(table))[:, None])
    return {name: found[name] for name in NAMES if name in found}


def seal_backbone(model: onnx.ModelProto, metadata: dict[str, str]) -> bytes:
    """Return the bytes of a backbone.onnx with its metadata and their checksum."""
    checksum = checksum_of(_arrays("backbone", model.graph.initializer), metadata)
    set_metadata(model, {**metadata, CHECKSUM: checksum})
    data: bytes = model.SerializeToString()
    return data


def _arrays(name: str, weights: Iterable[onnx.TensorProto]) -> dict[str, Any]:
    """Return initializers as arrays.

    Raises:
        ExportError: one is none.
    """
    try:
        return {weight.name: numpy_helper.to_array(weight) for weight in weights}
    except Exception as error:  # onnx has errors of several kinds for a tensor that is none
        raise ExportError(f"{name}: damaged: {first_line(error)}; export it again") from None


def check_metadata(name: str, metadata: dict[str, str]) -> None:
    """Refuse what is no export of ours.

    Raises:
        ExportError: it is none, or of another format.
    """
    found = metadata.get("edge_cl.format")
    if found is None:
        raise ExportError(f"{name}: expected an export of edge_cl; found an ONNX model without its metadata")
    if found != FORMAT or "edge_cl.kind" not in metadata:
        raise ExportError(f"{name}: its format is {found}, this edge_cl reads {FORMAT}; export it again")


def as_export(name: str, model: onnx.ModelProto, metadata: dict[str, str], tensors: Tensors) -> Export:
    """Return the export that a model, metadata and tensors make.

    Raises:
        ExportError: they do not fit together.
    """  # noqa: DOC501
    check_metadata(name, metadata)
    if metadata["edge_cl.kind"] in _OTHERS:
        raise ExportError(f"{name}: is {_OTHERS[metadata['edge_cl.kind']]}")
    try:
        kind, version = metadata["edge_cl.head"], int(metadata["edge_cl.version"])
        if kind not in HEADS:
            raise ValueError(f"a head of kind {kind!r}")
        classes = _names(metadata, kind)
        options = Options.from_json(metadata["edge_cl.options"])
        feature_map = _feature_map(metadata)
        Origin.of_metadata(metadata, feature_map.n_inputs, name)
        if not 0 <= version < 1 << 32:
            raise ValueError(f"version {version}")
        if checksum_of(tensors, stable(metadata)) != metadata[CHECKSUM]:
            raise ValueError("its checksum is that of something else")
        head = head_from(tensors, classes, kind, has_tasks="edge_cl.tasks" in metadata)
        if head.weights.shape[1] != feature_map.dim:
            raise ValueError(f"{feature_map.dim} features for rows of {head.weights.shape[1]}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InputError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0][:160]
        raise ExportError(f"{name}: damaged: {what}; export it again") from None
    return Export(name, model, metadata, options, tensors, head, feature_map, version)


def _feature_map(metadata: dict[str, str]) -> FeatureMap:
    """Return the feature map that metadata describe.

    Raises:
        ValueError: it is none.
    """
    found = FeatureMap(**json.loads(metadata["edge_cl.feature_map"]))
    numbers = (found.n_inputs, found.n_random, found.seed)
    if any(isinstance(number, bool) or not isinstance(number, int) or number < 0 for number in numbers):
        raise ValueError("a feature map of numbers that are none")
    if not 1 <= found.n_inputs <= MAX_DIM or found.n_random > MAX_DIM or found.seed >= 1 << 63:
        raise ValueError("a feature map out of range")
    if not isinstance(found.constant, int | float) or not 0 <= found.constant <= MAX_CONSTANT:
        raise ValueError("a feature map without its constant")
    return found


def stable(metadata: dict[str, str]) -> dict[str, str]:
    """Return what metadata says of the head, whatever kind of file it is in."""
    return {key: value for key, value in metadata.items() if key not in FORM and key != CHECKSUM}


def _names(metadata: dict[str, str], kind: str) -> tuple[str, ...]:
    """Return the names of classes or outputs.

    Raises:
        ValueError: they are none.
    """
    names: Any = json.loads(metadata["edge_cl.outputs" if kind == "regression" else "edge_cl.classes"])
    if not isinstance(names, list) or len(set(map(str, names))) != len(names):
        raise ValueError("class names that are no list, or twice the same")
    if any(not isinstance(name, str) or clean_name(name) != name for name in names):
        raise ValueError("class names that cannot be names")
    return tuple(names)
