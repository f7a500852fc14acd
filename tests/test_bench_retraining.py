"""The cost of retraining: both ways see the same photos, and the figures are what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_cl import Learner
from edge_cl.bench.joint import fit_joint

from .conftest import Photos, clusters

TOOLS = Path(__file__).resolve().parents[1] / "tools"
TOOL = TOOLS / "bench_retraining.py"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return import_module("bench_retraining")


def run(*options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(TOOL), *map(str, options)], capture_output=True, text=True, check=False)


@pytest.fixture
def folders(photos: Photos) -> tuple[Path, Path]:
    names = ("door", "window", "mail box", "gate")
    return photos(*names, folder="train", n_images=5), photos(*names, folder="test", n_images=3, seed=1)


def test_retraining_sees_all_photos_again_and_learning_only_the_new_ones(folders: tuple[Path, Path]) -> None:
    train, test = folders
    done = run("--backbone", "tiny", "--train", train, "--test", test, "--tasks", 2, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    counts = [(update["classes"], update["new_photos"], update["photos"]) for update in found["updates"]]
    assert counts == [(2, 10, 10), (4, 10, 20)]
    dim = found["dim"]
    head = 4 * 4 * (dim + 1)
    last = found["updates"][-1]
    assert last["retrain"]["kept_bytes"] == sum(photo.stat().st_size for photo in train.glob("*/*")) + head
    assert last["retrain_from_features"]["kept_bytes"] == 4 * 20 * dim + head
    for update in found["updates"]:
        assert update["learn"]["accuracy"] == update["retrain"]["accuracy"] == 1  # four patterns that nobody mistakes
        training = update["retrain"]["seconds"] - update["retrain"]["seconds_extracting"]
        cached = update["retrain_from_features"]
        assert cached["seconds"] == pytest.approx(update["learn"]["seconds_extracting"] + training)
        assert training > 0
    summary = found["summary"]
    for key in ("seconds", "kept_bytes"):
        share = summary["learn"][key] / summary["retrain"][key]
        assert summary[f"learn_of_retrain_{key}"] == pytest.approx(share)
    assert summary["learn"]["seconds"] == pytest.approx(sum(u["learn"]["seconds"] for u in found["updates"]))


def test_a_table_comes_out_too(folders: tuple[Path, Path]) -> None:
    train, test = folders
    done = run("--backbone", "tiny", "--train", train, "--test", test, "--tasks", 1, "--decay", 0.01)
    assert done.stdout.startswith("| classes | new photos | photos | learn s | retrain s |")
    assert "- learn of retrain seconds: " in done.stdout


def test_the_head_that_is_trained_anew_is_the_joint_one(tool: ModuleType) -> None:
    x, names = clusters(5, 30, 12, spread=2.0)
    labels = np.array([int(name[1:]) for name in names])
    ours, joint = tool.train_head(x, labels, 5, 1e-2), fit_joint(x, labels, 5, 1e-2)
    unseen, _ = clusters(5, 200, 12, seed=9, spread=2.0)
    # both minimise the same loss, one with all of its rounds: within what L-BFGS stops at
    assert np.abs(ours.logits(unseen) - joint.logits(unseen)).max() < 0.05 * np.abs(joint.logits(unseen)).max()
    assert (ours.logits(unseen).argmax(1) == joint.logits(unseen).argmax(1)).mean() > 0.99


def test_learning_reports_what_the_state_keeps(tool: ModuleType) -> None:
    x, names = clusters(3, 10, 8)
    with Learner.create(":memory:") as learner:
        cost = tool.learn(learner, (x, names), (x[:5], names[:5]))
        sizes = learner.state_bytes
    assert cost.kept_bytes == sum(sizes.values()) - sizes["versions"]
    assert cost.accuracy == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [(("--tasks", 9), "--tasks: expected 1 to 4"), (("--tasks", 0), "--tasks: expected 1 to 4")],
)
def test_wrong_options_end_in_one_line(folders: tuple[Path, Path], options: tuple[object, ...], said: str) -> None:
    train, test = folders
    done = run("--backbone", "tiny", "--train", train, "--test", test, *options)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert said in done.stderr


def test_a_missing_folder_ends_in_one_line(tmp_path: Path) -> None:
    done = run("--backbone", "tiny", "--train", tmp_path / "none", "--test", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "expected a folder of class folders; found nothing" in done.stderr
