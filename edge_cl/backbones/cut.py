"""An ONNX classifier to the part before its last linear layer: pixels (N, 3, H, W) in, features (N, D) out.

The last linear layer is the last Gemm, MatMul or 1 x 1 Conv on pooled features, on the way to the output, whose
weights do not depend on the input. A feature map that the user names is averaged over its places.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from edge_kernels.arrays import Floats
from onnx import helper

from edge_cl.errors import BackboneError

PIXELS, FEATURES = "pixels", "features"
OPSET, IR_VERSION = 17, 8  # what the oldest runtimes in use still load
FEATURES_KEY = "edge_cl.features"  # metadata by which a file names the tensor to cut at
RESERVED = (PIXELS, FEATURES, "logits", "probabilities", "head.weights", "head.bias")  # names in an export
PASSED = (  # operators that may stand between the last linear layer and the output
    *("Softmax", "LogSoftmax", "Sigmoid", "Flatten", "Reshape", "Squeeze", "Identity", "Cast"),
    *("Add", "Sub", "Mul", "Div"),
)


def cut(source: bytes, tensor: str | None, where: str, size: tuple[int, int] = (224, 224)) -> bytes:
    """Return the cut model, its metadata kept and nothing of the machine it was made on.

    Args:
        source: the ONNX file.
        tensor: where to cut; None finds the place.
        where: the file's name, for errors.
        size: (H, W) to try it at, where the graph does not fix them.

    Raises:
        BackboneError: it is no ONNX image model, or has no such tensor or layer.
    """
    model = _load(source, where)
    graph_input, is_channels_last = _image_input(model, where)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    named = tensor or metadata.get(FEATURES_KEY)
    names = [named] if named else _candidates(model)
    sides = [2, *size, 3] if is_channels_last else [2, 3, *size]
    shape = [d if isinstance(d, int) and d else side for d, side in zip(_dims(graph_input), sides, strict=True)]
    pixels = np.random.default_rng(0).uniform(-1, 1, [2, *shape[1:]]).astype(np.float32)
    found = _probe(model, {graph_input.name: pixels}, names, where)
    chosen = next((name for name in names if _is_features(found[name].shape, bool(named))), None)
    if chosen is None:
        raise BackboneError(
            f"{where}: no Gemm, MatMul or 1x1 Conv on pooled features leads to the output; name the tensor "
            f"to cut at: {where}#tensor_name"
        )
    converted = _convert(model, {graph_input.name: pixels}, chosen, found[chosen])
    return _rebuild(converted, chosen, found[chosen].shape, is_channels_last, metadata)


def _load(source: bytes, where: str) -> onnx.ModelProto:
    """Return the model; whether it is sound, onnxruntime says at the probe.

    Raises:
        BackboneError: the bytes are no ONNX.
    """
    try:
        model = onnx.load_from_string(source)
    except Exception as error:  # protobuf's classes differ between its versions
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BackboneError(f"{where}: expected an ONNX model; found {reason[:120]}") from None
    if any(w.data_location == onnx.TensorProto.EXTERNAL for w in model.graph.initializer):
        raise BackboneError(f"{where}: its weights are in another file; save it as one: onnx.save(onnx.load(...), ...)")
    if not model.graph.node or not model.graph.output:
        raise BackboneError(f"{where}: expected an ONNX model; found {len(source)} bytes without a graph")
    return model


def _image_input(model: onnx.ModelProto, where: str) -> tuple[onnx.ValueInfoProto, bool]:
    """Return the one input that is no weight, and whether its channels come last.

    Raises:
        BackboneError: there is not exactly one, or it is no float32 image.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    shape = [_dims(value) for value in inputs]
    is_float = all(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for value in inputs)
    if len(inputs) != 1 or len(shape[0]) != 4 or 3 not in (shape[0][1], shape[0][3]) or not is_float:
        raise BackboneError(
            f"{where}: expected one float32 image input (N, 3, H, W) or (N, H, W, 3); found "
            f"{', '.join(f'{value.name} {dims}' for value, dims in zip(inputs, shape, strict=True)) or 'none'}"
        )
    return inputs[0], shape[0][1] != 3


def _dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_value if d.HasField("dim_value") else d.dim_param for d in value.type.tensor_type.shape.dim]


def _graph_size(value: onnx.ValueInfoProto, is_channels_last: bool) -> tuple[int, int] | None:
    """Return (H, W) where the graph fixes both."""
    sides = _dims(value)[1:3] if is_channels_last else _dims(value)[2:4]
    return (int(sides[0]), int(sides[1])) if all(isinstance(side, int) for side in sides) else None


