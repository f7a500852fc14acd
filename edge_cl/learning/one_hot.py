"""Ridge regression on the classes: targets are 1 for a sample's own class and 0 for all others.

It is what EWC with the full Fisher comes to for the squared error: the old samples' loss is a parabola, in the rows of
new classes too, where their target is 0. The statistics hold all of it, so the order of samples does not matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from edge_kernels.arrays import Floats, Ints

from edge_cl.anchor import far_units
from edge_cl.cholesky import inverse_cholesky
from edge_cl.devices import namespace
from edge_cl.errors import InputError
from edge_cl.learning.task import Learnt, Task
from edge_cl.learning.temper import find_factor
from edge_cl.recipes import Recipe
from edge_cl.statistics import Statistics

RIDGES = tuple(10.0 ** (-step / 2) for step in range(9))  # of each sample, in units of a feature's variance: 1 to 10^-4
SMALL_SHARE = 0.05  # of the samples that has to be left free to tell a strength by
USUAL = 10.0  # factor on the logits: 1 for the own class and 0 for the others is sure of it among a thousand


@dataclass(frozen=True)
class OneHot:
    """Ridge regression at one strength.

    Attributes:
        centre: (D,) mean of the samples.
        axes: (D, D) L^-1, where L L^T is their scatter with the ridge.
        rows: (K, D) weights.
        level: (K,) mean of the targets.
        loss: generalised cross-validation's estimate of the squared error on samples that were not learnt.
    """

    centre: Floats
    axes: Floats
    rows: Floats
    level: Floats
    loss: float

    def leave_one_out(self, features: Floats, labels: Ints, n_samples: int) -> Floats:
        """Return the scores (N, K) that learnt samples (N, D) would get, had they not been (Allen 1974, eq. 2.4)."""
        xp = namespace(features)
        about = features - self.centre
        scores = about @ self.rows.T + self.level
        leverage = 1 / n_samples + ((about @ self.axes.T) ** 2).sum(1)
        target = xp.asarray(labels[:, None] == xp.arange(len(self.level)), dtype=xp.float32)
        left: Floats = target - (target - scores) / (1 - leverage).clip(1e-3)[:, None]
        return left


def learn_from_one_hot(task: Task, recipe: Recipe) -> Learnt:
    """Return the ridge regression of all samples.

    Its strength is what the recipe was told, or that which generalised cross-validation likes best.

    Raises:
        InputError: what the recipe was told is too weak for the sums.
        LinAlgError: the statistics are damaged.
    """
    xp, statistics = namespace(task.features), task.statistics
    n_samples = int(statistics.counts.sum())
    ridges = RIDGES if recipe.penalty is None else (recipe.penalty,)
    try:
        best = fit(statistics, ridges[0])
    except np.linalg.LinAlgError:
        if recipe.penalty is None:
            raise
        raise InputError(
            f"penalty: less than the rounding of sums in float32; found {recipe.penalty}; give more"
        ) from None
    for ridge in ridges[1:]:
        try:
            tried = fit(statistics, ridge)
        except np.linalg.LinAlgError:  # weaker than the rounding of the sums
            break
        if not tried.loss < best.loss:
            break
        best = tried
    told = task.exact & (statistics.counts[task.labels] > 1)
    scores = (task.features - best.centre) @ best.rows.T + best.level
    scores[told] = best.leave_one_out(task.features[told], task.labels[told], n_samples)
    factor = find_factor(task, scores, told, best.rows, USUAL)
    weights = factor * best.rows
    level = xp.asarray(weights, dtype=xp.float64) @ xp.asarray(best.centre, dtype=xp.float64)
    bias = xp.asarray(factor * best.level - level, dtype=xp.float32)
    return Learnt(weights, bias, factor * scores, told, told)


def fit(statistics: Statistics, ridge: float) -> OneHot:
    """Return the regression on all samples that the statistics hold; the level is not held down.

    In float64, for what a weak ridge misses is less than float32's rounding of all that it meets.

    Args:
        statistics: of K classes.
        ridge: of each sample, in units of the mean variance of a feature.
    """
    assert statistics.scatter is not None
    xp = namespace(statistics.means)
    n_samples = int(statistics.counts.sum())
    sums = statistics.counts, statistics.means, statistics.scatter
    counts, means, scatter = (xp.asarray(part, dtype=xp.float64) for part in sums)
    level = counts / n_samples
    centre = level @ means
    about = means - centre
    between = about * counts[:, None] ** 0.5
    scatter = scatter + between.T @ between
    units = far_units(scatter.diagonal() ** 0.5, n_samples - 1)
    if units is not None:
        scatter /= units[:, None] * units
    dim = len(scatter)
    strength = ridge * (float(scatter.diagonal().sum()) / dim or 1.0)
    scatter.reshape(-1)[:: dim + 1] += strength
    axes = inverse_cholesky(scatter)
    free = n_samples - 1 - dim + strength * float((axes**2).sum())
    if units is not None:
        axes /= units
    products = (about * counts[:, None]) @ axes.T  # of the targets with the coordinates
    rows = products @ axes
    in_units = rows if units is None else rows * units
    missed = float((counts * (1 - level)).sum() - (products**2).sum() - strength * (in_units**2).sum())
    loss = n_samples * max(missed, 0.0) / free**2 if free > SMALL_SHARE * n_samples else math.inf  # Golub 1979, eq. 1.4
    centre, axes, rows, level = (xp.asarray(part, dtype=xp.float32) for part in (centre, axes, rows, level))
    return OneHot(centre, axes, rows, level, loss)
