"""One update as a function of arrays: memory and a batch in; the new memory and its measures on unseen samples out.

An accuracy counts only answers that a head gives to samples as if it had never seen them: the held-out slice of the
replay for heads that are trained, and for the closed-form head, where leaving one out is free, every stored sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from edge_kernels.arrays import Bools, Codes, Floats, Ints

from edge_cl import ewc
from edge_cl.devices import HOST, Device
from edge_cl.head import Head
from edge_cl.learning import Task, learn_from_head, learn_from_statistics
from edge_cl.memory import Memory
from edge_cl.recipes import Recipe
from edge_cl.replay import UNKNOWN, Replay
from edge_cl.statistics import Statistics

PANEL = 256  # stored samples that an update works on at least: as many as it can within a tenth of a second at D = 1280
MEANS = 1024  # class means that a head is asked about at a time
PANEL_PER_SAMPLE = 4  # and for each new sample, since a large batch takes long anyway


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
    """Samples that an update can see: S stored ones and the batch, N in all.

    Attributes:
        seen: (S,) rows of the new store.
        stored: (S, D) float32, decoded.
        labels: (N,) rows of the grown head.
        held: (N,) kept from training.
        exact: (N,) the features are those that were learnt.
        is_kept: (N,) whether the store has the sample after the update.
        was_right: (N,) whether it was known before that a head gets it right unseen: 0 no, 1 yes, 2 unknown.
        was_hit: (N,) whether the head before gets the sample right, as if unseen where it is exact.
        was_known: (N,) where that can be said.
    """

    seen: Ints
    stored: Floats
    labels: Ints
    held: Bools
    exact: Bools
    is_kept: Bools
    was_right: Codes
    was_hit: Bools
    was_known: Bools


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
    fisher = ewc.grow(memory.fisher, len(head.classes)) if recipe.fisher == "diagonal" else memory.fisher
    seen_so_far = memory.statistics
    if memory.replay.codec.has_codebook:  # it may have to be fitted to the batch too
        seen_so_far = seen_so_far.learn(features, labels, len(head.classes))
    replay, origins = memory.replay.offer(features, labels, sequence, seen_so_far)
    pool = _gather(memory, replay, origins, features, labels)
    n_stored = len(pool.seen)
    with device.here():
        task = _put(pool, features, grown, head, fisher, device)
        batch, places = task.features[n_stored:], task.labels[n_stored:]
        device.each(len(labels), lambda rows: task.statistics.add(batch[rows], places[rows], device))
        learnt = (learn_from_statistics if recipe.anchor == "statistics" else learn_from_head)(task, recipe)
        if recipe.fisher == "diagonal":
            fisher = device.get(ewc.add_batch(task.fisher, learnt.unseen[n_stored:], batch, device))
        hits = device.get(learnt.unseen).argmax(axis=1) == pool.labels
        honest, comparable = device.get(learnt.honest), device.get(learnt.comparable)
        head = Head(head.classes, device.get(learnt.weights), device.get(learnt.bias))
        statistics = task.statistics.to_host(device)
    right = np.where(honest, hits, _follow(pool, hits, comparable))
    taken = np.flatnonzero(origins >= len(memory.replay.records))
    batch_rows = n_stored + origins[taken] - len(memory.replay.records)
    replay = replay.mark(np.concatenate([pool.seen, taken]), np.concatenate([right[:n_stored], right[batch_rows]]))
    asked = pool.is_kept & (right != UNKNOWN) & (pool.was_right != UNKNOWN)
    if asked.any():
        accuracy_before, accuracy_after = pool.was_right[asked].mean(), right[asked].mean()
    else:
        accuracy_before, accuracy_after = (_ask_means(h, statistics.means).mean() for h in (old, head))
    retention, error = _retention(memory, head, pool, hits, comparable)
    after = Memory(head, statistics, fisher, replay)
    return Proposal(after, float(accuracy_before), float(accuracy_after), retention, error)


def _follow(pool: _Pool, hits: Bools, comparable: Bools) -> Codes:
    """Return (N,) what was known of samples before, changed where the answer of the head has changed.

    A sample decoded from a lossy code cannot be asked as if unseen, but whether it was right when it came is known.
    """
    changed = comparable & ~pool.exact & (hits != pool.was_hit)
    followed = np.where(changed, hits, pool.was_right)
    return np.where(pool.exact | ~pool.is_kept, UNKNOWN, followed).astype(np.uint8)


def _count_up(labels: Ints, seen: Ints) -> Ints:
    """Return (N,) the how-manieth of its class each label (N,) is, given how many (K,) went before."""
    order = np.argsort(labels, kind="stable")
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])
    return np.asarray(seen[labels] + ranks)


def _gather(memory: Memory, replay: Replay, origins: Ints, features: Floats, labels: Ints) -> _Pool:
    n_old = len(memory.replay.records)
    seen = replay.panel(max(PANEL, PANEL_PER_SAMPLE * len(labels)))
    seen = seen[origins[seen] < n_old]
    stored = replay.decode(memory.statistics, seen)
    is_exact = np.full(len(seen), replay.codec.is_exact)
    taken = origins >= n_old
    is_kept, is_held = np.zeros(len(labels), bool), np.zeros(len(labels), bool)
    is_kept[origins[taken] - n_old], is_held[origins[taken] - n_old] = True, replay.held_out[taken]
    answers = np.zeros(len(seen) + len(labels), bool)
    if memory.head.classes:
        both = np.concatenate([stored, features])
        answers = memory.head.logits(both).argmax(axis=1) == np.concatenate([replay.labels[seen], labels])
    was_right = replay.hits[seen]
    return _Pool(
        seen,
        stored,
        np.concatenate([replay.labels[seen], labels]),
        np.concatenate([replay.held_out[seen], is_held]),
        np.concatenate([is_exact, np.ones(len(labels), bool)]),
        np.concatenate([np.ones(len(seen), bool), is_kept]),
        np.concatenate([was_right, answers[len(seen) :]]),
        np.concatenate([np.where(is_exact, was_right == 1, answers[: len(seen)]), answers[len(seen) :]]),
        np.concatenate([~is_exact | (was_right != UNKNOWN), np.ones(len(labels), bool)]),
    )


def _put(pool: _Pool, features: Floats, statistics: Statistics, head: Head, fisher: Floats, device: Device) -> Task:
    """Return the task on the device, all of it by one copy."""
    scatter = () if statistics.scatter is None else (statistics.scatter,)
    samples = (np.concatenate([pool.stored, features]), pool.labels, pool.held, pool.exact)
    features, labels, held, exact, counts, means, weights, bias, fisher, *scatter_there = device.put(
        *samples, statistics.counts, statistics.means, head.weights, head.bias, fisher, *scatter
    )
    there = Statistics(counts, means, scatter_there[0] if scatter_there else None)
    return Task(features, labels, held, exact, len(pool.seen), there, weights, bias, fisher, device)


def _retention(before: Memory, head: Head, pool: _Pool, hits: Bools, comparable: Bools) -> tuple[float, float]:
    """Return retention and its standard error, over the stored samples whose answers before and after compare.

    Where there is no such sample, the class means are asked. A head of one class has nothing to tell apart.
    """
    if len(before.head.classes) < 2:
        return 1.0, 0.0
    asked = comparable & pool.was_known & (np.arange(len(hits)) < len(pool.seen))
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
    hits = np.zeros(len(means), bool)
    for start in range(0, len(means), MEANS):
        rows = np.arange(start, min(start + MEANS, len(means)))
        hits[rows] = head.logits(means[rows]).argmax(axis=1) == rows
    return hits
