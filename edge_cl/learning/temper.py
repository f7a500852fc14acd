"""How loud a closed-form head speaks: the factor on its logits, which its answers do not depend on."""

from __future__ import annotations

from edge_kernels.arrays import Bools, Floats

from edge_cl.anchor import calibrate
from edge_cl.devices import namespace
from edge_cl.learning.task import Task

LARGEST = 1e30  # number that float32 holds, with room
LOUDEST = 1000.0  # that a factor may be, in units of the one that is used where no sample can tell


def find_factor(task: Task, unseen: Floats, told: Bools, rows: Floats, usual: float) -> float:
    """Return the factor on the logits of a closed-form head.

    It is calibrated on samples that the head has not seen, and mixed with the factor of the head before, which stands
    for all samples before: a few new ones must not make the head loud or quiet.

    Args:
        task: what the update learns from.
        unseen: (N, K) logits at factor 1.
        told: (N,) where they are as if unseen.
        rows: (K, D) of the head at factor 1.
        usual: the factor where nothing can tell.
    """
    n_told, n_seen = int(told.sum()), int(task.statistics.counts.sum())
    found = 0.0
    if n_told:
        logits = task.within(unseen)[told]
        most = min(LOUDEST * usual, LARGEST)
        found = most * calibrate(logits * most, task.labels[told])
    before = _factor_before(task, rows)
    if not before:
        return found or usual
    share = n_told / n_seen
    return float(before ** (1 - share) * found**share) if found else before


def _factor_before(task: Task, rows: Floats) -> float:
    """Return what makes the rows (K, D) most like those of the head before, about their means; 0 if nothing does."""
    if task.n_old < 2:
        return 0.0
    xp = namespace(rows)
    old, new = (xp.asarray(part[: task.n_old], dtype=xp.float64) for part in (task.weights, rows))
    old, new = old - old.mean(0), new - new.mean(0)
    return max(0.0, float((old * new).sum()) / max(float((new**2).sum()), 1e-300))
