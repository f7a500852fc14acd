"""The head anchored on the statistics: the closed form, calibrated, and its companion where the recipe trains one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_kernels.arrays import Bools, Floats

from edge_cl.anchor import Whitened, calibrate, nearest_factor, whiten
from edge_cl.companion import Companion, weigh
from edge_cl.devices import namespace
from edge_cl.ewc import with_one
from edge_cl.learning.accompanied import PULLS, Accompanied, train_rows, train_whole
from edge_cl.learning.task import Learnt, Task
from edge_cl.recipes import Recipe


@dataclass(frozen=True)
class _Asked:
    """What the closed form says to the task's samples.

    Attributes:
        together: (N,) where it can be said as if unseen.
        unseen: (N, K) logits, as if unseen there.
        learnt: (N, K) logits.
    """

    together: Bools
    unseen: Floats
    learnt: Floats


def learn_from_statistics(task: Task, recipe: Recipe) -> Learnt:
    """Return the closed-form head, calibrated, with its companion where the recipe trains one.

    Shrinkage, weight decay, and whether there is a companion, are chosen anew when all that is stored is at hand; in
    between, an update has only a panel of it, and trains the companion's rows of its own classes.
    """
    before = task.companion
    space = whiten(task.statistics, recipe.shrinkage or (None if task.is_whole else before.shrinkage))
    asked = _ask(space, task)
    factor = _temper(space, task, asked)
    asked = replace(asked, unseen=factor * asked.unseen, learnt=factor * asked.learnt)
    after = replace(before, rows=0 * before.rows, shrinkage=space.shrinkage, factor=factor)
    if task.is_whole:
        after = replace(after, n_seen=int(task.statistics.counts.sum()))
    head = space.head(factor)
    made = _accompany(task, recipe, (space, factor), asked)
    if made is not None:
        return _join(task, head, asked, made, replace(after, rows=made.rows, pull=made.pull, share=made.share))
    comparable = asked.together | ~task.exact
    return Learnt(*head, asked.unseen, asked.together, comparable, companion=after)


def _ask(space: Whitened, task: Task) -> _Asked:
    """Return what the closed form says to the samples, as if unseen where a sample can be left out."""
    xp = namespace(space.means)
    together = task.exact & (task.statistics.counts[task.labels] > 1)
    if space.weight is None:
        together = xp.zeros_like(together)
    parts: list[tuple[Floats, Floats]] = []

    def run(rows: slice) -> None:
        z, left = space.transform(task.features[rows]), together[rows]
        learnt = space.logits(z)
        unseen = learnt + 0  # a copy, of both kinds of arrays
        if bool(left.any()):
            unseen[left] = space.leave_one_out(z[left], task.labels[rows][left])
        parts.append((unseen, learnt))

    if not len(task.features):
        nothing = task.features @ space.expected.T
        return _Asked(together, nothing, nothing)
    task.device.each(len(task.features), run)
    unseen, learnt = (xp.concatenate(part) for part in zip(*parts, strict=True))
    return _Asked(together, unseen, learnt)


def _temper(space: Whitened, task: Task, asked: _Asked) -> float:
    """Return the factor on the logits: of the samples that can be left out, and of the head before.

    The factor before stands for all samples before: a few new ones must not make the head loud or quiet.
    """
    n_asked, n_seen = int(asked.together.sum()), int(task.statistics.counts.sum())
    found = 0.0
    if n_asked and len(space.means) > 1:
        found = calibrate(task.within(asked.unseen)[asked.together], task.labels[asked.together])
    before = task.companion.factor
    if not before or not found:
        return found or before or nearest_factor(space.expected)
    share = n_asked / n_seen
    return float(before ** (1 - share) * found**share)


def _accompany(task: Task, recipe: Recipe, anchor: tuple[Whitened, float], asked: _Asked) -> Accompanied | None:
    """Return the companion, or None: what is not stored cannot be told from new classes but by the closed form.

    Samples decoded from lossy codes cannot tell how much worse the companion of a part of all samples is: where less
    than three quarters are stored, there is none (Caltech-101 with half of its samples stored: 92.2 instead of 90.9 %).
    """
    space, factor = anchor
    is_blind = task.n_old > 0 and not task.n_stored
    is_thin = not task.is_exact and 4 * task.n_kept < 3 * int(task.statistics.counts.sum())
    if not recipe.trains or is_blind or is_thin or space.weight is None or len(space.means) < 2:
        return None
    if not task.is_whole:
        if recipe.penalty is not None:
            task = replace(task, companion=replace(task.companion, pull=recipe.penalty))
        return train_rows(task, space) if bool((task.companion.rows != 0).any()) else None
    alone = asked.unseen if task.is_exact else _ask_coded(space, factor, task)
    return train_whole(task, space, alone, PULLS if recipe.penalty is None else (recipe.penalty,))


def _ask_coded(space: Whitened, factor: float, task: Task) -> Floats:
    """Return what the closed form says to samples (N, K) as their lossy codes give them back.

    With fewer samples than features it has learnt each by heart, and its code still tells: it is left out (Caltech-101
    with 5 samples of each class: 85.0 -> 86.1 %). With more it is not: codes lie nearer to their means than samples
    do, and what is left would be told too little (all samples: 93.5 -> 93.2 %).
    """
    weights, bias = space.head(factor)
    logits: Floats = task.coded @ weights.T + bias
    counts = task.statistics.counts
    can_go = counts[task.labels] > 1
    if int(counts.sum()) - len(counts) < task.coded.shape[1] and bool(can_go.any()):
        z = space.transform(task.coded[can_go])
        logits[can_go] = factor * space.leave_one_out(z, task.labels[can_go])
    return logits


def _join(task: Task, head: tuple[Floats, Floats], asked: _Asked, made: Accompanied, companion: Companion) -> Learnt:
    """Return the closed form and its companion as one head.

    Samples that the companion was trained on are asked about the closed form alone, the held-out slice about both. Of
    that, the companion has seen what was stored when all was last looked at: it says nothing new in between.
    """
    xp = namespace(asked.unseen)
    inputs = with_one(task.features)
    both = xp.where(task.held[:, None], weigh(made.share, asked.unseen, inputs @ made.unseen.T), asked.unseen)
    both = xp.where(task.exact[:, None], both, weigh(made.share, asked.learnt, inputs @ made.rows.T))
    honest = asked.together
    if not task.is_whole:
        honest = honest & ((xp.arange(len(both)) >= task.n_stored) | ~task.held)
    weights = weigh(made.share, head[0], made.rows[:, :-1])
    bias = weigh(made.share, head[1], made.rows[:, -1])
    return Learnt(weights, bias, both, honest, honest | ~task.exact, companion=companion)
