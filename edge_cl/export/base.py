"""What gives the features in an exported graph: the backbone as it was asked for, or nothing where features come in."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import TensorProto, helper

from edge_cl.backbones import Backbone
from edge_cl.backbones.backbone import BATCH
from edge_cl.backbones.cut import FEATURES, IR_VERSION, OPSET, PIXELS, opset_of, read_by, rename_tensors
from edge_cl.backbones.session import open_session
from edge_cl.errors import ExportError, SessionError, first_line
from edge_cl.export.chain import PREFIX
from edge_cl.export.options import IMAGE_OPSET, Options
from edge_cl.export.preprocess import IMAGE
from edge_cl.export.quantise import halve_backbone, open_halved, quantise_backbone
from edge_cl.export.tensors import NAMES

OUTPUTS = frozenset({IMAGE, "logits", "probabilities", "values", "top_probabilities", "top_indices", "cam"})


def features_base(n_inputs: int, opset: int) -> onnx.ModelProto:
    """Return a model whose input are the features (N, d) themselves."""
    features = helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["N", n_inputs])
    graph = helper.make_graph([], "edge_cl", [features], [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset or OPSET)])
    model.ir_version = IR_VERSION  # and not onnx's newest, which older runtimes refuse
    return _named(model)


def backbone_base(backbone: Backbone, options: Options, images: list[str]) -> onnx.ModelProto:
    """Return a model from pixels (N, 3, H, W) to the features (N, d).

    Args:
        backbone: of the state.
        options: opset, fp16 and int8.
        images: paths to calibrate int8 on; where there are none, the backbone stays as it is.

    Raises:
        ExportError: the backbone cannot be had so.
    """
    model = onnx.load_from_string(backbone.model if isinstance(backbone.model, bytes) else backbone.model.read_bytes())
    height, width = backbone.info.preprocessing.input_size
    for place, side in ((2, height), (3, width)):
        model.graph.input[0].type.tensor_type.shape.dim[place].dim_value = side
    _free_names(model)
    model = _convert(model, options, backbone.info.name)
    if options.fp16:
        model = onnx.load_from_string(halve_backbone(model.SerializeToString()))
    if options.int8 and images:
        batches = (backbone.pixels(images[start : start + BATCH]) for start in range(0, len(images), BATCH))
        model = onnx.load_from_string(quantise_backbone(model.SerializeToString(), batches))
    return _named(model)


def base_of(model: onnx.ModelProto, *, keeps_resize: bool = True) -> onnx.ModelProto:
    """Return an export without its head: what was needed for its features.

    Args:
        model: the export.
        keeps_resize: whether what makes pixels of an image stays too; else pixels (N, 3, H, W) come in.

    Raises:
        ExportError: it has none.
    """
    needed, nodes = {FEATURES}, []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output) and (keeps_resize or PIXELS not in node.output):
            nodes.append(node)
            needed.update(read_by(node))
    weights = [weight for weight in model.graph.initializer if weight.name in needed]
    constants = {weight.name for weight in weights}
    inputs = [value for value in model.graph.input if value.name in needed - constants]
    if not inputs and PIXELS in needed:
        inputs = [helper.make_tensor_value_info(PIXELS, TensorProto.FLOAT, ["N", 3, "H", "W"])]
    if len(inputs) != 1:
        raise ExportError(f"expected one input that leads to {FEATURES!r}; found {len(inputs)}")
    graph = helper.make_graph(nodes[::-1], "edge_cl", inputs, [], weights)
    base = helper.make_model(graph, opset_imports=model.opset_import, functions=list(model.functions))
    base.ir_version = model.ir_version
    return _named(base)


def open_base(model: onnx.ModelProto | bytes, options: Options) -> Any:
    """Return an onnxruntime session on the CPU of an export, or of what gives its features.

    Raises:
        SessionError: onnxruntime cannot open it.
    """
    data = model if isinstance(model, bytes) else model.SerializeToString()
    if not options.fp16:
        return open_session(data, "cpu")
    try:
        return open_halved(data)
    except Exception as error:  # onnxruntime's exceptions derive from Exception alone
        raise SessionError(f"onnxruntime cannot open it: {first_line(error)}") from None


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model, in place, with what is alike in all exports; `features` are its only output."""
    del model.graph.output[:]
    del model.graph.value_info[:]
    if model.graph.node:
        model.graph.output.append(helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["N", "D"]))
    model.graph.name = model.producer_name = "edge_cl"
    model.ClearField("producer_version")
    model.ClearField("doc_string")
    opset = opset_of(model)
    model.ir_version = IR_VERSION if opset <= 18 else max(model.ir_version, _least_ir(model))
    return model


def _least_ir(model: onnx.ModelProto) -> int:
    return int(helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True))


def _convert(model: onnx.ModelProto, options: Options, name: str) -> onnx.ModelProto:
    """Return the model in the opset that is asked for; unasked, one that could not be had in 17 stays as it is.

    Raises:
        ExportError: it cannot be had so.
    """
    found = opset_of(model)
    wanted = options.opset or max(found, IMAGE_OPSET if options.preprocess else OPSET)
    if found == wanted:
        return model
    try:
        return onnx.version_converter.convert_version(model, wanted)
    except Exception as error:  # the converter has no error class, and no way back for many an operator
        renamed = onnx.ModelProto()
        renamed.CopyFrom(model)
        for opset in renamed.opset_import:
            opset.version = wanted if opset.domain in {"", "ai.onnx"} else opset.version
        try:
            onnx.checker.check_model(renamed)  # that it also means the same, the proof of the export shows
        except Exception:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
            raise ExportError(f"opset {wanted}: {name} is of opset {found} and cannot be converted: {reason}") from None
        return renamed


def _free_names(model: onnx.ModelProto) -> None:
    """Rename tensors of a backbone, in place, whose names an export needs: it may have been one itself."""
    graph = model.graph
    used = {name for node in graph.node for name in (*node.input, *node.output)}
    used |= {weight.name for weight in graph.initializer}
    wanted = {name for name in used if name in OUTPUTS or name in NAMES or name.startswith((PREFIX, "map."))}
    rename = {}
    for name in sorted(wanted):
        new = f"backbone/{name}"
        while new in used:
            new += "_"
        rename[name] = new
        used.add(new)
    rename_tensors(graph.node, rename)
    for weight in graph.initializer:
        weight.name = rename.get(weight.name, weight.name)
    assert PIXELS not in rename
