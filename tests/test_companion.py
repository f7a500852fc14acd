"""The companion of a closed-form head: its bytes, and what it is trained to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_cl import Learner
from edge_cl.anchor import whiten
from edge_cl.companion import Companion, weigh
from edge_cl.devices import HOST
from edge_cl.ewc import with_one
from edge_cl.learning.accompanied import train_rows, train_whole
from edge_cl.learning.task import Task
from edge_cl.refine import cross_entropy
from edge_cl.statistics import Statistics


def task_of(x: np.ndarray, y: np.ndarray, n_stored: int, companion: Companion | None = None) -> Task:
    """Return a task of samples of which the first are stored; each fifth of a class is held out."""
    n_classes, dim = int(y.max()) + 1, x.shape[1]
    held = np.zeros(len(y), bool)
    for k in range(n_classes):
        held[np.flatnonzero(y == k)[1::5]] = True
    rows = np.zeros((n_classes, dim), np.float32)
    statistics = Statistics.empty(dim, has_scatter=True).learn(x, y, n_classes)
    beside = (rows[:, 0], rows[:0], np.zeros(n_classes, np.int64), HOST)
    before = companion or Companion.empty(dim).grow(n_classes)
    n_old = len(np.unique(y[:n_stored]))
    return Task(x, y, held, np.ones(len(y), bool), n_stored, statistics, rows, *beside, before, x, n_old)


def drawn(n: int, n_classes: int = 4, dim: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return samples of classes that are not Gaussian."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    x = np.random.default_rng(7).normal(size=(n_classes, dim))[y] + rng.standard_t(3, size=(n, dim))
    return x.astype(np.float32), y


def test_bytes_give_it_back() -> None:
    rows = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    companion = Companion(rows, 41, 0.25, 0.01, 0.125, 2 / 3)
    found = Companion.unpack(companion.pack(), 3, 5)
    assert np.array_equal(found.rows, rows)
    assert replace(found, rows=rows) == replace(companion, rows=rows) or found.pack() == companion.pack()
    assert Companion.empty(5).pack() == b""
    assert Companion.unpack(b"", 3, 5).rows.shape == (0, 6)


@pytest.mark.parametrize("number", [np.nan, np.inf, -1.0, 1.5])
@pytest.mark.parametrize("place", range(5))
def test_numbers_that_are_none_are_refused(number: float, place: int) -> None:
    data = bytearray(Companion(np.ones((2, 4), np.float32), 4, 0.5, 0.5, 0.5, 0.5).pack())
    data[8 * place : 8 * place + 8] = np.float64(number).tobytes()
    if number == 1.5 and place in (2, 3):
        assert Companion.unpack(bytes(data), 2, 3).rows.shape == (2, 4)
        return
    with pytest.raises(ValueError, match="companion"):
        Companion.unpack(bytes(data), 2, 3)
    with pytest.raises(ValueError, match="companion"):
        Companion.unpack(bytes(data[:-4]), 2, 3)


def test_it_is_the_minimum_of_its_loss() -> None:
    """Against the gradient of weighted cross-entropy and weight decay, in float64."""
    x, y = drawn(300)
    task = task_of(x, y, 0)
    space = whiten(task.statistics)
    made = train_whole(task, space, np.zeros((len(y), 4), np.float32))
    assert made is not None
    u = with_one((x - space.centre) / space.units).astype(np.float64)
    rows = np.concatenate(
        [made.rows[:, :-1] * space.units, (made.rows[:, -1] + made.rows[:, :-1] @ space.centre)[:, None]], axis=1
    )
    logits = u @ rows.T
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    gradient = (p - np.eye(4)[y]).T @ u + made.pull * len(y) * rows
    assert np.abs(gradient).max() < 0.02 * np.abs(np.eye(4)[y].T @ u).max()  # L-BFGS stops at 10^-5 of the loss


def test_the_held_out_slice_refuses_a_companion_that_is_worse_than_the_closed_form() -> None:
    rng = np.random.default_rng(1)
    y = np.arange(60) % 3
    x = rng.normal(size=(60, 200)).astype(np.float32)  # nothing can be learnt from these
    task = task_of(x, y, 0)
    certain = (20 * np.eye(3)[y]).astype(np.float32)
    assert train_whole(task, whiten(task.statistics), certain) is None


def test_rows_of_classes_that_are_not_in_the_batch_keep_their_bits() -> None:
    x, y = drawn(200)
    first = task_of(x, y, 0)
    whole = train_whole(first, whiten(first.statistics), np.zeros((200, 4), np.float32))
    assert whole is not None
    new, labels = drawn(10, seed=5)
    companion = Companion(np.concatenate([whole.rows, np.zeros((1, 13), np.float32)]), 200, 0.1, whole.pull, 1.0, 0.5)
    labels = np.where(np.arange(10) < 5, 4, 1)
    new[labels == 4] += 3
    task = task_of(np.concatenate([x, new]), np.concatenate([y, labels]), 200, companion)
    made = train_rows(task, whiten(task.statistics))
    assert np.array_equal(made.rows[[0, 2, 3]], companion.rows[[0, 2, 3]])
    assert not np.array_equal(made.rows[1], companion.rows[1])
    answers = (with_one(task.features) @ made.rows.T).argmax(axis=1)
    assert (answers[-10:][labels == 4] == 4).mean() > 0.7
    assert (answers[:200] == y).mean() > (with_one(x) @ whole.rows.T).argmax(axis=1).__eq__(y).mean() - 0.05


@pytest.mark.parametrize("n_batch_classes", [1, 3, 5])
@pytest.mark.parametrize("n", [200, 40])
def test_rows_of_the_batch_are_at_the_minimum_of_the_loss_of_all_rows(n: int, n_batch_classes: int) -> None:
    """Against the gradient over all classes, in float64; the Fisher of old rows likewise."""
    rng = np.random.default_rng(n_batch_classes)
    x, y = drawn(n + 20, n_classes=5)
    y[n:] %= n_batch_classes
    before = rng.normal(size=(5, 13)).astype(np.float32) / 8
    task = task_of(x, y, n, Companion(before, n, 0.1, 0.01, 1.0, 0.5))
    space = whiten(task.statistics)
    made = train_rows(task, space)
    u = with_one((x - space.centre) / space.units).astype(np.float64)

    def in_space(rows: np.ndarray) -> np.ndarray:
        bias = rows[:, -1] + rows[:, :-1] @ space.centre
        return np.concatenate([rows[:, :-1] * space.units, bias[:, None]], axis=1).astype(np.float64)

    def likely(rows: np.ndarray) -> np.ndarray:
        p = np.exp(u @ in_space(rows).T)
        return np.asarray(p / p.sum(axis=1, keepdims=True))

    p, first = likely(made.rows), likely(before)
    pull = 0.01 * len(y) + (first * (1 - first)).sum(axis=0)[:, None]
    move = in_space(made.rows) - in_space(before)
    gradient = (p - np.eye(5)[y]).T @ u + pull * move
    at_first = (first - np.eye(5)[y]).T @ u
    assert np.abs(gradient[:n_batch_classes]).max() < 0.03 * np.abs(at_first).max()  # L-BFGS stops at 10^-5 of the loss
    assert np.array_equal(made.rows[n_batch_classes:], before[n_batch_classes:])


def test_where_nothing_can_be_learnt_there_is_seldom_a_companion() -> None:
    """Labels are drawn; a gain on the held-out slice is chance, and beyond its standard error once in six times."""
    n_taken = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        task = task_of(rng.normal(size=(150, 8)).astype(np.float32), rng.permutation(np.arange(150) % 3), 0)
        n_taken += train_whole(task, whiten(task.statistics), np.zeros((150, 3), np.float32)) is not None
    assert n_taken <= 40 / 6


def test_both_beside_each_other_are_better_than_either_alone() -> None:
    x, y = drawn(400)
    test, truth = drawn(4000, seed=9)
    x, test = np.exp(x.clip(-4, 4)) - 1, np.exp(test.clip(-4, 4)) - 1  # skewed
    with Learner.create(":memory:") as learner:
        for part in (y < 2, y >= 2):
            learner.learn(x[part], y[part].astype(str), min_retention=0)
        both = learner.evaluate(test, truth.astype(str)).accuracy
    with Learner.create(":memory:", recipe="slda") as learner:
        learner.learn(x, y.astype(str))
        alone = learner.evaluate(test, truth.astype(str)).accuracy
    assert both > alone


def test_the_same_state_comes_from_the_file_and_from_memory(tmp_path: object) -> None:
    x, y = drawn(120)
    heads = []
    for reopen in (False, True):
        path = f"{tmp_path}/{reopen}.ecl"
        learner = Learner.create(path)
        for part in (y < 2, y == 2, y == 3):
            learner.learn(x[part], y[part].astype(str))
            if reopen:
                learner.close()
                learner = Learner.open(path)
        heads.append(learner.head)
        learner.close()
    assert np.array_equal(heads[0].weights, heads[1].weights)


def test_weights_of_the_two_fit_their_losses() -> None:
    alone, beside = np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32)
    np.testing.assert_allclose(weigh(0.0, alone, beside), beside)
    np.testing.assert_allclose(weigh(2 / 3, alone, beside), 2 / 3 * (alone + beside))
    assert cross_entropy(weigh(1.0, alone, beside), np.zeros(2, int)).shape == (2,)
