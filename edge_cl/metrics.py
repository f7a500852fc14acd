"""What continual learners are measured by, each defined once, from plain arrays.

`accuracies` is the matrix R (T, T) of Lopez-Paz & Ranzato 2017: row t is taken after task t was learnt, column j is
the accuracy on the test samples of task j. All are shares, 0 to 1 (differences -1 to 1), never percent. What cannot be
said, such as the forgetting of one task, is NaN.
"""

from __future__ import annotations

import numpy as np
from edge_kernels.arrays import Bools, Floats, Ints

N_BINS = 15


def final_accuracy(hits: Bools) -> float:
    """Return the share of right answers, each sample alike: `sum_m hit_m / M`.

    Args:
        hits: (M,) of the last head, over the test samples of every task.
    """
    return _mean(np.asarray(hits, np.float64))


def class_mean_accuracy(hits: Bools, labels: Ints) -> float:
    """Return the mean of the classes' own shares of right answers: `sum_k acc_k / K`, each class alike.

    Args:
        hits: (M,) of the last head.
        labels: (M,) classes; one without a sample does not count.
    """
    return _mean(_per_group(hits, labels)[1])


def task_mean_accuracy(accuracies: Floats) -> float:
    """Return the mean of the tasks' accuracies at the end: `sum_j R_Tj / T` (Lopez-Paz & Ranzato 2017, eq. 2: ACC).

    Args:
        accuracies: (T, T).
    """
    return _mean(np.asarray(accuracies, np.float64)[-1])


def average_incremental_accuracy(seen_accuracies: Floats) -> float:
    """Return the mean over the tasks, the first too, of the accuracy on what was seen by then.

    `sum_t A_t / T` (Rebuffi 2017, sec. 4.1).

    Args:
        seen_accuracies: (T,) after each task, on the test samples of all tasks up to it.
    """
    return _mean(np.asarray(seen_accuracies, np.float64))


def forgetting(accuracies: Floats) -> float:
    """Return how much of the best that earlier tasks ever had is gone at the end; NaN for one task.

    `sum_{j<T} (max_{l<T} R_lj - R_Tj) / (T - 1)` (Chaudhry 2018: F_T, the average forgetting).

    Args:
        accuracies: (T, T).
    """
    matrix = np.asarray(accuracies, np.float64)
    before, last = matrix[:-1, :-1], matrix[-1, :-1]
    return _mean(before.max(axis=0) - last) if len(before) else float("nan")


def backward_transfer(accuracies: Floats) -> float:
    """Return what later tasks did to the accuracy on earlier ones; negative where they were forgotten.

    `sum_{j<T} (R_Tj - R_jj) / (T - 1)` (Lopez-Paz & Ranzato 2017, eq. 3); NaN for one task.

    Args:
        accuracies: (T, T).
    """
    matrix = np.asarray(accuracies, np.float64)
    return _mean((matrix[-1] - matrix.diagonal())[:-1])


def forward_transfer(accuracies: Floats, untrained: Floats) -> float:
    """Return how much better a task is answered before it was learnt than by a head that has learnt nothing.

    `sum_{j>1} (R_{j-1,j} - b_j) / (T - 1)` (Lopez-Paz & Ranzato 2017, eq. 4); NaN for one task.

    Args:
        accuracies: (T, T), above the diagonal too.
        untrained: (T,) b, the accuracy on each task of a head that has learnt nothing.
    """
    matrix = np.asarray(accuracies, np.float64)
    return _mean(matrix.diagonal(1) - np.asarray(untrained, np.float64)[1:])


def learning_accuracy(accuracies: Floats) -> float:
    """Return the mean accuracy on each task just after it was learnt: `sum_t R_tt / T` (Riemer 2019: LA).

    Args:
        accuracies: (T, T).
    """
    return _mean(np.asarray(accuracies, np.float64).diagonal())


