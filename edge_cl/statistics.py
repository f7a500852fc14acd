"""Sufficient statistics of the features: a count and a mean for each class, one shared scatter within the classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from edge_kernels.reference import Floats, Ints


@dataclass(frozen=True)
class Statistics:
    """Sums over all samples ever learnt, so that order does not matter and no sample has to be kept.

    Attributes:
        counts: (K,) int64 samples seen of each class.
        means: (K, D) float32.
        scatter: (D, D) float32, sum of (x - mean_of_its_class)(x - mean_of_its_class)^T, or None where the
            recipe does not need it.
    """

    counts: Ints
    means: Floats
    scatter: Floats | None

    @classmethod
    def empty(cls, dim: int, *, has_scatter: bool) -> Statistics:
        """Return the statistics of no sample at all."""
        scatter = np.zeros((dim, dim), np.float32) if has_scatter else None
        return cls(np.zeros(0, np.int64), np.zeros((0, dim), np.float32), scatter)

    def learn(self, features: Floats, labels: Ints, n_classes: int) -> Statistics:
        """Return the statistics with a batch added.

        Args:
            features: (N, D) float32.
            labels: (N,) rows of the classes, below `n_classes`.
            n_classes: K after the update; classes not seen before get a row of zeros first.

        Returns:
            New statistics; these stay as they were.
        """
        n_new = n_classes - len(self.counts)
        counts = np.concatenate([self.counts, np.zeros(n_new, np.int64)])
        means = np.concatenate([self.means, np.zeros((n_new, features.shape[1]), np.float32)])
        batch_counts = np.bincount(labels, minlength=n_classes)
        touched = np.flatnonzero(batch_counts)
        batch_means = np.stack([features[labels == k].mean(axis=0, dtype=np.float64) for k in touched])
        added, seen = batch_counts[touched], counts[touched]
        shift = batch_means - means[touched]
        scatter = self.scatter
        if scatter is not None:
            within = features - batch_means[np.searchsorted(touched, labels)]
            between = np.sqrt(seen * added / (seen + added))[:, None] * shift  # Chan 1983, eq. 2.1b
            rows = np.concatenate([within, between[seen > 0]]).astype(np.float32)
            scatter = scatter + rows.T @ rows
        means[touched] += (shift * (added / (seen + added))[:, None]).astype(np.float32)
        counts[touched] += added
        return Statistics(counts, means, scatter)
