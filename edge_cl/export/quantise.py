"""Weights and backbones in fewer bits: rows of a head as int8, a backbone as int8 (QDQ) or float16.

A backbone's convolutions and matrix products read bytes and give bytes: activations uint8, one scale a tensor; weights
int8, symmetric, one scale an output channel; what stands between them stays bytes where onnxruntime has a kernel. Its
input, pooling, norms and features stay float32, and so does its interface: pixels (N, 3, H, W) in, features (N, D) out.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from edge_kernels.arrays import Floats
from numpy.typing import NDArray

from edge_cl.backbones.cut import FEATURES, PIXELS
from edge_cl.backbones.session import first_line, halve, open_session
from edge_cl.errors import EdgeClError, ExportError, InputError, SessionError

LARGEST = 127  # -128 would make the range lopsided, and some kernels negate
TINY = np.finfo(np.float32).tiny  # the least scale: a smaller one has fewer bits, or is zero
WEIGHTED = ("Conv", "Gemm", "MatMul")
BETWEEN = ("Add", "Mul", "Clip", "Relu", "LeakyRelu", "MaxPool", "AveragePool", "Concat")
PREPARED = ("onnx.infer", "onnxruntime.quant")  # what onnxruntime looks for, to not ask for its own preparation


def quantise_rows(weights: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Return int8 rows (R, D) and their scales (R,) float32: a weight is its int8 times its row's scale.

    It is off by half a scale at most, where the row's largest weight is 127 scales.

    Args:
        weights: (R, D).

    Raises:
        ExportError: a weight is not finite.
    """
    exact = weights.astype(np.float64)
    largest = np.abs(exact).max(axis=1, initial=0)
    if not np.isfinite(largest).all():
        row = int(np.flatnonzero(~np.isfinite(largest))[0])
        raise ExportError(f"weights: expected finite numbers; found others in row {row}; roll back to an older version")
    scales = np.maximum(largest / LARGEST, TINY).astype(np.float32)
    rows = np.rint(exact / scales[:, None]).clip(-LARGEST, LARGEST).astype(np.int8)
    return rows, scales


def quantise_backbone(model: bytes, batches: Iterable[Floats]) -> bytes:
    """Return the backbone in int8, its ranges those that the batches have; its interface and metadata stay.

    Args:
        model: a cut backbone, pixels (N, 3, H, W) float32 in, features (N, D) float32 out.
        batches: pixels (n, 3, H, W) float32 each, read one at a time.

    Raises:
        InputError: there is no image among them.
        ExportError: onnxruntime cannot quantise the backbone, or cannot run what it made of it.
    """
    reading = (batch for batch in batches if len(batch))
    first = next(reading, None)
    if first is None:
        raise InputError("int8: expected images to calibrate the backbone with; found none; pass some")
    source = onnx.load_from_string(model)
    if not any(node.op_type in WEIGHTED for node in source.graph.node):
        raise ExportError(f"int8: expected a backbone with one of {', '.join(WEIGHTED)}; found none; leave out int8")
    try:
        with tempfile.TemporaryDirectory(prefix="edge_cl.") as folder, _silence():
            quantised = _quantise(
                _prepare(model, Path(folder) / "prepared.onnx"), chain([first], reading), Path(folder)
            )
        data: bytes = _restore(quantised, source).SerializeToString()
        features = open_session(data, "cpu").run([FEATURES], {PIXELS: first[:1]})[0]
    except Exception as error:  # onnxruntime raises whatever a model makes it trip over
        if isinstance(error, EdgeClError) and not isinstance(error, SessionError):
            raise
        raise ExportError(f"int8: onnxruntime cannot quantise it: {first_line(error)}; leave out int8") from error
    if not np.isfinite(features).all():
        raise ExportError("int8: expected finite features of the quantised backbone; found others; leave out int8")
    return data


def halve_backbone(model: bytes) -> bytes:
    """Return the backbone with weights and arithmetic in float16; its interface and metadata stay.

    Args:
        model: a cut backbone, pixels (N, 3, H, W) float32 in, features (N, D) float32 out.

    Raises:
        ExportError: onnxruntime cannot convert it, or cannot open what it made of it.
    """
    try:
        halved = halve(model)
        made = onnx.load_from_string(halved if isinstance(halved, bytes) else halved.read_bytes())
        data: bytes = _restore(made, onnx.load_from_string(model)).SerializeToString()
        open_halved(data)
    except Exception as error:  # as above
        raise ExportError(f"fp16: onnxruntime cannot convert it: {first_line(error)}; leave out fp16") from error
    return data


def open_halved(model: bytes | Path) -> Any:
    """Return an onnxruntime session on the CPU that leaves the layout of float16 models alone.

    On x86, onnxruntime 1.24 to 1.31 end the process there: of a transformer, for one (its issue 28392).

    Args:
        model: of `halve_backbone`, or with such a backbone in it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    source = str(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _prepare(source: bytes, path: Path) -> onnx.ModelProto:
    """Return the model as quantisation wants it: constants folded, batch normalisations too, and every node named."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # in the operators of ONNX
    options.optimized_model_filepath = str(path)
    # two layers that share a constant would have to share its scale
    onnxruntime.InferenceSession(
        source, options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantSharing"]
    )
    model = onnx.load(path)
    for n, node in enumerate(model.graph.node):
        node.name = f"node{n}"
    onnx.helper.set_model_props(model, dict([PREPARED]))
    return model


