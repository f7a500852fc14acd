"""The reference steps: the cross-entropy by finite differences and by torch, the EWC step as a minimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from edge_kernels import reference
from edge_kernels.arrays import Floats, Ints
from hypothesis import given, settings
from hypothesis import strategies as st

N, D, K = 6, 3, 4


def batch(spread: float = 3.0) -> tuple[Floats, Ints, Floats]:
    """Return logits (N, K), labels (N,) and sample weights (N,)."""
    rng = np.random.default_rng(0)
    return spread * rng.normal(size=(N, K)), rng.integers(0, K, N), rng.uniform(0.1, 2, N)


def slope(function: Callable[[Floats], float], at: Floats, *, step: float) -> Floats:
    """Return the derivative by central differences."""
    found = np.zeros(at.shape)
    for index in np.ndindex(*at.shape):
        moved = np.zeros(at.shape)
        moved[index] = step
        found[index] = (function(at + moved) - function(at - moved)) / (2 * step)
    return found


def test_the_loss_is_the_weighted_sum_of_minus_log_probability() -> None:
    logits, labels, sample_weights = batch()
    loss, _ = reference.cross_entropy_delta(logits, labels, sample_weights=sample_weights)
    want = 0.0
    for n in range(N):
        p = [np.exp(logits[n, k]) / sum(np.exp(logits[n, m]) for m in range(K)) for k in range(K)]
        want -= sample_weights[n] * np.log(p[labels[n]])
    np.testing.assert_allclose(loss, want, rtol=1e-12)  # order of sums


def test_the_delta_is_the_derivative_of_the_loss_by_the_logits() -> None:
    logits, labels, sample_weights = batch()

    def loss(at: Floats) -> float:
        return reference.cross_entropy_delta(at, labels, sample_weights=sample_weights)[0]

    _, delta = reference.cross_entropy_delta(logits, labels, sample_weights=sample_weights)
    np.testing.assert_allclose(delta, slope(loss, logits, step=1e-5), atol=1e-8)  # rounding of the loss over the step


def test_delta_times_features_is_the_derivative_of_the_loss_by_the_weights() -> None:
    _, labels, sample_weights = batch()
    rng = np.random.default_rng(1)
    x, weights = rng.normal(size=(N, D)), rng.normal(size=(K, D))

    def loss(at: Floats) -> float:
        return reference.cross_entropy_delta(x @ at.T, labels, sample_weights=sample_weights)[0]

    _, delta = reference.cross_entropy_delta(x @ weights.T, labels, sample_weights=sample_weights)
    np.testing.assert_allclose(delta.T @ x, slope(loss, weights, step=1e-5), atol=1e-8)  # see above


@pytest.mark.parametrize("spread", [3.0, 1e4])
def test_loss_and_delta_are_those_of_torch(spread: float) -> None:
    torch = pytest.importorskip("torch")
    logits, labels, sample_weights = batch(spread)
    leaf = torch.tensor(logits, requires_grad=True)
    each = torch.nn.functional.cross_entropy(leaf, torch.tensor(labels), reduction="none")
    want = (each * torch.tensor(sample_weights)).sum()
    (gradient,) = torch.autograd.grad(want, leaf)
    loss, delta = reference.cross_entropy_delta(logits, labels, sample_weights=sample_weights)
    np.testing.assert_allclose(loss, want.item(), rtol=1e-12)  # torch's own exp and log
    np.testing.assert_allclose(delta, gradient.numpy(), atol=1e-12)


def test_a_hopeless_sample_has_a_finite_loss_and_a_full_delta() -> None:
    logits = np.array([[2e4, -2e4, 0.0]])
    loss, delta = reference.cross_entropy_delta(logits, np.array([1]), sample_weights=np.ones(1))
    assert loss == 4e4
    np.testing.assert_array_equal(delta, [[1, -1, 0]])


def test_a_sample_of_weight_zero_has_no_part_in_loss_and_delta() -> None:
    logits, labels, sample_weights = batch()
    sample_weights[2] = 0
    rest = np.arange(N) != 2
    loss, delta = reference.cross_entropy_delta(logits, labels, sample_weights=sample_weights)
    want, want_delta = reference.cross_entropy_delta(logits[rest], labels[rest], sample_weights=sample_weights[rest])
    np.testing.assert_allclose(loss, want, rtol=1e-14)  # order of sums
    np.testing.assert_array_equal(delta[rest], want_delta)
    np.testing.assert_array_equal(delta[2], 0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_small_logits_types_lose_nothing_more(dtype: type[np.floating[Any]]) -> None:
    logits, labels, sample_weights = batch()
    small = logits.astype(dtype)
    loss, delta = reference.cross_entropy_delta(small, labels, sample_weights=sample_weights)
    want, want_delta = reference.cross_entropy_delta(small.astype(np.float64), labels, sample_weights=sample_weights)
    np.testing.assert_allclose(loss, want, rtol=1e-14)
    np.testing.assert_array_equal(delta, want_delta)


def head(seed: int = 0) -> tuple[Floats, Floats, Floats, Floats]:
    """Return weights, gradient, fisher and anchor, all (K, D)."""
    rng = np.random.default_rng(seed)
    weights, gradient, anchor = rng.normal(size=(3, K, D))
    return weights, gradient, rng.uniform(0, 2, (K, D)), anchor


@pytest.mark.parametrize("lam", [0.0, 0.3, 50.0, 1e4])
def test_the_step_minimises_the_distance_to_plain_descent_plus_the_penalty(lam: float) -> None:
    weights, gradient, fisher, anchor = head()
    lr = 0.1
    descent = weights - lr * gradient

    def proximal_loss(at: Floats) -> float:
        penalty = 0.5 * lam * np.sum(fisher * (at - anchor) ** 2)
        return float(0.5 * np.sum((at - descent) ** 2) / lr + penalty)

    before = slope(proximal_loss, weights, step=1e-2)
    reference.ewc_step(weights, gradient, fisher=fisher, anchor=anchor, lr=lr, lam=lam)
    after = slope(proximal_loss, weights, step=1e-2)  # of a quadratic: no error but rounding
    assert np.abs(before).max() > 1
    np.testing.assert_allclose(after, 0, atol=1e-10 * (1 + lam))  # rounding of a loss of size lambda over the step


def test_lambda_zero_is_plain_gradient_descent() -> None:
    weights, gradient, fisher, anchor = head()
    want = weights - 0.1 * gradient
    reference.ewc_step(weights, gradient, fisher=fisher, anchor=anchor, lr=0.1, lam=0.0)
    np.testing.assert_array_equal(weights, want)


def test_an_enormous_lambda_puts_the_weights_on_the_anchor() -> None:
    weights, gradient, fisher, anchor = head()
    reference.ewc_step(weights, gradient, fisher=fisher + 0.1, anchor=anchor, lr=0.1, lam=1e12)
    np.testing.assert_allclose(weights, anchor, atol=1e-9)  # distance of 10 over a pull of at least 1e10


def test_weights_without_fisher_do_not_feel_the_anchor() -> None:
    weights, gradient, fisher, anchor = head()
    is_free = np.arange(K * D).reshape(K, D) % 3 == 0
    fisher[is_free] = 0
    want = weights - 0.1 * gradient
    reference.ewc_step(weights, gradient, fisher=fisher, anchor=anchor, lr=0.1, lam=1e12)
    np.testing.assert_array_equal(weights[is_free], want[is_free])
    assert (np.abs(weights - want)[~is_free] > 1e-3).all()


@given(seed=st.integers(0, 2**32), lr=st.floats(0, 10), lam=st.floats(0, 1e9))
@settings(deadline=None)
def test_every_weight_ends_between_plain_descent_and_the_anchor(seed: int, lr: float, lam: float) -> None:
    weights, gradient, fisher, anchor = head(seed)
    descent = weights - lr * gradient
    reference.ewc_step(weights, gradient, fisher=fisher, anchor=anchor, lr=lr, lam=lam)
    slack = 1e-13 * (np.abs(descent) + np.abs(anchor))  # rounding of a weighted mean
    assert (weights >= np.minimum(descent, anchor) - slack).all()
    assert (weights <= np.maximum(descent, anchor) + slack).all()


def test_float32_weights_are_changed_in_place() -> None:
    weights, gradient, fisher, anchor = head()
    small = weights.astype(np.float32)
    reference.ewc_step(weights, gradient, fisher=fisher, anchor=anchor, lr=0.1, lam=3.0)
    reference.ewc_step(small, gradient, fisher=fisher, anchor=anchor, lr=0.1, lam=3.0)
    assert small.dtype == np.float32
    np.testing.assert_allclose(small, weights, rtol=1e-5, atol=1e-6)  # the start was rounded to float32
