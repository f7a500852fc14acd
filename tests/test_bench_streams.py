"""The protocols keep their rules whatever the data: who is learnt when, and on what is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_cl.bench.data import DataSet, read_data, take_logarithm
from edge_cl.bench.streams import Stream, class_incremental, domain_incremental
from edge_cl.errors import InputError


def made(n_classes: int, sizes: list[int], *, has_mask: bool = True, n_domains: int = 0, seed: int = 0) -> DataSet:
    """Return a data set whose class k has `sizes[k % len(sizes)]` samples, at least one of them to learn."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(n_classes), [sizes[k % len(sizes)] for k in range(n_classes)]))
    train = rng.random(len(labels)) < 0.6
    for k in range(n_classes):
        train[np.flatnonzero(labels == k)[0]] = True
    train[np.flatnonzero(labels == 0)[-1]] = False  # something to ask about
    domains = np.sort(rng.integers(0, n_domains, len(labels))) if n_domains else None
    features = rng.normal(size=(len(labels), 3)).astype(np.float32)
    names = tuple(f"c{k}" for k in range(n_classes))
    times = tuple(map(str, range(n_domains)))
    return DataSet("made", features, labels, names, train if has_mask else None, domains, times)


sizes = st.lists(st.integers(2, 9), min_size=1, max_size=4)


@given(st.integers(1, 12), sizes, st.integers(0, 5), st.data())
def test_classes_come_in_the_order_of_the_permutation(
    n_classes: int, sizes: list[int], seed: int, data: st.DataObject
) -> None:
    n_tasks = data.draw(st.integers(1, n_classes))
    found = made(n_classes, sizes)
    assert found.is_train is not None
    stream = class_incremental(found, n_tasks, seed)
    parts = np.array_split(np.random.default_rng(seed).permutation(n_classes), n_tasks)
    assert stream.n_tasks == n_tasks
    for t, part in enumerate(parts):
        assert set(found.labels[stream.train[t]]) == set(part)
        assert set(stream.new_classes(t)) == set(part)
        assert set(found.labels[stream.test[t]]) <= set(part)
    learnt, asked = np.concatenate(stream.train), stream.asked(n_tasks - 1)
    np.testing.assert_array_equal(np.sort(learnt), np.flatnonzero(found.is_train))
    np.testing.assert_array_equal(np.sort(asked), np.flatnonzero(~found.is_train))


@given(st.integers(1, 8), sizes, st.integers(0, 3), st.integers(1, 5))
def test_few_samples_are_of_those_that_more_would_be(
    n_classes: int, sizes: list[int], seed: int, per_class: int
) -> None:
    found = made(n_classes, sizes)
    few, more, all_of_them = (
        class_incremental(found, n_classes, seed, per_class=n) for n in (per_class, per_class + 1, None)
    )
    for t in range(n_classes):
        assert set(few.train[t]) <= set(more.train[t]) <= set(all_of_them.train[t])
        assert len(few.train[t]) == min(per_class, len(all_of_them.train[t]))
        np.testing.assert_array_equal(few.test[t], all_of_them.test[t])


@given(st.integers(2, 8), sizes, st.integers(0, 3), st.integers(1, 7))
def test_online_learns_the_same_in_small_updates(n_classes: int, sizes: list[int], seed: int, batch: int) -> None:
    found = made(n_classes, sizes)
    online, whole = class_incremental(found, 2, seed, batch=batch), class_incremental(found, 2, seed)
    assert len(online.updates(0)) == len(whole.updates(0)) == len(whole.updates(1)) == 1
    assert {len(rows) for rows in online.updates(1)[:-1]} <= {batch}
    assert 1 <= len(online.updates(1)[-1]) <= batch
    for t in range(2):
        np.testing.assert_array_equal(np.sort(np.concatenate(online.updates(t))), whole.train[t])


def test_online_samples_are_shuffled_by_the_seed() -> None:
    found = made(2, [40])
    streams = [class_incremental(found, 2, seed, batch=1) for seed in (0, 0, 1)]
    assert [rows.tolist() for rows in streams[0].train] == [rows.tolist() for rows in streams[1].train]
    assert np.any(np.diff(streams[0].train[1]) < 0)


@given(st.integers(1, 8), st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(0, 3))
def test_a_quarter_is_for_testing_where_nothing_is_said(n_classes: int, sizes: list[int], seed: int) -> None:
    found = made(n_classes, [*sizes, 9], has_mask=False)
    if all(size == 1 for size in np.bincount(found.labels)):
        return
    stream, other = class_incremental(found, 1, seed), class_incremental(found, 1, seed + 1)
    np.testing.assert_array_equal(stream.test[0], other.test[0])
    for k in range(n_classes):
        n_test, n = int((found.labels[stream.test[0]] == k).sum()), int((found.labels == k).sum())
        assert n_test == np.ceil(0.25 * (n - 1))


