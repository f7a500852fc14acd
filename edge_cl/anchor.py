"""The closed-form head over the statistics, and the whitened space in which it is a nearest-mean rule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from edge_kernels.arrays import Floats, Ints

from edge_cl.devices import namespace
from edge_cl.statistics import Statistics

MIN_SHRINKAGE = 1e-4  # keeps the factorisation in float32 safe where a feature is always 0
MAX_SPREAD = 10.0  # between a feature's deviation and the median one; those of deep features lie within
LEAF = 64  # below this size LAPACK's own Cholesky is as fast as products of halves


@dataclass(frozen=True)
class Whitened:
    """Features `z = whitener (x - centre)`, in which the covariance within the classes is the identity.

    Attributes:
        centre: (D,) mean of the class means.
        whitener: (D, D) lower triangular L^-1, where L L^T is the shrunk covariance within the classes.
        means: (K, D) class means in this space.
        counts: (K,) samples behind each mean.
        weight: of one degree of freedom in the covariance; None where it is made of the means too, so that no sample
            can be taken out of it.
    """

    centre: Floats
    whitener: Floats
    means: Floats
    counts: Ints
    weight: float | None

    def transform(self, features: Floats) -> Floats:
        """Return z (N, D) for features (N, D)."""
        z: Floats = (features - self.centre) @ self.whitener.T
        return z

    def logits(self, z: Floats) -> Floats:
        """Return the LDA logits (N, K) for z (N, D), all classes as likely as each other before."""
        logits: Floats = z @ self.means.T - 0.5 * (self.means**2).sum(1)  # Hastie 2009, eq. 4.10
        return logits

    def leave_one_out(self, z: Floats, labels: Ints) -> tuple[Floats, Floats]:
        """Return where each sample would lie, and the logits it would get, had it never been learnt.

        The sample's part is taken out of its class mean and, by Sherman-Morrison, out of the inverse covariance: with
        fewer samples than features a learnt sample lies much nearer to the origin than an unseen one (mean square
        1299 against 2280 for ten samples of each of Caltech-101's classes; this gives 2320). A sample that is the
        only one of its class keeps its own mean.

        Args:
            z: (N, D) samples that the statistics hold; `weight` must not be None.
            labels: (N,) their classes.

        Returns:
            z (N, D) as unseen samples would be mapped, and their logits (N, K).
        """
        assert self.weight is not None
        xp = namespace(z)
        rows = xp.arange(len(z))
        own = z - self.means[labels]
        counts = self.counts[labels]
        stretch = xp.asarray(xp.where(counts > 1, counts / (counts - 1).clip(1), 1.0), dtype=xp.float32)
        length, overlap = (own**2).sum(1), (own * z).sum(1)
        distances = (z**2).sum(1)[:, None] - 2 * z @ self.means.T
        distances += (self.means**2).sum(1)
        along = overlap[:, None] - own @ self.means.T
        distances[rows, labels] *= stretch**2
        along[rows, labels] *= stretch
        share = stretch * self.weight
        inflate = share / (1 - share * length).clip(1e-3)
        logits = -0.5 * (distances + inflate[:, None] * along**2)
        push = ((1 + inflate * length) ** 0.5 - 1) / length.clip(1e-12)
        return z + (push * overlap)[:, None] * own, logits

    def head(self, factor: float, shift: Floats) -> tuple[Floats, Floats]:
        """Return weights and bias in feature space: the LDA head times `factor`, moved by `shift` (K, D + 1) here."""
        xp = namespace(shift)
        rows = factor * self.means + shift[:, :-1]
        weights = rows @ self.whitener
        bias = shift[:, -1] - 0.5 * factor * (xp.asarray(self.means, dtype=xp.float64) ** 2).sum(1)
        bias -= xp.asarray(weights, dtype=xp.float64) @ xp.asarray(self.centre, dtype=xp.float64)
        return weights, xp.asarray(bias, dtype=xp.float32)


def whiten(statistics: Statistics) -> Whitened:
    """Return the whitened space of the statistics.

    The covariance is the one within the classes, shrunk towards a multiple of the identity. While it has fewer degrees
    of freedom than the class means have, with one sample of each class none at all, the scatter of the means joins it.
    Features whose deviation is far from the others' are brought near them first, or they would be all that is seen:
    raw gas sensors 89.4 -> 94.7 %, one noise of 10^6 among 100 features 33 -> 65 %, deep features unchanged.
    """
    assert statistics.scatter is not None
    n_classes, dim = statistics.means.shape
    degrees = int(statistics.counts.sum()) - n_classes
    centre = statistics.means.mean(0)
    between = statistics.means - centre
    scatter = statistics.scatter
    has_within = degrees > 0 and degrees >= n_classes - 1
    if not has_within:
        scatter = scatter + between.T @ between
        degrees += n_classes - 1
    degrees = max(degrees, 1)
    units = far_units(scatter.diagonal() ** 0.5)
    if units is not None:
        scatter = scatter / (units[:, None] * units)
    shrinkage = oracle_shrinkage(scatter, degrees)
    scale = float(scatter.diagonal().sum()) / (dim * degrees) or 1.0
    covariance = scatter * ((1 - shrinkage) / degrees)
    covariance.reshape(-1)[:: dim + 1] += shrinkage * scale
    whitener = inverse_cholesky(covariance)
    if units is not None:
        whitener /= units
    weight = (1 - shrinkage) / degrees if has_within else None
    return Whitened(centre, whitener, between @ whitener.T, statistics.counts, weight)


def far_units(deviation: Floats) -> Floats | None:
    """Return what to divide each feature (D,) by: 1 but for those whose deviation is 10 x beyond the median one.

    None where there are no such features.

    Args:
        deviation: (D,) of the features, or any multiple of it.
    """
    if not bool((deviation > 0).any()):
        return None
    middle = float(namespace(deviation).quantile(deviation[deviation > 0], 0.5))
    near = deviation.clip(middle / MAX_SPREAD, middle * MAX_SPREAD)
    units: Floats = namespace(deviation).where(deviation > 0, deviation / near, 1.0)
    return units if bool((units != 1).any()) else None


def oracle_shrinkage(scatter: Floats, n_samples: int) -> float:
    """Return how far to shrink towards a multiple of the identity, 0 to 1 (Chen 2010, OAS, eq. 23).

    Args:
        scatter: (D, D) covariance, or any multiple of it.
        n_samples: behind it.
    """
    dim = len(scatter)
    unit = float(scatter.diagonal().sum()) / dim or 1.0
    scaled = (scatter / unit).reshape(-1)  # so that the squares of large features are still float32
    trace, square = float(dim), float(scaled @ scaled)
    spread = (n_samples + 1 - 2 / dim) * (square - trace**2 / dim)
    if spread <= 0:
        return 1.0
    return min(1.0, max(MIN_SHRINKAGE, ((1 - 2 / dim) * square + trace**2) / spread))


def inverse_cholesky(matrix: Floats) -> Floats:
    """Return L^-1 (D, D), lower triangular, of the symmetric positive definite L L^T (D, D).

    By halves, so that nearly all work is matrix products: twice as fast as LAPACK's factor and inverse at D = 1280.
    """
    if not isinstance(matrix, np.ndarray):
        return _invert_tensor(matrix)
    inverse = np.zeros_like(matrix)
    _invert_into(inverse, matrix)
    return inverse


def _invert_tensor(matrix: Any) -> Any:
    torch = namespace(matrix)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed):
        raise np.linalg.LinAlgError("the matrix is not positive definite")
    return torch.linalg.solve_triangular(factor, torch.eye(len(matrix), dtype=matrix.dtype), upper=False)


def _invert_into(inverse: Floats, matrix: Floats) -> None:
    dim = len(matrix)
    if dim <= LEAF:
        inverse[...] = np.linalg.inv(np.linalg.cholesky(matrix.astype(np.float64)))
        return
    top, bottom = slice(0, dim // 2), slice(dim // 2, dim)
    _invert_into(inverse[top, top], matrix[top, top])
    below = matrix[bottom, top] @ inverse[top, top].T
    _invert_into(inverse[bottom, bottom], matrix[bottom, bottom] - below @ below.T)
    np.matmul(-inverse[bottom, bottom], below @ inverse[top, top], out=inverse[bottom, top])


def calibrate(logits: Floats, labels: Ints) -> float:
    """Return the factor on the logits that minimises the cross-entropy (Guo 2017, sec. 4.2: 1 / T), at most 1.

    The labels are smoothed by 1 / (N + 1), since N right answers leave room for one wrong one (Laplace's rule of
    succession); 1 is what Gaussian classes would give. The loss is convex in the factor, so its slope is bisected.

    Args:
        logits: (N, K) LDA logits of samples that they were not fitted to.
        labels: (N,) their classes.
    """
    smoothing = 1 / (len(labels) + 1)
    xp = namespace(logits)
    gap = logits - logits[xp.arange(len(logits)), labels][:, None]
    low, high = -14.0, 0.0  # of the logarithm
    for _ in range(16):
        middle = (low + high) / 2
        scaled = math.exp(middle) * gap
        weights = xp.exp(scaled - xp.amax(scaled, 1)[:, None])
        slope = float(((weights * gap).sum(1) / weights.sum(1) - smoothing * gap.mean(1)).sum())
        low, high = (low, middle) if slope > 0 else (middle, high)
    return math.exp((low + high) / 2)


def nearest_factor(means: Floats) -> float:
    """Return the factor at which a class mean gets about nine tenths, for when no sample can be left out.

    Args:
        means: (K, D) class means in whitened space.
    """
    if len(means) < 2:
        return 1.0
    squares = (means**2).sum(1)
    distances = squares[:, None] - 2 * means @ means.T + squares
    distances.reshape(-1)[:: len(means) + 1] = math.inf
    return math.log(9 * len(means)) / max(0.5 * float(namespace(means).amin(distances, 1).mean()), 1e-6)
