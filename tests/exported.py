"""Learners of every form of head, for the tests of exports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edge_cl import Learner

from .conftest import clusters

Array = NDArray[Any]
DIM = 12


def linear() -> Learner:
    learner = Learner.create(":memory:")
    learner.learn(*clusters(4, 10, DIM))
    return learner


def looking() -> Learner:
    """Return a learner whose classes were seen from several sides; of one fewer than of the others."""
    learner = Learner.create(":memory:")
    rng = np.random.default_rng(5)
    for look, classes in enumerate((4, 4, 3)):
        labels = np.arange(80) % classes
        means = np.random.default_rng(look).normal(size=(4, DIM)) * 2
        x = (means[labels] + rng.normal(size=(80, DIM))).astype(np.float32)
        learner.learn(x, [f"c{k}" for k in labels], min_retention=0)
    assert learner.looks
    return learner


def cosine() -> Learner:
    learner = Learner.create(":memory:", head="cosine")
    learner.learn(*clusters(4, 10, DIM))
    return learner


def mlp() -> Learner:
    learner = Learner.create(":memory:", head="mlp", hidden_units=8)
    learner.learn(*clusters(4, 40, DIM, spread=3))
    return learner


def raised() -> Learner:
    learner = Learner.create(":memory:")
    x, names = clusters(4, 10, DIM)
    learner.learn(np.abs(x), names)
    return learner


def randomised() -> Learner:
    learner = Learner.create(":memory:", random_features=32)
    learner.learn(*clusters(4, 10, DIM))
    return learner


def tasks() -> Learner:
    learner = Learner.create(":memory:")
    x, names = clusters(4, 10, DIM)
    learner.learn(x[:20], names[:20], task="front")
    learner.learn(x[20:], names[20:], task="back")
    return learner


def regression() -> Learner:
    learner = Learner.create(":memory:", head="regression")
    x, _ = clusters(4, 10, DIM)
    learner.learn(x, np.stack([x[:, 0] - x[:, 1], x.sum(axis=1)], axis=1))
    return learner


FORMS: dict[str, Callable[[], Learner]] = {
    form.__name__: form for form in (linear, looking, cosine, mlp, raised, randomised, tasks, regression)
}


def asked(n: int = 40, seed: int = 9) -> Array:
    """Return features (n, DIM) that were not learnt, none of them negative."""
    return np.abs(clusters(4, n // 4, DIM, seed=seed)[0])


def answers(learner: Learner, x: Array) -> Array:
    """Return the probabilities (n, K) that a learner gives, of all tasks; or values."""
    head = learner.head
    features = learner._extract_inputs(x, int)[0].features
    return head.logits(features) if head.kind == "regression" else head.predict(features)


def run(path: Path, *outputs: str, **inputs: Array) -> list[Array]:
    """Return what onnxruntime makes of an exported file; all outputs unless some are named."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(list(outputs) or None, inputs)
    return found
