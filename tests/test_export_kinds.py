"""Every kind of export, of every form of head, answers as the learner does; and what it may be asked for besides."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from edge_cl import Learner
from edge_cl.errors import ExportError, InputError, StateError
from edge_cl.export.c_source import to_c
from edge_cl.export.tensors import NAMES, head_from, round_rows, tensors_of
from edge_cl.look_rows import LookRows

from .conftest import Photos, shared
from .exported import DIM, FORMS, answers, asked, looking, run

CLASSIFIERS = [name for name in FORMS if name != "regression"]


def output_of(learner: Learner) -> str:
    return "values" if learner.head_kind == "regression" else "probabilities"


@pytest.fixture
def taught(tmp_path: Path, photos: Photos) -> Learner:
    learner = Learner.create(tmp_path / "a.ecl", backbone="tiny")
    learner.learn_folder(photos("door", "größe 3", "z"))
    return learner


def pixels(n: int = 3) -> Any:
    return np.random.default_rng(1).uniform(-1, 1, (n, 3, 64, 64)).astype(np.float32)


@pytest.mark.parametrize("kind", ["model", "head", "live"])
@pytest.mark.parametrize("form", FORMS)
def test_every_kind_answers_as_the_learner(tmp_path: Path, form: str, kind: str) -> None:
    learner = FORMS[form]()
    learner.export(tmp_path / "a.onnx", kind)
    found = run(tmp_path / "a.onnx", output_of(learner), features=asked())[0]
    np.testing.assert_allclose(found, answers(learner, asked()), atol=1e-5)
    model = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.opset_import[0].version) == (8, 17)


@pytest.mark.parametrize("form", FORMS)
def test_a_live_model_takes_the_tensors_of_a_later_head(tmp_path: Path, form: str) -> None:
    """The later head is that of another learner with more classes, or more looks, and was never in the file."""
    learner, later = FORMS[form](), FORMS[form]()
    learner.export(tmp_path / "a.onnx", "live")
    if form in {"linear", "looking", "raised"}:
        later = looking() if form == "linear" else later
        x = asked(40, 3) + np.float32(5 if form != "raised" else 2)
        later.learn(x, ["new"] * 40, min_retention=0)
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    assert {value.name for value in session.get_overridable_initializers()} == set(tensors_of(learner.head))
    assert [value.name for value in session.get_inputs()] == ["features"]
    given = {"features": asked()}
    before = session.run([output_of(learner)], given)[0]
    found = session.run([output_of(learner)], {**given, **tensors_of(later.head)})[0]
    np.testing.assert_allclose(found, answers(later, asked()), atol=1e-5)
    np.testing.assert_array_equal(session.run([output_of(learner)], given)[0], before)  # and only for that call


def test_two_tensors_are_enough_for_a_head_of_one_look_a_class(tmp_path: Path) -> None:
    """An app that knows weights and bias alone adds a class that copies the first."""
    learner = FORMS["linear"]()
    learner.export(tmp_path / "a.onnx", "live")
    weights, bias = learner.head.rows
    more = {"head.weights": np.vstack([weights, weights[:1]]), "head.bias": np.append(bias, bias[:1])}
    logits = run(tmp_path / "a.onnx", "logits", features=asked(), **more)[0]
    np.testing.assert_array_equal(logits[:, -1], logits[:, 0])
    assert logits.shape == (40, 5)


def test_a_split_backbone_is_written_once_and_the_head_answers_with_it(tmp_path: Path, taught: Learner) -> None:
    folder = tmp_path / "app"
    taught.export(folder, "split")
    before = (folder / "backbone.onnx").stat()
    images = np.random.default_rng(2).integers(0, 256, (4, 64, 64, 3)).astype(np.uint8)
    taught.learn(images, ["new"] * 4, min_retention=0)
    taught.export(folder, "split")
    after = (folder / "backbone.onnx").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    features = run(folder / "backbone.onnx", pixels=(images.transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 127.5)
    found = run(folder / "head.onnx", "probabilities", features=features[0])[0]
    np.testing.assert_allclose(found, taught.predict(images).probabilities, atol=1e-4)
    assert sorted(path.name for path in folder.iterdir()) == ["backbone.onnx", "head.onnx"]


def test_a_split_folder_of_another_backbone_stays_as_it_is(tmp_path: Path, taught: Learner, photos: Photos) -> None:
    taught.export(tmp_path / "net.onnx")
    taught.export(tmp_path / "app", "split")
    before = {path: path.read_bytes() for path in (tmp_path / "app").iterdir()}
    with Learner.create(tmp_path / "b.ecl", backbone=tmp_path / "net.onnx") as other:
        other.learn_folder(photos("x", "y", folder="more"))
        with pytest.raises(ExportError, match=r"backbone\.onnx: expected .* found .*; export into another folder"):
            other.export(tmp_path / "app", "split")
    with pytest.raises(ExportError, match=r"expected edge_cl\.precision float16; found float32"):
        taught.export(tmp_path / "app", "split", fp16=True)
    assert {path: path.read_bytes() for path in (tmp_path / "app").iterdir()} == before


@pytest.mark.parametrize("form", FORMS)
def test_int8_rows_are_off_by_half_a_step_at_most(tmp_path: Path, form: str) -> None:
    learner = FORMS[form]()
    report = learner.export(tmp_path / "a.onnx", "head", int8=True, max_loss=1)
    tensors = {
        weight.name: onnx.numpy_helper.to_array(weight) for weight in onnx.load(tmp_path / "a.onnx").graph.initializer
    }
    assert tensors["head.weights"].dtype == np.int8
    exact = tensors_of(learner.head)["head.weights"]
    steps = np.abs(exact).max(axis=1) / 127
    found = tensors["head.weights"] * tensors["head.scales"][:, None]
    assert (np.abs(found - exact) <= steps[:, None] * 0.5001).all()
    assert report.head_loss is not None
    assert report.head_loss.n_samples > 0
    head = round_rows(learner.head)
    features = learner._extract_inputs(asked(), int)[0].features
    want = head.logits(features) if form == "regression" else head.predict(features)
    np.testing.assert_allclose(run(tmp_path / "a.onnx", output_of(learner), features=asked())[0], want, atol=1e-5)


def test_a_loss_above_the_limit_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    """Of 300 classes on a circle, neighbours differ by less than a step of int8; the stored samples say so."""
    rng = np.random.default_rng(0)
    labels = np.arange(1200) % 300
    angles = 2 * np.pi * labels / 300
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1) + rng.normal(0, 1e-3, (1200, 2))
    learner = Learner.create(":memory:", recipe="slda")
    learner.learn(x.astype(np.float32), [f"c{k}" for k in labels])
    (tmp_path / "a.onnx").write_bytes(b"old")
    with pytest.raises(ExportError, match=r"int8: the head loses .*--max-loss"):
        learner.export(tmp_path / "a.onnx", "head", int8=True, max_loss=0.1)
    assert (tmp_path / "a.onnx").read_bytes() == b"old"
    report = learner.export(tmp_path / "a.onnx", "head", int8=True, max_loss=1)
    assert report.head_loss is not None
    kept = run(tmp_path / "a.onnx", "logits", features=x.astype(np.float32))[0].argmax(axis=1) == labels
    assert report.head_loss.after == pytest.approx(kept.mean(), abs=0.05)  # 512 of the 1200 were asked
    assert report.head_loss.before > 0.9


@pytest.mark.parametrize("kind", ["model", "live", "split"])
def test_fp16_and_int8_backbones_say_what_they_cost(tmp_path: Path, taught: Learner, photos: Photos, kind: str) -> None:
    images = photos("door", "z", folder="asked", seed=4)
    for options in ({"fp16": True}, {"int8": True}):
        target = tmp_path / f"{kind}{len(options)}{'fp16' in options}"
        report = taught.export(target, kind, images=images, max_loss=1, **options)  # type: ignore[arg-type]
        assert report.backbone_loss is not None
        assert report.backbone_loss.n_samples == (12 if "fp16" in options else 6)  # half of them calibrate int8
        assert 0 <= report.backbone_loss.after <= 1
        path = target / "head.onnx" if kind == "split" else target
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        metadata = session.get_modelmeta().custom_metadata_map
        assert ("edge_cl.head_loss" in metadata) == ("int8" in options)
        if kind != "split":
            loss = json.loads(metadata["edge_cl.backbone_loss"])
            assert loss["samples"] == report.backbone_loss.n_samples


@pytest.mark.parametrize("form", CLASSIFIERS)
@pytest.mark.parametrize("kind", ["head", "live"])
def test_top_k_names_the_most_probable_classes_the_lower_row_first(tmp_path: Path, form: str, kind: str) -> None:
    learner = FORMS[form]()
    learner.export(tmp_path / "a.onnx", kind, top_k=9)
    p, best, rows = run(tmp_path / "a.onnx", "probabilities", "top_probabilities", "top_indices", features=asked())
    order = np.argsort(-p, axis=1, kind="stable")
    np.testing.assert_array_equal(rows, order)  # nine are asked for, and there are four
    np.testing.assert_array_equal(best, np.take_along_axis(p, order, axis=1))
    if kind == "live" and form == "linear":
        more = tensors_of(learner.head.grow(["a", "b", "c", "d", "e", "f", "g"]))
        assert run(tmp_path / "a.onnx", "top_indices", features=asked(), **more)[0].shape == (40, 9)


@pytest.mark.parametrize("opset", [13, 15, 16, 17, 18, 19, 20])
@pytest.mark.parametrize("form", ["looking", "cosine", "mlp"])
def test_every_opset_says_the_same(tmp_path: Path, form: str, opset: int) -> None:
    learner = FORMS[form]()
    learner.export(tmp_path / "a.onnx", "live", opset=opset, int8=True, top_k=2, max_loss=1)
    model = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == opset
    learner.export(tmp_path / "b.onnx", "live", int8=True, top_k=2, max_loss=1)
    for found, want in zip(*(run(tmp_path / name, features=asked()) for name in ("a.onnx", "b.onnx")), strict=True):
        np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("opset", [13, 18, 20])
def test_a_backbone_is_had_in_other_opsets(tmp_path: Path, taught: Learner, opset: int) -> None:
    taught.export(tmp_path / "a.onnx", opset=opset)
    taught.export(tmp_path / "b.onnx")
    assert onnx.load(tmp_path / "a.onnx").opset_import[0].version == opset
    found, want = (run(tmp_path / name, "logits", pixels=pixels())[0] for name in ("a.onnx", "b.onnx"))
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)


def test_features_come_out_as_the_backbone_gives_them(tmp_path: Path, taught: Learner) -> None:
    taught.export(tmp_path / "a.onnx", features=True)
    assert taught.backbone is not None
    want = taught.backbone.session.run(["features"], {"pixels": pixels()})[0]
    np.testing.assert_allclose(run(tmp_path / "a.onnx", "features", pixels=pixels())[0], want, atol=1e-5)


@pytest.mark.parametrize("kind", ["model", "live"])
@pytest.mark.parametrize("form", ["linear", "looking", "cosine"])
def test_the_mean_of_a_class_activation_map_is_the_logit(tmp_path: Path, form: str, kind: str) -> None:
    """The maps add up to the logits but for the bias, which no place has; only the best look of a class counts."""
    options = {"head": "cosine"} if form == "cosine" else {}
    learner = Learner.create(tmp_path / "a.ecl", backbone="tiny", **options)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 3
    noisy = np.kron(rng.integers(0, 256, (3, 4, 4, 3))[labels], np.ones((1, 16, 16, 1)))
    learner.learn((noisy + rng.normal(0, 9, noisy.shape)).clip(0, 255).astype(np.uint8), [f"c{k}" for k in labels])
    if form == "looking":
        weights = learner.head.weights
        looks = LookRows(np.array([0, 0, 2]), weights[[1, 2, 0]] * 0.9, np.array([1, 2, 3], np.float32))
        memory = learner._current.memory()
        learner._current._memory = replace(memory, head=replace(memory.head, looks=looks))
    learner.export(tmp_path / "a.onnx", kind, cam=True, features=True)
    logits, features, maps = run(tmp_path / "a.onnx", "logits", "features", "cam", pixels=pixels(5))
    assert maps.shape[:2] == (5, 3)
    assert maps.shape[2] > 1
    head = learner._current.memory().head
    weights, bias = head.rows
    mapped = learner._current.settings.feature_map(256).apply(features)
    rows = [[(mapped @ w + b, b) for w, b in zip(weights, bias, strict=True)]]
    if head.looks is not None:
        for k, w, b in zip(head.looks.owners, head.looks.weights, head.looks.bias, strict=True):
            rows.append([(mapped @ w + b, b) if n == k else (np.full(5, -np.inf), 0.0) for n in range(3)])
    best = np.array([[level for level, _ in row] for row in rows]).argmax(axis=0)  # (K, N)
    offsets = np.array([[rows[best[k, n]][k][1] for k in range(3)] for n in range(5)])
    np.testing.assert_allclose(maps.mean(axis=(2, 3)) + offsets, logits, rtol=1e-3, atol=1e-3 * np.abs(logits).max())


def test_a_class_activation_map_is_bright_where_the_class_is(tmp_path: Path) -> None:
    """Bright squares in a corner are one class: its map is highest in the half of the image that has the square."""
    rng = np.random.default_rng(0)
    images = rng.normal(60, 20, (80, 64, 64, 3))
    left = np.arange(80) % 4 < 2
    for n in range(0, 80, 2):
        side = slice(0, 24) if left[n] else slice(40, 64)
        images[n, 20:44, side] = rng.normal((230, 30, 30), 15, (24, 24, 3))
    images = images.clip(0, 255).astype(np.uint8)
    learner = Learner.create(tmp_path / "a.ecl", backbone="tiny")
    learner.learn(images, [("none", "square")[n % 2 == 0] for n in range(80)])
    learner.export(tmp_path / "a.onnx", cam=True)
    given = (images[::2].transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 127.5
    row = learner.classes.index("square")
    maps = run(tmp_path / "a.onnx", "cam", pixels=given)[0]
    difference = maps[:, row] - maps[:, 1 - row]
    half = difference.shape[2] // 2
    is_left = difference[:, :, :half].mean(axis=(1, 2)) > difference[:, :, -half:].mean(axis=(1, 2))
    assert (is_left == left[::2]).mean() >= 0.9


@pytest.mark.parametrize("form", ["mlp", "random"])
def test_maps_that_would_not_be_exact_are_refused(tmp_path: Path, photos: Photos, form: str) -> None:
    options: dict[str, Any] = {"head": "mlp"} if form == "mlp" else {"random_features": 64}
    learner = Learner.create(tmp_path / "a.ecl", backbone="tiny", **options)
    learner.learn_folder(photos("x", "y"))
    with pytest.raises(InputError, match="cam: needs a head that is linear in the backbone's features"):
        learner.export(tmp_path / "a.onnx", cam=True)


def test_the_same_export_is_the_same_bytes(tmp_path: Path, taught: Learner) -> None:
    for name in ("a.onnx", "b.onnx"):
        taught.export(tmp_path / name, top_k=2, features=True)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_mobilenet_v2_as_every_kind(tmp_path: Path) -> None:
    backbone = shared("backbones/mobilenet_v2_imagenet.onnx")
    photos = (
        sorted(shared("data/caltech101/test/panda").iterdir())[:6]
        + sorted(shared("data/caltech101/test/yin_yang").iterdir())[:6]
    )
    names = [path.parent.name for path in photos]
    with Learner.create(tmp_path / "a.ecl", backbone=backbone) as learner:
        learner.learn([str(path) for path in photos], names)
        want = learner.predict([str(path) for path in photos]).probabilities
        assert learner.backbone is not None
        given = learner.backbone.pixels([str(path) for path in photos])
        for kind in ("model", "live"):
            learner.export(tmp_path / "a.onnx", kind, cam=True, images=[str(path) for path in photos])
            np.testing.assert_allclose(run(tmp_path / "a.onnx", "probabilities", pixels=given)[0], want, atol=1e-4)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"kind": "magic"}, "kind: expected one of model, head, live, split, c; found 'magic'"),
    ({"opset": 12}, "opset: expected 13 to 20; found 12"),
    ({"opset": 21}, "opset: expected 13 to 20; found 21"),
    ({"opset": True}, "opset"),
    ({"opset": 14, "preprocess": True}, "opset: preprocess needs at least 15"),
    ({"top_k": -1}, "top_k"),
    ({"max_loss": float("nan")}, "max_loss"),
    ({"kind": "head", "fp16": True}, "fp16: kind 'head' has no backbone"),
    ({"kind": "head", "images": "x"}, "images"),
    ({"kind": "split", "cam": True}, "cam: needs head and feature map in one file"),
    ({"int8": True, "fp16": True}, "contradicts"),
    ({"kind": "c", "int8": True}, "int8: kind 'c' has none"),
    ({"delta_from": -1}, "delta_from"),
    ({"delta_from": 1}, "delta_from: expected an earlier version; found 1, which is current"),
    ({"delta_from": 7}, "version: expected 1 to 1; found 7"),
    ({"images": "/nowhere"}, "no such file"),
    ({"int8": "yes"}, "int8: expected True or False"),
]


@pytest.mark.parametrize(("options", "wanted"), REFUSED)
def test_what_cannot_be_asked_is_one_line_and_the_old_file_stays(
    tmp_path: Path, taught: Learner, options: dict[str, Any], wanted: str
) -> None:
    (tmp_path / "a.onnx").write_bytes(b"old")
    with pytest.raises(InputError) as caught:
        taught.export(tmp_path / "a.onnx", **options)
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "a.onnx").read_bytes() == b"old"


def test_images_of_a_state_for_features_are_refused(tmp_path: Path) -> None:
    for options, wanted in (
        ({"kind": "split"}, "split needs a backbone"),
        ({"preprocess": True}, "preprocess: samples of this state are features"),
        ({"features": True}, "features"),
    ):
        with pytest.raises(InputError, match=wanted):
            FORMS["linear"]().export(tmp_path / "a.onnx", **options)
    with pytest.raises(InputError, match="needs classes"):
        FORMS["regression"]().export(tmp_path / "a.onnx", top_k=1)


def test_nothing_learnt_and_all_forgotten_have_nothing_to_export(tmp_path: Path) -> None:
    with Learner.create(tmp_path / "a.ecl") as learner:
        with pytest.raises(StateError, match="has no classes yet"):
            learner.export(tmp_path / "a.onnx")
        learner.learn(np.eye(DIM, dtype=np.float32), ["a"] * DIM)
        learner.forget("a")
        with pytest.raises(StateError, match="has no classes yet"):
            learner.export(tmp_path / "a.onnx", "live")
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_int8", [False, True])
def test_tensors_are_the_head_and_back(form: str, is_int8: bool) -> None:
    head = FORMS[form]().head
    tensors = tensors_of(head, is_int8=is_int8)
    assert list(tensors) == [name for name in NAMES if name in tensors]
    back = head_from(tensors, head.classes, head.kind, has_tasks=head.has_tasks)
    x = np.random.default_rng(0).normal(size=(9, head.weights.shape[1])).astype(np.float32)
    want = (round_rows(head) if is_int8 else head).logits(x)
    np.testing.assert_allclose(back.logits(x), want, rtol=1e-5, atol=1e-5)
    assert (back.classes, back.tasks) == (head.classes, head.tasks)
    again = tensors_of(back, is_int8=is_int8)
    for name, value in tensors.items():
        if not is_int8:
            np.testing.assert_array_equal(again[name], value)


@pytest.mark.parametrize("form", FORMS)
def test_the_head_as_c_is_the_text_that_the_tests_of_c_compile(tmp_path: Path, form: str) -> None:
    learner = FORMS[form]()
    report = learner.export(tmp_path / "head.c", "c")
    feature_map = learner._current.settings.feature_map(DIM)
    assert (tmp_path / "head.c").read_text() == to_c(learner.head, feature_map, learner.version)
    assert report.n_bytes == (tmp_path / "head.c").stat().st_size
