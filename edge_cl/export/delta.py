"""Only the rows that changed: an ONNX model that makes the tensors of a later head out of those of an earlier one.

Every runtime can run it. For each tensor `T` that differs it has the initializers `T.new` (n, ...), rows that the
earlier one does not have, and `T.index` (R,): the later tensor is `concatenate([old.T, T.new])[T.index]`. Its inputs
are the `old.T`, its outputs every tensor of the later head, under the names that a live model takes them by. From
version 0, which has no head, it has no inputs. Metadata are those of the later head (`edge_cl.export.metadata`), and

| key                | value |
|--------------------|-------|
| edge_cl.kind       | `delta` |
| edge_cl.delta_from | the earlier version |
| edge_cl.delta_base | sha256 of the earlier head's tensors |
| edge_cl.delta_rows | `int8` or `float32` |
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from edge_kernels.arrays import Bools, Ints
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edge_cl.backbones.cut import IR_VERSION, OPSET
from edge_cl.backbones.session import open_session
from edge_cl.errors import ExportError, first_line
from edge_cl.export.build import TYPES, set_metadata
from edge_cl.export.read import FORM, Export, as_export, check_metadata, load_onnx, metadata_of
from edge_cl.export.tensors import Tensors, digest_of

OLD = "old."
KIND = "delta"


def build_delta(before: Tensors, after: Tensors, metadata: Mapping[str, str], version: int) -> onnx.ModelProto:
    """Return the delta, proven in onnxruntime: it gives the later tensors, bit for bit.

    Args:
        before: tensors of the earlier head; none of version 0.
        after: those of the later one.
        metadata: of the later one.
        version: of the earlier one.

    Raises:
        ExportError: onnxruntime gives others.
    """
    nodes, constants, inputs, outputs = [], [], [], []
    for name, value in after.items():
        outputs.append(helper.make_tensor_value_info(name, TYPES[value.dtype], value.shape))
        old = before.get(name)
        if old is None or old.shape[1:] != value.shape[1:] or old.dtype != value.dtype:
            old = np.zeros((0, *value.shape[1:]), value.dtype)
        else:
            inputs.append(helper.make_tensor_value_info(OLD + name, TYPES[old.dtype], old.shape))
        index, is_new = _match(old, value)
        rows = numpy_helper.from_array(np.ascontiguousarray(value[is_new]), f"{name}.new")
        constants += [rows, numpy_helper.from_array(index, f"{name}.index")]
        if not len(old):
            nodes.append(helper.make_node("Gather", [f"{name}.new", f"{name}.index"], [name], axis=0))
        elif not is_new.any():
            constants.remove(rows)
            nodes.append(helper.make_node("Gather", [OLD + name, f"{name}.index"], [name], axis=0))
        else:
            both = [OLD + name, f"{name}.new"]
            nodes.append(helper.make_node("Concat", both, [f"{name}.both"], axis=0))
            nodes.append(helper.make_node("Gather", [f"{name}.both", f"{name}.index"], [name], axis=0))
    graph = helper.make_graph(nodes, "edge_cl", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="edge_cl")
    model.ir_version = IR_VERSION
    base = {"edge_cl.kind": KIND, "edge_cl.delta_from": str(version), "edge_cl.delta_base": digest_of(before)}
    base["edge_cl.delta_rows"] = str(next(iter(after.values())).dtype)
    set_metadata(model, {**metadata, **base})
    feeds = {value.name: np.ascontiguousarray(before[value.name.removeprefix(OLD)]) for value in inputs}
    found = open_session(model.SerializeToString(), "cpu").run(list(after), feeds)
    if any(got.tobytes() != want.tobytes() for got, want in zip(found, after.values(), strict=True)):
        raise ExportError("delta: onnxruntime makes other tensors with it")
    return model


def rows_of(model: onnx.ModelProto) -> int:
    """Return how many rows a delta carries, of weights and of hidden units."""
    names = {"head.weights.new", "head.units.new"}
    return sum(int(weight.dims[0]) for weight in model.graph.initializer if weight.name in names)


def apply_delta(path: Path, old: Export) -> Export:
    """Return the later export, its model still that of the earlier one.

    Args:
        path: of the delta.
        old: the earlier export.

    Raises:
        ExportError: it is no delta, is damaged, or is one from another version.
    """
    model = load_onnx(path)
    metadata = metadata_of(model)
    check_metadata(str(path), metadata)
    if metadata["edge_cl.kind"] != KIND:
        raise ExportError(f"{path}: expected a delta; found an export of kind {metadata['edge_cl.kind']!r}")
    base, is_int8 = metadata.get("edge_cl.delta_base"), metadata.get("edge_cl.delta_rows") == "int8"
    if is_int8 != old.options.int8:
        forms = ["int8" if rows else "float32" for rows in (is_int8, old.options.int8)]
        raise ExportError(
            f"{path}: is for heads of {forms[0]} rows, but {old.name} has {forms[1]}; export it for those"
        )
    begins = metadata.get("edge_cl.delta_from", "?")
    if begins != "0" and digest_of(old.tensors) != base:
        raise ExportError(
            f"{path}: goes from version {begins} to {metadata.get('edge_cl.version', '?')}, but {old.name} is "
            f"version {old.version}, or of another form; export the whole head"
        )
    try:
        session = open_session(model.SerializeToString(), "cpu")
        names = [output.name for output in session.get_outputs()]
        feeds = {value.name: old.tensors[value.name.removeprefix(OLD)] for value in session.get_inputs()}
        tensors = dict(zip(names, session.run(names, feeds), strict=True))
    except Exception as error:  # onnxruntime's exceptions derive from Exception alone
        raise ExportError(f"{path}: damaged: {first_line(error)}; export it again") from None
    later = {key: value for key, value in metadata.items() if not key.startswith("edge_cl.delta_") and key not in FORM}
    form = {key: value for key, value in old.metadata.items() if key in FORM}
    made = as_export(str(path), old.model, {**later, **form}, tensors)
    made.origin.check_same(old.origin, str(path), f"it cannot be put into {old.name}")
    return made


def _match(old: NDArray[np.generic], new: NDArray[np.generic]) -> tuple[Ints, Bools]:
    """Return where each new row is among the old ones and then those that are nowhere, and which these are."""
    places = {row.tobytes(): place for place, row in enumerate(old)}
    found = np.array([places.get(row.tobytes(), -1) for row in new], np.int64)
    is_new = found < 0
    found[is_new] = len(old) + np.arange(is_new.sum())
    return found, is_new
