"""Each metric is what its paper's formula says, spelt out with loops, and keeps the laws that follow from it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from edge_kernels.arrays import Floats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edge_cl import metrics


@st.composite
def matrices(draw: st.DrawFn, min_tasks: int = 1) -> Floats:
    n_tasks = draw(st.integers(min_tasks, 6))
    return draw(arrays(np.float64, (n_tasks, n_tasks), elements=st.floats(0, 1)))


@given(matrices(2))
def test_transfer_and_forgetting_are_their_sums(matrix: Floats) -> None:
    n = len(matrix)
    untrained = np.linspace(0, 0.3, n)
    backward = sum(matrix[n - 1][j] - matrix[j][j] for j in range(n - 1)) / (n - 1)
    forward = sum(matrix[j - 1][j] - untrained[j] for j in range(1, n)) / (n - 1)
    forgotten = sum(max(matrix[t][j] for t in range(n - 1)) - matrix[n - 1][j] for j in range(n - 1)) / (n - 1)
    learning = sum(matrix[t][t] for t in range(n)) / n
    assert metrics.backward_transfer(matrix) == pytest.approx(backward, abs=1e-12)
    assert metrics.forward_transfer(matrix, untrained) == pytest.approx(forward, abs=1e-12)
    assert metrics.forgetting(matrix) == pytest.approx(forgotten, abs=1e-12)
    assert metrics.learning_accuracy(matrix) == pytest.approx(learning, abs=1e-12)
    assert metrics.task_mean_accuracy(matrix) == pytest.approx(sum(matrix[n - 1]) / n, abs=1e-12)


@given(matrices(2))
def test_forgetting_is_at_least_what_backward_transfer_lost(matrix: Floats) -> None:
    assert metrics.forgetting(matrix) >= -metrics.backward_transfer(matrix) - 1e-12


@given(matrices(2))
def test_nothing_is_forgotten_where_rows_only_grow(matrix: Floats) -> None:
    growing = np.maximum.accumulate(matrix, axis=0)
    assert metrics.forgetting(growing) <= 0
    assert metrics.backward_transfer(growing) >= 0


def test_one_task_has_neither_forgetting_nor_transfer() -> None:
    one = np.array([[0.7]])
    for value in (metrics.forgetting(one), metrics.backward_transfer(one), metrics.forward_transfer(one, np.zeros(1))):
        assert math.isnan(value)
    assert metrics.learning_accuracy(one) == metrics.task_mean_accuracy(one) == pytest.approx(0.7)
    assert math.isnan(metrics.old_class_retention(np.array([[0.5, 1.0]]), np.array([0, 0])))
    assert math.isnan(metrics.new_class_accuracy(np.array([[0.5, 1.0]]), np.array([0, 0])))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=40))
def test_accuracies_of_samples_and_of_classes(answers: list[tuple[bool, int]]) -> None:
    hits, labels = np.array([hit for hit, _ in answers]), np.array([label for _, label in answers])
    assert metrics.final_accuracy(hits) == pytest.approx(sum(hits) / len(hits))
    shares = []
    for k in sorted(set(labels.tolist())):
        own = [hit for hit, label in answers if label == k]
        shares.append(sum(own) / len(own))
    assert metrics.class_mean_accuracy(hits, labels) == pytest.approx(sum(shares) / len(shares))
    matrix = metrics.class_accuracy_matrix(hits[None], labels, 5)
    assert [not math.isnan(share) for share in matrix[0]] == [k in labels for k in range(5)]
    np.testing.assert_allclose(matrix[0][~np.isnan(matrix[0])], shares)


def test_both_accuracies_agree_where_classes_are_of_one_size() -> None:
    hits, labels = np.random.default_rng(0).random(60) < 0.6, np.repeat(np.arange(6), 10)
    assert metrics.class_mean_accuracy(hits, labels) == pytest.approx(metrics.final_accuracy(hits))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_average_incremental_accuracy_counts_the_first_task_too(accuracies: list[float]) -> None:
    want = sum(accuracies) / len(accuracies)
    assert metrics.average_incremental_accuracy(np.array(accuracies)) == pytest.approx(want, abs=1e-12)


def test_a_task_without_test_samples_counts_nowhere() -> None:
    hits = np.array([[1, 1, 0], [1, 0, 1], [1, 1, 1]], bool)
    matrix = metrics.accuracy_matrix(hits, np.array([0, 0, 2]))
    np.testing.assert_array_equal(matrix, [[1, np.nan, 0], [0.5, np.nan, 1], [1, np.nan, 1]])
    assert metrics.task_mean_accuracy(matrix) == 1
    assert metrics.learning_accuracy(matrix) == 1
    assert metrics.backward_transfer(matrix) == 0


@st.composite
def class_courses(draw: st.DrawFn) -> tuple[Floats, list[int]]:
    n_tasks, n_classes = draw(st.integers(2, 5)), draw(st.integers(1, 6))
    shares = st.one_of(st.floats(1e-6, 1), st.just(0.0))  # a share of samples: none is smaller than one of them
    matrix = draw(arrays(np.float64, (n_tasks, n_classes), elements=shares))
    return matrix, draw(st.lists(st.integers(0, n_tasks - 1), min_size=n_classes, max_size=n_classes))


@given(class_courses())
def test_retention_and_new_classes_are_their_sums(course: tuple[Floats, list[int]]) -> None:
    matrix, first = course
    kept, learnt = [], []
    for t in range(1, len(matrix)):
        old = [k for k, task in enumerate(first) if task < t]
        new = [k for k, task in enumerate(first) if task == t]
        before = sum(matrix[t - 1][k] for k in old)
        if before > 0:
            kept.append(sum(matrix[t][k] for k in old) / before)
        if new:
            learnt.append(sum(matrix[t][k] for k in new) / len(new))
    for found, parts in (
        (metrics.old_class_retention(matrix, np.array(first)), kept),
        (metrics.new_class_accuracy(matrix, np.array(first)), learnt),
    ):
        assert found == pytest.approx(sum(parts) / len(parts)) if parts else math.isnan(found)


def test_retention_of_a_course_that_forgets_half_each_time() -> None:
    matrix = np.array([[0.8, 0, 0], [0.4, 0.8, 0], [0.2, 0.4, 0.8]])
    assert metrics.old_class_retention(matrix, np.arange(3)) == pytest.approx(0.5)
    assert metrics.new_class_accuracy(matrix, np.arange(3)) == pytest.approx(0.8)


confidences_with_edges = st.one_of(st.floats(0, 1), st.sampled_from([0.2, 0.4, 0.6, 0.8, 1.0]))


@given(st.lists(st.tuples(confidences_with_edges, st.booleans()), min_size=1, max_size=60))
def test_calibration_error_is_guos_sum_over_bins(answers: list[tuple[float, bool]]) -> None:
    confidences, hits = np.array([p for p, _ in answers]), np.array([hit for _, hit in answers])
    want = 0.0
    for b in range(15):  # Guo 2017: B_m holds the confidences in ((m - 1) / M, m / M]
        inside = [n for n, (p, _) in enumerate(answers) if b < p * 15 <= b + 1 or (b == 0 and p == 0)]
        if inside:
            accuracy = sum(bool(hits[n]) for n in inside) / len(inside)
            want += len(inside) / len(answers) * abs(accuracy - sum(confidences[n] for n in inside) / len(inside))
    assert metrics.calibration_error(confidences, hits) == pytest.approx(want, abs=1e-12)


def test_calibration_error_of_the_sure_and_the_calibrated() -> None:
    rng = np.random.default_rng(0)
    confidences = rng.uniform(0.2, 1, 200_000)
    hits = rng.random(200_000) < confidences
    assert metrics.calibration_error(confidences, hits) < 0.01  # 15 bins of 13,000 answers: 0.004 by chance
    assert metrics.calibration_error(np.ones(4), np.array([True, False, False, False])) == pytest.approx(0.75)
    assert math.isnan(metrics.calibration_error(np.zeros(0), np.zeros(0, bool)))
