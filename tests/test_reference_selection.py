"""The reference selection: splitmix64 by Python's integers, the reservoir's laws, herding against brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from edge_kernels import reference
from edge_kernels.arrays import Floats, Ints
from hypothesis import given, settings
from hypothesis import strategies as st

MASK = 2**64 - 1


def splitmix64(state: int) -> int:
    """Return the output of splitmix64 (Steele 2014) at a state, in Python's own integers."""
    state ^= state >> 30
    state = state * 0xBF58476D1CE4E5B9 & MASK
    state ^= state >> 27
    state = state * 0x94D049BB133111EB & MASK
    return state ^ state >> 31


def priority(label: int, sequence: int, seed: int) -> int:
    return splitmix64(((label * 2**32 + sequence) + seed * 0x9E3779B97F4A7C15) & MASK)


def draw(labels: list[int], sequence: list[int], seed: int) -> list[int]:
    return [int(one) for one in reference.draw_priority(np.array(labels), np.array(sequence), seed=seed)]


def test_priorities_of_the_first_sample_are_the_published_outputs_of_splitmix64_from_state_zero() -> None:
    found = [draw([0], [0], seed)[0] for seed in (1, 2, 3)]
    assert found == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@given(
    pairs=st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)), min_size=1, max_size=20),
    seed=st.integers(0, 2**64),
)
@settings(deadline=None)
def test_priorities_are_those_of_python_integers(pairs: list[tuple[int, int]], seed: int) -> None:
    labels, sequence = [list(column) for column in zip(*pairs, strict=True)]
    assert draw(labels, sequence, seed) == [priority(*pair, seed) for pair in pairs]


def test_priorities_are_uint64_and_all_different() -> None:
    labels, sequence = np.divmod(np.arange(10_000), 100)
    found = reference.draw_priority(labels, sequence, seed=0)
    assert found.dtype == np.uint64
    assert len(set(found.tolist())) == 10_000  # the mixing is one to one


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_priorities_do_not_depend_on_the_type_of_the_integers(dtype: type[np.integer[Any]]) -> None:
    found = reference.draw_priority(np.array([1, 7], dtype), np.array([200, 3], dtype), seed=5)
    assert found.tolist() == [priority(1, 200, 5), priority(7, 3, 5)]


streams = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), max_size=30)  # labels, and orders with many ties


def stays_of(stream: list[tuple[int, int]], capacity: int) -> list[int]:
    """Return the numbers of the samples of a stream that stay."""
    labels, order = np.array([stream], np.int64).reshape(-1, 2).T
    stays = reference.balanced_reservoir(labels, order.astype(np.float64), capacity=capacity)
    assert stays.dtype == np.bool_
    assert len(stays) == len(stream)
    return [n for n, stays_here in enumerate(stays) if stays_here]


@given(stream=streams, capacity=st.integers(0, 12))
@settings(deadline=None)
def test_a_reservoir_is_as_full_as_it_can_be(stream: list[tuple[int, int]], capacity: int) -> None:
    assert len(stays_of(stream, capacity)) == min(capacity, len(stream))


@given(stream=streams, capacity=st.integers(0, 12))
@settings(deadline=None)
def test_classes_that_lose_samples_keep_at_most_one_less_than_any_other(
    stream: list[tuple[int, int]], capacity: int
) -> None:
    kept = [stream[n][0] for n in stays_of(stream, capacity)]
    classes = {label for label, _ in stream}
    most = max((kept.count(k) for k in classes), default=0)
    for k in classes:
        if kept.count(k) < sum(label == k for label, _ in stream):
            assert kept.count(k) >= most - 1


@given(stream=streams, capacity=st.integers(0, 12))
@settings(deadline=None)
def test_of_each_class_the_first_in_order_stay_and_of_equal_ones_the_first_in_the_batch(
    stream: list[tuple[int, int]], capacity: int
) -> None:
    stays = set(stays_of(stream, capacity))
    for n, (label, order) in enumerate(stream):
        for other, (other_label, other_order) in enumerate(stream):
            if label == other_label and n in stays and other not in stays:
                assert (order, n) < (other_order, other)


@pytest.mark.parametrize(
    ("capacity", "want"), [(3, [1, 1, 1]), (5, [2, 2, 1]), (9, [4, 4, 1]), (12, [7, 4, 1]), (15, [10, 4, 1])]
)
def test_a_small_class_keeps_all_and_the_others_share_what_is_left(capacity: int, want: list[int]) -> None:
    labels = np.repeat([0, 1, 2], [10, 4, 1])
    stays = reference.balanced_reservoir(labels, np.zeros(15), capacity=capacity)
    np.testing.assert_array_equal(np.bincount(labels[stays], minlength=3), want)


def test_the_place_left_over_goes_to_the_lower_class() -> None:
    labels, order = np.array([2, 2, 1, 1, 0]), np.array([5.0, 4.0, 3.0, 2.0, 9.0])
    stays = reference.balanced_reservoir(labels, order, capacity=4)
    np.testing.assert_array_equal(stays, [False, True, True, True, True])