@given(st.integers(1, 5), st.integers(1, 4), st.booleans())
def test_domains_learn_their_first_fifth_in_the_order_of_time(
    n_classes: int, n_domains: int, whole_domain: bool
) -> None:
    found = made(n_classes, [30], has_mask=False, n_domains=n_domains)
    assert found.domains is not None
    stream = domain_incremental(found, 0, whole_domain=whole_domain)
    assert stream.has_domains
    assert stream.tasks == tuple(map(str, range(n_domains)))
    for t in range(n_domains):
        here = np.flatnonzero(found.domains == t)
        np.testing.assert_array_equal(np.sort(np.concatenate([stream.train[t], stream.test[t]])), here)
        groups = [here] if whole_domain else [here[found.labels[here] == k] for k in range(n_classes)]
        for group in groups:
            learnt = np.isin(group, stream.train[t])
            assert learnt.sum() == np.ceil(0.2 * len(group))
            assert not np.any(np.diff(learnt.astype(int)) > 0), "a sample was learnt after one to be asked about"


def test_domains_with_a_mask_learn_what_it_says() -> None:
    found = made(3, [30], n_domains=2)
    assert found.is_train is not None
    stream = domain_incremental(found, 3)
    np.testing.assert_array_equal(np.concatenate(stream.train), np.flatnonzero(found.is_train))
    assert stream.new_classes(1).tolist() == []
    few = domain_incremental(found, 3, per_class=2)
    assert [np.bincount(found.labels[rows]).tolist() for rows in few.train] == [[2, 2, 2], [2, 2, 2]]


def test_what_no_stream_can_be_made_of_is_refused() -> None:
    found = made(3, [4])
    changes: list[tuple[Callable[[], Stream], str]] = [
        (lambda: class_incremental(found, 4, 0), "expected 1 to 3 tasks"),
        (lambda: class_incremental(found, 1, 0, per_class=0), "at least 1 sample of each class"),
        (lambda: class_incremental(found, 1, 0, batch=-1), "batch"),
        (lambda: domain_incremental(found, 0), "'domain' or 'batch'"),
        (lambda: class_incremental(_replaced(found, is_train=np.ones(12, bool)), 1, 0), "samples for testing"),
        (lambda: class_incremental(_replaced(found, is_train=found.labels > 0), 1, 0), "found none of 'c0'"),
        (lambda: domain_incremental(_replaced(found, domains=np.zeros(12, int), domain_names=("a", "b")), 0), "'b'"),
    ]
    for change, text in changes:
        with pytest.raises(InputError, match=text):
            change()


def _replaced(found: DataSet, **changes: Any) -> DataSet:
    return DataSet(**{**vars(found), **changes})


def test_an_npz_may_name_its_arrays_either_way(tmp_path: Path) -> None:
    x = np.arange(12.0).reshape(6, 2)
    mask = np.array([1, 0] * 3, bool)
    for n, (key, labels) in enumerate((
        ("X", np.array(["b", "a", "a", "b", "c", "c"])),
        ("x", np.array([7, 3, 3, 7, 9, 9], np.int16)),
    )):
        arrays: dict[str, Any] = {key: x.astype(f"f{2 + 2 * n}"), "y": labels, "train": mask}
        np.savez(tmp_path / f"{n}.npz", **arrays)
    words, numbers = read_data(tmp_path / "0.npz"), read_data(tmp_path / "1.npz")
    assert words.classes == ("a", "b", "c")
    assert numbers.classes == ("3", "7", "9")
    np.testing.assert_array_equal(words.labels, numbers.labels)
    assert words.is_train is not None
    np.testing.assert_array_equal(words.is_train, mask)
    assert words.features.dtype == np.float32
    np.savez(
        tmp_path / "n.npz", X=x, y=np.array([2, 2, 0, 0, 0, 2]), classes=["p", "q", "r"], batch=[9, 9, 2, 2, 10, 10]
    )
    named = read_data(tmp_path / "n.npz")
    assert named.classes == ("p", "r"), "a name without a sample is no class"
    assert named.domain_names == ("2", "9", "10")
    np.testing.assert_allclose(take_logarithm(named).features, np.log1p(x), rtol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"X": np.zeros((2, 2))}, r"arrays X \(N, D\) and y"),
        ({"X": np.zeros(2), "y": [0, 1]}, "features"),
        ({"X": np.full((2, 2), np.nan), "y": [0, 1]}, "finite"),
        ({"X": np.zeros((0, 2)), "y": np.zeros(0, int)}, "at least one sample"),
        ({"X": np.zeros((2, 2)), "y": [0, 1, 2]}, "as many as X"),
        ({"X": np.zeros((2, 2)), "y": [0, 1], "train": [True]}, "expected train"),
        ({"X": np.zeros((2, 2)), "y": [0, 1], "train": [0.5, 1]}, "true or false"),
        ({"X": np.zeros((2, 2)), "y": [0, 1], "classes": ["a"]}, "rows of classes, 0 to 0"),
        ({"X": np.zeros((2, 2)), "y": [0, 1], "classes": [["a", "b"]]}, "rows of classes"),
        ({"X": np.zeros((2, 2)), "y": [0.5, 1.5]}, "class name"),
        ({"X": np.zeros((2, 2)), "y": ["a", " a"]}, "found one twice"),
        ({"X": np.array([object()] * 2), "y": [0, 1]}, "npz of arrays"),
    ],
)
def test_a_file_that_is_no_data_set_is_refused(tmp_path: Path, arrays: dict[str, Any], text: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=text):
        read_data(tmp_path / "a.npz")


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 nothing")
    for name, text in (("a.npz", "npz of arrays"), ("b.npz", "no such file")):
        with pytest.raises(InputError, match=text):
            read_data(tmp_path / name)
