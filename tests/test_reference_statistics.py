"""The reference statistics: sums that do not depend on batches, order or device, against loops over samples."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from edge_kernels import reference
from edge_kernels.arrays import Floats, Ints
from hypothesis import given, settings
from hypothesis import strategies as st

N, D, K = 24, 3, 5
EMPTY = 4  # a class that has no sample anywhere
CLOSE = 1e-11  # what rounding leaves of sums of 24 products of numbers up to 20


class Statistics(NamedTuple):
    counts: Ints
    means: Floats
    scatter: Floats


def fresh(dtype: Any = np.float64) -> Statistics:
    return Statistics(np.zeros(K, np.int64), np.zeros((K, D), dtype), np.zeros((D, D), dtype))


def samples(seed: int = 0, offset: float = 0) -> tuple[Floats, Ints]:
    """Return features (N, D) and labels (N,) of all classes but the empty one, of each at least two."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.concatenate([np.arange(N - 8) % 3 * rng.integers(0, 2, N - 8), np.arange(8) % EMPTY]))
    return rng.normal(size=(N, D)) + 2.0 * labels[:, None] + offset, labels


def of(features: Floats, labels: Ints) -> Statistics:
    found = fresh()
    reference.add_samples(*found, features=features, labels=labels)
    return found


def brute(features: Floats, labels: Ints) -> Statistics:
    """Return the statistics by loops over the classes and their samples."""
    counts, means, scatter = fresh()
    for k in range(K):
        members = [x for x, label in zip(features, labels, strict=True) if label == k]
        counts[k] = len(members)
        if members:
            means[k] = sum(members) / len(members)
        for x in members:
            scatter += np.outer(x - means[k], x - means[k])
    return Statistics(counts, means, scatter)


def assert_same(found: Statistics, want: Statistics, *, atol: float = CLOSE) -> None:
    np.testing.assert_array_equal(found.counts, want.counts)
    np.testing.assert_allclose(found.means, want.means, atol=atol)
    np.testing.assert_allclose(found.scatter, want.scatter, atol=atol)


def test_counts_means_and_scatter_are_those_of_a_loop_over_the_samples() -> None:
    x, labels = samples()
    assert_same(of(x, labels), brute(x, labels))


def test_the_scatter_is_symmetric_and_its_trace_is_the_squared_distance_to_the_means() -> None:
    x, labels = samples()
    found = of(x, labels)
    np.testing.assert_allclose(found.scatter, found.scatter.T, atol=CLOSE)
    distances = sum(float(np.sum((x[n] - found.means[labels[n]]) ** 2)) for n in range(N))
    np.testing.assert_allclose(np.trace(found.scatter), distances, atol=CLOSE)


def test_a_class_without_samples_has_count_and_mean_exactly_zero() -> None:
    found = of(*samples())
    assert found.counts[EMPTY] == 0
    assert not found.means[EMPTY].any()
    assert found.counts[:EMPTY].all()


def test_one_sample_of_each_class_has_no_scatter() -> None:
    found = of(np.random.default_rng(0).normal(size=(K, D)), np.arange(K))
    np.testing.assert_array_equal(found.scatter, 0)


@given(seed=st.integers(0, 2**32), cuts=st.lists(st.integers(0, N), max_size=6), order=st.permutations(range(N)))
@settings(deadline=None)
def test_any_batches_in_any_order_give_the_statistics_of_one_batch(
    seed: int, cuts: list[int], order: list[int]
) -> None:
    x, labels = samples(seed)
    found = fresh()
    for rows in np.split(np.array(order), sorted(cuts)):
        reference.add_samples(*found, features=x[rows], labels=labels[rows])
    assert_same(found, of(x, labels))


def test_an_empty_batch_changes_nothing() -> None:
    x, labels = samples()
    found = of(x, labels)
    reference.add_samples(*found, features=x[:0], labels=labels[:0])
    reference.remove_samples(*found, features=x[:0], labels=labels[:0])
    for part, want in zip(found, of(x, labels), strict=True):
        np.testing.assert_array_equal(part, want)


