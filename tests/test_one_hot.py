"""Ridge regression on the classes: against the normal equations over all samples, and against leaving each one out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_cl.errors import InputError
from edge_cl.learning.one_hot import fit
from edge_cl.memory import Memory
from edge_cl.recipes import RECIPES, get_recipe
from edge_cl.statistics import Statistics
from edge_cl.update import propose

from .learning_task import blobs


def normal_equations(x: np.ndarray, y: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return weights (K, D), bias (K,) and the hat matrix (N, N), with a level that is not held down."""
    x, targets = x.astype(np.float64), np.eye(int(y.max()) + 1)[y]
    about = x - x.mean(axis=0)
    inverse = np.linalg.inv(about.T @ about + strength * np.eye(x.shape[1]))
    weights = targets.T @ about @ inverse
    return weights, targets.mean(axis=0) - weights @ x.mean(axis=0), about @ inverse @ about.T + 1 / len(x)


def strength_of(x: np.ndarray, ridge: float) -> float:
    return float(ridge * float(np.square(x - x.mean(axis=0, dtype=np.float64)).sum()) / x.shape[1])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n_samples=st.integers(4, 60),
    dim=st.integers(1, 12),
    ridge=st.sampled_from([1.0, 1e-2, 1e-4]),
    unit=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_it_is_the_normal_equations_and_generalised_cross_validation(
    seed: int, n_samples: int, dim: int, ridge: float, unit: float
) -> None:
    x, y = blobs(n_samples, dim, range(3), seed)
    x = (unit * x).astype(np.float32)
    found = fit(Statistics.empty(dim, has_scatter=True).learn(x, y, 3), ridge)
    weights, bias, hat = normal_equations(x, y, strength_of(x, ridge))
    scale = np.abs(weights).max()
    np.testing.assert_allclose(found.rows / scale, weights / scale, atol=2e-3)
    np.testing.assert_allclose(found.level - found.rows @ found.centre, bias, atol=2e-3 * (1 + np.abs(bias).max()))
    missed = np.eye(3)[y] - x @ weights.T - bias
    free = n_samples - float(np.trace(hat))
    if free > 0.06 * n_samples:
        assert found.loss == pytest.approx(n_samples * float((missed**2).sum()) / free**2, rel=1e-2, abs=1e-5)
    elif free < 0.04 * n_samples:
        assert found.loss == np.inf  # nothing is left to tell the error by


def test_a_strength_below_the_rounding_of_the_sums_is_not_taken() -> None:
    """Sums that many updates have rounded may be no second moment any more: 10^-4 of a variance does not mend that."""
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(4000, 1)) + np.arange(4000)[:, None] % 2).astype(np.float32), np.arange(4000) % 2
    x = np.tile(x, 60)
    statistics = Statistics.empty(60, has_scatter=True).learn(x, y, 2)
    assert statistics.scatter is not None
    noise = np.tril(rng.normal(size=(60, 60)), -1)
    damaged = (statistics.scatter * (1 + 2.0**-24 * 10**3.5 * (noise + noise.T))).astype(np.float32)
    with pytest.raises(np.linalg.LinAlgError):
        fit(Statistics(statistics.counts, statistics.means, damaged), 1e-4)
    memory = Memory.empty(60, has_scatter=True, replay_bytes=0, seed=0)
    memory = propose(memory, RECIPES["ridge"], x, [f"c{k}" for k in y]).memory
    memory = replace(memory, statistics=replace(memory.statistics, scatter=damaged))
    with pytest.raises(InputError, match=r"penalty: less than the rounding of sums in float32; found 1e-06"):
        propose(memory, get_recipe("ridge", penalty=1e-6), x[:2], ["c0", "c1"])
    head = propose(memory, RECIPES["ridge"], x[:2], ["c0", "c1"]).memory.head
    assert (head.logits(x).argmax(axis=1) == (x[:, 0] > 0.5)).mean() > 0.9


def test_leaving_one_out_is_learning_the_others() -> None:
    x, y = blobs(40, 6, range(3))
    found = fit(Statistics.empty(6, has_scatter=True).learn(x, y, 3), 0.1)
    unseen = found.leave_one_out(x, y, 40)
    for n in range(40):
        others = np.arange(40) != n
        weights, bias, _ = normal_equations(x[others], y[others], strength_of(x, 0.1))
        np.testing.assert_allclose(unseen[n], x[n] @ weights.T + bias, atol=1e-3)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(1, 59), max_size=5))
def test_order_and_batches_do_not_matter(seed: int, cuts: list[int]) -> None:
    x, y = blobs(60, 5, range(4))
    order, names = np.random.default_rng(seed).permutation(60), [f"c{k}" for k in y]
    answers = []
    for batches in ([np.arange(60)], np.split(order, sorted(set(cuts)))):
        memory = Memory.empty(5, has_scatter=True, replay_bytes=0, seed=0)
        for rows in batches:
            memory = propose(memory, RECIPES["ridge"], x[rows], [names[n] for n in rows]).memory
        by_name = np.argsort(memory.head.classes)
        logits = memory.head.logits(x)[:, by_name]
        answers.append((logits - logits.mean()) / logits.std())  # the factor is calibrated on each batch
    np.testing.assert_allclose(answers[1], answers[0], atol=2e-3)


def test_the_strength_suits_the_samples() -> None:
    """Few samples of many features want a firm ridge; many samples of few features hardly any."""
    rng = np.random.default_rng(0)
    for n_samples, dim in ((30, 60), (3000, 6)):
        centres = rng.normal(size=(3, dim)) * 4 / dim**0.5
        y = np.arange(2 * n_samples) % 3
        x = (centres[y] + rng.normal(size=(len(y), dim))).astype(np.float32)
        memory = Memory.empty(dim, has_scatter=True, replay_bytes=0, seed=0)
        names = [f"c{k}" for k in y]
        memory = propose(memory, RECIPES["ridge"], x[:n_samples], names[:n_samples]).memory
        right = [memory.head.classes[k] for k in memory.head.logits(x[n_samples:]).argmax(axis=1)]
        loose, *_ = normal_equations(x[:n_samples], y[:n_samples], 1e-6)
        plain = (x[n_samples:] - x[:n_samples].mean(axis=0)) @ loose.T
        found, want = np.mean(np.array(right) == names[n_samples:]), np.mean(plain.argmax(axis=1) == y[n_samples:])
        assert found >= want - 0.005
        assert n_samples > dim or found > want + 0.02
