"""Distillation: against finite differences, and where the student is the teacher."""

from __future__ import annotations

import numpy as np
import pytest

from edge_cl.head import softmax
from edge_cl.learning.distillation import TEMPERATURE, Distilled, distil
from edge_cl.refine import Objective


def made(before: np.ndarray | None = None) -> Distilled:
    """Return a problem of 5 classes, 3 of them old, whose anchor is the teacher unless another is given."""
    rng = np.random.default_rng(0)
    offsets = rng.normal(size=(20, 5)).astype(np.float32)
    inputs, labels = rng.normal(size=(20, 4)).astype(np.float32), rng.integers(0, 5, 20)
    weights = rng.uniform(0.5, 2, 20).astype(np.float32)
    prior = np.array([0.5, -1, 0, 2, 0], np.float32)
    problem = Objective(inputs, offsets + prior, labels, weights, 0.3)
    return distil(problem, offsets[:, :3] if before is None else before, prior)


def test_gradient_is_the_slope_of_the_loss() -> None:
    before = np.random.default_rng(3).normal(size=(20, 3)).astype(np.float32)
    before[:4] = -np.inf  # of tasks that have no old class
    before[4:9, 1] = -np.inf
    problem, rng = made(before), np.random.default_rng(1)
    shift, direction = (rng.normal(size=(5, 4)).astype(np.float32) for _ in range(2))
    step = 1e-2
    slope = (problem.value(shift + step * direction)[0] - problem.value(shift - step * direction)[0]) / (2 * step)
    assert slope == pytest.approx(float(np.vdot(problem.value(shift)[1], direction)), rel=1e-3)


def test_loss_is_the_cross_entropy_of_both_heads_answers_at_the_temperature() -> None:
    before = np.random.default_rng(3).normal(size=(20, 3)).astype(np.float32)
    problem, shift = made(before), np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    logits = problem.offsets + problem.inputs @ shift[:3].T
    answers = softmax(before / TEMPERATURE)
    each = -(answers * np.log(softmax(logits / TEMPERATURE))).sum(axis=1)
    want = problem.objective.value(shift)[0] + float(problem.weights @ each)
    assert problem.value(shift)[0] == pytest.approx(want, rel=1e-5)


def test_a_student_that_is_the_teacher_is_taught_nothing() -> None:
    problem, shift = made(), np.zeros((5, 4), np.float32)
    np.testing.assert_allclose(problem.value(shift)[1], problem.objective.value(shift)[1], atol=1e-5)


def test_new_rows_are_not_taught() -> None:
    problem, shift = made(np.random.default_rng(3).normal(size=(20, 3))), np.zeros((5, 4), np.float32)
    np.testing.assert_array_equal(problem.value(shift)[1][3:], problem.objective.value(shift)[1][3:])


def test_samples_of_a_new_task_have_no_teacher() -> None:
    problem, shift = made(np.full((20, 3), -np.inf)), np.ones((5, 4), np.float32)
    loss, gradient = problem.value(shift)
    assert loss == problem.objective.value(shift)[0]
    np.testing.assert_array_equal(gradient, problem.objective.value(shift)[1])
