"""Counts and means of the classes, and one scatter within them: sums that batches and devices add to."""

from __future__ import annotations

import numpy as np

from edge_kernels.arrays import Floats, Ints


def add_samples(counts: Ints, means: Floats, scatter: Floats | None, *, features: Floats, labels: Ints) -> None:
    """Add a batch to the statistics, in place.

    Args:
        counts: (K,) samples of each class.
        means: (K, D) of each class; 0 where there is no sample.
        scatter: (D, D) sum of `(x - mean of its class)(x - mean of its class)^T`, or None.
        features: (N, D).
        labels: (N,) rows of the classes.
    """
    batch = np.zeros_like(counts), np.zeros(means.shape), np.zeros((means.shape[1],) * 2)
    for k in np.unique(labels):
        x = features[labels == k].astype(np.float64)
        batch[0][k], batch[1][k] = len(x), x.mean(axis=0)
        batch[2][...] += (x - x.mean(axis=0)).T @ (x - x.mean(axis=0))
    merge_statistics(counts, means, scatter, other_counts=batch[0], other_means=batch[1], other_scatter=batch[2])


def remove_samples(counts: Ints, means: Floats, scatter: Floats | None, *, features: Floats, labels: Ints) -> None:
    """Take samples out of the statistics that hold them, in place; what `add_samples` did, undone.

    Args:
        counts: (K,) samples of each class.
        means: (K, D) of each class; 0 again where no sample is left.
        scatter: (D, D), or None.
        features: (N, D) samples that were added before.
        labels: (N,) their classes.
    """
    for k in np.unique(labels):
        x = features[labels == k].astype(np.float64)
        left, gone = counts[k] - len(x), x.mean(axis=0)
        rest = (counts[k] * means[k].astype(np.float64) - len(x) * gone) / left if left else np.zeros(len(gone))
        if scatter is not None:
            shift = gone - rest
            scatter -= (x - gone).T @ (x - gone) + left * (len(x) / counts[k]) * np.outer(shift, shift)
        counts[k], means[k] = left, rest


def merge_statistics(
    counts: Ints,
    means: Floats,
    scatter: Floats | None,
    *,
    other_counts: Ints,
    other_means: Floats,
    other_scatter: Floats | None,
) -> None:
    """Add the statistics of another device, of the same classes in the same rows, in place.

    Args:
        counts: (K,).
        means: (K, D).
        scatter: (D, D), or None.
        other_counts: (K,).
        other_means: (K, D).
        other_scatter: (D, D), or None like `scatter`.
    """
    total = np.maximum(counts + other_counts, 1)
    shift = other_means.astype(np.float64) - means
    if scatter is not None:
        between = np.sqrt(counts * (other_counts / total))[:, None] * shift  # Chan 1983, eq. 2.1b
        scatter += other_scatter + between.T @ between
    means += shift * (other_counts / total)[:, None]
    counts += other_counts
