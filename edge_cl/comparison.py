"""What changed between two versions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from edge_kernels.arrays import Floats

from edge_cl.memory import Memory
from edge_cl.replay import UNKNOWN


@dataclass(frozen=True)
class RowChange:
    """How a class differs between two versions; None stands where a version does not have or know it.

    Attributes:
        name: of the class.
        moved: length of the change of its weights and bias by their length before.
        samples: seen, before and after.
        stored: in the replay, before and after.
        accuracy: on its stored samples as if unseen, before and after.
    """

    name: str
    moved: float | None
    samples: tuple[int | None, int | None]
    stored: tuple[int | None, int | None]
    accuracy: tuple[float | None, float | None]

    @property
    def status(self) -> str:
        """`new`, `gone`, `changed` or `same`."""
        if self.samples[0] is None:
            return "new"
        if self.samples[1] is None:
            return "gone"
        return "changed" if self.moved or self.samples[0] != self.samples[1] else "same"


def compare(before: Memory, after: Memory) -> tuple[RowChange, ...]:
    """Return a change for each class of either memory, in the order of the rows of the first, then of the second."""
    names = dict.fromkeys((*before.head.classes, *after.head.classes))
    facts = [facts_of(memory) for memory in (before, after)]
    changes = []
    for name in names:
        rows = [_row(memory, name) for memory in (before, after)]
        moved = None
        if rows[0] is not None and rows[1] is not None:
            length = float(np.linalg.norm(rows[0]))
            moved = float(np.linalg.norm(rows[1] - rows[0])) / (length or 1.0)
        samples, stored, accuracy = zip(*(fact.get(name, (None, None, None)) for fact in facts), strict=True)
        changes.append(RowChange(name, moved, samples, stored, accuracy))
    return tuple(changes)


def _row(memory: Memory, name: str) -> Floats | None:
    if name not in memory.head.classes:
        return None
    row = memory.head.classes.index(name)
    return np.append(memory.head.weights[row], memory.head.bias[row]).astype(np.float64)


def facts_of(memory: Memory) -> dict[str, tuple[int, int, float | None]]:
    """Return samples, stored samples and accuracy of each class; all outputs of a regression have the same."""
    if memory.head.kind == "regression":
        counted = int(memory.statistics.counts.sum()), len(memory.replay.records), None
        return dict.fromkeys(memory.head.classes, counted)
    labels, hits = memory.replay.labels, memory.replay.hits
    n_classes = len(memory.head.classes)
    stored = np.bincount(labels, minlength=n_classes)
    known = np.bincount(labels[hits != UNKNOWN], minlength=n_classes)
    right = np.bincount(labels[hits == 1], minlength=n_classes)
    return {
        name: (int(memory.statistics.counts[k]), int(stored[k]), float(right[k] / known[k]) if known[k] else None)
        for k, name in enumerate(memory.head.classes)
    }
