"""What the statistics of many rows need, each in one pass over memory where numpy makes several."""

from __future__ import annotations

import numpy as np

from edge_kernels.cpu.compiled import compiled


@compiled
def absorb(x, runs, state, distances, scratch, is_removal):  # type: ignore[no-untyped-def]
    """Add runs of rows to the counts and means, or take them out, and fill the distances whose squares are the rest.

    A class at a time: its rows are read from memory once, and the second time from a cache.

    `runs` are places in x (n,), edges of the runs in them (R + 1,), and classes (R,); `state` is the counts (K,) and
    the means (K, D); `scratch` is (2, D) of the
    distances' type.
    """
    (places, edges, classes), (counts, means) = runs, state
    total, pivot = scratch[0], scratch[1]
    for run in range(classes.shape[0]):
        k, first, last = classes[run], edges[run], edges[run + 1]
        mean, seen, n_rows = means[k], counts[k], last - first
        if seen == 0:
            mean[:] = x[places[first]]
        total[:] = 0
        for n in range(first, last):
            row = x[places[n]]
            for d in range(row.shape[0]):
                total[d] += row[d] - mean[d]
        left = seen - n_rows if is_removal else seen + n_rows
        share = (1 - np.sqrt(seen / left)) / n_rows if left > 0 else 0.0
        for d in range(mean.shape[0]):
            pivot[d] = mean[d] + share * total[d]
        for n in range(first, last):
            row, distance = x[places[n]], distances[n]
            for d in range(row.shape[0]):
                distance[d] = row[d] - pivot[d]
        step = 0.0 if left == 0 else (-1.0 if is_removal else 1.0) / left
        for d in range(mean.shape[0]):
            mean[d] = mean[d] + step * total[d] if left > 0 else 0.0
        counts[k] = left


@compiled
def mirror(total):  # type: ignore[no-untyped-def]
    """See `blas.mirror`."""
    size = 16
    for top in range(0, total.shape[0], size):
        for left in range(0, top + 1, size):
            for row in range(top, min(top + size, total.shape[0])):
                for column in range(left, min(left + size, row)):
                    total[column, row] = total[row, column]
