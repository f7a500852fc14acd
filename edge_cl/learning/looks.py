"""Which samples of an old class show it in a new look, and the closed form whose classes have several.

No one says which domain a sample is of: what came last of a class is compared with the looks that it has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from edge_kernels.arrays import Floats, Ints

from edge_cl.anchor import Whitened, rows_of
from edge_cl.devices import Device, namespace
from edge_cl.look_rows import MOST, LookRows, highest
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
    due, rest, (counts, means) = last.pick(is_due), last.pick(~is_due), _first(looks, statistics, device)
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


def _first(looks: Looks, statistics: Statistics, device: Device) -> tuple[Ints, Floats]:
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


@dataclass(frozen=True)
class Parted:
    """The closed form of classes some of which have several looks; each class answers by its best look.

    The covariance stays that within the whole classes: in what directions looks differ is what should not count. A
    look of few samples is believed the less, and what its mean is then drawn to is the mean of its class.

    Attributes:
        space: of the whole classes.
        owners: (L,) rows of the classes, on the host: of the K first looks, then of the E others.
        counts: (L,) samples of each look.
        means: (L, D) of these samples, in the space.
    """

    space: Whitened
    owners: Ints
    counts: Ints
    means: Floats

    @classmethod
    def of(cls, space: Whitened, looks: Looks, statistics: Statistics, device: Device) -> Parted | None:
        """Return it; None where no class has more than one look, or no mean can be told from chance."""
        known = looks.known
        if not known.n_known or space.weight is None or not space.signal > 0:
            return None
        counts, means = _first(looks, statistics, device)
        rows, n = np.concatenate([means, known.means]).astype(np.float32), np.concatenate([counts, known.counts])
        placed, n = device.put(rows, n)
        owners = np.concatenate([np.arange(len(counts)), known.owners])
        return cls(space, owners, n, space.transform(placed))

    @cached_property
    def signal(self) -> float:
        """Mean square distance of the true means of looks from those of their classes, where there are several."""
        several = np.isin(self.owners, self.owners[len(self.space.means) :])
        excess = ((self.means - self._whole) ** 2).sum(1) - self._chance(self.counts, self.space.counts[self.owners])
        return max(0.0, float(excess[several].mean()))

    @cached_property
    def expected(self) -> Floats:
        """Means (L, D) of the looks, as far as their samples are to be believed."""
        shares = self._share(self.counts, self.space.counts[self.owners])
        rows: Floats = self.space.expected[self.owners] + shares[:, None] * (self.means - self._whole)
        return rows

    @cached_property
    def levels(self) -> Floats:
        """Logits (L,) at the centre."""
        level: Floats = -0.5 * (self.expected**2).sum(1)
        return level

    @cached_property
    def _whole(self) -> Floats:
        return self.space.means[self.owners]

    def _chance(self, counts: Ints, whole: Ints) -> Floats:
        """Return how far, squared, means of so many of a class's samples (L,) lie from its mean by chance."""
        xp = namespace(self.means)
        chance: Floats = xp.asarray(self.space.noise * (1 / counts - 1 / whole), dtype=xp.float32)
        return chance

    def _share(self, counts: Ints, whole: Ints) -> Floats:
        share: Floats = self.signal / (self.signal + self._chance(counts, whole)).clip(1e-30)
        return share

    def logits(self, z: Floats) -> Floats:
        """Return the logits (N, K) for z (N, D)."""
        return self._highest(z @ self.expected.T + self.levels)

    def leave_one_out(self, z: Floats, labels: Ints) -> Floats:
        """Return the logits (N, K) that each sample would get had it never been learnt; see `Whitened.leave_one_out`.

        A sample is taken for one of the look of its class that is nearest to it. It is taken out of the means of that
        look and of the class, as far as the former is drawn to the latter, and out of the covariance; the class's other
        looks, which it moves by a small part of this, stay.

        Args:
            z: (N, D) samples that the statistics hold.
            labels: (N,) their classes.
        """
        assert self.space.weight is not None
        xp, space = namespace(z), self.space
        n_samples = xp.arange(len(z))
        logits = z @ self.expected.T + self.levels
        looks = self._nearest(logits, labels)
        look, whole = self.means[looks], space.means[labels]
        n, total = self.counts[looks], space.counts[labels]
        parts = [xp.asarray((count > 1) / (count - 1).clip(1), dtype=xp.float32) for count in (n, total)]
        trust = xp.asarray(space.trust((total - 1).clip(1)), dtype=xp.float32)
        share = self._share((n - 1).clip(1), (total - 1).clip(1))
        of_look, of_whole = share * (1 + parts[0]), (trust - share) * (1 + parts[1])
        of_self = -share * parts[0] - (trust - share) * parts[1]
        expected = of_self[:, None] * z + of_look[:, None] * look + of_whole[:, None] * whole  # without the sample
        own = z - whole
        length, overlap = (own**2).sum(1), (own * z).sum(1)
        along = overlap[:, None] - own @ self.expected.T
        along[n_samples, looks] = overlap - (own * expected).sum(1)
        logits[n_samples, looks] = (expected * z).sum(1) - 0.5 * (expected**2).sum(1)
        inflate = (1 + parts[1]) * space.weight
        inflate = inflate / (1 - inflate * length).clip(1e-3)
        return self._highest(logits - 0.5 * inflate[:, None] * along**2)

    def _nearest(self, logits: Floats, labels: Ints) -> Ints:
        """Return which look (N,) of its class each sample is nearest to, given all logits (N, L)."""
        xp, n_classes = namespace(logits), len(self.space.means)
        best, highest_one = labels + 0, logits[xp.arange(len(labels)), labels]
        for row, owner in enumerate(self.owners[n_classes:].tolist(), n_classes):
            is_nearer = (labels == owner) & (logits[:, row] > highest_one)
            best, highest_one = xp.where(is_nearer, row, best), xp.where(is_nearer, logits[:, row], highest_one)
        return best

    def _highest(self, logits: Floats) -> Floats:
        n_classes = len(self.space.means)
        return highest(logits[:, :n_classes] + 0, logits[:, n_classes:], self.owners[n_classes:])

    def head(self, factor: float) -> tuple[Floats, Floats]:
        """Return weights (K, D) and bias (K,) of the first looks in feature space, times `factor`."""
        n_classes = len(self.space.means)
        return rows_of(self.space, self.expected[:n_classes], self.levels[:n_classes], factor)

    def look_rows(self, factor: float) -> LookRows:
        """Return the rows of the other looks."""
        n_classes = len(self.space.means)
        rows = rows_of(self.space, self.expected[n_classes:], self.levels[n_classes:], factor)
        return LookRows(self.owners[n_classes:], *rows)
