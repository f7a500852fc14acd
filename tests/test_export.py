"""The exported file answers as the learner does, and an older file is not lost to a failed export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from edge_cl import Learner
from edge_cl.errors import ExportError, InputError
from edge_cl.export.build import build
from edge_cl.head import softmax

from .conftest import Photos, clusters


def session_of(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.fixture
def taught(tmp_path: Path, photos: Photos) -> Learner:
    learner = Learner.create(tmp_path / "a.ecl", backbone="tiny")
    learner.learn_folder(photos("door", "größe 3", "z"))
    return learner


def test_images_in_probabilities_out_as_the_learner_says(tmp_path: Path, taught: Learner) -> None:
    taught.export(tmp_path / "a.onnx")
    session = session_of(tmp_path / "a.onnx")
    (pixels,) = session.get_inputs()
    assert pixels.shape == ["N", 3, 64, 64]
    assert [output.name for output in session.get_outputs()] == ["logits", "probabilities"]
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3)).astype(np.uint8)
    inputs = (images.transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 127.5
    logits, probabilities = session.run(None, {pixels.name: inputs})
    np.testing.assert_allclose(probabilities, taught.predict(images).probabilities, atol=1e-4)
    np.testing.assert_allclose(softmax(logits), probabilities, atol=1e-5)
    alone = session.run(["probabilities"], {pixels.name: inputs[:1]})[0]
    np.testing.assert_allclose(alone, probabilities[:1], atol=1e-5)


def test_metadata_tells_names_version_backbone_and_preprocessing(tmp_path: Path, taught: Learner) -> None:
    taught.export(tmp_path / "a.onnx")
    metadata = session_of(tmp_path / "a.onnx").get_modelmeta().custom_metadata_map
    info = taught.backbone_info
    assert info is not None
    assert json.loads(metadata["edge_cl.classes"]) == ["door", "größe 3", "z"]
    assert json.loads(metadata["names"]) == {"0": "door", "1": "größe 3", "2": "z"}
    assert (metadata["edge_cl.version"], metadata["edge_cl.parent"]) == ("1", "0")
    assert metadata["edge_cl.backbone_sha256"] == info.sha256
    assert json.loads(metadata["edge_cl.preprocessing"])["input_size"] == [64, 64]
    built = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(built, full_check=True)
    assert built.ir_version == 8
    assert [(o.domain, o.version) for o in built.opset_import] == [("", 17)]
    assert str(tmp_path).encode() not in (tmp_path / "a.onnx").read_bytes()


def test_an_export_is_a_backbone_again(tmp_path: Path, taught: Learner, photos: Photos) -> None:
    taught.export(tmp_path / "a.onnx")
    with Learner.create(tmp_path / "b.ecl", backbone=tmp_path / "a.onnx") as learner:
        info = learner.backbone_info
        assert info is not None
        assert info.dim == 256
        assert info.preprocessing == taught.backbone_info.preprocessing  # type: ignore[union-attr]
        learner.learn_folder(photos("x", "y", folder="more"))
        learner.export(tmp_path / "b.onnx")
    assert session_of(tmp_path / "b.onnx").get_outputs()[0].shape == ["N", 2]


def test_a_learner_of_features_exports_its_head(tmp_path: Path) -> None:
    x, names = clusters(4, 10, 12)
    with Learner.create(":memory:") as learner:
        learner.learn(x, names)
        learner.export(tmp_path / "h.onnx")
        want = learner.predict(x).probabilities
    np.testing.assert_allclose(
        session_of(tmp_path / "h.onnx").run(["probabilities"], {"features": x})[0], want, atol=1e-5
    )
    reference = ReferenceEvaluator(onnx.load(tmp_path / "h.onnx"))
    found = np.asarray(next(iter(reference.run(["probabilities"], {"features": x}))))
    np.testing.assert_allclose(found, want, atol=1e-5)


def test_a_mismatch_writes_nothing_and_keeps_the_old_file(
    tmp_path: Path, taught: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"old")

    def wrong(*args: object) -> onnx.ModelProto:
        model = build(*args)  # type: ignore[arg-type]
        bias = next(w for w in model.graph.initializer if w.name == "head.bias")
        bias.CopyFrom(onnx.numpy_helper.from_array(np.array([1, 0, 0], np.float32), "head.bias"))
        return model

    monkeypatch.setattr("edge_cl.export.kinds.build", wrong)
    with pytest.raises(ExportError, match="logits in onnxruntime differ by"):
        taught.export(path)
    assert path.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.glob("*.onnx")) == ["a.onnx"]


def test_an_export_never_replaces_a_state_or_its_backbone(tmp_path: Path, taught: Learner, photos: Photos) -> None:
    taught.export(tmp_path / "net.onnx")
    with Learner.create(tmp_path / "b.ecl", backbone=tmp_path / "net.onnx") as learner:
        learner.learn_folder(photos("x", "y", folder="more"))
        before = {name: (tmp_path / name).read_bytes() for name in ("a.ecl", "net.onnx")}
        for name in ("a.ecl", "b.ecl", "net.onnx"):
            with pytest.raises(ExportError, match="choose another name"):
                learner.export(tmp_path / name)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_a_target_that_cannot_be_written_is_one_line(tmp_path: Path, taught: Learner) -> None:
    for target, wanted in ((tmp_path, "found a folder"), (tmp_path / "no" / "a.onnx", "cannot be written")):
        with pytest.raises(ExportError, match=wanted) as caught:
            taught.export(target)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="kind"):
        taught.export(tmp_path / "a.onnx", kind="magic")
