"""What holds a trained head, against sums over the samples that it stands for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_cl import ewc
from edge_cl.devices import HOST
from edge_cl.learning.hold import LABEL_TRACE, REACH, Hold, hold
from edge_cl.recipes import RECIPES

from .learning_task import blobs, make_task
from .test_anchor import sums_of_many_updates


def energy(held: Hold, weights: np.ndarray, bias: np.ndarray) -> float:
    """Return what it costs to move the head there."""
    moved, dim = weights - held.weights, held.weights.shape[1]
    axes = np.diag(held.axes) if held.axes.ndim == 1 else held.axes
    shift = np.linalg.solve(axes.T.astype(np.float64), moved.T).T
    level = (bias - held.bias + moved @ held.centre) / held.level
    pull = np.broadcast_to(held.pull, (len(bias), dim + 1))
    return float(0.5 * (pull[:, :-1] * shift**2).sum() + 0.5 * (pull[:, -1] * level**2).sum())


def everyone(n_samples: int) -> np.ndarray:
    return np.ones(n_samples, bool)


@pytest.mark.parametrize("name", ["ewc", "ewc-diagonal", "l2", "finetune"])
def test_coordinates_and_head_are_two_sides_of_one_thing(name: str) -> None:
    task = make_task(blobs(60, 6, range(3)), blobs(40, 6, range(2, 5), seed=1))
    held = hold(task, RECIPES[name], everyone(40))
    shift = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    weights, bias = held.head(shift)
    want = task.features @ held.weights.T + held.bias + held.transform(task.features) @ shift.T
    np.testing.assert_allclose(task.features @ weights.T + bias, want, rtol=1e-3, atol=1e-3)


def test_the_kronecker_hold_is_the_sum_over_all_old_samples_in_old_rows_and_new() -> None:
    old = blobs(20_000, 4, range(3))
    task = make_task(old, blobs(30, 4, range(3, 5), seed=1))
    held = hold(task, RECIPES["ewc"], everyone(30))
    rng = np.random.default_rng(2)
    for row in range(5):
        weights, bias = held.weights.copy(), held.bias.copy()
        weights[row] += rng.normal(size=4)
        bias[row] += rng.normal()
        change = old[0] @ (weights - held.weights)[row] + (bias - held.bias)[row]
        # its trace: 2, in K equal parts; what is left of prior and shrinkage with so many samples is below 1 %
        assert energy(held, weights, bias) == pytest.approx(0.5 * LABEL_TRACE / 5 * (change**2).sum(), rel=1e-2)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), offset=st.sampled_from([0.0, 100.0]), unit=st.sampled_from([1e-3, 1.0, 1e3]))
def test_units_of_the_features_do_not_matter(seed: int, offset: float, unit: float) -> None:
    """Divide the features, multiply the weights: the cost is the same."""
    old, batch = blobs(50, 3, range(2), seed), blobs(20, 3, range(2, 4), seed + 1)
    scaled = [((x + offset) * unit, y) for x, y in (old, batch)]
    rng = np.random.default_rng(seed)
    weights, bias = rng.normal(size=(4, 3)), rng.normal(size=4)
    for name in ("ewc", "l2", "finetune"):
        first, second = (hold(make_task(*pair), RECIPES[name], everyone(20)) for pair in ((old, batch), scaled))
        moved = energy(second, weights / unit, bias - weights @ np.full(3, offset))
        assert moved == pytest.approx(energy(first, weights, bias), rel=2e-2), name


def test_what_is_trained_on_again_is_not_held_as_well() -> None:
    old, batch = blobs(50, 3, range(2)), blobs(20, 3, range(2, 4), seed=1)
    none, half, full = (
        hold(make_task(old, batch, n_stored=n), RECIPES["ewc+replay"], everyone(n + 20)) for n in (0, 25, 50)
    )
    assert float(half.pull.max()) == pytest.approx(float(none.pull.max()) / 2)
    assert full.axes.ndim == 1  # nothing but the prior
    assert float(full.pull.max()) == pytest.approx(3 / REACH**2)


def test_new_rows_begin_where_old_samples_take_them_for_any_wrong_class() -> None:
    rng = np.random.default_rng(0)
    weights, bias = rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=4).astype(np.float32)
    weights[3] = bias[3] = 0
    task = make_task(blobs(30, 3, range(3)), blobs(10, 3, range(3, 4), seed=1), weights=weights, bias=bias)
    held = hold(task, RECIPES["ewc"], everyone(10))
    np.testing.assert_array_equal(held.weights[:3], weights[:3])
    np.testing.assert_allclose(held.weights[3], weights[:3].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(held.bias[3], bias[:3].mean(), rtol=1e-5)


def test_rows_of_another_task_are_hardly_held_by_its_samples() -> None:
    task = make_task(blobs(500, 3, range(2)), blobs(10, 3, range(2, 4), seed=1), groups=np.array([0, 0, 1, 1]))
    held = hold(task, RECIPES["ewc"], everyone(10))
    assert float(held.pull[2:].max()) < 0.01 * float(held.pull[:2].min())


def test_sums_that_many_updates_left_no_second_moment_hold_still() -> None:
    task = make_task(blobs(60, 200, range(2)), blobs(10, 200, range(2, 3)))
    rounded = sums_of_many_updates(10**7, 200, 2.0**-24 * 10**3.5, 0)
    means = np.concatenate([rounded.means, np.zeros((1, 200), np.float32)])
    task = replace(task, before=replace(rounded, counts=np.append(rounded.counts, 0), means=means))
    held = hold(task, RECIPES["ewc"], np.ones(10, bool))
    assert np.isfinite(held.axes).all()
    common = np.full(200, 200**-0.5) @ held.axes.T  # the direction in which the samples lie apart is held most
    others = np.linalg.svd(held.axes, compute_uv=False)
    assert np.linalg.norm(common) < 0.2 * np.median(others)


def test_samples_that_are_all_the_same_hold_nothing_but_the_prior() -> None:
    same = np.ones((5, 3), np.float32), np.zeros(5, int)
    held = hold(make_task(same, blobs(10, 3, range(1, 3))), RECIPES["ewc"], everyone(10))
    assert held.axes.ndim == 1
    assert np.isfinite(held.pull).all()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), n_updates=st.integers(1, 5))
def test_any_number_of_anchors_is_one_fisher_and_one_anchor(seed: int, n_updates: int) -> None:
    """The difference that a move makes to sum_t F_t (w - a_t)^2 is the one that it makes to what is kept."""
    rng = np.random.default_rng(seed)
    fisher, past = ewc.grow(np.zeros((0, 4), np.float32), 2, 8), []
    for n_classes in range(2, 2 + n_updates):
        fisher = ewc.grow(fisher, n_classes, 8)
        rows = rng.normal(size=(n_classes, 4)).astype(np.float32)
        x, logits = (rng.normal(size=(9, n)).astype(np.float32) for n in (3, n_classes))
        past.append((ewc.add_batch(0 * rows, logits, x, HOST), rows))
        fisher = ewc.remember(fisher, rows, (logits, x), 1.0, HOST)
    precision, anchor = ewc.pull_of(fisher, rows)
    first, second = rng.normal(size=(2, *rows.shape))
    want = sum(float((f * ((first[: len(a)] - a) ** 2 - (second[: len(a)] - a) ** 2)).sum()) for f, a in past)
    found = float((precision * ((first - anchor) ** 2 - (second - anchor) ** 2)).sum())
    assert found == pytest.approx(want, rel=1e-3, abs=1e-3)


def test_one_anchor_is_the_head_before_and_its_fisher_decays() -> None:
    rng = np.random.default_rng(0)
    rows, x, logits = (rng.normal(size=size).astype(np.float32) for size in ((3, 5), (9, 4), (9, 3)))
    once = ewc.remember(np.zeros((3, 5), np.float32), rows, (logits, x), 0.5, HOST)
    twice = ewc.remember(once, rows, (logits, x), 0.5, HOST)
    np.testing.assert_allclose(twice, 1.5 * once, rtol=1e-5)
    assert ewc.pull_of(twice, rows)[1] is rows


def test_the_diagonal_hold_is_the_penalty_of_the_fisher_and_the_prior() -> None:
    rng = np.random.default_rng(0)
    fisher = rng.uniform(0, 50, size=(3, 5)).astype(np.float32)
    weights, bias = rng.normal(size=(3, 4)).astype(np.float32), rng.normal(size=3).astype(np.float32)
    task = make_task(blobs(30, 4, range(2)), blobs(10, 4, range(2, 3), seed=1))
    task = replace(task, fisher=fisher, weights=weights, bias=bias)
    held = hold(task, RECIPES["online-ewc"], everyone(10))
    np.testing.assert_allclose(held.weights, weights, rtol=1e-5)
    move = rng.normal(size=(3, 4))
    without = hold(replace(task, fisher=0 * fisher), RECIPES["online-ewc"], everyone(10))
    gained = energy(held, weights + move, bias) - energy(without, weights + move, bias)
    assert gained == pytest.approx(0.5 * float((fisher[:, :-1] * move**2).sum()), rel=1e-3)
