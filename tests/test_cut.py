"""Where a classifier is cut, on small graphs of every shape that exporters make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_cl.backbones.cut import cut
from edge_cl.errors import BackboneError

RNG = np.random.default_rng(0)
CONV = RNG.normal(size=(6, 3, 3, 3)).astype(np.float32)
DENSE = RNG.normal(size=(6, 10)).astype(np.float32)


def model(
    nodes: Sequence[onnx.NodeProto],
    *,
    weights: dict[str, np.ndarray] | None = None,
    shape: Sequence[Any] = ("N", 3, 16, 16),
    output: str = "logits",
    opset: int = 17,
    metadata: dict[str, str] | None = None,
) -> bytes:
    arrays = {"conv": CONV, "dense": DENSE, **(weights or {})}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name=output)],
        [numpy_helper.from_array(value, name) for name, value in arrays.items()],
    )
    graph.output[0].CopyFrom(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    built.ir_version = 8
    helper.set_model_props(built, metadata or {})
    data: bytes = built.SerializeToString()
    return data


def pooled(x: str = "x") -> list[onnx.NodeProto]:
    return [
        helper.make_node("Conv", [x, "conv"], ["map"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["map"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"]),
    ]


def gemm() -> list[onnx.NodeProto]:
    return [
        *pooled(),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "dense"], ["logits"]),
    ]


def run(data: bytes, pixels: np.ndarray, output: str | None = None) -> np.ndarray:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run([output] if output else None, {session.get_inputs()[0].name: pixels})[0]
    return found


PIXELS = RNG.normal(size=(3, 3, 16, 16)).astype(np.float32)


def matmul_add_softmax() -> bytes:
    nodes = [
        *pooled(),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("MatMul", ["flat", "dense"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["sum"]),
        helper.make_node("Softmax", ["sum"], ["logits"], axis=1),
    ]
    return model(nodes, weights={"b": np.ones(10, np.float32)})


def conv_on_pooled() -> bytes:
    nodes = [
        *pooled(),
        helper.make_node("Conv", ["pool", "point"], ["map2"], kernel_shape=[1, 1]),
        helper.make_node("Flatten", ["map2"], ["logits"]),
    ]
    return model(nodes, weights={"point": DENSE.T.reshape(10, 6, 1, 1).copy()})


@pytest.mark.parametrize("source", [model(gemm()), matmul_add_softmax(), conv_on_pooled()])
def test_features_are_what_the_last_layer_reads(source: bytes) -> None:
    features = run(cut(source, None, "net.onnx"), PIXELS)
    assert features.shape == (3, 6)
    np.testing.assert_allclose(features, run(cut(source, "pool", "net.onnx"), PIXELS), rtol=1e-6)


def test_the_last_layer_on_the_features_gives_the_models_own_output() -> None:
    source = model(gemm())
    np.testing.assert_allclose(run(cut(source, None, "n"), PIXELS) @ DENSE, run(source, PIXELS), rtol=1e-4, atol=1e-5)


def test_a_hidden_layer_stays_in_the_backbone() -> None:
    nodes = [
        *gemm()[:-1],
        helper.make_node("Gemm", ["flat", "dense"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "last"], ["logits"]),
    ]
    source = model(nodes, weights={"last": RNG.normal(size=(10, 4)).astype(np.float32)})
    assert run(cut(source, None, "n"), PIXELS).shape == (3, 10)


def test_a_1x1_convolution_on_a_map_is_no_classifier_and_a_bare_extractor_keeps_its_output() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["map"], kernel_shape=[3, 3]),
        helper.make_node("Conv", ["map", "point"], ["map2"], kernel_shape=[1, 1]),
        helper.make_node("GlobalAveragePool", ["map2"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["logits"]),
    ]
    source = model(nodes, weights={"point": RNG.normal(size=(5, 6, 1, 1)).astype(np.float32)})
    np.testing.assert_allclose(run(cut(source, None, "n"), PIXELS), run(source, PIXELS), rtol=1e-6)


def test_squeeze_and_excite_is_no_classifier() -> None:
    """1 x 1 convolutions on pooled features, but in the middle: their product with the map goes on."""
    weights = {
        "down": RNG.normal(size=(2, 6, 1, 1)).astype(np.float32),
        "up": RNG.normal(size=(6, 2, 1, 1)).astype(np.float32),
    }
    nodes = [
        *pooled(),
        helper.make_node("Conv", ["pool", "down"], ["small"], kernel_shape=[1, 1]),
        helper.make_node("Conv", ["small", "up"], ["gate"], kernel_shape=[1, 1]),
        helper.make_node("Mul", ["relu", "gate"], ["gated"]),
        helper.make_node("GlobalAveragePool", ["gated"], ["pool2"]),
        helper.make_node("Flatten", ["pool2"], ["logits"]),
    ]
    source = model(nodes, weights=weights)
    np.testing.assert_allclose(run(cut(source, None, "n"), PIXELS), run(source, PIXELS), rtol=1e-5)


def test_a_graph_of_any_size_is_tried_at_the_size_that_it_is_for() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["map"], kernel_shape=[3, 3]),
        helper.make_node("Flatten", ["map"], ["flat"]),
        helper.make_node("Gemm", ["flat", "wide"], ["logits"]),
    ]
    wide = RNG.normal(size=(6 * 14 * 14, 3)).astype(np.float32)
    source = model(nodes, weights={"wide": wide}, shape=("N", 3, "H", "W"))
    assert run(cut(source, None, "n", (16, 16)), PIXELS).shape == (3, 6 * 14 * 14)
    with pytest.raises(BackboneError, match="cannot be run"):
        cut(source, None, "n")


def test_weights_in_another_file_are_refused_with_what_to_do() -> None:
    built = onnx.load_from_string(model(gemm()))
    built.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(BackboneError, match="save it as one"):
        cut(built.SerializeToString(), None, "n")


def test_a_named_map_is_averaged_over_its_places() -> None:
    features = run(cut(model(gemm()), "relu", "n"), PIXELS)
    np.testing.assert_allclose(features, run(cut(model(gemm()), "pool", "n"), PIXELS), rtol=1e-5)


def test_metadata_can_name_the_tensor() -> None:
    source = model(gemm(), metadata={"edge_cl.features": "logits"})
    assert run(cut(source, None, "n"), PIXELS).shape == (3, 10)


def test_channels_last_and_a_fixed_batch_are_served() -> None:
    nodes = [helper.make_node("Transpose", ["x"], ["first"], perm=[0, 3, 1, 2]), *pooled("first"), *gemm()[3:]]
    features = run(cut(model(nodes, shape=(1, 16, 16, 3)), None, "n"), PIXELS)
    np.testing.assert_allclose(features, run(cut(model(gemm()), None, "n"), PIXELS), rtol=1e-6)


def test_tensors_that_are_called_like_ours_do_not_collide() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["logits"], kernel_shape=[3, 3]),
        helper.make_node("GlobalAveragePool", ["logits"], ["features"]),
        helper.make_node("Flatten", ["features"], ["pixels"]),
        helper.make_node("Gemm", ["pixels", "dense"], ["probabilities"]),
    ]
    source = model(nodes, output="probabilities")
    features = run(cut(source, None, "n"), PIXELS)
    np.testing.assert_allclose(features @ DENSE, run(source, PIXELS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [11, 13, 18, 20])
def test_other_opsets_become_ours(opset: int) -> None:
    nodes = [*pooled()[:2], *gemm()[2:]]
    weights = {}
    if opset >= 18:  # torch's exporter writes its pooling so, with an attribute that older opsets do not know
        weights["axes"] = np.array([2, 3])
        nodes[2] = helper.make_node("ReduceMean", ["relu", "axes"], ["pool"], keepdims=1, noop_with_empty_axes=0)
    built = onnx.load_from_string(cut(model(nodes, weights=weights, opset=opset), None, "n"))
    assert built.ir_version == 8
    assert [(o.domain, o.version) for o in built.opset_import] == [("", 17)]
    np.testing.assert_allclose(
        run(built.SerializeToString(), PIXELS), run(cut(model(gemm()), None, "n"), PIXELS), rtol=1e-5
    )


def test_nothing_of_the_exporters_machine_remains_and_dead_weights_go() -> None:
    nodes = gemm()
    nodes[0].doc_string = "/home/someone/train.py line 3"
    if hasattr(nodes[0], "metadata_props"):
        entry = nodes[0].metadata_props.add()
        entry.key, entry.value = "pkg.torch.onnx.stack_trace", "/home/someone/train.py line 3"
    built = cut(model(nodes, metadata={"author": "someone"}), None, "n")
    assert b"/home/" not in built
    kept = onnx.load_from_string(built)
    assert [w.name for w in kept.graph.initializer] == ["conv"]
    assert {entry.key: entry.value for entry in kept.metadata_props} == {"author": "someone"}


@pytest.mark.parametrize(
    ("source", "tensor", "wanted"),
    [
        (b"", None, "expected an ONNX model"),
        (b"\x89PNG\r\n\x1a\n" * 9, None, "expected an ONNX model"),
        (model(gemm())[:-40], None, "expected an ONNX model"),
        (model([*gemm()[:-1], helper.make_node("Gemm", ["flat", "none"], ["logits"])]), None, "cannot be run"),
        (model(gemm()), "nowhere", "has no tensor 'nowhere'"),
        (model(gemm(), shape=("N", 4, 16, 16)), None, "expected one float32 image input"),
        (model(pooled()[:2], output="relu"), None, "name the tensor to cut at: net.onnx#tensor_name"),
        (
            model([*pooled()[:2], helper.make_node("Softmax", ["relu"], ["logits"])]),
            None,
            "name the tensor to cut at: net.onnx#tensor_name",
        ),
    ],
)
def test_what_cannot_be_cut_is_one_line_that_says_why(source: bytes, tensor: str | None, wanted: str) -> None:
    with pytest.raises(BackboneError) as caught:
        cut(source, tensor, "net.onnx")
    assert wanted in str(caught.value)
    assert str(caught.value).startswith("net.onnx: ")
    assert "\n" not in str(caught.value)
