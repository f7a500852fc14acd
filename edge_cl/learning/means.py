"""Heads that name the nearest mean: of all samples of a class, or of its stored ones."""

from __future__ import annotations

from edge_kernels.arrays import Bools, Floats

from edge_cl.anchor import nearest_factor
from edge_cl.devices import namespace
from edge_cl.learning.task import Learnt, Task
from edge_cl.learning.temper import find_factor
from edge_cl.recipes import Recipe


def learn_from_means(task: Task, recipe: Recipe) -> Learnt:  # noqa: ARG001 - every way is called with both
    """Return the head that names the nearest class mean (Mensink 2013, eq. 5 with the identity for W).

    A learnt sample is asked about its class's mean without it, which is n / (n - 1) times as far.
    """
    xp, statistics = namespace(task.features), task.statistics
    centre = statistics.means.mean(0)
    means, about = statistics.means - centre, task.features - centre
    squares = 0.5 * (means**2).sum(1)
    counts = statistics.counts[task.labels]
    told = task.exact & (counts > 1)
    unseen = about @ means.T - squares
    rows, own = xp.arange(len(about)), about - means[task.labels]
    stretch = xp.asarray(xp.where(told, (counts / (counts - 1).clip(1)) ** 2 - 1.0, 0.0), dtype=xp.float32)
    unseen[rows, task.labels] -= 0.5 * stretch * (own**2).sum(1)
    factor = find_factor(task, unseen, told, means, nearest_factor(means))
    return _finish(factor, (means, squares, centre), unseen, told)


def learn_from_exemplars(task: Task, recipe: Recipe) -> Learnt:  # noqa: ARG001 - every way is called with both
    """Return the head that names the nearest mean of exemplars, all of unit length (Rebuffi 2017, alg. 1).

    The nearest of unit vectors is the one with the largest inner product, whatever the length of the sample. A class
    without a stored sample is stood for by its mean. Distillation, iCaRL's other half, shapes the backbone, and the
    backbone is frozen here.
    """
    xp = namespace(task.features)
    train = ~task.held
    lengths = (task.features**2).sum(1) ** 0.5
    unit = task.features / lengths[:, None].clip(1e-30)
    chosen = xp.asarray(task.labels[train][:, None] == xp.arange(len(task.bias)), dtype=xp.float32)
    sums = chosen.T @ unit[train]
    means = xp.where((chosen.sum(0) > 0)[:, None], sums, task.statistics.means)
    means = means / ((means**2).sum(1) ** 0.5)[:, None].clip(1e-30)
    usual = nearest_factor(means) / max(float(lengths.mean()) if len(lengths) else 1.0, 1e-30)
    unseen = task.features @ means.T
    factor = find_factor(task, unseen, task.held, means, usual)
    return _finish(factor, (means, 0 * means[:, 0], 0 * means[0]), unseen, task.held)


def _finish(factor: float, rule: tuple[Floats, Floats, Floats], unseen: Floats, told: Bools) -> Learnt:
    """Return the head of a rule: logits are `factor * ((x - centre) rows^T - squares)`."""
    rows, squares, centre = rule
    xp = namespace(rows)
    weights = factor * rows
    level = xp.asarray(weights, dtype=xp.float64) @ xp.asarray(centre, dtype=xp.float64)
    bias = xp.asarray(-factor * squares - level, dtype=xp.float32)
    return Learnt(weights, bias, factor * unseen, told, told)