def _candidates(model: onnx.ModelProto) -> list[str]:
    """Return where the features may be: the input of the linear layer that the output is made by, then the output.

    Between that layer and the output only operators may stand that leave the classes apart, such as a bias, a shape or
    a softmax. A feature extractor has no such layer: its output is the features, unless it is a softmax of something.
    """
    depends = {value.name for value in model.graph.input} - {t.name for t in model.graph.initializer}
    makers = {}
    for node in model.graph.node:
        makers.update(dict.fromkeys(node.output, node))
        if depends.intersection(node.input):
            depends.update(node.output)
    output: str = model.graph.output[0].name
    name, has_softmax = output, False
    while node := makers.get(name):
        data = [source for source in node.input if source in depends]
        if node.op_type in ("Gemm", "MatMul", "Conv"):
            kernel = next((a.ints for a in node.attribute if a.name == "kernel_shape"), ())
            is_linear = data == [node.input[0]] and all(side == 1 for side in kernel)
            return [node.input[0], output] if is_linear and not has_softmax else [node.input[0]] * is_linear
        if node.op_type not in PASSED or len(data) != 1:
            break
        name, has_softmax = data[0], has_softmax or "max" in node.op_type.lower()
    return [] if has_softmax or output not in makers else [output]


def _probe(model: onnx.ModelProto, inputs: dict[str, Floats], names: list[str], where: str) -> dict[str, Floats]:
    """Return tensors by name for a batch of two, as onnxruntime computes them.

    Raises:
        BackboneError: there is no such tensor, or the model takes no batch of two.
    """
    produced = {name for node in model.graph.node for name in node.output}
    for name in names:
        if name not in produced:
            last = ", ".join(name for node in model.graph.node[-6:] for name in node.output)
            raise BackboneError(f"{where}: has no tensor {name!r}; its last ones are {last}")
    if not names:
        return {}
    outputs = list(model.graph.output)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    _free_batch(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = session.run(names, inputs)
    except Exception as error:  # onnxruntime's exceptions derive from Exception alone
        reason = str(error).strip().splitlines()[0]
        raise BackboneError(f"{where}: cannot be run with a batch of 2: {reason[:160]}") from None
    finally:
        del model.graph.output[:]
        model.graph.output.extend(outputs)
    return dict(zip(names, found, strict=True))


def _free_batch(model: onnx.ModelProto) -> None:
    """Make the first dimension of the inputs symbolic and forget the shapes that followed from a fixed one."""
    for value in model.graph.input:
        if len(value.type.tensor_type.shape.dim) == 4:
            value.type.tensor_type.shape.dim[0].dim_param = "N"
    del model.graph.value_info[:]


def _is_features(shape: tuple[int, ...], is_named: bool) -> bool:
    """Return whether a tensor can be the features: (N, D), or (N, D, 1, 1); any map where the user named it."""
    if len(shape) < 2 or shape[0] != 2:
        return False
    return len(shape) == 2 or is_named or all(side == 1 for side in shape[2:])


def _convert(model: onnx.ModelProto, inputs: dict[str, Floats], tensor: str, wanted: Floats) -> onnx.ModelProto:
    """Return the model in the opset that we write, if the converter can do it and the tensor stays what it is."""
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), OPSET)
    if version == OPSET or any(o.domain not in ("", "ai.onnx") for o in model.opset_import):
        return model
    for node in model.graph.node:  # a default that the converter would carry into an opset that has no such attribute
        kept = [a for a in node.attribute if a.name != "noop_with_empty_axes" or a.i]
        if len(kept) < len(node.attribute):
            del node.attribute[:]
            node.attribute.extend(kept)
    try:
        converted = onnx.version_converter.convert_version(model, OPSET)
        _restore_axes(converted, model)
        onnx.checker.check_model(converted)
        found = _probe(converted, inputs, [tensor], "")[tensor]
    except Exception:  # the converter has no error class; a model it cannot convert still runs where it came from
        return model
    return converted if np.allclose(found, wanted, rtol=1e-3, atol=1e-4 * float(np.abs(wanted).max())) else model


