"""Fewer bits: what they stand for is as near as the step allows, and nothing but the numbers changes."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edge_cl.backbones import Backbone, open_backbone
from edge_cl.backbones.images import read_image
from edge_cl.errors import ExportError, InputError
from edge_cl.export.quantise import halve_backbone, open_halved, quantise_backbone, quantise_rows

from .conftest import shared
from .test_cut import model, pooled

Floats = NDArray[np.float32]


def bytes_of(backbone: Backbone) -> bytes:
    return backbone.model if isinstance(backbone.model, bytes) else backbone.model.read_bytes()


@pytest.fixture(scope="module")
def tiny() -> bytes:
    return bytes_of(open_backbone("tiny"))


def pixels_of(n: int, seed: int = 0) -> Floats:
    """Smooth random images, as photos are, (n, 3, 64, 64)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 3)).astype(np.uint8)
    return open_backbone("tiny").info.preprocessing.normalise(np.kron(coarse, np.ones((1, 8, 8, 1), np.uint8)))


@pytest.fixture(scope="module")
def quantised(tiny: bytes) -> bytes:
    return quantise_backbone(tiny, [pixels_of(16)])


def run(data: bytes, pixels: Floats) -> Floats:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    found: Floats = session.run(["features"], {"pixels": pixels})[0]
    return found


def distance(found: Floats, wanted: Floats) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@given(
    arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=6),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
)
def test_rows_are_off_by_half_a_step_at_most(weights: Floats) -> None:
    rows, scales = quantise_rows(weights)
    assert rows.dtype == np.int8
    assert scales.dtype == np.float32
    assert (rows.shape, scales.shape) == (weights.shape, weights.shape[:1])
    steps = scales.astype(np.float64)[:, None]
    # 127 scales are the largest weight to the rounding of a float32: 127 x 2^-24 of a step
    assert (np.abs(rows * steps - weights) <= steps * (0.5 + 1e-5)).all()
    assert rows.min(initial=0) >= -127
    negated, same = quantise_rows(-weights)
    np.testing.assert_array_equal(negated, -rows)
    np.testing.assert_array_equal(same, scales)


def test_a_row_has_its_own_scale_and_a_zero_row_is_zeros() -> None:
    rows, scales = quantise_rows(np.array([[127, -1, 0.4], [0, 0, 0], [-2540, 20, 9]], np.float32))
    np.testing.assert_array_equal(rows, [[127, -1, 0], [0, 0, 0], [-127, 1, 0]])
    np.testing.assert_array_equal(scales[[0, 2]], np.array([1, 20], np.float32))
    np.testing.assert_array_equal(rows * scales[:, None], [[127, -1, 0], [0, 0, 0], [-2540, 20, 0]])


def test_weights_that_are_no_numbers_are_refused() -> None:
    for bad in (np.nan, np.inf):
        with pytest.raises(ExportError, match=r"found others in row 1; roll back"):
            quantise_rows(np.array([[0, 1], [bad, 1]], np.float32))


def test_int8_features_are_those_of_float32_nearly_and_weights_are_bytes(tiny: bytes, quantised: bytes) -> None:
    fresh = pixels_of(12, seed=1)
    assert distance(run(quantised, fresh), run(tiny, fresh)) <= 0.05  # 0.027; with 6 bits instead of 8 about 0.1
    assert len(quantised) <= 0.55 * len(tiny)  # whose weights are float16
    stored = onnx.load_from_string(quantised).graph.initializer
    large = {w.name: w.data_type for w in stored if np.prod(w.dims) >= 1000}
    assert large
    assert set(large.values()) == {onnx.TensorProto.INT8}


def test_each_weight_is_off_by_half_a_step_at_most() -> None:
    weights = np.random.default_rng(0).normal(size=(6, 3, 3, 3)).astype(np.float32)
    found = stored_of(quantise_backbone(cut_net(), [np.ones((1, 3, 16, 16), np.float32), batch()]))
    weights = numpy_helper.to_array(
        next(w for w in onnx.load_from_string(cut_net()).graph.initializer if w.name == "conv")
    )
    scales = found["conv_scale"].reshape(-1, 1, 1, 1)
    assert scales.size == 6
    assert (np.abs(found["conv_quantized"] * scales - weights) <= scales * 0.500001).all()


def batch() -> Floats:
    return np.random.default_rng(3).normal(size=(4, 3, 16, 16)).astype(np.float32)


def cut_net(*, has_norm: bool = False, opset: int = 17) -> bytes:
    """Conv, perhaps a batch normalisation, Relu, mean: pixels (N, 3, 16, 16) in, features (N, 6) out."""
    rng = np.random.default_rng(4)
    nodes = [*pooled("pixels"), helper.make_node("Flatten", ["pool"], ["features"])]
    norm = {}
    if has_norm:
        nodes.insert(1, helper.make_node("BatchNormalization", ["map", "gain", "shift", "mean", "var"], ["normed"]))
        nodes[2].input[0] = "normed"
        norm = {"gain": rng.uniform(0.01, 3, 6), "shift": rng.normal(size=6), "mean": rng.normal(size=6)}
        norm["var"] = rng.uniform(0.01, 3, 6)
    return backbone_of(nodes, {name: value.astype(np.float32) for name, value in norm.items()}, opset)