@given(seed=st.integers(0, 2**32), n_first=st.integers(0, N))
@settings(deadline=None)
def test_two_devices_merged_are_one_device_that_saw_all(seed: int, n_first: int) -> None:
    x, labels = samples(seed)
    order = np.argsort(labels, kind="stable")  # so that most classes are on one device alone
    here, there = order[:n_first], order[n_first:]
    for one, other in ((here, there), (there, here)):
        found, added = of(x[one], labels[one]), of(x[other], labels[other])
        reference.merge_statistics(
            *found, other_counts=added.counts, other_means=added.means, other_scatter=added.scatter
        )
        assert_same(found, brute(x, labels))
        assert_same(added, brute(x[other], labels[other]))  # what is added is left as it was


@given(seed=st.integers(0, 2**32), gone=st.sets(st.integers(0, N - 1)), cuts=st.lists(st.integers(0, N), max_size=3))
@settings(deadline=None)
def test_what_is_added_and_removed_again_leaves_what_was_before(seed: int, gone: set[int], cuts: list[int]) -> None:
    x, labels = samples(seed)
    stays = np.array([n not in gone for n in range(N)])
    found = of(x, labels)
    for rows in np.split(np.flatnonzero(~stays), sorted(cuts)):
        reference.remove_samples(*found, features=x[rows], labels=labels[rows])
    assert_same(found, brute(x[stays], labels[stays]), atol=10 * CLOSE)  # differences of sums of the size of `CLOSE`


@pytest.mark.parametrize("k", range(EMPTY))
def test_a_class_that_is_removed_leaves_a_mean_of_exactly_zero_and_no_scatter(k: int) -> None:
    x, labels = samples()
    found = of(x, labels)
    reference.remove_samples(*found, features=x[labels == k], labels=labels[labels == k])
    assert found.counts[k] == 0
    assert not found.means[k].any()
    assert_same(found, brute(x[labels != k], labels[labels != k]))


def test_a_removed_class_can_be_learned_again() -> None:
    x, labels = samples()
    found = of(x, labels)
    reference.remove_samples(*found, features=x[labels == 1], labels=labels[labels == 1])
    reference.add_samples(*found, features=x[labels == 1], labels=labels[labels == 1])
    assert_same(found, brute(x, labels))


def test_without_scatter_counts_and_means_are_the_same() -> None:
    x, labels = samples()
    want = of(x, labels)
    counts, means, _ = of(x[:10], labels[:10])
    reference.add_samples(counts, means, None, features=x[10:15], labels=labels[10:15])
    rest = of(x[15:], labels[15:])
    reference.merge_statistics(
        counts, means, None, other_counts=rest.counts, other_means=rest.means, other_scatter=None
    )
    assert_same(Statistics(counts, means, want.scatter), want)
    reference.remove_samples(counts, means, None, features=x[:10], labels=labels[:10])
    assert_same(Statistics(counts, means, want.scatter), brute(x[10:], labels[10:])._replace(scatter=want.scatter))


def test_the_scatter_does_not_see_where_the_origin_is() -> None:
    x, labels = samples()
    far, _ = samples(offset=1e7)
    found = fresh()
    for rows in np.split(np.arange(N), 4):
        reference.add_samples(*found, features=far[rows], labels=labels[rows])
    # rounding of 1e7 times the distances; a sum of squares, from which means are subtracted, would be 0.1 off
    np.testing.assert_allclose(found.scatter, of(x, labels).scatter, atol=1e-6)
    reference.remove_samples(*found, features=far[:12], labels=labels[:12])
    np.testing.assert_allclose(found.scatter, of(x[12:], labels[12:]).scatter, atol=1e-6)


def test_small_types_are_averaged_in_float64() -> None:
    x, labels = samples(offset=300)
    small = x.astype(np.float16)
    assert_same(of(small, labels), brute(small.astype(np.float64), labels), atol=1e-9)  # rounding of 300 squared


def test_float32_statistics_are_those_in_float64_but_for_their_own_rounding() -> None:
    x, labels = samples()
    found = fresh(np.float32)
    reference.add_samples(*found, features=x[:12], labels=labels[:12])
    reference.add_samples(*found, features=x[12:], labels=labels[12:])
    reference.remove_samples(*found, features=x[:6], labels=labels[:6])
    assert found.means.dtype == found.scatter.dtype == np.float32
    assert_same(found, brute(x[6:], labels[6:]), atol=1e-4)  # float32 of values up to 100, three times rounded
