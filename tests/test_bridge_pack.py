"""Packing: a blob answers as the head it was made of, canaries know their answers, and what cannot be had is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_firmware import packing
from edge_firmware.arithmetic import dequantise, logits_float, logits_int8, quantise
from edge_firmware.blob import Blob
from edge_firmware.bundle import read_bundle
from edge_firmware.canaries import check_canaries, logits_of, with_canaries
from edge_firmware.heads import Facts, Grid, check_head, float_blob, int8_blob, to_head
from edge_firmware.onnx_head import check_onnx, head_onnx
from edge_firmware.packing import pack

from edge_cl import Learner, Predictor
from edge_cl.errors import BundleError, EdgeClError, ExportError, InputError
from edge_cl.feature_map import FeatureMap
from edge_cl.head import Head
from edge_cl.look_rows import LookRows

from .conftest import Photos, clusters, shared
from .packed import key_of, learnt, samples

KEY = key_of(1)
FACTS = Facts("door", 3, 2, 1, bytes(32), KEY.key_id, 1_700_000_000)


def head_of(n_classes: int = 5, dim: int = 30, *, n_looks: int = 2, seed: int = 0) -> Head:
    rng = np.random.default_rng(seed)
    names = tuple(f"class {k}" for k in range(n_classes))
    looks = None
    if n_looks:
        owners = np.sort(rng.choice(n_classes, n_looks, replace=False))
        looks = LookRows(owners, rng.normal(size=(n_looks, dim)).astype(np.float32), np.ones(n_looks, np.float32))
    bias = rng.normal(size=n_classes).astype(np.float32)
    return Head(names, rng.normal(size=(n_classes, dim)).astype(np.float32), bias, looks=looks)


def features_of(dim: int = 30, *, low: float = -3, n_samples: int = 300) -> Any:
    rng = np.random.default_rng(5)
    return np.maximum(rng.normal(size=(n_samples, dim)), low).astype(np.float32)


def pack_from(source: Any, path: Path, **options: Any) -> tuple[Any, Blob]:
    report = pack(source, path, key=KEY, **{"product": "door", **options})
    return report, read_bundle(path, KEY.public).head


@pytest.mark.parametrize("low", [-3.0, 0.0])
@pytest.mark.parametrize("is_raised", [False, True])
def test_int8_logits_are_those_of_the_rounded_rows_on_the_rounded_inputs(low: float, is_raised: bool) -> None:
    head, features = head_of(), features_of(low=low)
    feature_map = FeatureMap(30, is_raised=is_raised)
    grid = Grid.over(float(features.min()), float(features.max()))
    assert (grid.zero == -128) == (low == 0)
    blob = int8_blob(head, feature_map, grid, FACTS)
    assert (blob.table is not None) == is_raised
    quantised = quantise(blob, features)
    assert np.abs(dequantise(blob, quantised) - features).max() <= 0.501 * grid.scale
    inputs = quantised if blob.table is None else blob.table[quantised.astype(int) + 128]
    values = (inputs.astype(np.float64) - blob.input_zero) * blob.input_scale
    mapped = feature_map.apply(dequantise(blob, quantised)).astype(np.float64)
    assert np.abs(values - mapped).max() <= 0.501 * blob.input_scale
    rounded, _ = to_head(blob)
    found = logits_int8(blob, quantised)
    np.testing.assert_allclose(found, rounded.logits(values.astype(np.float32)), atol=2e-5 * np.abs(found).max())
    weights = np.abs(rounded.rows[0] - head.rows[0])
    assert (weights <= 0.501 * np.abs(head.rows[0]).max(axis=1, keepdims=True) / 127).all()
    exact = head.logits(feature_map.apply(features))
    assert np.abs(found - exact).max() < 0.05 * np.abs(exact).max()
    assert rounded.looks is not None
    assert head.looks is not None
    np.testing.assert_array_equal(rounded.looks.owners, head.looks.owners)


def test_float32_rows_are_the_head_itself() -> None:
    head, feature_map = head_of(), FeatureMap(30, is_raised=True)
    blob = float_blob(head, feature_map, Grid(0.1, 3), FACTS)
    features = features_of()
    np.testing.assert_array_equal(to_head(blob)[0].logits(features), head.logits(features))
    assert to_head(blob)[1] == feature_map
    wanted = head.logits(feature_map.apply(features))
    np.testing.assert_allclose(logits_float(blob, features), wanted, atol=1e-5 * np.abs(wanted).max())


def test_a_table_that_is_not_the_power_is_no_head_for_linux() -> None:
    blob = int8_blob(head_of(), FeatureMap(30, is_raised=True), Grid.over(0, 5), FACTS)
    assert blob.table is not None
    with pytest.raises(BundleError, match="its table is not that of the power 3/4"):
        to_head(replace(blob, table=blob.table[::-1]))
    with pytest.raises(BundleError, match="expected finite weights"):
        to_head(replace(blob, scales=np.full_like(blob.scales, np.inf)))


def test_a_bias_of_a_row_of_zeros_is_kept_and_one_beyond_32_bits_refused() -> None:
    head = head_of(n_looks=0)
    weights, bias = head.weights.copy(), head.bias.copy()
    weights[2], bias[2] = 0, 123.25
    weights[3], bias[3] = 0, 0
    blob = int8_blob(replace(head, weights=weights, bias=bias), FeatureMap(30), Grid.over(-4, 4), FACTS)
    found = logits_int8(blob, quantise(blob, features_of()))
    np.testing.assert_allclose(found[:, 2], 123.25, rtol=1e-5)
    np.testing.assert_array_equal(found[:, 3], 0)
    bias[1] = 1e9
    with pytest.raises(BundleError, match=r"class 'class 1': its bias does not fit 32 bits as int8; .*--float32"):
        int8_blob(replace(head, weights=weights, bias=bias), FeatureMap(30), Grid.over(-4, 4), FACTS)
    for size in (1e-38, 1e38):
        with pytest.raises(BundleError, match="class 'class 0': its weights are too small or large for int8"):
            int8_blob(replace(head, weights=weights * np.float32(size)), FeatureMap(30), Grid(size, 0), FACTS)
    weights[0, 0] = np.nan
    with pytest.raises(ExportError, match="expected finite numbers"):
        int8_blob(replace(head, weights=weights), FeatureMap(30), Grid.over(-4, 4), FACTS)


def test_the_largest_sum_that_a_blob_may_have_fits_32_bits() -> None:
    dim = 1 << 16
    head = Head(("a", "b"), np.ones((2, dim), np.float32), np.zeros(2, np.float32))
    blob = int8_blob(head, FeatureMap(dim), Grid(1.0, 127), FACTS)
    found = logits_int8(blob, np.full((1, dim), -128, np.int8))
    np.testing.assert_allclose(found, -255.0 * dim, rtol=1e-6)


REFUSED: dict[str, tuple[Any, str]] = {
    "mlp": ({"head": "mlp"}, "expected a linear or cosine head; found 'mlp'; make a state with --head linear"),
    "random": ({"random_features": 50}, "expected features as they are; found random ones"),
    "cosine": ({"head": "cosine"}, "a cosine head has no int8 rows.*: --float32"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_heads_that_no_blob_holds_are_refused(tmp_path: Path, name: str) -> None:
    options, text = REFUSED[name]
    with learnt(**options) as learner, pytest.raises(BundleError, match=text):
        pack_from(learner, tmp_path / "out.edgehead")
    assert not list(tmp_path.iterdir())


def test_a_regression_and_a_state_that_knows_nothing_are_refused(tmp_path: Path) -> None:
    with Learner.create(":memory:", head="regression", device="cpu") as learner:
        learner.learn(features_of(n_samples=20), np.arange(20.0))
        with pytest.raises(BundleError, match="found 'regression'"):
            pack_from(learner, tmp_path / "out.edgehead")
    with (
        Learner.create(tmp_path / "a.ecl", device="cpu") as learner,
        pytest.raises(EdgeClError, match="no classes yet"),
    ):
        pack_from(learner, tmp_path / "out.edgehead")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.ecl"]


def test_sizes_and_names_that_do_not_fit_are_refused() -> None:
    wide = Head(("a",), np.zeros((1, 1 << 17), np.float32), np.zeros(1, np.float32))
    with pytest.raises(BundleError, match="at most 65536 features; found 131072"):
        check_head(wide, FeatureMap(1 << 17), is_int8=True)
    names = tuple(map(str, range(1 << 16)))
    tall = Head(names, np.zeros((1 << 16, 1), np.float32), np.zeros(1 << 16, np.float32))
    with pytest.raises(BundleError, match="at most 65535 classes and looks; found 65536; forget some classes"):
        check_head(tall, FeatureMap(1), is_int8=True)
    for name in ("a\0b", ""):
        with pytest.raises(BundleError, match="a zero byte ends a name"):
            check_head(replace(head_of(1, n_looks=0), classes=(name,)), FeatureMap(30), is_int8=True)
    with pytest.raises(BundleError, match="is no text of UTF-8"):
        check_head(replace(head_of(1, n_looks=0), classes=("\ud800",)), FeatureMap(30), is_int8=True)
    for product in ("", "x" * 33, "ü" * 17, "a\0"):
        with pytest.raises(BundleError, match=r"expected 1 to 32 bytes without a zero; found .*; pass --product NAME"):
            replace(FACTS, product=product)
    assert replace(FACTS, product="ü" * 16)
    for number in (-1, 1 << 32):
        with pytest.raises(BundleError, match="counter: expected 0 to 4294967295"):
            replace(FACTS, counter=number)


def test_a_bundle_says_where_it_comes_from(tmp_path: Path) -> None:
    with learnt(tmp_path / "front door.ecl") as learner:
        learner.learn(*samples(seed=1), min_retention=0)
        wanted = learner.versions()[-1]
        before = (tmp_path / "front door.ecl").read_bytes()
        report, blob = pack_from(learner, tmp_path / "out.edgehead", product=None, counter=9)
        assert (tmp_path / "front door.ecl").read_bytes() == before
    assert (blob.product, blob.version, blob.parent, blob.counter) == ("front door", 2, 1, 9)
    assert (report.product, report.version, report.counter, report.key_id) == ("front door", 2, 9, KEY.key_id.hex())
    assert (blob.backbone, blob.key_id, blob.classes) == (bytes(32), KEY.key_id, ("c0", "c1", "c2", "c3"))
    from datetime import datetime

    assert blob.created == datetime.fromisoformat(wanted.created).timestamp()
    first = (tmp_path / "out.edgehead").read_bytes()
    pack_from(tmp_path / "front door.ecl", tmp_path / "out.edgehead", product=None, counter=9)
    assert (tmp_path / "out.edgehead").read_bytes() == first
    assert report.n_bytes == len(first)
    assert report.blob_bytes == len(read_bundle(tmp_path / "out.edgehead").blob)


@pytest.mark.parametrize("options", [{}, {"float32": True}, {"float32": True, "head": "cosine"}])
def test_a_packed_head_answers_as_its_learner(tmp_path: Path, options: Any) -> None:
    form = {name: options[name] for name in ("head",) if name in options}
    with learnt(n_classes=8, **form) as learner:
        report, blob = pack_from(learner, tmp_path / "a.edgehead", float32=options.get("float32", False))
        features, _ = samples(8, seed=9)
        labels = learner.predict(features).labels
        rows = logits_of(blob, quantise(blob, features)).argmax(axis=1)
        assert np.mean([blob.classes[row] == label for row, label in zip(rows, labels, strict=True)]) > 0.98
        assert report.agreement > 0.98
        assert report.notes == ()
        (tmp_path / "head.onnx").write_bytes(head_onnx(blob))
        with Predictor(tmp_path / "head.onnx", poll_seconds=0) as predictor:
            theirs = predictor.predict(features)
        assert theirs.version == blob.version
        assert np.mean([a == b for a, b in zip(theirs.labels, labels, strict=True)]) > 0.98


def test_canaries_are_of_different_classes_and_catch_a_head_that_was_mixed_up(tmp_path: Path) -> None:
    with learnt(n_classes=6) as learner:
        report, blob = pack_from(learner, tmp_path / "a.edgehead", canaries=5)
        assert report.n_canaries == len(set(blob.answers.tolist())) == 5
        _, all_of_them = pack_from(learner, tmp_path / "a.edgehead", canaries=100)
        assert len(all_of_them.canaries) == 6
    check_canaries(blob, logits_int8(blob, blob.canaries), "numpy")
    check_onnx(blob, head_onnx(blob))
    mixed = replace(blob, rows=blob.rows[[1, 2, 3, 4, 5, 0]])
    with pytest.raises(BundleError, match=r"canary 0: expected .*; numpy says"):
        check_canaries(mixed, logits_int8(mixed, blob.canaries), "numpy")
    with pytest.raises(BundleError, match=r"canary 0: expected .*; onnxruntime says"):
        check_onnx(blob, head_onnx(mixed))
    with pytest.raises(BundleError, match="canary 0: expected"):
        check_canaries(blob, np.full((5, 6), np.nan, np.float32), "numpy")
    with pytest.raises(BundleError, match="onnxruntime cannot run the head"):
        check_onnx(blob, b"nothing")


def test_without_a_clear_answer_there_is_no_canary() -> None:
    head = Head(("a", "b"), np.ones((2, 30), np.float32), np.zeros(2, np.float32))
    blob = int8_blob(head, FeatureMap(30), Grid.over(-3, 3), FACTS)
    with pytest.raises(BundleError, match="none of 300 samples has a clear answer; pass some with --samples"):
        with_canaries(blob, (head, FeatureMap(30)), features_of(), 4)
    one = head.keep(np.array([0]))
    blob = int8_blob(one, FeatureMap(30), Grid.over(-3, 3), FACTS)
    assert len(with_canaries(blob, (one, FeatureMap(30)), features_of(), 4).canaries) == 1


def test_the_range_is_that_of_samples_of_the_backbone_or_of_what_is_remembered(tmp_path: Path) -> None:
    target = tmp_path / "a.edgehead"
    features, _ = samples()
    with learnt() as learner:
        _, stored = pack_from(learner, target)
        assert stored.feature_zero == -128
        assert 0.9 < stored.feature_scale * 255 / features.max() <= 1.001
        report, asked = pack_from(learner, target, samples=features * 2)
        assert asked.feature_scale == pytest.approx(features.max() * 2 / 255)
        assert report.n_samples == len(features)
        np.savez(tmp_path / "a.npz", X=features * 3)
        _, read = pack_from(learner, target, samples=tmp_path / "a.npz")
        assert read.feature_scale == pytest.approx(features.max() * 3 / 255)
        _, given = pack_from(learner, target, feature_scale=0.0235, feature_zero_point=-128)
        assert (given.feature_scale, given.feature_zero) == (float(np.float32(0.0235)), -128)
    for recipe, text in (("edge", "guessed from class means and their spread"), ("ncm", "that of class means")):
        with learnt(replay_bytes=0, recipe=recipe) as learner:
            report, guessed = pack_from(learner, target)
            assert len(report.notes) == 1
            assert text in report.notes[0]
            assert "--samples" in report.notes[0]
            if recipe == "edge":
                assert 1 <= guessed.feature_scale * 255 / features.max() < 3
    both, names = clusters(4, 20, 24, spread=0.4)
    with Learner.create(":memory:", device="cpu") as learner:
        learner.learn(both, names)
        _, signed = pack_from(learner, target)
        assert signed.table is None
        assert -100 < signed.feature_zero < 100
        assert signed.input_scale == signed.feature_scale


def test_images_are_asked_through_the_backbone(tmp_path: Path, photos: Photos) -> None:
    with Learner.create(tmp_path / "cam.ecl", backbone="tiny", device="cpu", replay_bytes=0) as learner:
        learner.learn_folder(photos("door", "window"))
        wanted = learner.backbone_info
        assert wanted is not None
        done: list[int] = []
        report, blob = pack_from(learner, tmp_path / "a.edgehead", samples=tmp_path / "photos", on_progress=done.append)
    assert blob.backbone.hex() == wanted.sha256
    assert (report.n_samples, sum(done), report.notes, report.dim) == (12, 12, (), wanted.dim)


def test_wrong_options_are_told(tmp_path: Path) -> None:
    target = tmp_path / "a.edgehead"
    with learnt() as learner:
        for options, text in (
            ({"canaries": 0}, "canaries: expected 1 to 256; found 0"),
            ({"canaries": 257}, "canaries: expected 1 to 256"),
            ({"counter": 1.5}, "counter: expected a whole number"),
            ({"counter": -1}, "counter: expected 0 to 4294967295; found -1"),
            ({"product": "x" * 40}, "product .*: expected 1 to 32 bytes"),
            ({"feature_scale": 0.1}, "needs feature_zero_point too"),
            ({"feature_zero_point": 1}, "needs feature_zero_point too"),
            ({"feature_scale": 0.0, "feature_zero_point": 0}, "feature_scale: expected a number above 0"),
            ({"feature_scale": 1e300, "feature_zero_point": 0}, "feature_scale: expected a number above 0"),
            ({"feature_scale": float("nan"), "feature_zero_point": 0}, "feature_scale: expected a number above 0"),
            ({"feature_scale": 0.1, "feature_zero_point": 128}, "feature_zero_point: expected -128 to 127; found 128"),
            ({"samples": np.zeros((3, 5), np.float32)}, "24"),
            ({"samples": tmp_path / "none"}, "no such file or folder"),
        ):
            with pytest.raises((InputError, BundleError), match=text) as caught:
                pack_from(learner, target, **options)
            assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_lies_at_the_target_is_replaced_only_if_it_is_a_bundle(tmp_path: Path) -> None:
    target = tmp_path / "a.edgehead"
    with learnt(tmp_path / "cam.ecl") as learner:
        pack_from(learner, target)
        pack_from(learner, target, counter=1)
        for name, data in (("key.pem", b"-----BEGIN PRIVATE KEY-----"), ("cam.onnx", b"\x08\x08")):
            (tmp_path / name).write_bytes(data)
            with pytest.raises(BundleError, match=f"{name}: is no bundle, and would be replaced; choose another name"):
                pack_from(learner, tmp_path / name)
            assert (tmp_path / name).read_bytes() == data
        with pytest.raises(ExportError, match="is a state file"):
            pack_from(learner, tmp_path / "cam.ecl")
        with pytest.raises(ExportError, match="there is no folder"):
            pack_from(learner, tmp_path / "none" / "a.edgehead")
        with pytest.raises(ExportError, match="found a folder"):
            pack_from(learner, tmp_path)


def test_an_older_bundle_stays_where_the_new_one_is_not_proven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.edgehead"
    with learnt() as learner:
        pack_from(learner, target)
        before = target.read_bytes()

        def wrong(blob: Blob) -> bytes:
            return head_onnx(replace(blob, rows=blob.rows[::-1]))

        monkeypatch.setattr(packing, "head_onnx", wrong)
        with pytest.raises(BundleError, match="onnxruntime says"):
            pack_from(learner, target, counter=5)
    assert target.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.edgehead"]


def test_on_real_features_the_answers_are_those_of_the_export(tmp_path: Path) -> None:
    found = np.load(shared("data/features/caltech101_mobilenet_v2.npz"))
    is_training, names = found["train"], found["classes"][found["y"]].astype(str)
    keep = np.flatnonzero(is_training)[::12]
    asked = found["X"][~is_training][:: (~is_training).sum() // 1000][:1000].astype(np.float32)
    with Learner.create(":memory:", device="cpu") as learner:
        learner.learn(found["X"][keep].astype(np.float32), list(names[keep]))
        learner.export(tmp_path / "head.onnx", kind="head")
        with Predictor(tmp_path / "head.onnx", poll_seconds=0) as predictor:
            wanted = predictor.predict(asked).labels
        shares = []
        for is_float in (True, False):
            _, blob = pack_from(learner, tmp_path / "a.edgehead", float32=is_float)
            logits = logits_float(blob, asked) if is_float else logits_int8(blob, quantise(blob, asked))
            rows = logits.argmax(axis=1)
            shares.append(np.mean([blob.classes[row] == label for row, label in zip(rows, wanted, strict=True)]))
    assert len(wanted) == 1000
    assert shares[0] == 1
    assert shares[1] >= 0.995
