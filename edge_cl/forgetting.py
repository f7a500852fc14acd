"""Forgetting on purpose: a memory without one of its classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from edge_kernels.arrays import Floats

from edge_cl.errors import InputError
from edge_cl.memory import Memory
from edge_cl.recipes import Recipe
from edge_cl.statistics import Statistics
from edge_cl.update import propose

MEAN_TOLERANCE = 1e-3  # of the largest value: extraction on another machine differs by less, another photo by more


@dataclass(frozen=True)
class ForgetReport:
    """What a `forget` did.

    Attributes:
        version: of the state now.
        class_name: that is gone.
        n_samples: that it had been learnt from.
        n_stored: of them, that the replay had.
        n_versions: earlier versions that could be restored, and are gone too.
        remains: what could not be removed without its samples.
    """

    version: int
    class_name: str
    n_samples: int
    n_stored: int
    n_versions: int
    remains: tuple[str, ...]


def without_class(memory: Memory, name: str, recipe: Recipe, features: Floats | None) -> tuple[Memory, tuple[str, ...]]:
    """Return the memory without a class, and what of it remains.

    Args:
        memory: stays as it was.
        name: of a class that it has.
        recipe: a head in closed form is computed anew; of one that was trained, the row is taken out.
        features: (n, D) all samples that the class was learnt from; None: they are not at hand.

    Raises:
        InputError: the samples are not those that the class was learnt from.
        LinAlgError: the memory is damaged.
    """
    head, statistics = memory.head, memory.statistics
    row = head.classes.index(name)
    others = np.flatnonzero(np.arange(len(head.classes)) != row)
    if not len(others):
        replay = memory.replay
        scatter = None if statistics.scatter is None else np.zeros_like(statistics.scatter)
        blank = Statistics(statistics.counts[:0], statistics.means[:0], scatter)
        kept = replay.keep(np.zeros(0, np.int64), np.zeros(0, np.int64)).refit(blank)
        nothing = np.zeros(0, np.int64)
        beside = memory.companion.keep(nothing), memory.looks.keep(nothing)
        return Memory(head.keep(others), blank, memory.fisher[:0], kept, *beside), ()
    scatter = _scatter_without(statistics, row, features)
    left = Statistics(statistics.counts[others], statistics.means[others], scatter)
    rows = np.flatnonzero(memory.replay.labels != row)
    labels = memory.replay.labels[rows]
    replay = memory.replay.keep(rows, labels - (labels > row)).refit(left)
    fisher = memory.fisher[others] if len(memory.fisher) else memory.fisher
    companion = memory.companion.keep(others) if len(memory.companion.rows) else memory.companion
    made = Memory(head.keep(others), left, fisher, replay, companion, memory.looks.keep(others))
    remains = []
    if scatter is not None and features is None:
        remains.append("its part of the second moment that all classes share (give its samples: --samples DIR)")
    if recipe.is_recomputed:
        try:
            made = propose(made, recipe, np.zeros((0, head.weights.shape[1]), np.float32), []).memory
        except np.linalg.LinAlgError:
            if features is None:
                raise
            raise InputError(
                "samples: taken out, they leave no second moment in float32; forget the class without them"
            ) from None
    else:
        remains.append("what the rows of other classes learnt from its samples")
    return made, tuple(remains)


def _scatter_without(statistics: Statistics, row: int, features: Floats | None) -> Floats | None:
    """Return the scatter (D, D) without a class, exactly to float32's rounding; as it is where there are no samples.

    Raises:
        InputError: the samples are not those that the class was learnt from.
    """
    n_samples, mean = int(statistics.counts[row]), statistics.means[row]
    if features is not None:
        if len(features) != n_samples:
            raise InputError(f"samples: expected the {n_samples} that the class was learnt from; found {len(features)}")
        apart = float(np.abs(features.mean(axis=0, dtype=np.float64) - mean).max())
        if apart > MEAN_TOLERANCE * float(np.abs(features).max()):
            raise InputError("samples: expected those that the class was learnt from; found others: their mean differs")
    if features is None or statistics.scatter is None:
        return statistics.scatter
    from edge_kernels.cpu import remove_samples

    counts, means = statistics.counts.copy(), statistics.means.copy()
    scatter: Floats = statistics.scatter.copy()
    remove_samples(counts, means, scatter, features=features, labels=np.full(len(features), row))
    diagonal = scatter.reshape(-1)[:: len(scatter) + 1]
    np.maximum(diagonal, 0, out=diagonal)  # what rounding leaves of a feature that only this class had
    return scatter
