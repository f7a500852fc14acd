"""The kernels on the CPU: numba loops around BLAS products, float32 in, float64 sums over the blocks."""

from __future__ import annotations

import numpy as np
from numba import njit

from edge_kernels.reference import Floats, Ints

BLOCK = 512  # rows squared at a time: 2.5 MiB of scratch at D = 1280, whatever N is


def fisher_true(features: Floats, probabilities: Floats) -> Floats:
    """See reference.fisher_true."""
    return _fisher(features, probabilities, np.full(len(features), -1))


def fisher_empirical(features: Floats, probabilities: Floats, labels: Ints) -> Floats:
    """See reference.fisher_empirical."""
    return _fisher(features, probabilities, labels)


def _fisher(features: Floats, probabilities: Floats, labels: Ints) -> Floats:
    x = np.ascontiguousarray(features, dtype=np.float32)
    p = np.ascontiguousarray(probabilities, dtype=np.float32)
    total = np.zeros((p.shape[1], x.shape[1]))
    squares = np.empty((min(BLOCK, len(x)), x.shape[1]), np.float32)
    for start in range(0, len(x), BLOCK):
        block = slice(start, min(start + BLOCK, len(x)))
        n_rows = block.stop - start
        scores = _expected_squares(p[block], labels[block].astype(np.int64))
        total += scores.T @ np.multiply(x[block], x[block], out=squares[:n_rows])
    return (total / max(len(x), 1)).astype(np.float32)


@njit(cache=True)
def _expected_squares(p, labels):  # type: ignore[no-untyped-def]
    """Fill (n, K): p (1 - p) where the label is -1, else (p - y)^2."""
    squares = np.empty_like(p)
    for n in range(p.shape[0]):
        for k in range(p.shape[1]):
            if labels[n] < 0:
                squares[n, k] = p[n, k] * (1 - p[n, k])
            else:
                delta = p[n, k] - (1 if labels[n] == k else 0)
                squares[n, k] = delta * delta
    return squares
