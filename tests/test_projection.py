"""Projected gradients: against the conditions of a minimum, and against another solver."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_cl.devices import HOST
from edge_cl.learning.projection import STEPS, descend, gather, project, solve_dual
from edge_cl.refine import Objective

from .learning_task import blobs


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), n_memories=st.integers(1, 30), shared=st.sampled_from([0.0, 1.0, 5.0]))
def test_the_dual_meets_the_conditions_of_its_minimum(seed: int, n_memories: int, shared: float) -> None:
    rng = np.random.default_rng(seed)
    memories = rng.normal(size=(n_memories, 40)) + shared * rng.normal(size=40)
    slopes = memories @ rng.normal(size=40)
    found = solve_dual(memories @ memories.T, slopes)
    gradient = memories @ (memories.T @ found) + slopes
    scale = 1e-4 * float(np.abs(slopes).max())
    assert (found >= 0).all()
    assert gradient.min() >= -scale
    assert abs(float(found @ gradient)) <= scale * max(1.0, float(found.sum()))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), n_memories=st.integers(1, 20))
def test_the_projection_is_that_of_another_solver(seed: int, n_memories: int) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(seed)
    memories, gradient = rng.normal(size=(n_memories, 40)), rng.normal(size=40)
    factors, _ = optimize.nnls(memories.T, -gradient)  # the nearest point of the polar cone, negated
    found = project(gradient.astype(np.float32), memories.astype(np.float32), HOST)
    np.testing.assert_allclose(found, gradient + factors @ memories, atol=1e-4)


def test_equal_memories_are_as_one() -> None:
    rng = np.random.default_rng(0)
    memory, gradient = rng.normal(size=(1, 9)).astype(np.float32), rng.normal(size=9).astype(np.float32)
    gradient -= 3 * memory[0]
    once, twice = (project(gradient, np.repeat(memory, n, axis=0), HOST) for n in (1, 2))
    np.testing.assert_allclose(twice, once, atol=1e-4)


def test_with_one_memory_it_is_a_gem() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        memory, gradient = rng.normal(size=9).astype(np.float32), rng.normal(size=9).astype(np.float32)
        overlap = float(memory @ gradient)
        want = gradient - overlap / float(memory @ memory) * memory if overlap < 0 else gradient
        np.testing.assert_allclose(project(gradient, memory[None], HOST), want, rtol=1e-4, atol=1e-5)


def objective(inputs: np.ndarray, labels: np.ndarray, n_classes: int) -> Objective:
    offsets = np.zeros((len(inputs), n_classes), np.float32)
    return Objective(inputs, offsets, labels, np.ones(len(inputs), np.float32), 0.1)


def losses_of_old(shift: np.ndarray, x: np.ndarray, y: np.ndarray) -> list[float]:
    return [
        objective(x[y == k], y[y == k], len(shift)).value(shift)[0] - 0.05 * float((shift**2).sum()) for k in set(y)
    ]


@pytest.mark.parametrize("is_average", [True, False])
def test_no_memory_is_worse_off_than_without_the_constraint(is_average: bool) -> None:
    (x, y), (new, labels) = blobs(40, 8, range(3)), blobs(60, 8, range(3, 5))
    problem = objective(new, labels, 5)
    memories = gather(x, np.zeros((40, 5), np.float32), y, is_average=is_average)
    assert len(memories.groups) == (1 if is_average else 3)
    free = descend(problem, gather(x[:0], np.zeros((0, 5), np.float32), y[:0], is_average=is_average))
    bound = descend(problem, memories)
    start, bound_losses = np.log(5) * 40, losses_of_old(bound, x, y)
    assert sum(losses_of_old(free, x, y)) > 1.3 * start
    assert sum(bound_losses) < 1.05 * start  # steps are finite: a loss may rise by what is of second order in them
    if not is_average:
        assert (np.array(bound_losses) < 1.05 * np.log(5) * np.bincount(y)).all()
    assert problem.value(bound)[0] < 0.5 * problem.value(0 * bound)[0]


def test_without_memories_it_is_gradient_descent_that_never_loses() -> None:
    x, y = blobs(60, 8, range(3))
    problem = objective(100 * x, y, 3)
    nothing = gather(x[:0], np.zeros((0, 3), np.float32), y[:0], is_average=False)
    assert nothing.groups == []
    found = descend(problem, nothing)
    assert problem.value(found)[0] < 0.2 * problem.value(0 * found)[0]
    assert STEPS > 0


def test_more_classes_than_a_step_can_hold_share_memories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_cl.learning.projection.MOST_VALUES", 3 * 10 * 4)
    y = np.repeat(np.arange(10), 2)
    memories = gather(np.ones((20, 4), np.float32), np.zeros((20, 10), np.float32), y, is_average=False)
    assert len(memories.groups) == 3
    assert sorted(np.concatenate(memories.groups).tolist()) == list(range(20))
