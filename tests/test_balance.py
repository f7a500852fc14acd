"""Balance: what samples count, and how loud new rows may be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_cl.learning.balance import STAY, Loudness, correct, fit_new_logits, weigh
from edge_cl.learning.task import Learnt
from edge_cl.recipes import RECIPES
from edge_cl.refine import cross_entropy

from .learning_task import blobs, make_task

PLAIN = RECIPES["replay"]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), n_stored=st.integers(0, 30), n_new=st.integers(1, 50))
def test_weights_make_classes_count_what_the_recipe_says(seed: int, n_stored: int, n_new: int) -> None:
    task = make_task(blobs(30, 3, range(3), seed), blobs(n_new, 3, range(2, 5), seed + 1), n_stored=n_stored)
    train = np.random.default_rng(seed).random(len(task.labels)) < 0.8
    labels = task.labels[train]
    present = np.unique(labels)
    sums = {}
    for balance in ("none", "seen", "classes", "logits"):
        weights, prior = weigh(task, replace(PLAIN, balance=balance), train)
        sums[balance] = np.bincount(labels, weights, minlength=len(task.bias))[present]
        assert (prior != 0).any() == (balance == "logits")
    np.testing.assert_array_equal(sums["none"], np.bincount(labels)[present])
    np.testing.assert_array_equal(sums["logits"], sums["none"])
    np.testing.assert_allclose(sums["seen"], task.statistics.counts[present], rtol=1e-5)
    if len(present):
        np.testing.assert_allclose(sums["classes"], len(labels) / len(present), rtol=1e-5)


def test_the_prior_is_the_logarithm_of_the_classes_shares() -> None:
    task = make_task(blobs(4, 3, range(2)), (np.ones((100, 3)), np.repeat([2, 3], [90, 10])))
    _, prior = weigh(task, replace(PLAIN, balance="logits"), np.ones(100, bool))
    np.testing.assert_allclose(np.exp(prior), np.array([1, 1, 91, 11]) / 104, rtol=1e-5)


def loud(factor: float, offset: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits of a calibrated head of 3 old and 2 new classes, the new ones made louder, and labels."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(4000, 5))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    logits[:, 3:] = factor * logits[:, 3:] + offset
    return logits.astype(np.float32), labels


@pytest.mark.parametrize(("factor", "offset"), [(1.0, 0.0), (3.0, 2.0), (0.5, -1.0)])
def test_loud_logits_are_brought_back(factor: float, offset: float) -> None:
    found = fit_new_logits(*loud(factor, offset), 3)
    assert found[0] * factor == pytest.approx(1, abs=0.15)
    assert found[0] * offset + found[1] == pytest.approx(0, abs=0.3)


def test_gradient_is_the_slope_of_the_loss() -> None:
    logits, labels = loud(2.0, 1.0)
    logits = np.where((np.arange(5) == 4) & (labels != 4)[:, None], -np.inf, logits)
    problem = Loudness(logits[:, :3], logits[:, 3:], labels, np.ones(len(labels), np.float32))
    shift, step = np.array([[0.5], [0.2]]), np.array([[0.01], [0.02]])
    slope = (problem.value(shift + step)[0] - problem.value(shift - step)[0]) / 2
    assert slope == pytest.approx(float((problem.value(shift)[1] * step).sum()), rel=1e-3)


def test_factor_and_offset_are_those_of_the_least_loss() -> None:
    logits, labels = loud(2.0, 1.0)
    weights = 1 / np.bincount(labels)[labels]

    def loss(factor: float, offset: float) -> float:
        tried = np.concatenate([logits[:, :3], factor * logits[:, 3:] + offset], axis=1)
        return float(weights @ cross_entropy(tried, labels)) + 0.5 * STAY * ((factor - 1) ** 2 + offset**2)

    best = fit_new_logits(logits, labels, 3)
    for step in ((0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)):
        assert loss(*best) < loss(best[0] + step[0], best[1] + step[1])


@pytest.mark.parametrize("labels", [np.array([0, 1]), np.array([3, 4]), np.zeros(0, int)])
def test_samples_of_one_kind_say_nothing(labels: np.ndarray) -> None:
    assert fit_new_logits(np.ones((len(labels), 5), np.float32), labels, 3) == (1.0, 0.0)


def test_a_few_samples_that_nothing_confuses_leave_the_factor_finite() -> None:
    factor, offset = fit_new_logits(20 * np.eye(5, dtype=np.float32), np.arange(5), 3)
    assert 0.5 < factor < 2
    assert abs(offset) < 2


@pytest.mark.parametrize("name", ["wa", "bic"])
def test_the_corrected_head_gives_the_corrected_logits(name: str) -> None:
    rng = np.random.default_rng(0)
    task = make_task(blobs(30, 3, range(3)), blobs(40, 3, range(3, 5), seed=1), n_stored=30)
    task = replace(task, held=np.arange(70) % 5 == 1)
    weights, bias = rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=5).astype(np.float32)
    weights[3:] *= 5
    learnt = Learnt(weights, bias, task.features @ weights.T + bias, task.held, task.held)
    found = correct(learnt, task, RECIPES[name])
    np.testing.assert_allclose(found.unseen, task.features @ found.weights.T + found.bias, rtol=1e-3, atol=1e-3)
    if name == "wa":
        before, after = (logits - logits.mean(axis=1, keepdims=True) for logits in (learnt.unseen, found.unseen))
        assert np.abs(after[:, 3:]).mean() < 0.8 * np.abs(before[:, 3:]).mean()
    else:
        losses = [cross_entropy(one.unseen[task.held], task.labels[task.held]).mean() for one in (learnt, found)]
        assert losses[1] < losses[0]


def test_new_rows_get_the_mean_length_of_the_old() -> None:
    rng = np.random.default_rng(0)
    task = make_task(blobs(300, 3, range(3)), blobs(40, 3, range(3, 5), seed=1))
    weights = rng.normal(size=(5, 3)).astype(np.float32)
    weights[3:] *= 5
    learnt = Learnt(weights, 0 * weights[:, 0], task.features @ weights.T, task.held, task.held)
    found = correct(learnt, task, RECIPES["wa"]).weights - weights.mean(axis=0)
    spread = task.statistics.means.std(axis=0)
    lengths = np.linalg.norm(found * spread, axis=1)
    assert lengths[3:].mean() == pytest.approx(lengths[:3].mean(), rel=1e-4)
    shorter = replace(learnt, weights=np.where(np.arange(5)[:, None] < 3, weights, weights / 100))
    np.testing.assert_array_equal(correct(shorter, task, RECIPES["wa"]).weights, shorter.weights)
