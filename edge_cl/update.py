"""One update as a function of arrays: memory and a batch in; the new memory and its measures on unseen samples out.

An accuracy counts only answers that a head gives to samples as if it had never seen them: the held-out slice of the
replay for heads that are trained, and for the closed-form head, where leaving one out is free, every stored sample.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from edge_kernels.arrays import Bools, Floats, Ints

from edge_cl import ewc
from edge_cl.anchor import Whitened, calibrate, inverse_cholesky, nearest_factor, whiten
from edge_cl.devices import HOST, Device, namespace
from edge_cl.head import Head
from edge_cl.memory import Memory
from edge_cl.recipes import Recipe
from edge_cl.refine import Objective, cross_entropy, minimise
from edge_cl.replay import UNKNOWN, is_held_out
from edge_cl.statistics import Statistics

PULLS = (5e-2, 5e-3, 5e-4)  # EWC's lambda for each sample seen, tried from the firmest on
FIRST_STEPS = 5  # of L-BFGS: where the held-out slice has lost by then, the minimum is not looked for
RIDGE = 1e-3  # lambda of recipes that have no Fisher: just enough for a finite minimum on separable samples


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


@dataclass(frozen=True)
class _Task:
    """The pool, and what of it is on the device.

    Attributes:
        pool: all of it, on the host.
        features: (N, D).
        labels: (N,).
        device: where these are.
    """

    pool: _Pool
    features: Floats
    labels: Ints
    device: Device


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
    with device.here():
        scatter = () if grown.scatter is None else (grown.scatter,)
        pooled, pool_labels, counts, means, *scatters = device.put(
            pool.features, pool.labels, grown.counts, grown.means, *scatter
        )
        there = Statistics(counts, means, scatters[0] if scatters else None)
        there.add(pooled[n_stored:], pool_labels[n_stored:], device)
        moment = None if there.scatter is None else device.get(there.scatter)
        statistics = Statistics(device.get(there.counts), device.get(there.means), moment)
        if recipe.anchor == "statistics":
            task = _Task(pool, pooled, pool_labels, device)
            head, unseen, honest = _learn_from_statistics(head, there, recipe, task)
        else:
            head = _learn_from_head(head, memory.fisher, recipe, pool, device)
            unseen, honest = head.logits(pool.features), pool.held
        fisher = memory.fisher
        if recipe.fisher == "diagonal":
            fisher = ewc.add_batch(fisher, head, pooled[n_stored:], device)
    hits = unseen.argmax(axis=1) == pool.labels
    after = Memory(head, statistics, fisher, replay.mark(hits[origins], honest[origins]))
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


def _learn_from_statistics(
    grown: Head, statistics: Statistics, recipe: Recipe, task: _Task
) -> tuple[Head, Floats, Bools]:
    """Return the anchored head, its logits (N, K) of the pool's samples as if unseen, and (N,) where that holds.

    What the refinement trained on is asked with the anchor alone; the slice that decides on the refinement, with both.
    """
    device, pool = task.device, task.pool
    space = whiten(statistics)
    xp = namespace(space.means)
    counts = device.get(statistics.counts)
    alone = counts[pool.labels] < 2
    shift = xp.zeros((len(space.means), len(space.centre) + 1), dtype=xp.float32)
    if space.weight is None or alone.all() or len(grown.classes) < 2:
        factor = nearest_factor(space.means)
        logits = device.get(factor * space.logits(space.transform(task.features)))
        return space.head(grown.classes, factor, shift, device), logits, np.zeros(len(alone), bool)
    z, unseen, learnt = _leave_out(space, task)
    together = ~alone
    factor = calibrate(unseen[together], task.labels[together])
    unseen *= factor
    if recipe.trains and pool.held.sum() > 1 and not pool.held.all():
        inputs = ewc.with_one(z)
        offsets = xp.where(xp.asarray(pool.held)[:, None], unseen, factor * learnt)
        shift = _refine(counts, task, inputs, offsets)
        unseen[pool.held] += inputs[pool.held] @ shift.T
    return space.head(grown.classes, factor, shift, device), device.get(unseen), together


def _leave_out(space: Whitened, task: _Task) -> tuple[Floats, Floats, Floats]:
    """Return z (N, D) and logits (N, K) of the samples as if unseen, and the logits (N, K) as learnt."""
    parts: list[tuple[Floats, Floats, Floats]] = []

    def run(rows: slice) -> None:
        learnt = space.transform(task.features[rows])
        parts.append((*space.leave_one_out(learnt, task.labels[rows]), space.logits(learnt)))

    task.device.each(len(task.features), run)
    z, unseen, logits = (namespace(part[0]).concatenate(part) for part in zip(*parts, strict=True))
    return z, unseen, logits


def _refine(counts: Ints, task: _Task, inputs: Floats, offsets: Floats) -> Floats:
    """Return the shift (K, D + 1) from the anchor whose pull the held-out slice likes best; zero if it likes none.

    Each pull has to gain two standard errors over the firmer one before it, the first over the anchor: what a few
    samples gain by chance is not worth leaving the closed form for. The minimum lies in the span of the training
    samples, so fewer samples than features are trained on in coordinates of that span.
    """
    xp, held = namespace(inputs), task.pool.held
    train = ~held
    basis = None
    if train.sum() < inputs.shape[1]:
        gram = inputs[train] @ inputs[train].T
        diagonal = gram.reshape(-1)[:: len(gram) + 1]
        diagonal += 1e-4 * diagonal.mean()
        basis = inverse_cholesky(gram) @ inputs[train]
        inputs = inputs @ basis.T
    labels, answers = task.pool.labels[train], task.labels[held]
    stored = np.bincount(labels, minlength=len(counts))
    weights = (counts[labels] / stored[labels]).astype(np.float32)
    problem = Objective(
        inputs[train], offsets[train], task.labels[train], xp.asarray(weights, device=inputs.device), 0.0, task.device
    )

    def held_losses(shift: Floats) -> Floats:
        losses: Floats = task.device.get(cross_entropy(offsets[held] + inputs[held] @ shift.T, answers))
        return losses

    best = xp.zeros((len(counts), inputs.shape[1]), dtype=xp.float32)
    best_losses = held_losses(best)
    for share in PULLS:
        objective = replace(problem, pull=share * float(weights.sum()))
        shift = minimise(objective, best, max_steps=FIRST_STEPS)
        if held_losses(shift).mean() > best_losses.mean():
            break
        shift = minimise(objective, shift)
        losses = held_losses(shift)
        gains = best_losses - losses
        if gains.mean() < 2 * gains.std(ddof=1) / np.sqrt(len(gains)):
            break
        best, best_losses = shift, losses
    found: Floats = best if basis is None else best @ basis
    return found


def _learn_from_head(grown: Head, fisher: Floats, recipe: Recipe, pool: _Pool, device: Device) -> Head:
    """Return the head trained from the one before; new rows start at zero."""
    train = ~pool.held
    if not recipe.replays:
        train[: pool.n_stored] = False
    if not train.any():
        return grown
    inputs = ewc.with_one(pool.features[train])
    scale = np.sqrt(np.mean(np.square(inputs, dtype=np.float64), axis=0)).astype(np.float32)
    scale[scale == 0] = 1  # whatever the units of a feature are, the problem is the same
    pull = np.full((len(grown.classes), len(scale)), RIDGE, np.float32)
    if recipe.fisher == "diagonal":
        pull += ewc.grow(fisher, len(grown.classes)) / np.square(scale)
    inputs, offsets, labels, weights, pull, start = device.put(
        inputs / scale,
        grown.logits(pool.features[train]),
        pool.labels[train],
        np.ones(len(inputs), np.float32),
        pull,
        np.zeros_like(pull),
    )
    shift = device.get(minimise(Objective(inputs, offsets, labels, weights, pull, device), start)) / scale
    return replace(grown, weights=grown.weights + shift[:, :-1], bias=grown.bias + shift[:, -1])


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
