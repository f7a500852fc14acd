"""A peer along a stream: what it is given, what it answers, and how its settings are chosen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from edge_kernels.arrays import Floats, Ints

from edge_cl.bench.course import NONE, Course
from edge_cl.bench.streams import Stream

HELD_SHARE = 0.2  # of each class's training samples, to choose settings on
LOWEST_SPREAD = 0.1  # of the root mean square deviation: features that hardly move at first are not blown up

Settings = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """What a peer knows before the first sample.

    Attributes:
        n_features: D.
        n_classes: K in all; classes are numbered in the order in which they come.
        task_sizes: (T,) new classes of each task.
        n_stored: samples that fit the budget as float32, each with its label: `bytes // (4 D + 8)`.
        seed: of every draw.
        has_domains: whether the tasks share classes.
    """

    n_features: int
    n_classes: int
    task_sizes: tuple[int, ...]
    n_stored: int
    seed: int
    has_domains: bool

    @property
    def sample_bytes(self) -> int:
        """Bytes of a stored sample: float32 features and an int64 label."""
        return 4 * self.n_features + 8


class Peer(Protocol):
    """A learner of another library."""

    def learn(self, features: Floats, labels: Ints) -> None:
        """Learn the samples (N, D) of an update, shuffled; labels (N,) of new classes go on where the last ended."""

    def score(self, features: Floats) -> Floats:
        """Return (N, K'), for at least the classes seen so far: the highest is the answer."""

    def count_bytes(self) -> dict[str, int]:
        """Return the bytes of what has to be kept until the next update, by part."""


@dataclass(frozen=True)
class Kind:
    """A sort of peer.

    Attributes:
        name: in the table, and in `--peers`.
        make: a new peer.
        axes: its settings and the values that are tried of each, the first being where the search starts; `scaling`
            belongs to every peer: `one` divides features by one scalar, `each` standardises each feature.
        stores: whether it keeps samples; those that do not are run once, whatever the budgets are.
        is_joint: gets the samples of all tasks at once, and answers at the end only.
        tuned_per_class: settings are chosen on so many samples of each class only, where a pass takes minutes.
        late: a setting that matters only when it is asked: an attribute of the peer, changed without learning anew.
        choose: chooses its settings itself, from all training samples (N, D), labels (N,) and the number of classes.
    """

    name: str
    make: Callable[[Setup, Settings], Peer]
    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    stores: bool = False
    is_joint: bool = False
    tuned_per_class: int | None = None
    late: str = ""
    choose: Callable[[Floats, Ints, int], Settings] | None = None


@dataclass(frozen=True)
class Scaling:
    """Features as a peer gets them, so that their mean square norm is about 1.

    Attributes:
        centre: what is subtracted.
        scale: what they are divided by then.
    """

    centre: Floats
    scale: Floats

    @classmethod
    def of(cls, features: Floats, how: str) -> Scaling:
        """Return the scaling by the first features that come (N, D): by `one` scalar, or of `each` feature."""
        x = features.astype(np.float64)
        if how == "one":
            return cls(np.zeros(1), np.array([np.sqrt(np.square(x).sum(axis=1).mean()) or 1.0]))
        spread = x.std(axis=0)
        lowest = LOWEST_SPREAD * np.sqrt(np.square(spread).mean()) or 1.0
        return cls(x.mean(axis=0), np.maximum(spread, lowest) * np.sqrt(x.shape[1]))

    def __call__(self, features: Floats) -> Floats:
        """Return features (N, D) float32."""
        scaled: Floats = ((features - self.centre) / self.scale).astype(np.float32)
        return scaled


class Walk:
    """A new peer on its way along a stream."""

    def __init__(self, kind: Kind, stream: Stream, n_bytes: int, settings: Settings) -> None:
        """Make the peer.

        Args:
            kind: of the peer.
            stream: the samples and their order; those of an update come shuffled.
            n_bytes: budget of its stored samples.
            settings: one value of each of its axes.
        """
        data = stream.data
        dim = data.features.shape[1]
        sizes = tuple(len(stream.new_classes(t)) for t in range(stream.n_tasks))
        self._kind, self._stream = kind, stream
        self._order = np.concatenate([stream.new_classes(t) for t in range(stream.n_tasks)])
        self._n_seen = np.cumsum(sizes)
        first = np.concatenate(stream.train) if kind.is_joint else stream.train[0]
        self._scaling = Scaling.of(data.features[first], settings.get("scaling", "one"))
        self._asked = self._scaling(data.features[stream.asked(stream.n_tasks - 1)])
        self._rng = np.random.default_rng((stream.seed, 3))
        n_stored = n_bytes // (4 * dim + 8)
        setup = Setup(dim, len(self._order), sizes, n_stored, stream.seed, stream.has_domains)
        self.peer = kind.make(setup, settings)

    def learn(self, task: int) -> float:
        """Return the seconds that it took to learn a task."""
        stream = self._stream
        updates = stream.updates(task)
        if self._kind.is_joint:
            updates = [np.concatenate(stream.train)] if task == stream.n_tasks - 1 else []
        place = np.full(len(stream.data.classes), NONE)
        place[self._order] = np.arange(len(self._order))
        start = time.perf_counter()
        for rows in updates:
            shuffled = self._rng.permutation(rows)
            self.peer.learn(self._scaling(stream.data.features[shuffled]), place[stream.data.labels[shuffled]])
        return time.perf_counter() - start

    def answer(self, task: int) -> Ints:
        """Return the answers (M,) after a task: to the test samples of all tasks, among the classes seen by then."""
        scores = self.peer.score(self._asked)[:, : self._n_seen[task]]
        answers: Ints = self._order[np.nan_to_num(scores, nan=-np.inf).argmax(axis=1)]
        return answers


def follow(kind: Kind, stream: Stream, n_bytes: int, settings: Settings) -> Course:
    """Return what a new peer answers along a stream. For the arguments, see Walk."""
    walk = Walk(kind, stream, n_bytes, settings)
    answers = np.full((stream.n_tasks, len(stream.asked(stream.n_tasks - 1))), NONE)
    seconds = np.zeros(stream.n_tasks)
    for task in range(stream.n_tasks):
        seconds[task] = walk.learn(task)
        if not kind.is_joint or task == stream.n_tasks - 1:
            answers[task] = walk.answer(task)
    return Course(answers, np.zeros(0), seconds, walk.peer.count_bytes(), only_end=kind.is_joint)


def hold_out(stream: Stream) -> Stream:
    """Return a stream whose training and test samples are both training samples of this one.

    A fifth of each class of each task, drawn, is asked about instead of being learnt; classes with one sample are not
    asked about.
    """
    labels, rng = stream.data.labels, np.random.default_rng((stream.seed, 4))
    train, held = [], []
    for rows in stream.train:
        is_held = np.zeros(len(rows), bool)
        for k in np.unique(labels[rows]):
            places = rng.permutation(np.flatnonzero(labels[rows] == k))
            is_held[places[: int(np.ceil(HELD_SHARE * (len(places) - 1)))]] = True
        train.append(rows[~is_held])
        held.append(rows[is_held])
    return replace(stream, train=tuple(train), test=tuple(held))


def search(
    kind: Kind, stream: Stream, n_bytes: int, on_trial: Callable[[str], object] = str
) -> tuple[Settings, list[dict[str, Any]]]:
    """Return the settings that answer most held-out samples of a stream right, and everything that was tried.

    One axis after the other, and the first once more at the end: all its values are tried, the best stays. A setting
    that fails answers nothing right.

    Args:
        kind: of the peer.
        stream: of `hold_out`.
        n_bytes: budget of its stored samples.
        on_trial: called with one line for each trial.

    Raises:
        Exception: the first setting failed.
    """
    chosen = {name: values[0] for name, values in kind.axes.items()}
    tried: dict[str, tuple[Settings, float, str]] = {}
    for axis in [*kind.axes, *list(kind.axes)[:1]]:
        options = [{**chosen, axis: value} for value in kind.axes[axis]]
        learnt: Walk | None = None
        for option in options:
            if repr(option) in tried:
                continue
            accuracy, error = 0.0, ""
            try:
                learnt = _learn_all(kind, stream, n_bytes, option, learnt if axis == kind.late else None)
                accuracy = _right(learnt, stream)
            except Exception as found:
                if not tried:
                    raise  # where the first fails, so do the others
                error = f"{type(found).__name__}: {found}"
            tried[repr(option)] = (option, accuracy, error)
            on_trial(f"{kind.name} {option}: {error or f'{100 * accuracy:.1f} %'}")
        chosen = max(options, key=lambda option: tried[repr(option)][1])
    return chosen, [{"settings": s, "accuracy": a, "error": e} for s, a, e in tried.values()]


def _learn_all(kind: Kind, stream: Stream, n_bytes: int, settings: Settings, learnt: Walk | None) -> Walk:
    """Return a peer that has learnt all tasks: a new one, or the one that has, with the other late setting."""
    if learnt is not None:
        setattr(learnt.peer, kind.late, settings[kind.late])
        return learnt
    walk = Walk(kind, stream, n_bytes, settings)
    for task in range(stream.n_tasks):
        walk.learn(task)
    return walk


def _right(walk: Walk, stream: Stream) -> float:
    last = stream.n_tasks - 1
    return float((walk.answer(last) == stream.data.labels[stream.asked(last)]).mean())
