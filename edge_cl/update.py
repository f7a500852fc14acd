"""One update as a function of arrays: memory and a batch in; the new memory and its measures on unseen samples out.

An accuracy counts only answers that a head gives to samples as if it had never seen them: the held-out slice of the
replay for heads that are trained, and for the closed-form head, where leaving one out is free, every stored sample.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from edge_kernels.arrays import Bools, Codes, Floats, Ints

from edge_cl import ewc
from edge_cl.companion import Companion
from edge_cl.devices import HOST, Device, namespace
from edge_cl.errors import InputError, StateError
from edge_cl.head import Head, choose
from edge_cl.learning import Learnt, Task, learn, learn_layer, to_cosine
from edge_cl.memory import Memory
from edge_cl.recipes import Recipe
from edge_cl.replay import UNKNOWN, Replay
from edge_cl.statistics import Statistics

PANEL = 256  # stored samples that an update works on at least: as many as it can within a tenth of a second at D = 1280
MEANS = 1024  # class means that a head is asked about at a time
PANEL_PER_SAMPLE = 20  # and for each new sample, since a large batch takes long anyway
WHOLE = 1 << 14  # stored samples that are looked at, at most, where all should be


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
        coded: (B, D) the batch as the store would give it back; (0, D) where that is what it is.
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
    coded: Floats


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
    width = recipe.n_fishers * (features.shape[1] + 1)
    fisher = ewc.grow(memory.fisher, len(head.classes), width) if width else memory.fisher
    seen_so_far = memory.statistics
    if memory.replay.codec.has_codebook:  # it may have to be fitted to the batch too
        seen_so_far = seen_so_far.learn(features, labels, len(head.classes))
    replay, origins = memory.replay.offer(features, labels, sequence, seen_so_far)
    companion = memory.companion.grow(len(head.classes)) if recipe.anchor == "statistics" else memory.companion
    n_panel = _count_panel(memory, recipe, replay, len(labels))
    pool = _gather(memory, replay, origins, (features, labels, head.groups()), n_panel)
    n_stored = len(pool.seen)
    with device.here():
        task = replace(_put(pool, features, grown, head, (fisher, companion), device), n_old=len(old.classes))
        task = replace(task, is_whole=n_panel >= len(memory.replay.records), n_kept=len(replay.records))
        if recipe.fisher == "kronecker" and recipe.anchor == "previous":
            task = replace(task, before=task.statistics.copy())
        batch, places = task.features[n_stored:], task.labels[n_stored:]
        device.each(len(labels), lambda rows: task.statistics.add(batch[rows], places[rows], device))
        if recipe.parts and head.kind == "linear":
            is_old = labels < task.n_old
            task = replace(task, looks=memory.looks.gather(features[is_old], labels[is_old]))
        learnt = learn(task, recipe)
        if head.kind == "mlp":
            learnt = learn_layer(learnt, task, recipe, memory.replay.seed)
        if width:
            after, seen = ewc.with_bias(learnt.weights, learnt.bias), (learnt.unseen[n_stored:], batch)
            fisher = device.get(ewc.remember(task.fisher, after, seen, recipe.decay, device))
        if head.kind == "cosine":
            learnt = to_cosine(learnt, task)
        hits = choose(device.get(learnt.unseen), pool.labels, head.groups()) == pool.labels
        honest, comparable = device.get(learnt.honest), device.get(learnt.comparable)
        head = _take(learnt, head, device)
        statistics = task.statistics.to_host(device)
        if learnt.companion is not None:
            companion = replace(learnt.companion, rows=device.get(learnt.companion.rows))
    right = np.where(honest, hits, _follow(pool, hits, comparable))
    taken = np.flatnonzero(origins >= len(memory.replay.records))
    batch_rows = n_stored + origins[taken] - len(memory.replay.records)
    replay = replay.mark(np.concatenate([pool.seen, taken]), np.concatenate([right[:n_stored], right[batch_rows]]))
    retention = _retention(memory, head, pool, hits, comparable)
    memory = Memory(head, statistics, fisher, replay, companion, learnt.looks or memory.looks)
    return Proposal(memory, *_accuracies(old, memory, pool, right), *retention)


def _count_panel(memory: Memory, recipe: Recipe, replay: Replay, n_new: int) -> int:
    """Return how many stored samples the update works on, at most."""
    n_seen = int(memory.statistics.counts.sum()) + n_new
    if recipe.keeps_all:
        return _check_all_stored(replay, n_seen)
    n_panel = max(PANEL, PANEL_PER_SAMPLE * n_new)
    is_due = recipe.trains and recipe.anchor == "statistics" and memory.companion.is_due(n_seen)
    return max(n_panel, WHOLE) if is_due else n_panel


def _accuracies(old: Head, after: Memory, pool: _Pool, right: Codes) -> tuple[float, float]:
    """Return the accuracy of the old head and of the new one, on the same samples; or on the class means."""
    asked = pool.is_kept & (right != UNKNOWN) & (pool.was_right != UNKNOWN)
    if asked.any():
        return float(pool.was_right[asked].mean()), float(right[asked].mean())
    before, now = (_ask_means(head, after) for head in (old, after.head))
    return float(before.mean()), float(now.mean())


def _follow(pool: _Pool, hits: Bools, comparable: Bools) -> Codes:
    """Return (N,) what was known of samples before, changed where the answer of the head has changed.

    A sample decoded from a lossy code cannot be asked as if unseen, but whether it was right when it came is known.
    """
    changed = comparable & ~pool.exact & (hits != pool.was_hit)
    followed = np.where(changed, hits, pool.was_right)
    is_new = np.arange(len(hits)) >= len(pool.seen)
    return np.where(is_new | ~pool.is_kept, UNKNOWN, followed).astype(np.uint8)


def _count_up(labels: Ints, seen: Ints) -> Ints:
    """Return (N,) the how-manieth of its class each label (N,) is, given how many (K,) went before."""
    order = np.argsort(labels, kind="stable")
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])
    return np.asarray(seen[labels] + ranks)


def _check_all_stored(replay: Replay, n_samples: int) -> int:
    """Return the number of samples, all of which are stored.

    Raises:
        InputError: they are not.
    """
    if len(replay.records) < n_samples:
        raise InputError(
            f"recipe joint: sees all {n_samples} samples, so it has to store {n_samples * replay.record_bytes} bytes; "
            f"found a replay of {replay.limit_bytes}; give it more: edge-cl set FILE --replay BYTES"
        )
    return n_samples


def _gather(memory: Memory, replay: Replay, origins: Ints, batch: tuple[Floats, Ints, Ints], n_panel: int) -> _Pool:
    (features, labels, groups), n_old = batch, len(memory.replay.records)
    seen = replay.panel(n_panel)
    seen = seen[origins[seen] < n_old]
    stored, coded = _decode(memory, replay, seen, (features, labels))
    is_exact = np.full(len(seen), replay.codec.is_exact)
    taken = origins >= n_old
    is_kept, is_held = np.zeros(len(labels), bool), np.zeros(len(labels), bool)
    is_kept[origins[taken] - n_old], is_held[origins[taken] - n_old] = True, replay.held_out[taken]
    answers = np.zeros(len(seen) + len(labels), bool)
    if memory.head.classes:
        both = np.concatenate([stored, features])
        asked = np.concatenate([replay.labels[seen], labels])
        answers = choose(memory.head.logits(both), asked, groups) == asked
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
        coded,
    )


def _decode(memory: Memory, replay: Replay, seen: Ints, batch: tuple[Floats, Ints]) -> tuple[Floats, Floats]:
    """Return stored samples (S, D), and the batch (B, D) as if stored; (0, D) where that changes nothing.

    Raises:
        StateError: a record is damaged.
    """
    (features, labels), codec = batch, replay.codec
    if codec.is_exact or not codec.n_bytes or not len(features):
        return replay.decode(memory.statistics, seen), features[:0]
    known = memory.statistics
    if not len(known.counts):
        known = known.learn(features, labels, int(labels.max()) + 1)
    codes = np.concatenate([replay.records["code"][seen], codec.encode(features)])
    with np.errstate(over="ignore", invalid="ignore"):
        decoded = codec.decode(codes, known)  # at once: what fills in the rest is found only once
    if not np.isfinite(decoded).all():
        raise StateError("a replay record decodes to numbers that are none")
    return decoded[: len(seen)], decoded[len(seen) :]


def _put(
    pool: _Pool,
    features: Floats,
    statistics: Statistics,
    head: Head,
    beside: tuple[Floats, Companion],
    device: Device,
) -> Task:
    """Return the task on the device: samples, sums, the head, and the Fisher or the companion that go with it."""
    fisher, companion = beside
    samples = (np.concatenate([pool.stored, features]), pool.labels, pool.held, pool.exact)
    rows = (statistics.counts, statistics.means, head.weights, head.bias, fisher, head.groups(), companion.rows)
    coded = (pool.coded,) if len(pool.coded) else ()
    hidden = () if head.hidden is None else (head.hidden.units, head.hidden.rows, head.hidden.fisher)
    scatter = () if statistics.scatter is None else (statistics.scatter,)
    there = device.put(*samples, *rows, *coded, *hidden, *scatter)
    features, labels, held, exact, counts, means, weights, bias, fisher, groups, rows = there[:11]
    moved = Statistics(counts, means, there[-1] if scatter else None)
    layer = head.hidden and head.hidden.of(*there[11 + len(coded) : 14 + len(coded)])
    n_stored = len(pool.seen)
    given = namespace(features).concatenate([features[:n_stored], there[11]]) if coded else features
    own = (weights, bias, fisher, groups, device)
    companion = replace(companion, rows=rows)
    made = Task(features, labels, held, exact, n_stored, moved, *own, companion, given, hidden=layer)
    return replace(made, is_exact=not coded)


def _take(learnt: Learnt, head: Head, device: Device) -> Head:
    """Return the head as it was learnt on the device."""
    weights, bias = device.get(learnt.weights), device.get(learnt.bias)
    frame, hidden = learnt.frame, learnt.hidden
    if hidden is not None:
        hidden = hidden.of(device.get(hidden.units), device.get(hidden.rows), device.get(hidden.fisher))
    looks = learnt.look_rows
    if looks is not None:
        looks = replace(looks, weights=device.get(looks.weights), bias=device.get(looks.bias))
    frame = None if frame is None else device.get(frame)
    return replace(head, weights=weights, bias=bias, frame=frame, hidden=hidden, looks=looks)


def _retention(before: Memory, head: Head, pool: _Pool, hits: Bools, comparable: Bools) -> tuple[float, float]:
    """Return retention and its standard error, over the stored samples whose answers before and after compare.

    Where there is no such sample, the class means are asked. A head of one class has nothing to tell apart.
    """
    if len(before.head.classes) < 2:
        return 1.0, 0.0
    asked = comparable & pool.was_known & (np.arange(len(hits)) < len(pool.seen))
    first, second = pool.was_hit[asked], hits[asked]
    if not asked.any():
        first, second = (_ask_means(h, before) for h in (before.head, head))
    n_before = int(first.sum())
    if not n_before:
        return 1.0, 0.0
    return float(second.sum() / n_before), float(np.sqrt((first != second).sum()) / n_before)  # McNemar 1947


def _ask_means(head: Head, memory: Memory) -> Bools:
    """Return (K + E,) whether the head gives the mean of each look to its own class."""
    owners, means = memory.looks.every(memory.statistics)
    hits = np.zeros(len(means), bool)
    if not head.classes:
        return hits
    for start in range(0, len(means), MEANS):
        rows = slice(start, start + MEANS)
        hits[rows] = choose(head.logits(means[rows]), owners[rows], head.groups()) == owners[rows]
    return hits
