"""The definition of every kernel, in numpy float64 and the fewest lines."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


def softmax(logits: Floats) -> Floats:
    """Probabilities of each row.

    Args:
        logits: (N, K).

    Returns:
        (N, K); each row sums to 1.
    """
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: Floats = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities


def fisher_true(features: Floats, probabilities: Floats) -> Floats:
    """Exact diagonal Fisher of softmax weights, averaged over the batch.

    Args:
        features: (N, D) head inputs.
        probabilities: (N, K); each row sums to 1.

    Returns:
        (K, D), in the shape of the weights.
    """
    p, x = probabilities.astype(np.float64), features.astype(np.float64)
    fisher: Floats = np.einsum("nk,nd->kd", p * (1 - p), x**2) / len(x)  # Martens 2020, sec. 9.2: no label is sampled
    return fisher


def fisher_empirical(features: Floats, probabilities: Floats, labels: Ints) -> Floats:
    """Exact diagonal empirical Fisher of softmax weights, averaged over the batch.

    Args:
        features: (N, D) head inputs.
        probabilities: (N, K); each row sums to 1.
        labels: (N,) the given class of each sample.

    Returns:
        (K, D), in the shape of the weights.
    """
    p, x = probabilities.astype(np.float64), features.astype(np.float64)
    delta = p - np.eye(p.shape[1])[labels]
    fisher: Floats = np.einsum("nk,nd->kd", delta**2, x**2) / len(x)  # Kunstner 2019, eq. 3
    return fisher
