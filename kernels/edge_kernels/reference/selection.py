"""Which samples stay: a class-balanced reservoir, and herding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_kernels.arrays import Bools, Floats, Ints


def draw_priority(labels: Ints, sequence: Ints, *, seed: int) -> NDArray[np.uint64]:
    """Return a well-mixed number for each sample, (N,), that depends on nothing but seed, class and sequence.

    Args:
        labels: (N,) rows of the classes, below 2^32.
        sequence: (N,) the how-manieth of its class each one is, below 2^32.
        seed: of the draw.
    """
    mixed = (labels.astype(np.uint64) << np.uint64(32)) ^ sequence.astype(np.uint64)
    mixed = mixed + np.uint64(seed * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # Steele 2014, splitmix64
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), dtype=np.uint64)


def balanced_reservoir(labels: Ints, order: Floats | NDArray[np.uint64], *, capacity: int) -> Bools:
    """Return which samples stay, (N,): as many of each class as can be, of each class those first in order.

    With `draw_priority` as the order it is a uniform sample of each class, whatever the batches were (Vitter 1985).

    Args:
        labels: (N,) rows of the classes.
        order: (N,) the lower, the longer a sample stays; of equal ones the first in the batch stays.
        capacity: how many samples there is room for.
    """
    stays = np.zeros(len(labels), bool)
    queues = {k: np.flatnonzero(labels == k)[np.argsort(order[labels == k], kind="stable")] for k in np.unique(labels)}
    turns = [(rank, k, n) for k, queue in queues.items() for rank, n in enumerate(queue)]
    for _, _, n in sorted(turns)[:capacity]:
        stays[n] = True
    return stays


def herd(features: Floats, *, n_chosen: int, mean: Floats | None = None) -> Ints:
    """Return the samples (m,) whose running mean follows a mean, the best first (Rebuffi 2017, alg. 4).

    Args:
        features: (N, D) of one class.
        n_chosen: m, at most N.
        mean: (D,) to be followed; None: that of the samples.
    """
    x = features.astype(np.float64)
    goal = x.mean(axis=0) if mean is None else mean.astype(np.float64)
    chosen: list[int] = []
    for _ in range(n_chosen):
        means = (x[chosen].sum(axis=0) + x) / (len(chosen) + 1)
        distances = np.square(goal - means).sum(axis=1)
        distances[chosen] = np.inf
        chosen.append(int(distances.argmin()))
    return np.array(chosen, np.int64)
