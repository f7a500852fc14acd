"""A head on a device gives the answers of the model that an app runs, on real features of photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edge_firmware.bundle import read_bundle
from edge_firmware.keys import keygen
from edge_firmware.packing import pack
from edge_kernels.arrays import Floats, Ints

from edge_cl import Learner

from .c_head import Runtime
from .conftest import shared

N_SAMPLES = 1000


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Floats, Ints]:
    """Return a folder with both bundles of a head of 101 classes, features (N, D) to ask, and the ONNX model's answers.

    The answers (N,) are those of onnxruntime. No feature was learnt, and the range was not measured on them.
    """
    onnxruntime = pytest.importorskip("onnxruntime")
    data = np.load(shared("data/features/caltech101_mobilenet_v2.npz"))
    features, is_learnt = data["X"].astype(np.float32), data["train"]
    names = data["classes"][data["y"]].astype(str)
    folder = tmp_path_factory.mktemp("agreement")
    keygen(folder / "key.pem")
    with Learner.create(":memory:") as learner:
        some = np.flatnonzero(is_learnt)[::2]
        learner.learn(features[some], names[some])
        learner.export(folder / "model.onnx")
        for rows in ("int8", "float32"):
            pack(learner, folder / rows, key=folder / "key.pem", product="camera", float32=rows == "float32")
    others = np.random.default_rng(0).permutation(np.flatnonzero(~is_learnt))[:N_SAMPLES]
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {session.get_inputs()[0].name: features[others]})
    return folder, features[others], np.asarray(logits.argmax(axis=1), np.int64)


@pytest.mark.parametrize(("rows", "least"), [("float32", 1.0), ("int8", 0.995)])
def test_a_device_answers_as_the_app_does(
    learnt: tuple[Path, Floats, Ints], tmp_path: Path, rows: str, least: float
) -> None:
    folder, features, answers = learnt
    assert len(features) == N_SAMPLES
    assert len(np.unique(answers)) > 90
    runtime = Runtime(tmp_path, "-O2")
    opened = runtime.open(read_bundle(folder / rows).blob)
    assert opened.error == "OK"
    given = opened.quantise(features) if rows == "int8" else features
    found = [runtime.argmax(logits) for logits in opened.logits(given)]
    agreement = float((np.array(found) == answers).mean())
    assert agreement >= least