def test_priorities_above_the_precision_of_float64_are_told_apart() -> None:
    order = np.array([2**63 + 1, 2**63, 2**63 + 2], np.uint64)
    stays = reference.balanced_reservoir(np.zeros(3, np.int64), order, capacity=1)
    np.testing.assert_array_equal(stays, [False, True, False])


@given(
    labels=st.lists(st.integers(0, 4), max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    capacity=st.integers(0, 15),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None)
def test_a_stream_offered_in_any_batches_leaves_the_same_survivors(
    labels: list[int], cuts: list[int], capacity: int, seed: int
) -> None:
    given_labels = np.array(labels, np.int64)
    sequence = np.array([labels[:n].count(label) for n, label in enumerate(labels)], np.int64)
    order = reference.draw_priority(given_labels, sequence, seed=seed)
    kept = np.zeros(0, np.int64)
    for batch in np.split(np.arange(len(labels)), sorted(min(cut, len(labels)) for cut in cuts)):
        offered = np.concatenate([kept, batch])
        kept = offered[reference.balanced_reservoir(given_labels[offered], order[offered], capacity=capacity)]
    at_once = np.flatnonzero(reference.balanced_reservoir(given_labels, order, capacity=capacity))
    np.testing.assert_array_equal(kept, at_once)


def test_every_sample_of_a_class_is_as_likely_to_stay() -> None:
    n_seeds, n, capacity = 2000, 10, 3
    labels, times = np.zeros(n, np.int64), np.zeros(n)
    for seed in range(n_seeds):
        order = reference.draw_priority(labels, np.arange(n), seed=seed)
        times += reference.balanced_reservoir(labels, order, capacity=capacity)
    deviation = np.sqrt(n_seeds * 0.3 * 0.7)
    assert (np.abs(times - n_seeds * capacity / n) < 4 * deviation).all()  # the seeds are fixed: 4 sigma, not luck


def distance_with(features: Floats, chosen: list[int]) -> float:
    """Return the squared distance of the mean of the chosen samples to the mean of all."""
    gap = sum(features[n] for n in chosen) / len(chosen) - sum(features) / len(features)
    return float(gap @ gap)


def groups(seed: int, n: int = 12) -> Floats:
    return np.random.default_rng(seed).normal(size=(n, 3)) * [1, 2, 5] + [3, -1, 10]


def test_the_first_herded_sample_is_the_nearest_to_the_mean() -> None:
    x = groups(0)
    nearest = min(range(len(x)), key=lambda n: distance_with(x, [n]))
    assert reference.herd(x, n_chosen=1).tolist() == [nearest]


@pytest.mark.parametrize("seed", range(5))
def test_every_herded_sample_brings_the_mean_of_the_chosen_as_near_as_any_other_could(seed: int) -> None:
    x = groups(seed)
    chosen: list[int] = []
    for found in reference.herd(x, n_chosen=len(x)).tolist():
        others = [n for n in range(len(x)) if n not in chosen]
        chosen.append(min(others, key=lambda n: distance_with(x, [*chosen, n])))
        assert found == chosen[-1]


def test_another_mean_is_followed_as_if_the_samples_lay_around_it() -> None:
    x, mean = groups(3), np.array([0.5, -1.0, 2.0, 0.25])[: groups(3).shape[1]]
    chosen: list[int] = []
    for found in reference.herd(x, n_chosen=len(x), mean=mean).tolist():
        others = [n for n in range(len(x)) if n not in chosen]
        chosen.append(min(others, key=lambda n: float(np.linalg.norm(x[[*chosen, n]].mean(axis=0) - mean))))
        assert found == chosen[-1]


@given(rows=st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=1, max_size=12), data=st.data())
@settings(deadline=None)
def test_herding_never_takes_a_sample_twice_even_of_equal_ones(
    rows: list[tuple[int, int]], data: st.DataObject
) -> None:
    x = np.array(rows, np.float64)
    n_chosen = data.draw(st.integers(0, len(rows)))
    chosen = reference.herd(x, n_chosen=n_chosen)
    assert chosen.dtype == np.int64
    assert len(chosen) == len(set(chosen.tolist())) == n_chosen
    everything: Ints = reference.herd(x, n_chosen=len(rows))
    assert sorted(everything.tolist()) == list(range(len(rows)))
    np.testing.assert_array_equal(chosen, everything[:n_chosen])  # fewer are the first of more


def test_of_equal_samples_the_first_is_herded_first() -> None:
    assert reference.herd(np.ones((4, 2)), n_chosen=4).tolist() == [0, 1, 2, 3]


def test_herded_samples_are_nearer_the_mean_than_as_many_drawn_at_random() -> None:
    x = groups(0, n=200)
    herded = distance_with(x, reference.herd(x, n_chosen=10).tolist())
    rng = np.random.default_rng(1)
    drawn = [distance_with(x, rng.choice(200, 10, replace=False).tolist()) for _ in range(100)]
    assert herded < min(drawn) / 2  # in truth a fifth of the best of a hundred draws
