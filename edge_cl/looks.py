"""The looks of classes: means of parts of their samples, for classes that one mean does not describe.

The first look of a class is what remains of its samples beside the others, so it is stored nowhere. Samples that came
last are kept apart as sums, until there are enough of them to tell a new look from chance.

Its bytes are `<i8` of M and E, owners (M,) and counts (M,), then `<f4` of the means (M, D).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from edge_kernels.arrays import Bools, Floats, Ints

from edge_cl.look_rows import MOST
from edge_cl.statistics import Statistics

ENOUGH = 10  # samples that a new look is told by


@dataclass(frozen=True)
class Looks:
    """Sums over parts of the samples of classes: E looks beside the first, then what came last of some classes.

    Attributes:
        n_known: E.
        owners: (M,) int64 rows of the classes, ascending among the looks and among the others.
        counts: (M,) int64 samples.
        means: (M, D) float32.
    """

    n_known: int
    owners: Ints
    counts: Ints
    means: Floats

    @classmethod
    def empty(cls, dim: int) -> Looks:
        """Return the looks of classes that have one each."""
        nothing = np.zeros(0, np.int64)
        return cls(0, nothing, nothing, np.zeros((0, dim), np.float32))

    @property
    def is_known(self) -> Bools:
        """Whether each row (M,) is a look, and not what came last."""
        return np.arange(len(self.owners)) < self.n_known

    @property
    def known(self) -> Looks:
        """The E looks alone."""
        return self.pick(self.is_known)

    def pick(self, is_kept: Bools) -> Looks:
        """Return some of its rows (M,)."""
        n_known = int(is_kept[: self.n_known].sum())
        return Looks(n_known, self.owners[is_kept], self.counts[is_kept], self.means[is_kept])

    def keep(self, rows: Ints) -> Looks:
        """Return those of some classes, given their rows (K',) in ascending order, under the new rows."""
        left = self.pick(np.isin(self.owners, rows))
        return Looks(left.n_known, np.searchsorted(rows, left.owners), left.counts, left.means)

    def gather(self, features: Floats, labels: Ints) -> Looks:
        """Return these with samples (N, D) of classes (N,) added to what came last of each."""
        if not len(labels):
            return self
        order = np.argsort(labels, kind="stable")
        owners, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
        sums = np.add.reduceat(features[order], starts, axis=0, dtype=np.float64)
        known, last = self.known, self.pick(~self.is_known)
        places = np.unique(np.concatenate([last.owners, owners]))
        total, summed = np.zeros(len(places), np.int64), np.zeros((len(places), features.shape[1]))
        for rows, n, values in ((last.owners, last.counts, last.counts[:, None] * last.means), (owners, counts, sums)):
            at = np.searchsorted(places, rows)
            total[at] += n
            summed[at] += values
        return known.join(places, total, summed / total[:, None])

    def join(self, owners: Ints, counts: Ints, means: Floats) -> Looks:
        """Return these looks with what came last of some classes: rows (P,), counts (P,) and means (P, D)."""
        assert self.n_known == len(self.owners)
        together = np.concatenate([self.owners, owners]), np.concatenate([self.counts, counts])
        return Looks(self.n_known, *together, np.concatenate([self.means, means.astype(np.float32)]))

    def first(self, statistics: Statistics) -> tuple[Ints, Floats]:
        """Return counts (K,) and means (K, D) float64 of the classes' first looks.

        Args:
            statistics: of K classes, as numpy arrays.
        """
        known = self.known
        counts = statistics.counts.copy()
        means = statistics.means.astype(np.float64)
        several = np.unique(known.owners)
        sums = counts[several, None] * means[several]
        np.subtract.at(counts, known.owners, known.counts)
        np.subtract.at(sums, np.searchsorted(several, known.owners), known.counts[:, None] * known.means)
        means[several] = sums / counts[several, None]
        return counts, means

    def every(self, statistics: Statistics) -> tuple[Ints, Floats]:
        """Return the classes (K + E,) and means (K + E, D) float32 of all looks, the first ones first."""
        known, (_, means) = self.known, self.first(statistics)
        owners = np.concatenate([np.arange(len(means)), known.owners])
        return owners, np.concatenate([means.astype(np.float32), known.means])

    def pack(self) -> bytes:
        """Return its bytes; none where there is nothing."""
        if not len(self.owners):
            return b""
        numbers = np.concatenate([[len(self.owners), self.n_known], self.owners, self.counts]).astype("<i8")
        return numbers.tobytes() + self.means.astype("<f4", copy=False).tobytes()

    @classmethod
    def unpack(cls, data: bytes, counts: Ints, dim: int) -> Looks:
        """Return what `pack` gave, of classes of so many samples (K,).

        Raises:
            ValueError: it gave something else.
        """
        if not data:
            return cls.empty(dim)
        n_rows, n_known = (int(n) for n in np.frombuffer(data[:16].ljust(16, b"\xff"), "<i8"))
        if not 0 <= n_known <= n_rows <= (MOST + 1) * len(counts) or len(data) != 16 + n_rows * (16 + 4 * dim):
            raise ValueError(f"looks of {len(data)} bytes beside {len(counts)} classes")
        numbers = np.frombuffer(data, "<i8", 2 * n_rows, 16).astype(np.int64)
        means = np.frombuffer(data, "<f4", offset=16 + 16 * n_rows).reshape(n_rows, dim).astype(np.float32)
        found = cls(n_known, numbers[:n_rows], numbers[n_rows:], means)
        if not found._fits(counts):
            raise ValueError("looks of numbers that are none")
        return found

    def _fits(self, counts: Ints) -> bool:
        owners, (known, last) = self.owners, np.split(self.owners, [self.n_known])
        if (owners < 0).any() or (owners >= len(counts)).any() or not np.isfinite(self.means).all():
            return False
        if (np.diff(known) < 0).any() or (np.diff(last) <= 0).any() or (np.bincount(known) > MOST).any():
            return False
        if (self.counts < 1).any() or (self.counts > counts[owners]).any():
            return False
        left = counts.copy()
        np.subtract.at(left, owners, self.counts)
        return bool((left > 0).all())  # the first look has samples of its own
