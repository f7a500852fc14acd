"""One update as a function of arrays: memory and a batch in; the new memory and its measures on unseen samples out.

An accuracy counts only answers that a head gives to samples as if it had never seen them: the held-out slice of the
replay for heads that are trained, and for the closed-form head, where leaving one out is free, every stored sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from edge_kernels.arrays import Bools, Floats, Ints

from edge_cl import ewc
from edge_cl.devices import HOST, Device
from edge_cl.head import Head
from edge_cl.learning import Task, learn_from_head, learn_from_statistics
from edge_cl.memory import Memory
from edge_cl.recipes import Recipe
from edge_cl.replay import UNKNOWN, is_held_out
from edge_cl.statistics import Statistics


@dataclass(frozen=True)
class Proposal:
    """An update that is not committed yet.

    Attributes:
        memory: what it would become.
        accuracy_before: of the head before, on the held-out samples of old and new classes.
        accuracy_after: of the proposed head, on the same samples.
        retention: what the proposed head keeps of the old head's accuracy on the old classes; 1 before there were two.
        retention_error: its standard error; both heads answer the same samples, so only changed answers count.
    """

    memory: Memory
    accuracy_before: float
    accuracy_after: float
    retention: float
    retention_error: float

    def forgets(self, min_retention: float) -> bool:
        """Return whether retention is below, by more than its standard error: a few samples cannot say it finer."""
        return self.retention + self.retention_error < min_retention


@dataclass(frozen=True)
class _Pool:
    """The samples that an update can see: the stored ones (S of them), then the batch.

    Attributes:
        features: (N, D) float32.
        labels: (N,) rows of the grown head.
        held: (N,) kept from training.
        was_hit: (N,) whether the head before gets the sample right as if it had never seen it.
        was_known: (N,) where that can be said.
        n_stored: S.
    """

    features: Floats
    labels: Ints
    held: Bools
    was_hit: Bools
    was_known: Bools
    n_stored: int


def propose(memory: Memory, recipe: Recipe, features: Floats, names: list[str], device: Device = HOST) -> Proposal:
    """Return the update that learning a batch would make; `memory` stays as it was.

    Args:
        memory: the state before.
        recipe: which memories are used.
        features: (N, D) float32, finite.
        names: N class names; unknown ones become new rows in their order of appearance.
        device: where it is computed; everything that it starts from goes there by one copy.
    """
    old = memory.head
    head = old.grow([name for name in dict.fromkeys(names) if name not in set(old.classes)])
    rows = {name: row for row, name in enumerate(head.classes)}
    labels = np.array([rows[name] for name in names], np.int64)
    grown = memory.statistics.grow(len(head.classes))
    sequence = _count_up(labels, grown.counts)
    replay, origins = memory.replay.offer(features, labels, sequence)
    n_stored = len(memory.replay.records)
    taken = np.isin(np.arange(len(labels)), origins - n_stored)
    pool = _gather(memory, features, labels, taken & is_held_out(sequence))
    fisher = memory.fisher
    if recipe.fisher == "diagonal":
        fisher = ewc.grow(fisher, len(head.classes))
    with device.here():
        task = _put(pool, grown, head, fisher, device)
        device.each(
            len(labels),
            lambda rows: task.statistics.add(task.features[n_stored:][rows], task.labels[n_stored:][rows], device),
        )
        learnt = (learn_from_statistics if recipe.anchor == "statistics" else learn_from_head)(task, recipe)
        if recipe.fisher == "diagonal":
            batch = slice(n_stored, None)
            fisher = device.get(ewc.add_batch(task.fisher, learnt.unseen[batch], task.features[batch], device))
        statistics = task.statistics.to_host(device)
        unseen, honest = device.get(learnt.unseen), device.get(learnt.honest)
        head = Head(head.classes, device.get(learnt.weights), device.get(learnt.bias))
    hits = unseen.argmax(axis=1) == pool.labels
    after = Memory(
        head,
        statistics,
        fisher,
        replay.mark(hits[origins], honest[origins]),
    )
    asked = honest & np.isin(np.arange(len(hits)), origins)
    if asked.any():
        accuracy_before, accuracy_after = pool.was_hit[asked].mean(), hits[asked].mean()
    else:
        accuracy_before, accuracy_after = (_ask_means(h, statistics.means).mean() for h in (old, head))
    retention, error = _retention(memory, head, pool, hits, honest)
    return Proposal(after, float(accuracy_before), float(accuracy_after), retention, error)


def _count_up(labels: Ints, seen: Ints) -> Ints:
    """Return (N,) the how-manieth of its class each label (N,) is, given how many (K,) went before."""
    order = np.argsort(labels, kind="stable")
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])
    return np.asarray(seen[labels] + ranks)


def _gather(memory: Memory, features: Floats, labels: Ints, held: Bools) -> _Pool:
    stored = memory.replay
    hits = np.zeros(len(labels), bool)
    if memory.head.classes:
        hits = memory.head.logits(features).argmax(axis=1) == labels
    return _Pool(
        np.concatenate([stored.decode(), features]),
        np.concatenate([stored.labels, labels]),
        np.concatenate([stored.held_out, held]),
        np.concatenate([stored.records["hit"] == 1, hits]),
        np.concatenate([stored.records["hit"] != UNKNOWN, np.ones(len(labels), bool)]),
        len(stored.records),
    )


def _put(pool: _Pool, statistics: Statistics, head: Head, fisher: Floats, device: Device) -> Task:
    """Return the task on the device, all of it by one copy."""
    scatter = () if statistics.scatter is None else (statistics.scatter,)
    arrays = (pool.features, pool.labels, pool.held, statistics.counts, statistics.means)
    features, labels, held, counts, means, weights, bias, fisher, *scatter_there = device.put(
        *arrays, head.weights, head.bias, fisher, *scatter
    )
    there = Statistics(counts, means, scatter_there[0] if scatter_there else None)
    return Task(features, labels, held, pool.n_stored, there, weights, bias, fisher, device)


def _retention(before: Memory, head: Head, pool: _Pool, hits: Bools, honest: Bools) -> tuple[float, float]:
    """Return retention and its standard error, over the stored samples whose answers before and after are honest.

    Where there is no such sample, the class means are asked. A head of one class has nothing to tell apart.
    """
    if len(before.head.classes) < 2:
        return 1.0, 0.0
    asked = honest & pool.was_known & (np.arange(len(hits)) < pool.n_stored)
    first, second = pool.was_hit[asked], hits[asked]
    if not asked.any():
        first, second = (_ask_means(h, before.statistics.means) for h in (before.head, head))
    n_before = int(first.sum())
    if not n_before:
        return 1.0, 0.0
    return float(second.sum() / n_before), float(np.sqrt((first != second).sum()) / n_before)  # McNemar 1947


def _ask_means(head: Head, means: Floats) -> Bools:
    """Return (K,) whether the head gives each class mean (K, D) to its own class."""
    if not head.classes:
        return np.zeros(len(means), bool)
    hits: Bools = head.logits(means).argmax(axis=1) == np.arange(len(means))
    return hits
