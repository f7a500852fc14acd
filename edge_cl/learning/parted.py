"""The closed form whose classes have several looks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from edge_kernels.arrays import Floats, Ints

from edge_cl.anchor import Whitened, rows_of
from edge_cl.devices import Device, namespace
from edge_cl.learning.looks import first_looks
from edge_cl.look_rows import LookRows, highest
from edge_cl.looks import Looks
from edge_cl.statistics import Statistics


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
        counts, means = first_looks(looks, statistics, device)
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
