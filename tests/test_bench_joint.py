"""The joint head is the minimum that it claims to be, and its weight decay the one that left-out samples like best."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from edge_kernels.arrays import Floats
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_cl.bench import joint
from edge_cl.bench.course import NONE, measure
from edge_cl.bench.streams import class_incremental
from edge_cl.head import softmax

from .test_bench_accuracy import data_of


def joint_loss(features: Floats, labels: Any, head: joint.JointHead, weights: Floats, bias: Floats) -> float:
    """Return what the joint head claims to have minimised, in float64, in the units that its decay counts in."""
    scale = float(np.square(features - features.mean(axis=0), dtype=np.float64).mean() ** 0.5)
    logits = (features - head.centre).astype(np.float64) @ weights.T.astype(np.float64) + bias
    p = softmax(logits)[np.arange(len(labels)), labels]
    return float(-np.log(p).mean() + 0.5 * head.decay * np.square(weights * scale, dtype=np.float64).sum())


@settings(max_examples=15)
@given(st.integers(2, 5), st.integers(3, 30), st.sampled_from([1e-3, 1.0, 1e4]), st.integers(0, 99))
def test_the_joint_head_is_a_minimum(n_classes: int, dim: int, unit: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.arange(8 * n_classes) % n_classes
    features = (unit * (rng.normal(size=(len(labels), dim)) + np.eye(n_classes, dim)[labels] + 3)).astype(np.float32)
    head = joint.fit_joint(features, labels, n_classes, 0.01)
    least = joint_loss(features, labels, head, head.weights, head.bias)
    for _ in range(5):
        push = rng.normal(size=head.weights.shape) * 0.02 / unit
        assert joint_loss(features, labels, head, head.weights + push, head.bias) > least - 1e-5
        assert joint_loss(features, labels, head, head.weights, head.bias + 0.02 * rng.normal(size=n_classes)) > (
            least - 1e-5
        )


def test_the_joint_head_is_scikit_learns() -> None:
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    data = data_of(n_classes=5, n_samples=60, dim=12, spread=2.5)
    assert data.is_train is not None
    x, y = data.features[data.is_train], data.labels[data.is_train]
    scale = np.square(x - x.mean(axis=0)).mean() ** 0.5
    for decay in (1e-1, 1e-2, 1e-3):
        head = joint.fit_joint(x, y, 5, decay)
        other = linear.LogisticRegression(C=1 / (decay * len(x)), tol=1e-8, max_iter=10_000).fit(x / scale, y)
        found, wanted = softmax(head.logits(data.features)), other.predict_proba(data.features / scale)
        np.testing.assert_allclose(found, wanted, atol=5e-3)  # L-BFGS stops when a step gains 10^-5 of the loss


@pytest.mark.parametrize(("spread", "least", "greatest"), [(8.0, 3e-2, 1.0), (1.0, 1e-6, 3e-3)])
def test_the_decay_is_the_one_that_cross_validation_likes_best(spread: float, least: float, greatest: float) -> None:
    data = data_of(n_classes=4, n_samples=30, dim=20, spread=spread)
    x, y = data.features, data.labels
    chosen = joint.fit_joint(x, y, 4).decay
    folds = joint.folds_of(y)
    for k in range(4):
        assert np.ptp(np.bincount(folds[y == k], minlength=5)) <= 1

    def loss(decay: float) -> float:
        parts = []
        for fold in range(5):
            head = joint.fit_joint(x[folds != fold], y[folds != fold], 4, decay)
            held = folds == fold
            parts.append(-np.log(softmax(head.logits(x[held]))[np.arange(held.sum()), y[held]]))
        return float(np.concatenate(parts).mean())

    assert least <= chosen <= greatest
    near = [decay for decay in joint.DECAYS if chosen / 4 < decay < chosen * 4]
    losses = {decay: loss(decay) for decay in near}
    assert losses[chosen] <= 1.02 * min(losses.values())  # the folds' own centre and scale differ a little


@pytest.mark.parametrize("sizes", [[1, 1, 1], [1, 5, 9], [2, 2, 2]])
def test_the_joint_head_of_a_handful(sizes: list[int]) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), sizes)
    features = (rng.normal(size=(len(labels), 40)) + 4 * np.eye(3, 40)[labels]).astype(np.float32)
    head = joint.fit_joint(features, labels, 3)
    assert (head.logits(features).argmax(axis=1) == labels).all()
    flat = joint.fit_joint(np.ones((6, 4), np.float32), np.arange(6) % 3, 3)
    assert np.isfinite(flat.logits(np.ones((2, 4), np.float32))).all()


def test_the_joint_head_is_the_same_for_every_class_order() -> None:
    data = data_of(spread=2.0)
    reference = joint.JointReference()
    courses = [(stream, reference.follow(stream)) for stream in (class_incremental(data, 3, seed) for seed in (0, 1))]
    answers = []
    for stream, course in courses:
        assert (course.answers[:-1] == NONE).all()
        answers.append(dict(zip(stream.asked(2).tolist(), course.answers[-1].tolist(), strict=True)))
        figures = measure(stream, course)
        assert math.isnan(figures["average_incremental_accuracy"])
        assert math.isnan(figures["forgetting"])
        assert figures["final_accuracy"] > 0.5
    assert answers[0] == answers[1]


def test_the_joint_head_learns_what_its_stream_learns() -> None:
    data = data_of(spread=2.0)
    reference = joint.JointReference()
    streams = [class_incremental(data, 3, seed, per_class=2) for seed in (0, 1)]
    first, second = (reference.follow(stream) for stream in streams)
    rows = np.sort(np.concatenate(streams[1].train))
    head = joint.fit_joint(data.features[rows], data.labels[rows], 6, reference.decay)
    asked = data.features[streams[1].asked(2)]
    np.testing.assert_array_equal(second.answers[-1], head.logits(asked).argmax(axis=1))
    assert not np.array_equal(np.sort(first.confidences), np.sort(second.confidences))
    assert second.n_bytes["samples"] == 12 * (4 * 8 + 8)
