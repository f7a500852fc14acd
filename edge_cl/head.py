"""The head: one row of weights and one bias for each class, or for each output of a regression, addressed by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from edge_kernels.arrays import Floats, Ints

from edge_cl.hidden import Hidden
from edge_cl.look_rows import LookRows

HEADS = ("linear", "cosine", "mlp", "regression")
HIDDEN_UNITS = 64
TASK_END = "/"  # of a task's name, in front of a class's; class names may have more of them


@dataclass(frozen=True)
class Head:
    """A linear softmax classifier that grows a row for each class, or a linear regression.

    Attributes:
        classes: K names; the index of a name is its row. Of a regression: those of its outputs.
        weights: (K, D) float32.
        bias: (K,) float32.
        kind: one of `HEADS`.
        has_tasks: whether each name is that of its task, a slash, and that of the class.
        frame: (2, D) float32, of a cosine head that has learnt: what `rows` is made with.
        hidden: of an `mlp` head.
        looks: further rows of classes that have several looks; None where none has.
    """

    classes: tuple[str, ...]
    weights: Floats
    bias: Floats
    kind: str = "linear"
    has_tasks: bool = False
    frame: Floats | None = None
    hidden: Hidden | None = None
    looks: LookRows | None = None

    @classmethod
    def empty(
        cls, dim: int, kind: str = "linear", *, has_tasks: bool = False, hidden_units: int = HIDDEN_UNITS
    ) -> Head:
        """Return a head that knows no class."""
        hidden = Hidden.empty(hidden_units, dim) if kind == "mlp" else None
        return cls((), np.zeros((0, dim), np.float32), np.zeros(0, np.float32), kind, has_tasks, None, hidden)

    def grow(self, names: Sequence[str]) -> Head:
        """Return a head with a zero row appended for each name; the old rows keep their bits."""
        zeros = np.zeros((len(names), self.weights.shape[1]), np.float32)
        return replace(
            self,
            classes=(*self.classes, *names),
            weights=np.concatenate([self.weights, zeros]),
            bias=np.concatenate([self.bias, zeros[:, :1].reshape(-1)]),
            hidden=self.hidden and self.hidden.grow(len(self.classes) + len(names)),
        )

    def keep(self, rows: Ints) -> Head:
        """Return a head of some of its rows (K',)."""
        return replace(
            self,
            classes=tuple(self.classes[k] for k in rows),
            weights=self.weights[rows],
            bias=self.bias[rows],
            frame=self.frame if len(rows) else None,
            hidden=self.hidden and self.hidden.keep(rows),
            looks=self.looks and self.looks.keep(rows),
        )

    @cached_property
    def rows(self) -> tuple[Floats, Floats]:
        """Weights (K, D) and bias (K,) that answer: of a cosine head, rows of one length and no bias.

        A cosine head learns as a linear one. With the frame's vectors u, for which u x is nearly 1, and v, its rows are
        `w_k + b_k u + v`: the softmax of their logits is the same, and v is such that their lengths are (nearly) one.
        """
        if self.frame is None:
            return self.weights, self.bias
        common, shift = self.frame.astype(np.float64)
        rows = self.weights + self.bias[:, None] * common + shift
        lengths = np.sqrt(np.square(rows).sum(axis=1))
        scales = lengths.mean() / np.where(lengths > 0, lengths, 1)
        return (rows * scales[:, None]).astype(np.float32), np.zeros_like(self.bias)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of their first class; none where classes belong to no task."""
        return tuple(dict.fromkeys(split_name(name)[0] for name in self.classes)) if self.has_tasks else ()

    def of_task(self, task: str) -> Head:
        """Return the head of one of its tasks: its rows, under the names of the classes alone."""
        parts = [split_name(name) for name in self.classes]
        head = self.keep(np.array([k for k, part in enumerate(parts) if part[0] == task], np.int64))
        return replace(head, classes=tuple(part[1] for part in parts if part[0] == task), has_tasks=False)

    def groups(self) -> Ints:
        """Return (K,) the index of each row's task; 0 for all where classes belong to no task."""
        places = {task: place for place, task in enumerate(self.tasks)}
        if not places:
            return np.zeros(len(self.classes), np.int64)
        return np.array([places[split_name(name)[0]] for name in self.classes], np.int64)

    def logits(self, features: Floats) -> Floats:
        """Return (N, K) float32 for features (N, D); of a regression, the values."""
        weights, bias = self.rows
        with np.errstate(over="ignore", invalid="ignore"):
            logits: Floats = features @ weights.T + bias
            if self.hidden is not None:
                logits += self.hidden.logits(features)
            if self.looks is not None:
                logits = self.looks.logits(features, logits)
        return logits

    def predict(self, features: Floats) -> Floats:
        """Return probabilities (N, K) float32 for features (N, D)."""
        return softmax(self.logits(features))


def arrays_equal(first: Head, second: Head) -> bool:
    """Return whether two heads answer with the same numbers."""
    both = []
    for head in (first, second):
        looks, hidden = head.looks, head.hidden
        arrays = [*head.rows, *((looks.owners, looks.weights, looks.bias) if looks else ())]
        both.append([*arrays, *((hidden.units, hidden.rows) if hidden else ())])
    return len(both[0]) == len(both[1]) and all(map(np.array_equal, *both))


def split_name(name: str) -> tuple[str, str]:
    """Return the names of task and class."""
    task, _, class_name = name.partition(TASK_END)
    return task, class_name


def join_name(task: str, class_name: str) -> str:
    """Return the name of a class of a task."""
    return f"{task}{TASK_END}{class_name}"


def choose(logits: Floats, labels: Ints, groups: Ints) -> Ints:
    """Return the row (N,) of the largest logit among those of the label's own task.

    Args:
        logits: (N, K').
        labels: (N,) rows of the classes.
        groups: (K,) of `Head.groups`, where K may be more than K'.
    """
    if groups.any():
        logits = np.where(groups[labels][:, None] == groups[: logits.shape[1]], logits, -np.inf)
    return np.asarray(logits.argmax(axis=1))


def softmax(logits: Floats) -> Floats:
    """Return probabilities (N, K) in the type of the logits (N, K); each row sums to 1."""
    with np.errstate(over="ignore"):  # a gap that float32 does not hold is a probability of 0
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Floats = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities
