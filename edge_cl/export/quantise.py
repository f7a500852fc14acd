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
from edge_cl.backbones.session import halve, open_session
from edge_cl.errors import EdgeClError, ExportError, InputError, SessionError, first_line
from edge_cl.export.rounding import WEIGHTED, InputMeans, correct_biases, ranges_of

LARGEST = 127  # -128 would make the range lopsided, and some kernels negate
TINY = np.finfo(np.float32).tiny  # the least scale: a smaller one has fewer bits, or is zero
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

    On x86, onnxruntime 1.24 to 1.31 end the process there: of a transformer, for one.

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

    means = InputMeans(model)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Gives one batch after another, and counts it in."""

        def get_next(self) -> dict[str, Any] | None:
            """Return what the session runs on next."""
            batch = next(batches, None)
            if batch is None:
                return None
            means.add(batch)
            return {PIXELS: batch}

    given, made = folder / "given.onnx", folder / "made.onnx"
    onnx.save(model, given)
    quantize_static(
        str(given),
        str(made),
        Reader(),
        op_types_to_quantize=[*WEIGHTED, *BETWEEN],
        per_channel=True,  # one scale a tensor cost a MobileNetV2 two thirds of its accuracy
        reduce_range=False,  # 7 bits for all weights cost it 4 points; see `edge_cl.export.rounding`
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        # a product of two activations, as in attention, stays float32
        extra_options={"MatMulConstBOnly": True, "TensorQuantOverrides": ranges_of(model)},
    )
    quantised = onnx.load(made)
    correct_biases(quantised, model, means.by_weights())
    return quantised


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