def _quantise(model: onnx.ModelProto, batches: Iterator[Floats], folder: Path) -> onnx.ModelProto:
    """Return the model with its weights in int8, and with pairs of QuantizeLinear and DequantizeLinear."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Gives one batch after another."""

        def get_next(self) -> dict[str, Any] | None:
            """Return what the session runs on next."""
            batch = next(batches, None)
            return None if batch is None else {PIXELS: batch}

    given, made = folder / "given.onnx", folder / "made.onnx"
    onnx.save(model, given)
    quantize_static(
        str(given),
        str(made),
        Reader(),
        op_types_to_quantize=[*WEIGHTED, *BETWEEN],
        per_channel=True,  # one scale a tensor cost a MobileNetV2 two thirds of its accuracy
        reduce_range=False,  # 7 bits for all weights cost it 4 points; see `_largest_of_pairs`
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        # a product of two activations, as in attention, stays float32
        extra_options={"MatMulConstBOnly": True, "TensorQuantOverrides": _ranges(model)},
    )
    return onnx.load(made)


def _ranges(model: onnx.ModelProto) -> dict[str, list[dict[str, Any]]]:
    """Return by the name of weights the range that the int8 values of each output channel stand for."""
    stored = {weights.name: weights for weights in model.graph.initializer}
    ranges = {}
    for node in model.graph.node:
        if node.op_type in WEIGHTED and node.input[1] in stored:
            numbers = {attribute.name: attribute.i for attribute in node.attribute}
            weights = onnx.numpy_helper.to_array(stored[node.input[1]])
            axis = 0 if node.op_type == "Conv" or numbers.get("transB") else 1
            rows = np.moveaxis(weights.astype(np.float64), axis, 0)
            is_depthwise = node.op_type == "Conv" and numbers.get("group", 1) == len(rows) and rows.shape[1] == 1
            largest = np.abs(rows).reshape(len(rows), -1).max(axis=1) if is_depthwise else _largest_of_pairs(rows)
            ends = largest.astype(np.float32)
            ranges[node.input[1]] = [{"axis": axis, "rmin": -end, "rmax": end} for end in ends]
    return ranges


def _largest_of_pairs(rows: Floats) -> Floats:
    """Return (R,) the largest size of a weight, or of the sum of two neighbours, of rows (R, C) or (R, C, h, w).

    Where a processor has no VNNI, onnxruntime adds the products of two neighbouring bytes and weights in 16 bits, which
    saturate: MobileNetV2's features were off by half of their size. They cannot where the int8 values of two neighbours
    add up to 128 at most, 255 x 128 < 2^15, and then all processors give the same bits. Neighbours are those in the
    order in which a kernel runs over a row: channels last, channels last in even numbers, or channels first.
    """
    last = np.moveaxis(rows, 1, -1)
    largest: Floats = np.abs(rows).reshape(len(rows), -1).max(axis=1)
    for order in (last, last.reshape(len(rows), -1), rows.reshape(len(rows), -1)):
        even = np.pad(order, [(0, 0)] * (order.ndim - 1) + [(0, order.shape[-1] % 2)])
        sums = np.abs(even[..., ::2] + even[..., 1::2]).reshape(len(rows), -1)
        largest = np.maximum(largest, sums.max(axis=1))
    return largest


def _restore(made: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """Return a converted model with the interface, versions and metadata of its source, its nodes in order."""
    used = {node.domain for node in made.graph.node}
    opsets = [opset for opset in made.opset_import if opset.domain in used | {"", "ai.onnx"}]
    graph = onnx.helper.make_graph(
        _in_order(made.graph.node), source.graph.name, source.graph.input, source.graph.output, made.graph.initializer
    )
    for node in graph.node:
        node.ClearField("name")  # names must differ, and those of an export are in the next export too
        node.ClearField("doc_string")
    model = onnx.helper.make_model(
        graph, opset_imports=opsets, functions=list(made.functions), producer_name=source.producer_name
    )
    model.ir_version = source.ir_version
    onnx.helper.set_model_props(model, {entry.key: entry.value for entry in source.metadata_props})
    onnx.checker.check_model(model)
    return model


def _in_order(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return nodes so that each comes after those it reads from: the conversion to float16 puts its casts last."""
    ordered: list[onnx.NodeProto] = []
    waiting = list(nodes)
    pending = {name for node in nodes for name in node.output}
    while waiting:
        ready = []
        for node in waiting:
            if not pending.intersection(node.input):
                pending.difference_update(node.output)
                ready.append(node.output[0])
                ordered.append(node)
        waiting = [node for node in waiting if node.output[0] not in ready]
        assert ready, "a graph has no circles"
    return ordered


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what onnxruntime's Python says to itself; it logs to the root logger, and would give it a handler."""
    root, level, handler = logging.getLogger(), logging.root.manager.disable, logging.NullHandler()
    root.addHandler(handler)
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        root.removeHandler(handler)
