"""The head anchored on the statistics: the closed form, calibrated, and its companion where the recipe trains one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_kernels.arrays import Bools, Floats

from edge_cl.anchor import Whitened, calibrate, nearest_factor, whiten
from edge_cl.companion import Companion, weigh
from edge_cl.devices import namespace
from edge_cl.ewc import with_one
from edge_cl.learning.accompanied import PULLS, Accompanied, train_rows, train_whole
from edge_cl.learning.looks import find_looks
from edge_cl.learning.parted import Parted
from edge_cl.learning.task import Learnt, Task
from edge_cl.look_rows import LookRows
from edge_cl.looks import Looks
from edge_cl.recipes import Recipe
from edge_cl.refine import brier_score


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


@dataclass(frozen=True)
class _Rows:
    """Rows of a head.

    Attributes:
        weights: (K, D).
        bias: (K,).
        others: those of further looks of classes.
    """

    weights: Floats
    bias: Floats
    others: LookRows | None

    def logits(self, features: Floats) -> Floats:
        """Return (N, K) for features (N, D)."""
        logits = features @ self.weights.T + self.bias
        return logits if self.others is None else self.others.logits(features, logits)

    def beside(self, made: Accompanied) -> _Rows:
        """Return the rows of this and its companion as one: the best look's with the class's own of the companion."""
        rows, share, others = made.rows, made.share, self.others
        if others is not None:
            own = rows[others.owners]
            weights, bias = weigh(share, others.weights, own[:, :-1]), weigh(share, others.bias, own[:, -1])
            others = replace(others, weights=weights, bias=bias)
        return _Rows(weigh(share, self.weights, rows[:, :-1]), weigh(share, self.bias, rows[:, -1]), others)


_Anchor = tuple[Whitened, Whitened | Parted, _Rows, float]  # the space, the form that answers, its rows, their factor


def learn_from_statistics(task: Task, recipe: Recipe) -> Learnt:
    """Return the closed-form head, calibrated, with its companion where the recipe trains one.

    Shrinkage, weight decay, and whether there is a companion, are chosen anew when all that is stored is at hand; in
    between, an update has only a panel of it, and trains the companion's rows of its own classes.
    """
    before = task.companion
    space = whiten(task.statistics, recipe.shrinkage or (None if task.is_whole else before.shrinkage))
    looks, parted = _part(space, task)
    asked, factor = _ask(space, parted, task)
    if parted is not None:
        plain = _ask(space, None, task)
        if _score(task, plain[0]) < _score(task, asked):
            parted, (asked, factor) = None, plain
    after = replace(before, rows=0 * before.rows, shrinkage=space.shrinkage, factor=factor)
    if task.is_whole:
        after = replace(after, n_seen=int(task.statistics.counts.sum()))
    head = _Rows(*(parted or space).head(factor), None if parted is None else parted.look_rows(factor))
    made = _accompany(task, recipe, (space, parted or space, head, factor), asked)
    if made is not None:
        learnt = _join(task, head, asked, made, replace(after, rows=made.rows, pull=made.pull, share=made.share))
        return replace(learnt, looks=looks)
    seen = asked.together, asked.together | ~task.exact
    return Learnt(head.weights, head.bias, asked.unseen, *seen, companion=after, looks=looks, look_rows=head.others)


def _part(space: Whitened, task: Task) -> tuple[Looks | None, Parted | None]:
    """Return the looks of the classes, and the closed form of these where one has several."""
    if task.looks is None or not len(task.looks.owners):
        return task.looks, None
    looks = find_looks(task.looks, task.statistics, space, task.device)
    return looks, Parted.of(space, looks, task.statistics, task.device)


def _ask(space: Whitened, parted: Parted | None, task: Task) -> tuple[_Asked, float]:
    """Return what the closed form says to the samples, as if unseen where one can be left out, and its temper."""
    xp = namespace(space.means)
    together = task.exact & (task.statistics.counts[task.labels] > 1)
    if space.weight is None:
        together = xp.zeros_like(together)
    form = parted or space
    parts: list[tuple[Floats, Floats]] = []

    def run(rows: slice) -> None:
        z, left = space.transform(task.features[rows]), together[rows]
        learnt = form.logits(z)
        unseen = learnt + 0  # a copy, of both kinds of arrays
        if bool(left.any()):
            unseen[left] = form.leave_one_out(z[left], task.labels[rows][left])
        parts.append((unseen, learnt))

    if not len(task.features):
        parts.append((task.features @ space.expected.T,) * 2)
    task.device.each(len(task.features), run)
    unseen, learnt = (xp.concatenate(part) for part in zip(*parts, strict=True))
    asked = _Asked(together, unseen, learnt)
    factor = _temper(space, task, asked)
    return _Asked(together, factor * unseen, factor * learnt), factor


def _score(task: Task, asked: _Asked) -> float:
    """Return the Brier score of the answers to unseen samples: looks that chance or crooked classes opened lose by it.

    Gas sensors in raw units, 1 MB of replay: 94.6 instead of 93.9 %; where looks are what they seem, nothing changes.
    """
    rows = asked.together
    scores = task.stand_in(rows) * brier_score(task.within(asked.unseen)[rows], task.labels[rows])
    return float(scores.sum())


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


def _accompany(task: Task, recipe: Recipe, anchor: _Anchor, asked: _Asked) -> Accompanied | None:
    """Return the companion, or None: what is not stored cannot be told from new classes but by the closed form.

    Samples decoded from lossy codes cannot tell how much worse the companion of a part of all samples is: where less
    than three quarters are stored, there is none (Caltech-101 with half of its samples stored: 92.2 instead of 90.9 %).
    """
    space = anchor[0]
    is_blind = task.n_old > 0 and not task.n_stored
    is_thin = not task.is_exact and 4 * task.n_kept < 3 * int(task.statistics.counts.sum())
    if not recipe.trains or is_blind or is_thin or space.weight is None or len(space.means) < 2:
        return None
    if not task.is_whole:
        if recipe.penalty is not None:
            task = replace(task, companion=replace(task.companion, pull=recipe.penalty))
        return train_rows(task, space) if bool((task.companion.rows != 0).any()) else None
    alone = asked.unseen if task.is_exact else _ask_coded(anchor, task)
    return train_whole(task, space, alone, PULLS if recipe.penalty is None else (recipe.penalty,))


def _ask_coded(anchor: _Anchor, task: Task) -> Floats:
    """Return what the closed form says to samples (N, K) as their lossy codes give them back.

    With fewer samples than features it has learnt each by heart, and its code still tells: it is left out (41 generated
    sets of long features: what they lie below a joint head falls from 20 to 12 points in all; few of Caltech-101's
    samples are known as well with it as without). With more it is not: codes lie nearer to their means than samples do,
    and what is left would be told too little (one order of Caltech-101, all samples: 93.5 -> 93.2 %).
    """
    space, form, head, factor = anchor
    logits = head.logits(task.coded)
    counts = task.statistics.counts
    can_go = counts[task.labels] > 1
    if int(counts.sum()) - len(counts) < task.coded.shape[1] and bool(can_go.any()):
        z = space.transform(task.coded[can_go])
        logits[can_go] = factor * form.leave_one_out(z, task.labels[can_go])
    return logits


def _join(task: Task, head: _Rows, asked: _Asked, made: Accompanied, companion: Companion) -> Learnt:
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
    both_rows = head.beside(made)
    seen = honest, honest | ~task.exact
    return Learnt(both_rows.weights, both_rows.bias, both, *seen, companion=companion, look_rows=both_rows.others)
