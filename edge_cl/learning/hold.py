"""What holds a head while it is trained: a quadratic around an anchor, in coordinates in which it is plain.

Three terms make it up. A prior: before any sample, logits are about `REACH` large, so the weight of a feature of
variance 1 has the precision D / REACH^2. The old samples' loss to second order around the anchor, by the recipe's
Fisher. And the same for new rows: old samples are told from the new classes too, so their loss has a gradient and a
curvature there. Plain EWC leaves that out, since the Fisher of a row that did not exist is zero, and new rows grow as
loud as they like.

Of the Kronecker Fisher, the feature factor is the second moment of all old samples, which the statistics hold exactly.
The label factor is (I - 1/K) / K, that of a head that takes all classes to be as likely, twice: it is the same for old
and new rows and needs no memory. No head has one of a larger trace; twice, for it has to hold far from the anchor too.
Half as much or twice as much costs up to 5 points; Boehning's bound (1992, eq. 3.3), K / 4 times as much, 15 on
Caltech-101. What of I is the same for all rows pulls nothing, as softmax does not see it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from edge_kernels.arrays import Bools, Floats

from edge_cl import ewc
from edge_cl.anchor import far_units, oracle_shrinkage, rounding_shrinkage
from edge_cl.cholesky import inverse_cholesky
from edge_cl.devices import namespace
from edge_cl.learning.task import Task
from edge_cl.recipes import Recipe

REACH = 10.0  # of the logits before any sample
LABEL_TRACE = 2.0  # of the label factor
LOOSE = 1e-3  # of a bias that nothing holds: just enough for a finite minimum
ROUNDING = 1e-6  # a deviation below this share of a feature's mean is float32's rounding


@dataclass(frozen=True)
class Hold:
    """Coordinates of samples, `u = [axes (x - centre), level]`, and what pulls the weights there.

    Attributes:
        weights: (K, D) of the anchor.
        bias: (K,) of the anchor.
        centre: (D,).
        axes: (D, D), or (D,) where each coordinate is a feature.
        level: the coordinate of the bias: large, where the bias is held less than the others.
        pull: (K, 1) precision of a shift from the anchor, or (K, D + 1) where it differs between the coordinates.
    """

    weights: Floats
    bias: Floats
    centre: Floats
    axes: Floats
    level: float
    pull: Floats

    def transform(self, features: Floats) -> Floats:
        """Return u (N, D + 1) of features (N, D)."""
        about = features - self.centre
        inputs = ewc.with_one(about * self.axes if self.axes.ndim == 1 else about @ self.axes.T)
        inputs[:, -1] = self.level
        return inputs

    def head(self, shift: Floats) -> tuple[Floats, Floats]:
        """Return weights (K, D) and bias (K,) of a shift (K, D + 1) from the anchor."""
        xp = namespace(shift)
        moved = shift[:, :-1] * self.axes if self.axes.ndim == 1 else shift[:, :-1] @ self.axes
        away = xp.asarray(moved, dtype=xp.float64) @ xp.asarray(self.centre, dtype=xp.float64)
        return self.weights + moved, xp.asarray(self.bias + self.level * shift[:, -1] - away, dtype=xp.float32)


def hold(task: Task, recipe: Recipe, train: Bools) -> Hold:
    """Return what holds the head of a task.

    Args:
        task: what the update learns from.
        recipe: what pulls.
        train: (N,) samples that are trained on; what the replay stands for is not held by the Fisher once more.
    """
    if recipe.fisher == "diagonal":
        return _hold_each(task, recipe, train)
    old = (recipe.penalty or 1.0) * _precision_of_old(task, train)
    if recipe.fisher == "kronecker" and float(old.max()) > 0:
        found = _hold_moment(task, old, recipe.shrinkage or 0.0)
        if found is not None:
            return found
    xp, centre = namespace(task.features), mean_of(task)
    pull, level = xp.full((len(task.bias), 1), _prior(task), dtype=xp.float32), (_prior(task) / LOOSE) ** 0.5
    if recipe.projects != "none":  # steps of gradient descent are as long as the steepest coordinate allows
        level = 1.0
    if recipe.fisher == "identity" and float(old.max()) > 0:
        pull, level = pull + old[:, None], 1.0
    return Hold(*_anchor(task), centre, 1 / deviation_of(task, centre, train), level, pull)


def _hold_each(task: Task, recipe: Recipe, train: Bools) -> Hold:
    """Return the hold of the diagonal Fisher, plain in the features as they are; new rows have none but the prior."""
    xp, mean = namespace(task.features), mean_of(task)
    rows = ewc.with_bias(task.weights, task.bias)
    precision, anchor = ewc.pull_of(task.fisher, rows)
    scale = xp.concatenate([(deviation_of(task, mean, train) ** 2 + mean**2) ** 0.5, xp.ones(1, dtype=xp.float32)])
    loose = xp.full((1, len(scale)), _prior(task), dtype=xp.float32)
    loose[:, -1] = LOOSE
    fisher, loose = (recipe.penalty or 1.0) * precision / scale**2, loose + 0 * precision
    middle = (fisher * anchor + loose * rows) / (fisher + loose)  # of two parabolas
    return Hold(middle[:, :-1], middle[:, -1], 0 * mean, 1 / scale[:-1], 1.0, fisher + loose)


def _hold_moment(task: Task, old: Floats, least: float) -> Hold | None:
    """Return the hold of the Kronecker Fisher; None where all old samples are one and the same.

    Args:
        task: what the update learns from.
        old: (K,) precision that the samples learnt before give each row.
        least: shrinkage of the second moment.
    """
    assert task.before is not None
    assert task.before.scatter is not None
    xp, before, most = namespace(task.features), task.before, float(old.max())
    n_seen = int(before.counts.sum())
    counts = xp.asarray(before.counts, dtype=xp.float32)
    centre = (counts / n_seen) @ before.means
    between = (before.means - centre) * counts[:, None] ** 0.5
    scatter = before.scatter + between.T @ between
    units = far_units(scatter.diagonal() ** 0.5, n_seen - 1)
    if units is not None:
        scatter = scatter / (units[:, None] * units)
    dim, variance = len(scatter), float(scatter.diagonal().sum()) / (len(scatter) * n_seen)
    if not variance > 0:
        return None
    shrinkage = max(oracle_shrinkage(scatter, max(n_seen - 1, 1)), least)
    prior = _prior(task) / most

    def axes_at(shrinkage: float) -> Floats:
        precision = scatter * ((1 - shrinkage) / n_seen)
        precision.reshape(-1)[:: dim + 1] += (shrinkage + prior) * variance
        return inverse_cholesky(precision)

    try:
        axes = axes_at(shrinkage)
    except np.linalg.LinAlgError:
        axes = axes_at(max(shrinkage, rounding_shrinkage(scatter, n_seen)))
    if units is not None:
        axes /= units
    return Hold(*_anchor(task), centre, axes, 1.0, old[:, None].clip(LOOSE * most))


def _anchor(task: Task) -> tuple[Floats, Floats]:
    """Return weights (K, D) and bias (K,) of the head before, with new rows at the mean of the old ones.

    There they are to an old sample what any wrong class is; with tasks, what any wrong class of the task is.
    """
    xp = namespace(task.weights)
    is_old = xp.arange(len(task.bias)) < task.n_old
    peers = xp.asarray((task.groups[:, None] == task.groups) & is_old, dtype=xp.float32)
    peers /= peers.sum(1)[:, None].clip(1)
    weights: Floats = xp.where(is_old[:, None], task.weights, peers @ task.weights)
    return weights, xp.where(is_old, task.bias, peers @ task.bias)


def _precision_of_old(task: Task, train: Bools) -> Floats:
    """Return (K,) what the samples learnt before weigh in each row: their number times the label factor.

    Those of other tasks are not told from the row's class. Those that are trained on again are not held as well.
    """
    xp, counts = namespace(task.weights), task.statistics.counts
    batch, again = task.labels[task.n_stored :], task.labels[: task.n_stored][train[: task.n_stored]]
    left = counts - sum(xp.bincount(labels, minlength=len(counts)) for labels in (batch, again))
    same = xp.asarray(task.groups[:, None] == task.groups, dtype=xp.float32)
    old: Floats = LABEL_TRACE * (same @ xp.asarray(left, dtype=xp.float32)).clip(0) / same.sum(1)
    return old


def _prior(task: Task) -> float:
    """Return the precision of the weight of a feature of variance 1, before any sample."""
    return float(task.weights.shape[1] / REACH**2)


def mean_of(task: Task) -> Floats:
    """Return the mean (D,) of all samples."""
    xp, statistics = namespace(task.weights), task.statistics
    mean: Floats = xp.asarray(statistics.counts / statistics.counts.sum(), dtype=xp.float32) @ statistics.means
    return mean


def deviation_of(task: Task, mean: Floats, train: Bools) -> Floats:
    """Return the deviation (D,) of the features: between all classes, and within them over the samples at hand.

    1 stands for a feature that is always the same.
    """
    xp, statistics = namespace(task.weights), task.statistics
    shares = xp.asarray(statistics.counts / statistics.counts.sum(), dtype=xp.float32)
    own = task.features[train] - statistics.means[task.labels[train]]
    deviation = (shares @ (statistics.means - mean) ** 2 + (own**2).mean(0)) ** 0.5
    found: Floats = xp.where(deviation > ROUNDING * abs(mean), deviation, xp.ones_like(deviation))
    return found
