"""Statistics are sums: any order, any batches, the same result."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_cl.statistics import Statistics

DIM = 5


def two_pass(x: np.ndarray, y: np.ndarray, n_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    counts = np.bincount(y, minlength=n_classes)
    means = np.stack([x[y == k].mean(axis=0) if counts[k] else np.zeros(DIM) for k in range(n_classes)])
    rows = x - means[y]
    return counts, means, rows.T @ rows


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(1, 39), max_size=6), offset=st.sampled_from([0.0, 1e3]))
def test_any_batches_give_the_two_pass_result(seed: int, cuts: list[int], offset: float) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(40, DIM)) + offset
    y = rng.integers(0, 4, 40)
    statistics = Statistics.empty(DIM, has_scatter=True)
    for block in np.split(np.arange(40), sorted(set(cuts))):
        n_classes = max(len(statistics.counts), int(y[block].max()) + 1)
        statistics = statistics.learn(x[block].astype(np.float32), y[block], n_classes)
    statistics = statistics.learn(x[:1].astype(np.float32), y[:1], 4)  # all four rows exist now
    x, y = np.concatenate([x, x[:1]]), np.concatenate([y, y[:1]])
    counts, means, scatter = two_pass(x, y, 4)
    np.testing.assert_array_equal(statistics.counts, counts)
    np.testing.assert_allclose(statistics.means, means, rtol=1e-5, atol=1e-5)
    assert statistics.scatter is not None
    # float32 inputs at an offset of 1000 are known to 6e-5: squares of differences to about 1e-3
    np.testing.assert_allclose(statistics.scatter, scatter, rtol=1e-4, atol=1e-4 if not offset else 5e-2)


def test_scatter_is_symmetric_to_the_bit() -> None:
    x = np.random.default_rng(0).normal(size=(100, 64)).astype(np.float32)
    scatter = Statistics.empty(64, has_scatter=True).learn(x, np.arange(100) % 7, 7).scatter
    assert scatter is not None
    np.testing.assert_array_equal(scatter, scatter.T)


def test_learning_leaves_the_old_statistics_alone() -> None:
    x = np.ones((3, DIM), np.float32)
    old = Statistics.empty(DIM, has_scatter=True).learn(x, np.zeros(3, int), 1)
    kept = (old.counts.copy(), old.means.copy())
    old.learn(2 * x, np.zeros(3, int), 2)
    np.testing.assert_array_equal(old.counts, kept[0])
    np.testing.assert_array_equal(old.means, kept[1])
