"""A graph that gives features, made into one that gives answers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from edge_cl.backbones.cut import FEATURES, opset_of
from edge_cl.export.cam import CAM, add_cam
from edge_cl.export.chain import Chain
from edge_cl.export.graph import TOP, add_head, add_map, add_top, answers_of
from edge_cl.export.options import Options
from edge_cl.export.tensors import LOOKS, UNITS_ROWS, Tensors
from edge_cl.feature_map import FeatureMap
from edge_cl.head import Head

TYPES = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int8): TensorProto.INT8}
TYPES[np.dtype(np.int64)] = TensorProto.INT64


def build(
    base: onnx.ModelProto, tensors: Tensors, answering: tuple[Head, FeatureMap], options: Options, maps: str
) -> onnx.ModelProto:
    """Return the model, its metadata still to be set.

    Args:
        base: gives the features; not changed.
        tensors: of the head.
        answering: the head and the feature map before it.
        options: of the export.
        maps: name of the feature maps, where class activation maps are asked for.
    """
    head, feature_map = answering
    model = onnx.ModelProto()
    model.CopyFrom(base)
    is_live = options.kind == "live"
    chain = Chain(opset_of(base), FEATURES)
    add_map(chain, feature_map)
    mapped = chain.last
    add_head(chain, tensors, head.kind, is_live=is_live)
    if options.top_k:
        add_top(chain, options.top_k, len(head.classes), is_live=is_live)
    if options.cam:
        add_cam(chain, maps, mapped)
    graph = model.graph
    graph.node.extend(chain.nodes)
    graph.initializer.extend(chain.constants.values())
    if is_live:
        graph.input.extend(_inputs(tensors))
    del graph.output[:]
    graph.output.extend(_outputs(head, feature_map, options))
    return model


def set_metadata(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Give the model its metadata, in place of what it has."""
    helper.set_model_props(model, {key: metadata[key] for key in sorted(metadata)})


def _inputs(tensors: Tensors) -> list[onnx.ValueInfoProto]:
    """Return the head's tensors as inputs: what has a row for each class, look or hidden unit may have more of them."""
    shapes: dict[str, list[str | int]] = {
        name: ["hidden_units" if "units" in name else "rows", *value.shape[1:]] for name, value in tensors.items()
    }
    shapes[LOOKS], shapes[UNITS_ROWS] = ["looked", "looks"], ["K", "hidden_units"]
    return [helper.make_tensor_value_info(name, TYPES[value.dtype], shapes[name]) for name, value in tensors.items()]


def _outputs(head: Head, feature_map: FeatureMap, options: Options) -> list[onnx.ValueInfoProto]:
    n_classes: int | str = "K" if options.kind == "live" else len(head.classes)
    outputs = [(name, TensorProto.FLOAT, ["N", n_classes]) for name in answers_of(head.kind)]
    if options.top_k:
        k: int | str = "k" if options.kind == "live" else min(options.top_k, len(head.classes))
        types = (TensorProto.FLOAT, TensorProto.INT64)
        outputs += [(name, kind, ["N", k]) for name, kind in zip(TOP, types, strict=True)]
    if options.features:
        outputs.append((FEATURES, TensorProto.FLOAT, ["N", feature_map.n_inputs]))
    if options.cam:
        outputs.append((CAM, TensorProto.FLOAT, ["N", n_classes, "h", "w"]))
    return [helper.make_tensor_value_info(*output) for output in outputs]