def old_class_retention(class_accuracies: Floats, first_tasks: Ints) -> float:
    """Return what an update keeps of the accuracy on the classes before it, on average.

    `sum_{t>1} (sum_{k old} C_tk / sum_{k old} C_{t-1,k}) / (T - 1)`: the retention that an update report gives, of true
    accuracies; class k is old if it was learnt before task t. Steps before which nothing was right do not count; NaN if
    there is no other.

    Args:
        class_accuracies: (T, K) C: after each task, of each class; NaN for classes without a test sample.
        first_tasks: (K,) the task in which each class is learnt first.
    """
    shares = []
    for t in range(1, len(class_accuracies)):
        old = (first_tasks < t) & ~np.isnan(class_accuracies[t])
        before = float(class_accuracies[t - 1, old].sum())
        if before > 0:
            shares.append(float(class_accuracies[t, old].sum()) / before)
    return _mean(np.array(shares))


def new_class_accuracy(class_accuracies: Floats, first_tasks: Ints) -> float:
    """Return the mean accuracy on the classes of an update just after it, over the updates from the second on.

    `sum_{t>1} mean_{k new at t} C_tk / (number of such t)`. Unlike learning accuracy it leaves out the first task,
    whose classes had no old one to be taken for, and counts classes alike; tasks without a new class do not count.

    Args:
        class_accuracies: (T, K) C, as in `old_class_retention`.
        first_tasks: (K,) likewise.
    """
    parts = [class_accuracies[t, first_tasks == t] for t in range(1, len(class_accuracies))]
    parts = [part[~np.isnan(part)] for part in parts]
    return _mean(np.array([part.mean() for part in parts if len(part)]))


def calibration_error(confidences: Floats, hits: Bools) -> float:
    """Return the expected calibration error: `sum_b n_b / M |accuracy_b - confidence_b|` (Guo 2017, eq. 3).

    Bins are 15 of equal width, (0, 1/15] to (14/15, 1]; the confidence of an answer is its own probability.

    Args:
        confidences: (M,) probabilities of the answers that were given.
        hits: (M,) whether they were right.
    """
    gaps = np.asarray(hits, np.float64) - np.asarray(confidences, np.float64)
    bins = np.clip(np.ceil(np.asarray(confidences, np.float64) * N_BINS).astype(np.int64) - 1, 0, N_BINS - 1)
    return float(np.abs(np.bincount(bins, gaps, N_BINS)).sum() / len(gaps)) if len(gaps) else float("nan")


def accuracy_matrix(hits: Bools, tasks: Ints) -> Floats:
    """Return R (T, T): the share of right answers after each task on each task's test samples.

    Args:
        hits: (T, M) after each task, over the test samples of all tasks.
        tasks: (M,) the task of each sample; NaN stands for a task without one.
    """
    return _by_group(hits, tasks, len(hits))


def class_accuracy_matrix(hits: Bools, labels: Ints, n_classes: int) -> Floats:
    """Return C (T, K): the share of right answers after each task on each class's test samples.

    Args:
        hits: (T, M) after each task, over the test samples of all tasks.
        labels: (M,) the class of each sample; NaN stands for a class without one.
        n_classes: K.
    """
    return _by_group(hits, labels, n_classes)


def _by_group(hits: Bools, groups: Ints, n_groups: int) -> Floats:
    counts = np.bincount(groups, minlength=n_groups).astype(np.float64)
    sums = np.array([np.bincount(groups, row, n_groups) for row in np.asarray(hits, np.float64)])
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _per_group(hits: Bools, groups: Ints) -> tuple[Ints, Floats]:
    """Return the groups (G,) that occur and the share of right answers (G,) in each."""
    found, places = np.unique(groups, return_inverse=True)
    shares = np.bincount(places, np.asarray(hits, np.float64), len(found)) / np.bincount(places, minlength=len(found))
    return found, shares


def _mean(values: Floats) -> float:
    """Return the mean of the values that are known; NaN if none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