def backbone_of(nodes: list[onnx.NodeProto], weights: dict[str, Floats] | None = None, opset: int = 17) -> bytes:
    built = onnx.load_from_string(model(nodes, weights=weights, output="features", opset=opset))
    built.graph.input[0].name = "pixels"
    built.graph.output[0].CopyFrom(helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["N", "D"]))
    data: bytes = built.SerializeToString()
    return data


def stored_of(data: bytes) -> dict[str, NDArray[np.float32]]:
    return {w.name: numpy_helper.to_array(w) for w in onnx.load_from_string(data).graph.initializer}


def test_no_two_neighbours_saturate_16_bits(quantised: bytes) -> None:
    # what a processor without VNNI adds first, in 16 bits: two bytes of 255 by the int8 weights of two neighbours
    n_kernels = 0
    for name, kernel in stored_of(quantised).items():
        if kernel.dtype == np.int8 and kernel.ndim == 4:
            n_kernels += 1
            row = np.moveaxis(kernel, 1, -1).reshape(len(kernel), -1).astype(np.int64)
            pairs = row[:, 0 : row.shape[1] // 2 * 2 : 2] + row[:, 1::2]
            assert 255 * np.abs(pairs).max() < 2**15, name
            assert np.abs(row).max() > 64, name  # and 7 bits for all would be no proof of anything
    assert n_kernels == 11


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_rounded_weights_do_not_move_the_mean(groups: int) -> None:
    rng = np.random.default_rng(6)
    kernel = rng.normal(size=(12, 6 // groups, 3, 3)).astype("f4")
    kernel[:, 0, 0, 0] = 60  # the steps of the other weights are wide
    nodes = [
        helper.make_node("Conv", ["pixels", "turn"], ["six"]),
        helper.make_node("Conv", ["six", "kernel", "bias"], ["map"], group=groups),
        helper.make_node("GlobalAveragePool", ["map"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["features"]),
    ]
    turn = np.kron(np.eye(3), np.ones((2, 1))).astype("f4")[:, :, None, None]
    source = backbone_of(nodes, {"kernel": kernel, "bias": rng.normal(size=12).astype("f4"), "turn": turn})
    pixels = (rng.normal(size=(32, 3, 16, 16)) + np.array([4, -3, 6])[:, None, None]).astype("f4")
    made = quantise_backbone(source, [pixels[:8], pixels[8:]])
    stored = stored_of(made)
    lost = kernel - stored["kernel_quantized"] * stored["kernel_scale"].reshape(-1, 1, 1, 1)
    inputs = np.repeat(np.repeat([4, -3, 6], 2).reshape(groups, -1), 12 // groups, axis=0)
    shift = np.abs((lost.sum(axis=(2, 3)) * inputs).sum(axis=1)).max()  # without biases that make up for it
    moved = np.abs(run(made, pixels).mean(axis=0) - run(source, pixels).mean(axis=0)).max()
    assert moved <= 0.2 * shift


def test_batch_normalisations_are_folded_into_the_layer_before() -> None:
    source = cut_net(has_norm=True)
    found = quantise_backbone(source, [batch()])
    assert "BatchNormalization" not in {node.op_type for node in onnx.load_from_string(found).graph.node}
    assert distance(run(found, batch()), run(source, batch())) <= 0.02


@pytest.mark.parametrize("bits", [8, 16])
def test_interface_and_metadata_stay(tiny: bytes, quantised: bytes, bits: int) -> None:
    found, source = onnx.load_from_string(quantised if bits == 8 else halve_backbone(tiny)), onnx.load_from_string(tiny)
    onnx.checker.check_model(found, full_check=True)
    for part in ("input", "output", "name"):
        assert getattr(found.graph, part) == getattr(source.graph, part)
    for part in ("ir_version", "opset_import", "metadata_props", "producer_name"):
        assert getattr(found, part) == getattr(source, part)
    assert all(not node.name and not node.doc_string for node in found.graph.node)
    assert tempfile.gettempdir().encode() not in found.SerializeToString()


def test_images_do_not_depend_on_their_neighbours_in_the_batch(quantised: bytes) -> None:
    pixels = pixels_of(5)
    alone = np.concatenate([run(quantised, pixels[n : n + 1]) for n in range(5)])
    np.testing.assert_allclose(run(quantised, pixels), alone, rtol=1e-5, atol=1e-5)


def test_the_same_images_give_the_same_bytes_in_any_process(tiny: bytes, quantised: bytes, tmp_path: Path) -> None:
    pixels = pixels_of(16)
    assert quantise_backbone(tiny, iter([pixels[:0], pixels])) == quantised  # an empty batch is passed over
    (tmp_path / "tiny.onnx").write_bytes(tiny)
    np.save(tmp_path / "pixels.npy", pixels)
    script = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from edge_cl.export.quantise import quantise_backbone\n"
        "made = quantise_backbone(Path('tiny.onnx').read_bytes(), [np.load('pixels.npy')])\n"
        "Path('made.onnx').write_bytes(made)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)  # another seed of Python's hashes
    assert (tmp_path / "made.onnx").read_bytes() == quantised


def test_nothing_is_left_printed_or_logged(
    tiny: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    for handler in root.handlers[:]:
        monkeypatch.setattr(root, "handlers", [h for h in root.handlers if h is not handler])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    quantise_backbone(tiny, [pixels_of(2)])
    with pytest.raises(ExportError):
        quantise_backbone(tiny, [np.zeros((2, 3, 64), np.float32)])
    assert list(tmp_path.iterdir()) == []
    assert tuple(capfd.readouterr()) == ("", "")
    assert root.handlers == []
    assert logging.root.manager.disable == 0


def test_no_image_is_one_line(tiny: bytes) -> None:
    for batches in ([], [np.zeros((0, 3, 64, 64), np.float32)]):
        with pytest.raises(InputError, match="expected images to calibrate the backbone with; found none") as caught:
            quantise_backbone(tiny, batches)
        assert "\n" not in str(caught.value)


def test_an_error_of_the_images_is_passed_on(tiny: bytes) -> None:
    def broken() -> Iterator[Floats]:
        yield pixels_of(1)
        raise InputError("photo.jpg: cut short")

    with pytest.raises(InputError, match=r"^photo.jpg: cut short$"):
        quantise_backbone(tiny, broken())


def test_a_backbone_that_cannot_be_quantised_is_one_line() -> None:
    mean = helper.make_node("GlobalAveragePool", ["pixels"], ["pool"])
    for data, wanted in (
        (backbone_of([mean, helper.make_node("Flatten", ["pool"], ["features"])]), "found none"),
        (cut_net(opset=11), "onnxruntime cannot quantise it"),  # DequantizeLinear has no axis before opset 13
    ):
        with pytest.raises(ExportError, match=wanted) as caught:
            quantise_backbone(data, [batch()])
        assert "\n" not in str(caught.value)
        assert str(caught.value).endswith("leave out int8")


def test_float16_features_are_those_of_float32_to_its_rounding() -> None:
    halved = halve_backbone(cut_net())
    stored = stored_of(halved)
    assert stored["conv"].dtype == np.float16
    # a sum of 27 products: 2^-11 each, and less for their mean
    assert distance(run(halved, batch()), run(cut_net(), batch())) <= 2**-9


def test_a_halved_transformer_does_not_end_the_process() -> None:
    rng = np.random.default_rng(5)
    turned = [
        helper.make_node("Conv", ["pixels", "patch"], ["map"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Reshape", ["map", "shape"], ["tokens"]),
        helper.make_node("Transpose", ["tokens"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("LayerNormalization", ["rows", "gain"], ["normed"], axis=-1),
        helper.make_node("Transpose", ["normed"], ["places"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["places", "mix"], ["mixed"]),
        helper.make_node("ReduceMean", ["mixed"], ["features"], axes=[0], keepdims=0),
    ]
    weights = {"patch": rng.normal(size=(8, 3, 4, 4)).astype("f4"), "mix": rng.normal(size=(8, 6)).astype("f4")}
    weights["gain"] = np.ones(8, np.float32)
    built = onnx.load_from_string(backbone_of(turned, weights))
    built.graph.initializer.append(numpy_helper.from_array(np.array([0, 8, -1], np.int64), "shape"))
    source = built.SerializeToString()
    found = open_halved(halve_backbone(source)).run(None, {"pixels": batch()})[0]
    assert distance(found, run(source, batch())) <= 2**-9


def test_what_cannot_be_halved_is_one_line() -> None:
    with pytest.raises(ExportError, match=r"^fp16: .*; leave out fp16$"):
        halve_backbone(b"not a model")


def test_a_real_backbone_answers_nearly_the_same_in_int8() -> None:
    backbone = open_backbone(str(shared("backbones/mobilenet_v2_imagenet.onnx")))
    photos = sorted(shared("data/caltech101/train").glob("*/*.jpg"))[:: 2914 // 48]
    images = np.stack([read_image(photo, backbone.info.preprocessing) for photo in photos])
    pixels = backbone.info.preprocessing.normalise(images)
    made = quantise_backbone(bytes_of(backbone), (pixels[n : n + 8] for n in range(0, 32, 8)))
    wanted = run(bytes_of(backbone), pixels[32:])
    assert (
        distance(run(made, pixels[32:]), wanted) <= 0.15
    )  # 0.1; biases as they were 0.17, 7 bits for all weights 0.44
    assert distance(run(halve_backbone(bytes_of(backbone)), pixels[32:]), wanted) <= 0.03
