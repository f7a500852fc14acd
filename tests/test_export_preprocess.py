"""What the graph makes of an image is what Pillow makes of it, to the last bit, in every size and crop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from PIL import Image

from edge_cl import Learner
from edge_cl.backbones.preprocessing import Preprocessing
from edge_cl.errors import ExportError
from edge_cl.export.preprocess import add_preprocessing

from .conftest import Photos, shared

Bytes = NDArray[np.uint8]
CROPS = (0.0, 1.0, 0.875)


def passing(size: tuple[int, int], *, opset: int = 18, inner: str = "kept", name: str = "pixels") -> onnx.ModelProto:
    """Return a model that gives its input, through a tensor of that name."""
    value = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, *size])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 3, *size])
    nodes = [helper.make_node("Neg", [name], [inner]), helper.make_node("Neg", [inner], ["out"])]
    model = helper.make_model(
        helper.make_graph(nodes, "passing", [value], [out]), opset_imports=[helper.make_opsetid("", opset)]
    )
    model.ir_version = 8
    return model


def grey(size: tuple[int, int], crop: float) -> Preprocessing:
    """Return a preprocessing whose pixels are the grey levels themselves."""
    return Preprocessing(input_size=size, scale=1.0, mean=(0.0, 0.0, 0.0), crop=crop)


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def levels_in_graph(images: Bytes, preprocessing: Preprocessing) -> NDArray[np.float32]:
    session = session_of(add_preprocessing(passing(preprocessing.input_size), preprocessing))
    levels: NDArray[np.float32] = session.run(None, {"image": images})[0].transpose(0, 2, 3, 1)
    return levels


def assert_as_pillow(images: Bytes, preprocessing: Preprocessing) -> None:
    want = np.stack([preprocessing.apply(Image.fromarray(image)) for image in images])
    found = levels_in_graph(images, preprocessing)
    if images.shape[1] > max(100 * images.shape[2], preprocessing.input_size[0]):  # `apply` does the height first
        assert found.shape == want.shape
        assert np.abs(found - want).max() <= 1  # both are whole numbers
    else:
        np.testing.assert_array_equal(found, want)


def noise(n_images: int, height: int, width: int, seed: int = 0) -> Bytes:
    """Return images of noise: of two levels, so that every misplaced weight shows most, for odd seeds of all levels."""
    n_levels = 256 if seed % 2 else 2
    levels = np.random.default_rng(seed).integers(0, n_levels, (n_images, height, width, 3))
    return (levels * (255 // (n_levels - 1))).astype(np.uint8)


sides = st.integers(1, 120)


@settings(max_examples=60, deadline=None)
@given(
    found=st.tuples(sides, sides),
    wanted=st.tuples(sides, sides),
    crop=st.one_of(st.sampled_from(CROPS), st.floats(0.01, 1)),
    seed=st.integers(0, 99),
)
@example(found=(1, 1), wanted=(17, 9), crop=0.875, seed=0)
@example(found=(9, 120), wanted=(8, 8), crop=1.0, seed=0)
def test_every_pixel_is_pillows(found: tuple[int, int], wanted: tuple[int, int], crop: float, seed: int) -> None:
    assert_as_pillow(noise(1, *found, seed=seed), grey(wanted, crop))


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("found", [(4000, 1), (1, 4000), (4000, 31), (375, 500), (1301, 997), (64, 96), (223, 225)])
@pytest.mark.parametrize("wanted", [(224, 224), (64, 96)])
def test_every_pixel_of_large_images_is_pillows(found: tuple[int, int], wanted: tuple[int, int], crop: float) -> None:
    assert_as_pillow(noise(1, *found, seed=1), grey(wanted, crop))


@pytest.mark.parametrize("crop", CROPS)
def test_halves_go_up_as_in_pillow(crop: float) -> None:
    """Ten pixels of each: one sum in eleven is a half but for the 22nd binary digit of its weights."""
    assert_as_pillow(noise(1, 30, 32, seed=1), grey((300, 320), crop))


@pytest.mark.parametrize("crop", CROPS)
def test_images_far_larger_than_the_input_are_within_one_level(crop: float) -> None:
    images, preprocessing = noise(1, 1500, 1900, seed=1), grey((3, 2), crop)
    want = preprocessing.apply(Image.fromarray(images[0]))
    assert np.abs(levels_in_graph(images, preprocessing)[0] - want).max() <= 1


@pytest.mark.parametrize("opset", [15, 17, 20])
def test_opsets(opset: int) -> None:
    images = noise(1, 40, 50)
    built = add_preprocessing(passing((16, 13), opset=opset), grey((16, 13), 0.875))
    onnx.checker.check_model(built, full_check=True)
    found = session_of(built).run(None, {"image": images})[0]
    np.testing.assert_array_equal(found[0].transpose(1, 2, 0), grey((16, 13), 0.875).apply(Image.fromarray(images[0])))


@pytest.mark.parametrize("crop", CROPS)
def test_places_are_exact_in_the_largest_input_as_well(crop: float) -> None:
    assert_as_pillow(noise(1, 3999, 3), grey((4096, 2), crop))
    assert_as_pillow(noise(1, 3, 3999), grey((2, 4096), crop))


@pytest.mark.parametrize("crop", CROPS)
def test_the_images_of_a_batch_do_not_mix(crop: float) -> None:
    images = noise(5, 50, 31)
    together = levels_in_graph(images, grey((40, 24), crop))
    alone = [levels_in_graph(image[None], grey((40, 24), crop))[0] for image in images]
    np.testing.assert_array_equal(together, alone)
    assert_as_pillow(images, grey((40, 24), crop))


@pytest.mark.parametrize("crop", CROPS)
def test_real_photos(crop: float) -> None:
    paths = sorted(shared("data/caltech101/test").glob("*/*.jpg"))[::120]
    assert paths
    preprocessing = grey((224, 224), crop)
    session = session_of(add_preprocessing(passing((224, 224)), preprocessing))
    for path in paths:
        with Image.open(path) as file:
            image = file.convert("RGB")
        found = session.run(None, {"image": np.asarray(image)[None]})[0][0].transpose(1, 2, 0)
        np.testing.assert_array_equal(found, preprocessing.apply(image), err_msg=path.name)


@pytest.mark.parametrize("crop", [0.0, 1.0])
def test_an_image_of_the_input_size_is_only_normalised(crop: float) -> None:
    preprocessing = Preprocessing((30, 20), 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop)
    images = np.random.default_rng(0).integers(0, 256, (2, 30, 20, 3)).astype(np.uint8)
    session = session_of(add_preprocessing(passing((30, 20)), preprocessing))
    found = session.run(None, {"image": images})[0]
    np.testing.assert_allclose(found, preprocessing.normalise(images), atol=1e-6)  # float32 at about 2.6


@pytest.mark.parametrize("crop", CROPS)
def test_flat_images_keep_their_colour_to_the_last_bit(crop: float) -> None:
    preprocessing = Preprocessing((12, 10), std=(0.5, 1.0, 2.0), crop=crop)
    session = session_of(add_preprocessing(passing((12, 10)), preprocessing))
    for colour in ((0, 0, 0), (255, 255, 255), (1, 127, 254)):
        image = np.full((1, 33, 57, 3), colour, np.uint8)
        found = session.run(None, {"image": image})[0]
        np.testing.assert_array_equal(found, preprocessing.normalise(image[:, :12, :10]))


@pytest.mark.parametrize("crop", CROPS)
def test_the_reference_evaluator_agrees(crop: float) -> None:
    model = add_preprocessing(passing((16, 13)), grey((16, 13), crop))
    onnx.checker.check_model(model, full_check=True)
    images = noise(2, 40, 21)
    reference = np.asarray(next(iter(ReferenceEvaluator(model).run(None, {"image": images}))))
    found = session_of(model).run(None, {"image": images})[0]
    np.testing.assert_array_equal(reference, found)


def test_the_rest_of_the_model_stays_as_it_was() -> None:
    model = passing((8, 8))
    extra = helper.make_tensor_value_info("head.bias", TensorProto.FLOAT, ["K"])
    model.graph.input.append(extra)
    helper.set_model_props(model, {"edge_cl.version": "3"})
    before = model.SerializeToString()
    built = add_preprocessing(model, grey((8, 8), 0.0))
    assert model.SerializeToString() == before
    assert [value.name for value in built.graph.input] == ["image", "head.bias"]
    assert list(built.graph.output) == list(model.graph.output)
    assert built.ir_version == 8
    assert list(built.metadata_props) == list(model.metadata_props)
    shape = built.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value or d.dim_param for d in shape] == ["N", "height", "width", 3]
    (pixels,) = built.graph.value_info  # tools that cannot follow the crop still know what the backbone is given
    assert [d.dim_value or d.dim_param for d in pixels.type.tensor_type.shape.dim] == ["N", 3, 8, 8]


@pytest.mark.parametrize("crop", CROPS)
def test_names_that_the_model_has_are_left_to_it(crop: float) -> None:
    first = add_preprocessing(passing((8, 8)), grey((8, 8), crop))
    images = noise(1, 20, 30)
    for name in {name for node in first.graph.node for name in node.output} - {"pixels", "kept", "out"}:
        built = add_preprocessing(passing((8, 8), inner=name), grey((8, 8), crop))
        onnx.checker.check_model(built, full_check=True)
    np.testing.assert_array_equal(
        session_of(built).run(None, {"image": images})[0], session_of(first).run(None, {"image": images})[0]
    )


def test_an_export_answers_images_as_the_learner_does(tmp_path: Path, photos: Photos) -> None:
    with Learner.create(tmp_path / "a.ecl", backbone="tiny") as learner:
        learner.learn_folder(photos("door", "lamp"))
        learner.export(tmp_path / "a.onnx")
        info = learner.backbone_info
        assert info is not None
        images = np.random.default_rng(0).integers(0, 256, (3, 90, 77, 3)).astype(np.uint8)
        want = learner.predict(images).probabilities
    session = session_of(add_preprocessing(onnx.load(tmp_path / "a.onnx"), info.preprocessing))
    found = session.run(["probabilities"], {"image": images})[0]
    np.testing.assert_allclose(found, want, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (passing((8, 8), opset=14), "needs opset 15 or later, .* the model has 14; convert it"),
        (passing((8, 8), name="features"), r"found features float \['N', 3, 8, 8\]; export without"),
        (passing((8, 9)), r"expected an input 'pixels' float \['N', 3, 8, 8\]; found pixels float \['N', 3, 8, 9\]"),
        (passing((8, 8), inner="image"), "has a tensor 'image' already"),
        (onnx.ModelProto(opset_import=[helper.make_opsetid("", 18)]), "found none"),
    ],
)
def test_a_model_that_takes_no_images_is_one_line(model: onnx.ModelProto, wanted: str) -> None:
    with pytest.raises(ExportError, match=wanted) as caught:
        add_preprocessing(model, grey((8, 8), 0.0))
    assert "\n" not in str(caught.value)
