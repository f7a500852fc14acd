"""Ridge regression from sums: the same head whatever the order of the samples, its strength chosen by itself.

For the squared error the Fisher is the second moment of the inputs, the same at any weights and for every output. EWC
with all of that matrix is then recursive least squares (Haykin 2002, ch. 9), which is ridge regression on all samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from edge_kernels.arrays import Floats

from edge_cl.statistics import Statistics

STRENGTHS = 10.0 ** np.arange(-6, 3.01, 0.25)  # of the ridge, for each sample and in units of a feature's variance
FEW = 32  # stored samples: fewer say too little about a strength for many
SMALL_SHARE = 0.05  # of the samples that are left to tell the error by
LEAST_LEFT = 1e-6  # of a sample that a regression would follow alone
SMALLEST = 1e-12  # of a sum of squares, what float32 sums leave of it


@dataclass(frozen=True)
class Ridge:
    """Regression of M values on D features in coordinates in which the features are uncorrelated.

    Features are divided by their deviations first, so that the ridge does not depend on their units.

    Attributes:
        n_samples: behind it.
        centre: (D,) mean of the features.
        axes: (D, D) from features about their mean to coordinates.
        squares: (D,) sum of the squares of each coordinate.
        products: (D, M) sums of the products of coordinates and values about their mean.
        level: (M,) mean of the values.
        totals: (M,) sum of their squares about it.
        strength: (M,) that is added to the squares.
    """

    n_samples: int
    centre: Floats
    axes: Floats
    squares: Floats
    products: Floats
    level: Floats
    totals: Floats
    strength: Floats

    @classmethod
    def fit(cls, statistics: Statistics, n_values: int, stored: Floats) -> Ridge:
        """Return the regression on all samples.

        The strength is the one at which stored samples that are left out are met best. Where there are too few of
        them to say, it is the one that makes the sums most likely. Generalised cross-validation, which needs no more,
        was worse on gas sensors from 50 samples to 4,000: it takes all samples to have the same leverage.

        Args:
            statistics: of one class, whose samples are D features and M values behind them.
            n_values: M.
            stored: (P, D + M) some of those samples.

        Raises:
            LinAlgError: the sums are those of no samples.
        """
        assert statistics.scatter is not None
        if (statistics.scatter.diagonal() < 0).any():
            raise np.linalg.LinAlgError("squares below zero")
        n_samples, dim = int(statistics.counts[0]), len(statistics.scatter) - n_values
        mean, scatter = statistics.means[0].astype(np.float64), statistics.scatter.astype(np.float64)
        deviations = np.sqrt(scatter.diagonal()[:dim] / n_samples)
        units = np.where(deviations > 0, deviations, 1)
        squares, turn = np.linalg.eigh(scatter[:dim, :dim] / (units[:, None] * units))
        axes = turn / units[:, None]
        products = axes.T @ scatter[:dim, dim:]
        totals = scatter.diagonal()[dim:].copy()
        strength = np.full(n_values, n_samples * STRENGTHS[-1])
        ridge = cls(n_samples, mean[:dim], axes, squares.clip(0), products, mean[dim:], totals, strength)
        if n_samples < 2:
            return ridge
        tried = n_samples * STRENGTHS
        if len(stored) >= min(FEW, n_samples):
            losses = ridge._losses_unseen(tried, stored)
        else:
            losses = np.array([ridge._loss(strength) for strength in tried])
        return replace(ridge, strength=tried[losses.argmin(axis=0)])

    def head(self) -> tuple[Floats, Floats]:
        """Return weights (M, D) and bias (M,)."""
        weights = (self.axes @ self._slopes()).T.astype(np.float32)
        bias = self.level - weights.astype(np.float64) @ self.centre
        return weights, bias.astype(np.float32)

    def unseen_errors(self, samples: Floats) -> Floats:
        """Return by how much it would miss the values (P, M) of samples that it has learnt, had it not.

        Args:
            samples: (P, D + M).
        """
        dim = len(self.centre)
        places = (samples[:, :dim] - self.centre) @ self.axes
        missed = samples[:, dim:] - self.level - places @ self._slopes()
        leverage = 1 / self.n_samples + places**2 @ (1 / (self.squares[:, None] + self.strength))
        return np.asarray(missed / (1 - leverage).clip(LEAST_LEFT))  # Allen 1974, eq. 2.4: PRESS

    def freedom(self) -> Floats:
        """Return the effective number of parameters (M,) (Hastie 2009, eq. 3.50), the level among them."""
        return np.asarray(1 + (self.squares[:, None] / (self.squares[:, None] + self.strength)).sum(axis=0))

    def mean_square(self, other: Ridge) -> Floats:
        """Return the mean square error (M,) of another regression on the samples of this one, as if unseen by it."""
        slopes, offset = self._seen_from_here(other)
        missed = self.totals - 2 * (slopes * self.products).sum(axis=0) + self.squares @ slopes**2
        free = (1 - other.freedom() / other.n_samples).clip(SMALL_SHARE)
        return np.asarray((missed.clip(0) / self.n_samples + offset**2) / free**2)

    def mean_square_move(self, other: Ridge) -> Floats:
        """Return the mean square (M,) of the difference between what both say of the samples of this one."""
        slopes, offset = self._seen_from_here(other)
        return np.asarray(self.squares @ (slopes - self._slopes()) ** 2 / self.n_samples + offset**2)

    def _seen_from_here(self, other: Ridge) -> tuple[Floats, Floats]:
        """Return another regression's slopes (D, M) in these coordinates, and how far its level here is off (M,)."""
        slopes = other.axes @ other._slopes()
        offset = other.level + (self.centre - other.centre) @ slopes - self.level
        units = 1 / np.square(self.axes).sum(axis=1)  # their squares: but for the units, axes are orthogonal
        return self.axes.T @ (units[:, None] * slopes), offset

    def _slopes(self) -> Floats:
        return np.asarray(self.products / (self.squares[:, None] + self.strength))

    def _losses_unseen(self, strengths: Floats, stored: Floats) -> Floats:
        """Return the mean square errors (S, M) on stored samples (P, D + M), each left out, at strengths (S,)."""
        dim = len(self.centre)
        places = (stored[:, :dim] - self.centre) @ self.axes
        shrunk = 1 / (self.squares[:, None] + strengths)
        left = (1 - 1 / self.n_samples - places**2 @ shrunk).clip(LEAST_LEFT)
        about = stored[:, dim:] - self.level
        missed = [about - places @ (shrunk[:, s, None] * self.products) for s in range(len(strengths))]
        return np.array([np.square(part / left[:, s, None]).mean(axis=0) for s, part in enumerate(missed)])

    def _loss(self, strength: float) -> Floats:
        """Return how unlikely a strength makes the sums, for each value (M,)."""
        explained = (self.products**2 / (self.squares[:, None] + strength)).sum(axis=0)
        rest = np.maximum(self.totals - explained, SMALLEST * self.totals + np.finfo(np.float64).tiny)
        occam = np.log1p(self.squares / strength).sum()
        return np.asarray(
            (self.n_samples - 1) * np.log(rest) + occam
        )  # Bishop 2006, eq. 3.86, its scale integrated out
