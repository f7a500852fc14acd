"""The protocols as data: which samples a learner gets in which order, and on which it is asked.

A stream names rows of a data set and holds no sample of its own, so that every learner, ours or another, gets the same:

    data = read_data("features.npz")
    stream = class_incremental(data, n_tasks=10, seed=0)
    for t in range(stream.n_tasks):
        for rows in stream.updates(t):  # one update in batch learning, many online
            learn(data.features[rows], data.labels[rows])
        ask(data.features[stream.asked(t)])  # test rows of all tasks up to t
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from edge_kernels.arrays import Bools, Ints

from edge_cl.bench.data import DataSet
from edge_cl.errors import InputError

TEST_SHARE = 0.25  # of each class, where the data does not say which samples are for testing
LEARNT_SHARE = 0.2  # of each domain, likewise


@dataclass(frozen=True)
class Stream:
    """An order of tasks, as rows of a data set.

    Attributes:
        data: the samples.
        seed: of the order, and of every draw that a learner may want.
        tasks: T names.
        train: T arrays of rows to learn, in the order in which they come.
        test: T arrays of rows to be asked about; those of different tasks have none in common.
        batch: samples of an update from the second task on; 0: each task is one update.
        has_domains: whether the tasks are domains that share classes, instead of classes.
    """

    data: DataSet
    seed: int
    tasks: tuple[str, ...]
    train: tuple[Ints, ...]
    test: tuple[Ints, ...]
    batch: int = 0
    has_domains: bool = False

    @property
    def n_tasks(self) -> int:
        """T."""
        return len(self.tasks)

    def updates(self, task: int) -> list[Ints]:
        """Return the rows of each update of a task; the first task is always one update."""
        rows = self.train[task]
        if not self.batch or not task:
            return [rows]
        return [rows[start : start + self.batch] for start in range(0, len(rows), self.batch)]

    def asked(self, task: int) -> Ints:
        """Return the test rows of all tasks up to this one, task after task."""
        return np.concatenate(self.test[: task + 1])

    def new_classes(self, task: int) -> Ints:
        """Return the classes, as rows of `data.classes`, that are learnt in this task first, in their order."""
        before = np.concatenate([np.zeros(0, np.int64), *self.train[:task]])
        found = dict.fromkeys(self.data.labels[self.train[task]].tolist())
        return np.array([k for k in found if k not in set(self.data.labels[before].tolist())], np.int64)


def class_incremental(
    data: DataSet, n_tasks: int, seed: int, *, per_class: int | None = None, batch: int = 0
) -> Stream:
    """Return the tasks of `numpy.random.default_rng(seed).permutation(K)`, cut by `numpy.array_split`.

    Samples of a task come in the order of the data set, or shuffled (by `default_rng((seed, 2))`) where it is online.
    Without a mask `train`, the same quarter of each class is kept for testing whatever the seed.

    Args:
        data: with K classes.
        n_tasks: T, at most K.
        seed: of the order.
        per_class: learn at most so many samples of a class: the first of a permutation by `default_rng((seed, 1))`.
        batch: samples of an update from the second task on; 0: each task is one update.

    Raises:
        InputError: there are more tasks than classes, or a class has no sample to learn.
    """
    n_classes = len(data.classes)
    if not 1 <= n_tasks <= n_classes:
        raise InputError(f"{data.name}: expected 1 to {n_classes} tasks, one for each class at most; found {n_tasks}")
    is_train = _split_classes(data.labels, n_classes) if data.is_train is None else data.is_train
    learnable = np.bincount(data.labels[is_train], minlength=n_classes) > 0
    if not learnable.all():
        name = data.classes[int(np.argmin(learnable))]
        raise InputError(f"{data.name}: expected training samples of every class; found none of {name!r}")
    learnt = _few(data.labels, is_train, n_classes, seed, per_class)
    order = np.random.default_rng(seed).permutation(n_classes)
    parts = np.array_split(order, n_tasks)
    rows = np.arange(len(data.labels))
    train: list[Ints] = [rows[learnt & np.isin(data.labels, part)] for part in parts]
    test: list[Ints] = [rows[~is_train & np.isin(data.labels, part)] for part in parts]
    names = [", ".join(data.classes[k] for k in part[:3]) + (", ..." if len(part) > 3 else "") for part in parts]
    return _stream(data, seed, names, (train, test), batch, has_domains=False)


def domain_incremental(
    data: DataSet,
    seed: int,
    *,
    per_class: int | None = None,
    batch: int = 0,
    whole_domain: bool = False,
) -> Stream:
    """Return one task for each domain, in the order of time, whatever the seed; most classes are in many of them.

    Without a mask `train`, the first fifth of each class in each domain is learnt and the rest is for testing.

    Args:
        data: with domains.
        seed: of the draws.
        per_class: learn at most so many samples of a class in each domain, drawn as in `class_incremental`.
        batch: samples of an update from the second task on; 0: each task is one update.
        whole_domain: the first fifth of the domain as a whole, whichever classes that holds: files that are sorted
            by class within a domain then teach one class or two.

    Raises:
        InputError: there are no domains, or one has nothing to learn.
    """
    if data.domains is None:
        raise InputError(
            f"{data.name}: expected an array 'domain' or 'batch' (N,), or a folder of domains; found neither"
        )
    rows = np.arange(len(data.labels))
    train: list[Ints] = []
    test: list[Ints] = []
    for domain, name in enumerate(data.domain_names):
        here = data.domains == domain
        is_train = _split_domain(data, here, whole_domain) if data.is_train is None else here & data.is_train
        if not is_train.any():
            raise InputError(f"{data.name}: expected samples to learn in every domain; found none in {name!r}")
        train.append(rows[_few(data.labels, is_train, len(data.classes), seed, per_class)])
        test.append(rows[here & ~is_train])
    return _stream(data, seed, list(data.domain_names), (train, test), batch, has_domains=True)


def _stream(
    data: DataSet, seed: int, names: list[str], parts: tuple[list[Ints], list[Ints]], batch: int, *, has_domains: bool
) -> Stream:
    """Return the stream of the parts; online, the samples of a task are shuffled.

    Raises:
        InputError: the batch is no size, or there is nothing to be asked about.
    """
    train, test = parts
    if batch < 0:
        raise InputError(
            f"batch: expected at least 1 sample of an online update, or 0 for batch learning; found {batch}"
        )
    if not sum(map(len, test)):
        hint = "give at least two of a class, or leave some out of 'train'"
        raise InputError(f"{data.name}: expected samples for testing; found none; {hint}")
    if batch:
        rng = np.random.default_rng((seed, 2))
        train = [rng.permutation(part) for part in train]
    return Stream(data, seed, tuple(names), tuple(train), tuple(test), batch, has_domains)


def _split_classes(labels: Ints, n_classes: int) -> Bools:
    """Return (N,), false for a quarter of each class, drawn; at least one sample of each is true."""
    rng = np.random.default_rng(0)
    is_train = np.ones(len(labels), bool)
    for k in range(n_classes):
        rows = rng.permutation(np.flatnonzero(labels == k))
        is_train[rows[: int(np.ceil(TEST_SHARE * (len(rows) - 1)))]] = False
    return is_train


def _split_domain(data: DataSet, here: Bools, whole_domain: bool) -> Bools:
    """Return (N,), true for the first fifth, rounded up, of each class (or of all together) in a domain (N,)."""
    is_train = np.zeros(len(here), bool)
    groups = [here] if whole_domain else [here & (data.labels == k) for k in range(len(data.classes))]
    for group in groups:
        rows = np.flatnonzero(group)
        is_train[rows[: int(np.ceil(LEARNT_SHARE * len(rows)))]] = True
    return is_train


def _few(labels: Ints, is_train: Bools, n_classes: int, seed: int, per_class: int | None) -> Bools:
    """Return (N,), true for at most `per_class` of the training samples of each class.

    Raises:
        InputError: that is no number of samples.
    """
    if per_class is None:
        return is_train
    if per_class < 1:
        raise InputError(f"per-class: expected at least 1 sample of each class; found {per_class}")
    rng = np.random.default_rng((seed, 1))
    chosen = np.zeros(len(labels), bool)
    for k in range(n_classes):
        chosen[rng.permutation(np.flatnonzero(is_train & (labels == k)))[:per_class]] = True
    return chosen