def _restore_axes(converted: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Give the Reduce operators back the axes that converters before onnx 1.22 turn into an empty list."""
    weights = {w.name: w for w in model.graph.initializer}
    lost = {n.output[0]: n.input[1] for n in model.graph.node if n.op_type.startswith("Reduce") and len(n.input) > 1}
    for node in converted.graph.node:
        axes = next((a for a in node.attribute if a.name == "axes" and not a.ints), None)
        if axes is not None and lost.get(node.output[0]) in weights:
            axes.ints.extend(onnx.numpy_helper.to_array(weights[lost[node.output[0]]]).tolist())


def _rebuild(
    model: onnx.ModelProto,
    tensor: str,
    shape: tuple[int, ...],
    is_channels_last: bool,
    metadata: Mapping[str, str],
) -> bytes:
    """Return the model that ends in `features` (N, D), with only the nodes and weights that it needs."""
    graph = model.graph
    needed, nodes = {tensor}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            nodes.append(_clean(node))
            needed.update(read_by(node))
    nodes.reverse()
    weights = [w for w in graph.initializer if w.name in needed]
    graph_input = next(value for value in graph.input if value.name not in {w.name for w in graph.initializer})
    taken = needed.union(*(node.output for node in nodes))
    rename = {name: _unused(f"backbone/{name}", taken) for name in RESERVED}
    rename[graph_input.name] = _unused("backbone/channels_last", taken) if is_channels_last else PIXELS
    rename_tensors(nodes, rename)
    for weight in weights:
        weight.name = rename.get(weight.name, weight.name)
    if is_channels_last:
        nodes.insert(0, helper.make_node("Transpose", [PIXELS], [rename[graph_input.name]], perm=[0, 2, 3, 1]))
    last = rename.get(tensor, tensor)
    if len(shape) == 4 and shape[2:] != (1, 1):
        pooled = _unused("backbone/pooled", taken)
        nodes.append(helper.make_node("GlobalAveragePool", [last], [pooled]))
        last, shape = pooled, (*shape[:2], 1, 1)
    nodes.append(helper.make_node("Flatten", [last], [FEATURES], name=FEATURES))
    size: tuple[int, int] | None = _graph_size(graph_input, is_channels_last)
    sides: list[Any] = [*size] if size else ["H", "W"]
    pixels = helper.make_tensor_value_info(PIXELS, onnx.TensorProto.FLOAT, ["N", 3, *sides])
    features = helper.make_tensor_value_info(FEATURES, onnx.TensorProto.FLOAT, ["N", "D"])
    built = helper.make_model(
        helper.make_graph(nodes, "backbone", [pixels], [features], weights),
        opset_imports=model.opset_import,
        functions=list(model.functions),
        producer_name="edge_cl",
    )
    built.ir_version = IR_VERSION if opset_of(built) <= OPSET + 1 else model.ir_version
    helper.set_model_props(built, dict(metadata))
    data: bytes = built.SerializeToString()
    return data


def _unused(name: str, taken: set[str]) -> str:
    """Return the name, with underscores if a tensor has it already: an export may be a backbone again."""
    return _unused(f"{name}_", taken) if name in taken else name


def opset_of(model: onnx.ModelProto) -> int:
    """Return the opset of ONNX's own operators."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=OPSET)


def _clean(node: onnx.NodeProto) -> onnx.NodeProto:
    """Return a copy without name, documentation and metadata: exporters write local paths there."""
    clean = copy.deepcopy(node)
    clean.ClearField("doc_string")
    clean.ClearField("name")  # names must differ, and those of an export are in the next export too
    if hasattr(clean, "metadata_props"):
        del clean.metadata_props[:]
    return clean


def read_by(node: onnx.NodeProto) -> set[str]:
    """Return every name that a node or the graphs inside it read."""
    names = set(node.input)
    for graph in _graphs_in(node):
        names.update(*(read_by(inner) for inner in graph.node), (value.name for value in graph.output))
    return names


def rename_tensors(nodes: Iterable[onnx.NodeProto], rename: Mapping[str, str]) -> None:
    """Rename tensors in nodes and in the graphs inside them, in place."""
    for node in nodes:
        node.input[:] = [rename.get(name, name) for name in node.input]
        node.output[:] = [rename.get(name, name) for name in node.output]
        for graph in _graphs_in(node):
            rename_tensors(graph.node, rename)
            for value in graph.output:
                value.name = rename.get(value.name, value.name)


def _graphs_in(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the branches and bodies of a control-flow node."""
    return [g for a in node.attribute for g in [*([a.g] if a.HasField("g") else []), *a.graphs]]
