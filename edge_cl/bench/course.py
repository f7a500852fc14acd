"""What a learner answered along a stream, and the figures that follow from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from edge_kernels.arrays import Floats, Ints

from edge_cl import metrics
from edge_cl.bench.streams import Stream

NONE = -1  # the answer of a head that knows no class
END_FIGURES = ("final_accuracy", "class_mean_accuracy", "task_mean_accuracy", "calibration_error")


@dataclass(frozen=True)
class Course:
    """What a learner answered along a stream of T tasks; M test samples, `stream.asked(T - 1)`, are asked after each.

    Attributes:
        answers: (T, M) classes as rows of `data.classes`; `NONE` where there is none.
        confidences: (M,) the last head's probability of its answer; empty where it has none.
        seconds: (T,) of learning each task.
        n_bytes: of the parts that are kept from one update to the next.
        only_end: whether there are answers after the last task only.
    """

    answers: Ints
    confidences: Floats
    seconds: Floats
    n_bytes: dict[str, int] = field(default_factory=dict)
    only_end: bool = False


def measure(stream: Stream, course: Course) -> dict[str, Any]:
    """Return every figure of `edge_cl.metrics` for a course, with its curve over the tasks; NaN where there is none.

    A course that has its end only has the figures of the end only.

    An untrained head, which forward transfer compares with, answers nothing where tasks bring new classes, and one of
    the K classes at random where they are domains.
    """
    labels = stream.data.labels[stream.asked(stream.n_tasks - 1)]
    sizes = [len(rows) for rows in stream.test]
    tasks = np.repeat(np.arange(stream.n_tasks), sizes)
    hits = course.answers == labels
    matrix = metrics.accuracy_matrix(hits, tasks)
    per_class = metrics.class_accuracy_matrix(hits, labels, len(stream.data.classes))
    ends = np.cumsum(sizes)
    seen = np.array([metrics.final_accuracy(hits[t, :end]) for t, end in enumerate(ends)])
    first_tasks = np.full(len(stream.data.classes), stream.n_tasks)
    for t in reversed(range(stream.n_tasks)):
        first_tasks[stream.data.labels[stream.train[t]]] = t
    if course.only_end:
        seen[:-1] = matrix[:-1] = np.nan
    untrained = np.full(stream.n_tasks, 1 / len(stream.data.classes) if stream.has_domains else 0.0)
    figures = {
        "final_accuracy": metrics.final_accuracy(hits[-1]),
        "class_mean_accuracy": metrics.class_mean_accuracy(hits[-1], labels),
        "task_mean_accuracy": metrics.task_mean_accuracy(matrix),
        "average_incremental_accuracy": metrics.average_incremental_accuracy(seen),
        "forgetting": metrics.forgetting(matrix),
        "backward_transfer": metrics.backward_transfer(matrix),
        "forward_transfer": metrics.forward_transfer(matrix, untrained),
        "learning_accuracy": metrics.learning_accuracy(matrix),
        "old_class_retention": metrics.old_class_retention(per_class, first_tasks),
        "new_class_accuracy": metrics.new_class_accuracy(per_class, first_tasks),
        "calibration_error": metrics.calibration_error(course.confidences, hits[-1, : len(course.confidences)]),
    }
    if course.only_end:
        figures = {name: value if name in END_FIGURES else float("nan") for name, value in figures.items()}
    return {
        **figures,
        "seconds": float(course.seconds.sum()),
        "state_bytes": sum(course.n_bytes.values()),
        "n_bytes": course.n_bytes,
        "classes_seen": [int((first_tasks <= t).sum()) for t in range(stream.n_tasks)],
        "seen_accuracies": seen.tolist(),
        "accuracies": matrix.tolist(),
    }
