"""Classes of unequal size: what a sample counts in training, and how new rows that came out too loud are brought down.

The optimiser sees all samples at once, so class-balanced sampling is a weight here: what it would come to on average.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_kernels.arrays import Bools, Floats, Ints

from edge_cl.devices import HOST, Device, namespace
from edge_cl.learning.task import Learnt, Task
from edge_cl.recipes import Recipe
from edge_cl.refine import minimise

STAY = 0.05  # of a class's weight, that a squared step away from no correction counts
LEAST_FACTOR = 0.01  # on new logits: none at all would leave the new classes nothing to be told by


def weigh(task: Task, recipe: Recipe, train: Bools) -> tuple[Floats, Floats]:
    """Return the weights (n,) of the samples that are trained on, and what is added to the logits (K,) meanwhile.

    Args:
        task: what the update learns from.
        recipe: how classes are balanced.
        train: (N,) samples that are trained on, n of them.
    """
    xp, labels = namespace(task.weights), task.labels[train]
    sizes = xp.bincount(labels, minlength=len(task.bias))
    prior = xp.zeros(len(sizes), dtype=xp.float32)
    weights = xp.ones(len(labels), dtype=xp.float32)
    if recipe.balance == "seen":
        weights = task.statistics.counts[labels] / sizes[labels]
    elif recipe.balance == "classes":
        weights = len(labels) / (int((sizes > 0).sum()) * sizes[labels])
    elif recipe.balance == "logits":  # Menon 2021, eq. 10, tau = 1; a class without a sample is given one
        prior = xp.log((sizes + 1) / (len(labels) + len(sizes)))
    return xp.asarray(weights, dtype=xp.float32), xp.asarray(prior, dtype=xp.float32)


def correct(learnt: Learnt, task: Task, recipe: Recipe) -> Learnt:
    """Return the head with its new rows brought down as the recipe says."""
    n_old, n_classes = task.n_old, len(task.bias)
    if recipe.corrects == "none" or not 0 < n_old < n_classes:
        return learnt
    if recipe.corrects == "lengths":
        return _shorten(learnt, task)
    xp = namespace(learnt.weights)
    factor, offset = fit_new_logits(learnt.unseen[task.held], task.labels[task.held], n_old, task.device)
    is_new = xp.arange(n_classes) >= n_old
    scale = xp.asarray(xp.where(is_new, factor, 1.0), dtype=xp.float32)
    shift = xp.asarray(xp.where(is_new, offset, 0.0), dtype=xp.float32)
    head = learnt.weights * scale[:, None], learnt.bias * scale + shift
    return replace(learnt, weights=head[0], bias=head[1], unseen=learnt.unseen * scale + shift)


def _shorten(learnt: Learnt, task: Task) -> Learnt:
    """Return the head with new rows of the mean length of the old ones, if they are longer (Zhao 2020, eq. 6).

    Lengths are those of the logits' differences from their mean over the classes, since what all rows have in common
    is not heard; and in units of the spread of the class means.
    """
    xp, statistics = namespace(learnt.weights), task.statistics
    same = xp.asarray(task.groups[:, None] == task.groups, dtype=xp.float32)
    same /= same.sum(1)[:, None]
    mean, level = same @ learnt.weights, same @ learnt.bias
    own = learnt.weights - mean
    spread = ((statistics.means - statistics.means.mean(0)) ** 2).mean(0) ** 0.5
    lengths = ((own * spread) ** 2).sum(1) ** 0.5
    old, new = float(lengths[: task.n_old].mean()), float(lengths[task.n_old :].mean())
    if not new > old > 0:
        return learnt
    scale = xp.asarray(xp.where(xp.arange(len(lengths)) < task.n_old, 1.0, old / new), dtype=xp.float32)
    weights, bias = mean + scale[:, None] * own, level + scale * (learnt.bias - level)
    return replace(learnt, weights=weights, bias=bias, unseen=task.within(task.features @ weights.T + bias))


@dataclass(frozen=True)
class Loudness:
    """The cross-entropy of samples as a function of factor and offset of the new classes' logits.

    Attributes:
        old: (N, K') logits of the old classes.
        new: (N, K - K') of the new ones.
        labels: (N,) classes.
        weights: (N,) of the samples.
        device: where the arrays are.
    """

    old: Floats
    new: Floats
    labels: Ints
    weights: Floats
    device: Device = HOST

    def value(self, shift: Floats) -> tuple[float, Floats]:
        """Return the loss and its gradient (2, 1) at the shift (2, 1) of factor and offset from 1 and 0."""
        xp, n_old = namespace(self.new), self.old.shape[1]
        known = self.new > -xp.inf  # classes of other tasks have no part in it
        new = xp.where(known, self.new, 0.0)
        tried = xp.where(known, (1 + shift[0]) * new + shift[1], -xp.inf)
        logits = xp.concatenate([self.old, tried], axis=1)
        loss, delta = self.device.kernels.cross_entropy_delta(logits, self.labels, sample_weights=self.weights)
        slopes = xp.stack([(delta[:, n_old:] * new).sum(), delta[:, n_old:].sum()])[:, None]
        return loss + 0.5 * STAY * float((shift**2).sum()), slopes + STAY * shift

    def first_step(self, gradient: Floats) -> Floats:
        """Return the step (2, 1) down the gradient (2, 1) that surely gains: p (1 - p) is at most 1 / 4."""
        xp = namespace(self.new)
        new = xp.where(self.new > -xp.inf, self.new, 0.0)
        steepness = STAY + 0.25 * float((self.weights @ (new**2 + 1.0)).sum())
        step: Floats = -gradient / steepness
        return step


def fit_new_logits(logits: Floats, labels: Ints, n_old: int, device: Device = HOST) -> tuple[float, float]:
    """Return factor and offset of the new classes' logits at which the cross-entropy is least (Wu 2019, eq. 4 and 5).

    All classes count the same, and a little is paid for leaving (1, 0), or a few samples that nothing confuses would
    have the factor endless.

    Args:
        logits: (N, K) of samples that were not trained on.
        labels: (N,) their classes; (1, 0) where none is old or none is new.
        n_old: how many classes are old; they are the first.
        device: where the arrays are.
    """
    xp, is_new = namespace(logits), labels >= n_old
    if not bool(is_new.any()) or bool(is_new.all()):
        return 1.0, 0.0
    weights = xp.asarray(1 / xp.bincount(labels, minlength=logits.shape[1])[labels], dtype=xp.float32)
    problem = Loudness(logits[:, :n_old], logits[:, n_old:], labels, weights, device)
    found = minimise(problem, xp.zeros((2, 1), dtype=xp.float32))
    return max(1 + float(found[0, 0]), LEAST_FACTOR), float(found[1, 0])
