"""The main job on real photos and a real user's backbone, through the command line: 101 classes in ten updates."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from edge_cl import Learner

from .conftest import shared
from .test_cli import as_json


def test_ten_updates_of_ten_classes_remember_them_all(tmp_path: Path, command: list[str]) -> None:
    backbone = shared("backbones/mobilenet_v2_imagenet.onnx")
    train, test = shared("data/caltech101/train"), shared("data/caltech101/test")
    cam = tmp_path / "cam.ecl"
    as_json(command, "new", cam, "--backbone", backbone)
    classes = np.random.default_rng(0).permutation(sorted(path.name for path in train.iterdir()))
    for task, names in enumerate(np.array_split(classes, 10)):
        folder = tmp_path / f"task{task}"
        folder.mkdir()
        for name in names:
            (folder / name).symlink_to(train / name)
        report = as_json(command, "learn", cam, folder)
        assert report["committed"]
        assert report["version"] == task + 1
        assert report["retention"] >= 0.95
        assert report["skipped"] == []
        shutil.rmtree(folder)
    result = as_json(command, "eval", cam, test)
    assert result["n"] == 1204
    assert result["accuracy"] >= 0.90
    assert min(result["per_class"].values()) >= 0.30
    # what the last report said of unseen samples is what unseen photos show: 388 records, two standard errors
    assert report["accuracy_after"] == pytest.approx(result["accuracy"], abs=0.04)
    as_json(command, "export", cam, tmp_path / "cam.onnx")
    photo = next((test / "cup").iterdir())
    session = onnxruntime.InferenceSession(str(tmp_path / "cam.onnx"), providers=["CPUExecutionProvider"])
    with Image.open(photo) as image:
        pixels = np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR), np.float32)
    found = session.run(["probabilities"], {"pixels": (pixels.transpose(2, 0, 1)[None] - 127.5) / 127.5})[0]
    with Learner.open(cam, read_only=True) as learner:
        np.testing.assert_allclose(found, learner.predict([photo]).probabilities, atol=1e-4)


def test_recipes_keep_their_order_on_real_features() -> None:
    path = shared("data/features/caltech101_mobilenet_v2.npz")
    with np.load(path) as data:
        x, y, train = data["X"].astype(np.float32), data["classes"][data["y"]], data["train"]
    classes = np.random.default_rng(1).permutation(np.unique(y))
    accuracy = {}
    for recipe in ("edge", "slda", "replay", "finetune"):
        with Learner.create(":memory:", recipe=recipe) as learner:
            for names in np.array_split(classes, 10):
                rows = np.isin(y, names) & train
                learner.learn(x[rows], y[rows], min_retention=0)
            accuracy[recipe] = learner.evaluate(x[~train], y[~train]).accuracy
    assert accuracy["edge"] >= 0.92
    assert accuracy["edge"] >= accuracy["slda"] - 0.002
    assert accuracy["edge"] > accuracy["replay"] > accuracy["finetune"]
