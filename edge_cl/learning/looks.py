"""Which samples of an old class show it in a new look.

No one says which domain a sample is of: what came last of a class is compared with the looks that it has.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from edge_kernels.arrays import Floats, Ints

from edge_cl.anchor import Whitened
from edge_cl.devices import Device
from edge_cl.look_rows import MOST
from edge_cl.looks import ENOUGH, Looks
from edge_cl.statistics import Statistics

LEVEL = 4.0  # deviations of a normal variable: one in 30,000 batches of the same look would be told for a new one
N_SIGNS = 16
UNEVEN = 1.5  # of the classes' mean variance, that one class alone may have


def find_looks(looks: Looks, statistics: Statistics, space: Whitened, device: Device) -> Looks:
    """Return the looks after what came last of each class was told for a new look, or joined the nearest one.

    Where there is no room for one more, the two of the class that are nearest to each other become one.

    Args:
        looks: of the classes before, and what came last of them.
        statistics: of all samples.
        space: of these statistics.
        device: where statistics and space are.
    """
    known, last = looks.known, looks.pick(~looks.is_known)
    is_due = last.counts >= ENOUGH
    if space.weight is None or not is_due.any():
        return looks
    due, rest, (counts, means) = last.pick(is_due), last.pick(~is_due), first_looks(looks, statistics, device)
    parts = []
    for k, count, mean in zip(due.owners, due.counts, due.means.astype(np.float64), strict=True):
        own = known.owners == k
        before = counts[k] - count  # of the first look; the class was not new when these samples came
        first = (counts[k] * means[k] - count * mean) / before
        parts.append((np.array([before, *known.counts[own], count]), np.stack([first, *known.means[own], mean])))
    limit = cache(lambda: distance_limit(space, statistics, device))
    rows = np.concatenate([m for _, m in parts]).astype(np.float32)
    z = ((rows - device.get(space.centre)) @ device.get(space.whitener).T).astype(np.float64)  # few: none go there
    zs = np.split(z, np.cumsum([len(n) for n, _ in parts])[:-1])
    parts = [_settle(n, m, own, space.noise, limit) for (n, m), own in zip(parts, zs, strict=True)]
    found = known.pick(~np.isin(known.owners, due.owners))
    owners = np.concatenate([
        found.owners,
        *(np.full(len(n) - 1, k) for k, (n, _) in zip(due.owners, parts, strict=True)),
    ])
    order = np.argsort(owners, kind="stable")
    made_counts = np.concatenate([found.counts, *(n[1:] for n, _ in parts)])[order]
    made_means = np.concatenate([found.means, *(m[1:] for _, m in parts)])[order].astype(np.float32)
    return Looks(len(order), owners[order], made_counts, made_means).join(rest.owners, rest.counts, rest.means)


def distance_limit(space: Whitened, statistics: Statistics, device: Device) -> float:
    """Return how far two means of the same look may be apart: their square distance by what it is on average.

    It is a sum of squares of normal variables, which is like a chi-square of `tr(C)^2 / tr(C^2)` degrees of freedom by
    their number (Satterthwaite 1946), where C is the samples' covariance in the whitened space. The traces are means of
    `g^T C g` and `|C g|^2` over vectors g of signs (Hutchinson 1990); the upper point is by Wilson (1931).
    """
    assert statistics.scatter is not None
    signs = 2.0 * np.random.default_rng(0).integers(0, 2, (N_SIGNS, len(space.whitener))) - 1
    (g,) = device.put(signs.astype(np.float32))
    spread = (g @ space.whitener @ statistics.scatter) @ space.whitener.T  # a multiple of C g
    trace, square = float((g * spread).sum()) / N_SIGNS, float((spread**2).sum()) / N_SIGNS
    part = 2 * square / (9 * max(trace**2, square, 1e-30))
    return max(float((1 - part + LEVEL * part**0.5) ** 3), UNEVEN)


def first_looks(looks: Looks, statistics: Statistics, device: Device) -> tuple[Ints, Floats]:
    """Return counts (K,) and means (K, D) of the classes' first looks, as numpy arrays."""
    return looks.first(Statistics(device.get(statistics.counts), device.get(statistics.means), None))


def _settle(n: Ints, rows: Floats, z: Floats, noise: float, limit: Callable[[], float]) -> tuple[Ints, Floats]:
    """Return counts and means of the looks of a class after what came last of it has become one, or part of one.

    Args:
        n: (R,) samples: of the looks, then of what came last.
        rows: (R, D) means of these; changed in place.
        z: (R, D) these in whitened space.
        noise: mean square distance of a sample from its mean there.
        limit: gives that of `distance_limit`, which is never below `UNEVEN`; it is rarely needed.
    """
    apart = ((z[:, None] - z) ** 2).sum(2)
    chance = noise * (1 / n[:-1] + 1 / n[-1])
    nearest = int((apart[-1, :-1] - chance).argmin())
    pair = nearest, len(n) - 1
    if apart[-1, nearest] > UNEVEN * chance[nearest] and apart[-1, nearest] > limit() * chance[nearest]:
        if len(n) <= MOST + 1:
            return n, rows
        apart[np.tril_indices(len(n))] = np.inf
        first, second = np.unravel_index(apart.argmin(), apart.shape)
        pair = int(first), int(second)
    kept, gone = pair
    rows[kept] = (n[kept] * rows[kept] + n[gone] * rows[gone]) / (n[kept] + n[gone])
    n[kept] += n[gone]
    return np.delete(n, gone), np.delete(rows, gone, axis=0)
