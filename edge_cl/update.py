"""One update as a function of arrays: memory and a batch in; the new memory and its measures on unseen samples out.

An accuracy counts only answers that a head gives to samples as if it had never seen them: the held-out slice of the
replay for heads that are trained, and for the closed-form head, where leaving one out is free, every stored sample.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from edge_kernels.reference import Floats, Ints

from edge_cl import ewc
from edge_cl.anchor import calibrate, inverse_cholesky, nearest_factor, whiten
from edge_cl.head import Head
from edge_cl.memory import Memory
from edge_cl.recipes import Recipe
from edge_cl.refine import Objective, cross_entropy, minimise
from edge_cl.replay import Bools, is_held_out
from edge_cl.statistics import Statistics

PULLS = (5e-2, 5e-3, 5e-4)  # EWC's lambda for each sample seen, tried from the firmest on
RIDGE = 1e-3  # lambda of recipes that have no Fisher: just enough for a finite minimum on separable samples


@dataclass(frozen=True)
class Proposal:
    """An update that is not committed yet.

    Attributes:
        memory: what it would become.
        accuracy_before: of the head before, on the held-out samples of old and new classes.
        accuracy_after: of the proposed head, on the same samples.
        retention: what the proposed head keeps of the old head's accuracy on the old classes; 1 where there was none.
    """

    memory: Memory
    accuracy_before: float
    accuracy_after: float
    retention: float


@dataclass(frozen=True)
class _Pool:
    """The samples that an update can see: the stored ones (S of them), then the batch.

    Attributes:
        features: (N, D) float32.
        labels: (N,) rows of the grown head.
        held: (N,) kept from training.
        was_hit: (N,) whether the head before gets the sample right as if it had never seen it.
        n_stored: S.
    """

    features: Floats
    labels: Ints
    held: Bools
    was_hit: Bools
    n_stored: int


def propose(memory: Memory, recipe: Recipe, features: Floats, names: list[str]) -> Proposal:
    """Return the update that learning a batch would make; `memory` stays as it was.

    Args:
        memory: the state before.
        recipe: which memories are used.
        features: (N, D) float32, finite.
        names: N class names; unknown ones become new rows in their order of appearance.
    """
    old = memory.head
    head = old.grow([name for name in dict.fromkeys(names) if name not in set(old.classes)])
    rows = {name: row for row, name in enumerate(head.classes)}
    labels = np.array([rows[name] for name in names], np.int64)
    seen = np.concatenate([memory.statistics.counts, np.zeros(len(head.classes) - len(old.classes), np.int64)])
    sequence = _count_up(labels, seen)
    statistics = memory.statistics.learn(features, labels, len(head.classes))
    replay, origins = memory.replay.offer(features, labels, sequence)
    n_stored = len(memory.replay.records)
    taken = np.isin(np.arange(len(labels)), origins - n_stored)
    pool = _gather(memory, features, labels, taken & is_held_out(sequence))
    if recipe.anchor == "statistics":
        head, unseen, honest = _learn_from_statistics(head, statistics, recipe, pool)
    else:
        head = _learn_from_head(head, memory.fisher, recipe, pool)
        unseen, honest = head.logits(pool.features), pool.held
    fisher = ewc.add_batch(memory.fisher, head, features) if recipe.fisher == "diagonal" else memory.fisher
    hits = unseen.argmax(axis=1) == pool.labels
    after = Memory(head, statistics, fisher, replay.mark(hits[origins]))
    places = np.arange(len(pool.labels))
    n_before, n_after, _ = _ask(memory, after, pool, hits, honest & (places < n_stored))
    retention = n_after / n_before if n_before else 1.0
    n_before, n_after, n_asked = _ask(memory, after, pool, hits, honest & np.isin(places, origins))
    return Proposal(after, n_before / n_asked, n_after / n_asked, retention)


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
        np.concatenate([stored.records["hit"].astype(bool), hits]),
        len(stored.records),
    )


def _learn_from_statistics(grown: Head, statistics: Statistics, recipe: Recipe, pool: _Pool) -> tuple[Head, Floats, Bools]:
    """Return the anchored head, its logits (N, K) of the pool's samples as if unseen, and (N,) where they are that.

    What the refinement trained on is asked with the anchor alone; the slice that decides on the refinement, with both.
    """
    space = whiten(statistics)
    learnt = space.transform(pool.features)
    alone = statistics.counts[pool.labels] < 2
    if space.weight is None or alone.all() or len(grown.classes) < 2:
        factor = nearest_factor(space.means)
        head = space.head(grown.classes, factor, np.zeros((len(space.means), learnt.shape[1] + 1), np.float32))
        return head, factor * space.logits(learnt), np.zeros(len(alone), bool)
    z, unseen = space.leave_one_out(learnt, pool.labels)
    factor = calibrate(unseen[~alone], pool.labels[~alone])
    unseen = (factor * unseen).astype(np.float32)
    shift = np.zeros((len(space.means), z.shape[1] + 1), np.float32)
    if recipe.trains and pool.held.sum() > 1 and not pool.held.all():
        offsets = np.where(pool.held[:, None], unseen, (factor * space.logits(learnt)).astype(np.float32))
        inputs = ewc.with_one(z)
        shift = _refine(statistics.counts, pool, inputs, offsets)
        unseen[pool.held] += inputs[pool.held] @ shift.T
    return space.head(grown.classes, factor, shift), unseen, ~alone


def _refine(counts: Ints, pool: _Pool, inputs: Floats, offsets: Floats) -> Floats:
    """Return the shift (K, D + 1) from the anchor whose pull the held-out slice likes best; zero if it likes none.

    Each pull has to gain two standard errors over the firmer one before it, the first over the anchor: what a few
    samples gain by chance is not worth leaving the closed form for. The minimum lies in the span of the training samples,
    so fewer samples than features are trained on in coordinates of that span.
    """
    train, held = ~pool.held, pool.held
    labels, answers = pool.labels[train], pool.labels[held]
    basis = None
    if train.sum() < inputs.shape[1]:
        gram = inputs[train] @ inputs[train].T
        gram[np.diag_indices(len(gram))] += 1e-4 * np.trace(gram) / len(gram)
        basis = inverse_cholesky(gram) @ inputs[train]
        inputs = inputs @ basis.T
    stored = np.bincount(labels, minlength=len(counts))
    weights = (counts[labels] / stored[labels]).astype(np.float32)
    best, best_losses = np.zeros((len(counts), inputs.shape[1]), np.float32), cross_entropy(offsets[held], answers)
    for share in PULLS:
        pull = share * float(weights.sum())
        shift = minimise(Objective(inputs[train], offsets[train], labels, weights, pull), best)
        losses = cross_entropy(offsets[held] + inputs[held] @ shift.T, answers)
        gains = best_losses - losses
        if gains.mean() < 2 * gains.std(ddof=1) / np.sqrt(len(gains)):
            break
        best, best_losses = shift, losses
    return best if basis is None else best @ basis


def _learn_from_head(grown: Head, fisher: Floats, recipe: Recipe, pool: _Pool) -> Head:
    """Return the head trained from the one before; new rows start at zero."""
    train = ~pool.held
    if not recipe.replays:
        train[: pool.n_stored] = False
    if not train.any():
        return grown
    pull: Floats | float = RIDGE
    if recipe.fisher == "diagonal":
        pull = ewc.grow(fisher, len(grown.classes)) + np.float32(RIDGE)
    objective = Objective(
        ewc.with_one(pool.features[train]),
        grown.logits(pool.features[train]),
        pool.labels[train],
        np.ones(int(train.sum()), np.float32),
        pull,
    )
    shift = minimise(objective, np.zeros((len(grown.classes), objective.inputs.shape[1]), np.float32))
    return replace(grown, weights=grown.weights + shift[:, :-1], bias=grown.bias + shift[:, -1])


def _ask(before: Memory, after: Memory, pool: _Pool, hits: Bools, asked: Bools) -> tuple[int, int, int]:
    """Return how many of the asked samples (N,) the heads before and after get right, and how many were asked.

    Where no sample can be asked, the class means are.
    """
    if asked.any():
        return int(pool.was_hit[asked].sum()), int(hits[asked].sum()), int(asked.sum())
    means = after.statistics.means if not len(before.head.classes) else before.statistics.means
    return _right_means(before.head, means), _right_means(after.head, means), len(means)


def _right_means(head: Head, means: Floats) -> int:
    """Return how many class means (K, D) the head gives to their own class."""
    if not head.classes:
        return 0
    return int((head.logits(means).argmax(axis=1) == np.arange(len(means))).sum())
