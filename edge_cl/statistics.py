"""Sufficient statistics of the features: a count and a mean for each class, one shared scatter within the classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from edge_kernels.arrays import Floats, Ints

from edge_cl.devices import HOST, Device


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

    def grow(self, n_classes: int) -> Statistics:
        """Return a copy with rows of zeros for the classes that are new, so that there are `n_classes`."""
        n_new = n_classes - len(self.counts)
        counts = np.concatenate([self.counts, np.zeros(n_new, np.int64)])
        means = np.concatenate([self.means, np.zeros((n_new, self.means.shape[1]), np.float32)])
        return Statistics(counts, means, None if self.scatter is None else self.scatter.copy())

    def copy(self) -> Statistics:
        """Return a copy, where these are."""
        scatter = None if self.scatter is None else self.scatter + 0
        return Statistics(self.counts + 0, self.means + 0, scatter)

    def add(self, features: Floats, labels: Ints, device: Device) -> None:
        """Add a batch in place; these arrays and those of the batch live on the device.

        Args:
            features: (N, D) float32.
            labels: (N,) rows of the classes.
            device: whose kernels are used.
        """
        device.kernels.add_samples(self.counts, self.means, self.scatter, features=features, labels=labels)

    def to_host(self, device: Device) -> Statistics:
        """Return these statistics of the device as numpy arrays."""
        scatter = None if self.scatter is None else device.get(self.scatter)
        return Statistics(device.get(self.counts), device.get(self.means), scatter)

    def learn(self, features: Floats, labels: Ints, n_classes: int) -> Statistics:
        """Return the statistics with a batch added; these stay as they were.

        Args:
            features: (N, D) float32.
            labels: (N,) rows of the classes, below `n_classes`.
            n_classes: K after the update.
        """
        grown = self.grow(n_classes)
        grown.add(features, labels, HOST)
        return grown
