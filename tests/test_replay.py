"""The replay store: bounded, balanced, the same whatever the batches were."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_cl.replay import Replay, is_held_out, record_type

DIM = 6
SIZE = record_type(DIM).itemsize


def offered(store: Replay, labels: np.ndarray, counts: np.ndarray, seed: int = 0) -> Replay:
    """Offer samples whose values are their class and their number within it."""
    sequence = np.zeros(len(labels), np.int64)
    for n, label in enumerate(labels):
        sequence[n], counts[label] = counts[label], counts[label] + 1
    x = np.random.default_rng(seed).normal(size=(len(labels), DIM)).astype(np.float32)
    x[:, 0], x[:, 1] = labels, sequence
    new, origins = store.offer(x, labels, sequence)
    source = np.concatenate([store.decode(), x])[origins]
    np.testing.assert_allclose(new.decode(), source, rtol=1e-3, atol=1e-3 * np.abs(source).max(initial=0))
    return new


def test_record_is_16_bytes_and_two_for_each_value() -> None:
    assert SIZE == 16 + 2 * DIM
    assert record_type(1280).itemsize == 2576


def test_golden_record() -> None:
    store, _ = Replay.empty(SIZE, DIM, 0).offer(
        np.array([[0, 1, -2, 0.5, 0, 4]], np.float32), np.array([3]), np.array([7])
    )
    assert store.mark(np.array([True]), np.array([True])).records.tobytes().hex() == (
        "030000000700000000008040010000000000003400b800300000003c"
    )


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=30), max_size=6),
    limit=st.integers(0, 40 * SIZE),
    seed=st.integers(0, 2**63 - 1),
)
def test_bytes_never_pass_the_limit_and_classes_are_balanced(batches: list[list[int]], limit: int, seed: int) -> None:
    store, counts = Replay.empty(limit, DIM, seed), np.zeros(6, np.int64)
    for batch in batches:
        old = dict(zip(store.slots.tolist(), [r.tobytes() for r in store.records], strict=True))
        store = offered(store, np.array(batch), counts)
        assert store.records.nbytes <= limit
        assert len(set(store.slots.tolist())) == len(store.slots) == len(store.records)
        assert store.slots.max(initial=-1) < max(store.capacity, 1)
        kept = set(old.values()) & {r.tobytes() for r in store.records}
        now = {r.tobytes(): slot for slot, r in zip(store.slots.tolist(), store.records, strict=True)}
        assert all(old[now[record]] == record for record in kept), "a kept record moved"
        stored = np.bincount(store.labels, minlength=6)
        hungry = stored < np.minimum(counts, stored.max(initial=0) - 1)
        assert not hungry.any(), "a class has two records fewer than another, though it had more samples"


def test_the_draw_does_not_depend_on_the_batches() -> None:
    labels = np.random.default_rng(0).integers(0, 4, 200)
    whole = offered(Replay.empty(30 * SIZE, DIM, 5), labels, np.zeros(4, np.int64))
    parts, counts = Replay.empty(30 * SIZE, DIM, 5), np.zeros(4, np.int64)
    for block in np.split(labels, [50, 51, 120]):
        parts = offered(parts, block, counts)

    def members(store: Replay) -> set[tuple[int, int]]:
        return set(zip(store.labels.tolist(), store.records["sequence"].tolist(), strict=True))

    assert members(parts) == members(whole)


def test_every_sample_is_as_likely_to_stay() -> None:
    stays = np.zeros(60)
    for seed in range(400):
        store = offered(Replay.empty(20 * SIZE, DIM, seed), np.zeros(60, int), np.zeros(1, np.int64))
        stays[store.records["sequence"]] += 1
    held = is_held_out(np.arange(60))
    for role in (held, ~held):
        expected = stays[role].mean()
        assert np.abs(stays[role] - expected).max() < 5 * np.sqrt(expected)


@pytest.mark.parametrize(("n_stored", "n_held"), [(1, 0), (2, 1), (5, 1), (10, 2), (50, 10)])
def test_one_in_five_is_held_out_and_the_first_is_not(n_stored: int, n_held: int) -> None:
    store = offered(Replay.empty(n_stored * SIZE, DIM, 1), np.zeros(100, int), np.zeros(1, np.int64))
    assert int(store.held_out.sum()) == n_held


def test_extreme_values_survive_the_code() -> None:
    x = np.array([[1e12, -3e11, 1, 0, 0, 0], [1e-30, 5e-31, 0, 0, 0, 0], [0] * 6], np.float32)
    store, _ = Replay.empty(10 * SIZE, DIM, 0).offer(x, np.arange(3), np.zeros(3, np.int64))
    error = np.abs(store.decode() - x).max(axis=1)
    assert (error <= 1e-3 * np.abs(x).max(axis=1)).all()  # float16 of values scaled to 1
