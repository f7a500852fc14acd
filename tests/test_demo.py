"""The demo is real: it runs, it remembers, finetune forgets, and the files it writes work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from edge_cl import Learner
from edge_cl.charts import draw_curves
from edge_cl.demo.digits import NAMES, load_digits, split

from .test_cli import as_json, run


def test_digits_are_the_uci_ones() -> None:
    images, digits = load_digits()
    assert images.shape == (1797, 8, 8, 3)
    assert [int((digits == digit).sum()) for digit in range(10)] == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert split(digits).sum() == 400


def test_demo_remembers_where_finetune_forgets(tmp_path: Path, command: list[str]) -> None:
    result = as_json(command, "demo", "--out", tmp_path)
    last = {s["recipe"]: s for s in result["stages"]}
    assert last["edge"]["n_classes"] == last["finetune"]["n_classes"] == 10
    assert last["edge"]["old_accuracy"] > 0.85
    assert last["finetune"]["old_accuracy"] < 0.5
    assert all(s["retention"] > 0.95 for s in result["stages"] if s["recipe"] == "edge" and s["retention"])
    assert abs(result["onnx_accuracy"] - result["accuracy"]) < 0.002
    assert result["onnx_difference"] < 1e-4
    with Learner.open(tmp_path / "demo.ecl", read_only=True) as learner:
        assert sorted(learner.classes) == sorted(NAMES)
    session = onnxruntime.InferenceSession(str(tmp_path / "demo.onnx"), providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["edge_cl.classes"])[0] == "zero"
    with Image.open(tmp_path / "demo.png") as picture:
        assert picture.size == (1000, 620)
    as_json(command, "demo", "--out", tmp_path)  # a second run replaces its own files


def test_demo_leaves_a_state_of_the_users_alone(tmp_path: Path, command: list[str]) -> None:
    with Learner.create(tmp_path / "demo.ecl") as learner:
        learner.learn(np.eye(3), ["a", "b", "c"])
    before = (tmp_path / "demo.ecl").read_bytes()
    assert "is no state of the demo" in run(command, "demo", "--out", tmp_path, status=1).stderr
    assert (tmp_path / "demo.ecl").read_bytes() == before


def test_chart_draws_one_point_and_many() -> None:
    for curves in ({"a": [(1.0, 0.5)]}, {"a": [(1.0, 0.0), (2.0, 1.0)], "b": [(1.0, 0.0), (3.0, 1.0)]}):
        assert draw_curves("t", "x", curves)[:4] == b"\x89PNG"
