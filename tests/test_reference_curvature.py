"""The reference Fisher matrices against brute force, and recursive least squares against the joint solution."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from edge_kernels import reference
from edge_kernels.arrays import Floats
from hypothesis import given, settings
from hypothesis import strategies as st

N, D, K = 40, 5, 3
RIDGE = 0.5


def problem(seed: int = 0) -> tuple[Floats, Floats]:
    """Return features (N, D) and probabilities (N, K)."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(N, D)), rng.dirichlet(np.ones(K), N)


def regression(seed: int = 0) -> tuple[Floats, Floats]:
    """Return features (N, D) and targets (N, K)."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(N, D)), rng.normal(size=(N, K))


def fresh() -> tuple[Floats, Floats]:
    """Return the weights (K, D) and the covariance (D, D) before any update."""
    return np.zeros((K, D)), np.eye(D) / RIDGE


def slope(function: Any, at: Floats) -> Floats:
    """Return the derivative of a quadratic by central differences, which have no error but rounding there."""
    found = np.zeros(at.shape)
    for index in np.ndindex(*at.shape):
        step = np.zeros(at.shape)
        step[index] = 1e-2
        found[index] = (function(at + step) - function(at - step)) / 2e-2
    return found


def test_second_moment_is_the_mean_of_the_outer_products() -> None:
    x, _ = problem()
    want = np.zeros((D, D))
    for n in range(N):
        want += np.outer(x[n], x[n]) / N
    found = reference.second_moment(x)
    np.testing.assert_allclose(found, want, rtol=1e-12, atol=1e-15)  # order of sums, some of which cancel
    np.testing.assert_allclose(found, found.T, rtol=1e-14)


@given(seed=st.integers(0, 2**32))
@settings(deadline=None)
def test_second_moment_gives_the_mean_squared_output_of_any_weights(seed: int) -> None:
    x, _ = problem(seed)
    weights = np.random.default_rng(seed + 1).normal(size=D)
    found = weights @ reference.second_moment(x) @ weights
    np.testing.assert_allclose(found, np.mean([(weights @ x[n]) ** 2 for n in range(N)]), rtol=1e-9)  # cancellation


def test_the_diagonal_of_the_second_moment_is_the_regression_fisher() -> None:
    x, _ = problem()
    np.testing.assert_allclose(
        np.diag(reference.second_moment(x)), reference.fisher_mse(x), rtol=1e-12
    )  # order of sums


def test_label_covariance_is_the_expected_outer_product_of_the_deltas() -> None:
    _, p = problem()
    want = np.zeros((K, K))
    for n in range(N):
        for y in range(K):
            delta = p[n] - np.eye(K)[y]
            want += p[n, y] * np.outer(delta, delta) / N
    found = reference.label_covariance(p)
    np.testing.assert_allclose(found, want, atol=1e-14)  # rounding of sums of at most 1
    np.testing.assert_allclose(found, found.T, atol=1e-15)
    np.testing.assert_allclose(found.sum(axis=1), 0, atol=1e-14)


def full_fisher(features: Floats, probabilities: Floats) -> Floats:
    """Return the exact Fisher (K D, K D) of unrolled softmax weights, by brute force over the labels."""
    fisher = np.zeros((K * D, K * D))
    for x, p in zip(features, probabilities, strict=True):
        for y in range(K):
            score = np.outer(np.eye(K)[y] - p, x).ravel()
            fisher += p[y] * np.outer(score, score) / len(features)
    return fisher


@pytest.mark.parametrize("n", range(4))
def test_of_one_sample_the_kronecker_product_is_the_full_fisher_times_the_unrolled_weights(n: int) -> None:
    x, p = (array[n : n + 1] for array in problem())
    weights = np.random.default_rng(n).normal(size=(K, D))
    found = reference.kronecker_product(
        weights, label_factor=reference.label_covariance(p), feature_factor=reference.second_moment(x)
    )
    np.testing.assert_allclose(found.ravel(), full_fisher(x, p) @ weights.ravel(), atol=1e-13)  # cancellation


def test_of_samples_with_the_same_probabilities_the_kronecker_product_is_exact_too() -> None:
    x, p = problem()
    p = np.repeat(p[:1], N, axis=0)
    weights = np.random.default_rng(1).normal(size=(K, D))
    found = reference.kronecker_product(
        weights, label_factor=reference.label_covariance(p), feature_factor=reference.second_moment(x)
    )
    np.testing.assert_allclose(found.ravel(), full_fisher(x, p) @ weights.ravel(), atol=1e-13)  # cancellation


def test_kronecker_product_takes_the_rows_of_factors_that_are_not_symmetric() -> None:
    rng = np.random.default_rng(0)
    weights, labels, features = rng.normal(size=(K, D)), rng.normal(size=(K, K)), rng.normal(size=(D, D))
    want = np.zeros((K, D))
    for k, d in np.ndindex(K, D):
        want[k, d] = sum(labels[k, m] * weights[m, c] * features[c, d] for m, c in np.ndindex(K, D))
    found = reference.kronecker_product(weights, label_factor=labels, feature_factor=features)
    np.testing.assert_allclose(found, want, atol=1e-13)  # cancellation in sums of 15 terms


def joint_ridge(features: Floats, targets: Floats) -> Floats:
    """Return the ridge weights (K, D) of all samples at once, by least squares over D rows more."""
    rows = np.vstack([features, np.sqrt(RIDGE) * np.eye(D)])
    solution: Floats = np.linalg.lstsq(rows, np.vstack([targets, np.zeros((D, K))]), rcond=None)[0].T
    return solution


@pytest.mark.parametrize("sizes", [[4] * 10, [1] * 40, [1, 2, 3, 4, 5, 6, 7, 8, 3, 1], [40], [0, 20, 0, 20]], ids=str)
def test_updates_that_never_see_old_batches_give_the_joint_ridge_solution(sizes: list[int]) -> None:
    x, targets = regression()
    weights, covariance = fresh()
    for start, stop in pairwise(np.cumsum([0, *sizes])):
        reference.rls_update(weights, covariance, features=x[start:stop], targets=targets[start:stop])
    np.testing.assert_allclose(weights, joint_ridge(x, targets), atol=1e-10)  # 40 inversions of condition below 100


@given(order=st.permutations(range(8)))
@settings(deadline=None, max_examples=30)
def test_the_order_of_the_updates_does_not_matter(order: list[int]) -> None:
    x, targets = regression()
    weights, covariance = fresh()
    for n in order:
        reference.rls_update(weights, covariance, features=x[5 * n : 5 * n + 5], targets=targets[5 * n : 5 * n + 5])
    np.testing.assert_allclose(weights, joint_ridge(x, targets), atol=1e-10)  # see above


def test_an_update_minimises_the_new_error_plus_the_distance_to_the_old_weights_under_the_summed_fisher() -> None:
    x, targets = regression()
    weights, covariance = fresh()
    reference.rls_update(weights, covariance, features=x[:20], targets=targets[:20])
    anchor, precision = weights.copy(), np.linalg.inv(covariance)

    def ewc_loss(at: Floats) -> float:
        error = 0.5 * np.square(x[20:] @ at.T - targets[20:]).sum()
        return float(error + 0.5 * sum((at[k] - anchor[k]) @ precision @ (at[k] - anchor[k]) for k in range(K)))

    reference.rls_update(weights, covariance, features=x[20:], targets=targets[20:])
    assert np.abs(slope(ewc_loss, anchor)).max() > 1  # the old weights are no minimum
    np.testing.assert_allclose(slope(ewc_loss, weights), 0, atol=1e-10)  # rounding of a loss of 30 over a step of 1e-2


def test_the_covariance_is_the_inverse_of_the_ridge_and_the_summed_fisher() -> None:
    x, targets = regression()
    weights, covariance = fresh()
    for n in range(0, N, 8):
        reference.rls_update(weights, covariance, features=x[n : n + 8], targets=targets[n : n + 8])
    summed = RIDGE * np.eye(D)
    for n in range(N):
        summed += np.outer(x[n], x[n])
    np.testing.assert_allclose(covariance @ summed, np.eye(D), atol=1e-12)  # condition below 100


def test_float32_weights_reach_the_joint_ridge_solution_too() -> None:
    x, targets = regression()
    weights, covariance = (array.astype(np.float32) for array in fresh())
    for n in range(0, N, 4):
        reference.rls_update(weights, covariance, features=x[n : n + 4], targets=targets[n : n + 4])
    assert weights.dtype == covariance.dtype == np.float32
    np.testing.assert_allclose(weights, joint_ridge(x, targets), atol=1e-4)  # ten float32 inversions, condition 100
