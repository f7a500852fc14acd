"""The objective against finite differences; the minimiser against the condition of a minimum."""

from __future__ import annotations

import numpy as np
import pytest

from edge_cl.refine import Objective, brier_score, cross_entropy, minimise


def objective(pull: float = 0.5, seed: int = 0) -> Objective:
    rng = np.random.default_rng(seed)
    return Objective(
        rng.normal(size=(30, 7)).astype(np.float32),
        rng.normal(size=(30, 4)).astype(np.float32),
        rng.integers(0, 4, 30),
        rng.uniform(0.5, 2, 30).astype(np.float32),
        (pull * rng.uniform(0.5, 2, (4, 7))).astype(np.float32),
    )


def test_gradient_is_the_slope_of_the_loss() -> None:
    problem = objective()
    rng = np.random.default_rng(1)
    shift, direction = (rng.normal(size=(4, 7)).astype(np.float32) for _ in range(2))
    step = 1e-2
    slope = (problem.value(shift + step * direction)[0] - problem.value(shift - step * direction)[0]) / (2 * step)
    assert slope == pytest.approx(float(np.vdot(problem.value(shift)[1], direction)), rel=1e-3)


def test_loss_is_weighted_cross_entropy_and_pull() -> None:
    problem = objective()
    shift = np.random.default_rng(2).normal(size=(4, 7)).astype(np.float32)
    entropy = cross_entropy(problem.offsets + problem.inputs @ shift.T, problem.labels)
    want = problem.sample_weights @ entropy + 0.5 * (problem.pull * shift**2).sum()
    assert problem.value(shift)[0] == pytest.approx(want, rel=1e-6)


def test_minimum_has_no_slope() -> None:
    problem = objective()
    start = np.zeros((4, 7), np.float32)
    found = minimise(problem, start)
    assert np.linalg.norm(problem.value(found)[1]) < 1e-2 * np.linalg.norm(problem.value(start)[1])


@pytest.mark.parametrize("pull", [0.0, 1e-6, 1.0, 1e6, 1e12])
def test_no_pull_makes_it_diverge(pull: float) -> None:
    problem = objective(pull)
    start = np.zeros((4, 7), np.float32)
    found = minimise(problem, start)
    assert np.isfinite(found).all()
    assert problem.value(found)[0] <= problem.value(start)[0]
    if pull >= 1e6:
        assert np.abs(found).max() < 1e-3


def test_separable_samples_without_pull_stay_finite() -> None:
    x = np.eye(4, dtype=np.float32)
    problem = Objective(x, np.zeros((4, 4), np.float32), np.arange(4), np.ones(4, np.float32), 0.0)
    found = minimise(problem, np.zeros((4, 4), np.float32))
    assert np.isfinite(found).all()
    assert ((x @ found.T).argmax(axis=1) == np.arange(4)).all()


def test_brier_score_is_the_squared_distance_from_the_label() -> None:
    rng = np.random.default_rng(0)
    logits, y = rng.normal(scale=30, size=(20, 5)), rng.integers(0, 5, 20)
    logits[y != 2, 2] = -np.inf  # a class that the sample cannot be
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(brier_score(logits.astype(np.float32), y), ((p - np.eye(5)[y]) ** 2).sum(1), atol=1e-4)
