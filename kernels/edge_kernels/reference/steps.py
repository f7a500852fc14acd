"""What a step of learning needs: the cross-entropy with its delta, and the EWC step."""

from __future__ import annotations

import numpy as np

from edge_kernels.arrays import Floats, Ints
from edge_kernels.reference.fisher import softmax


def cross_entropy_delta(logits: Floats, labels: Ints, *, sample_weights: Floats) -> tuple[float, Floats]:
    """Return the weighted sum of the cross-entropies, and its derivative by the logits.

    Args:
        logits: (N, K).
        labels: (N,) the class of each sample.
        sample_weights: (N,).

    Returns:
        The loss, and (N, K); `delta.T @ features` is the gradient by the weights.
    """
    x, rows, p = logits.astype(np.float64), np.arange(len(labels)), softmax(logits)
    peak = x.max(axis=1, initial=-np.inf)
    log_sum = np.log(np.exp(x - peak[:, None]).sum(axis=1)) + peak
    delta = p - np.eye(p.shape[1])[labels]
    return float(sample_weights @ (log_sum - x[rows, labels])), delta * sample_weights[:, None]


def ewc_step(weights: Floats, gradient: Floats, *, fisher: Floats, anchor: Floats, lr: float, lam: float) -> None:
    """Take a gradient step and then EWC's proximal one, in place; it cannot diverge, however large `lam` is.

    Args:
        weights: (K, D).
        gradient: (K, D) of the cross-entropy at the weights.
        fisher: (K, D) diagonal, not negative.
        anchor: (K, D) what EWC holds on to.
        lr: learning rate, at least 0.
        lam: EWC's lambda, at least 0.
    """
    g, pull, a = gradient.astype(np.float64), lr * lam * fisher.astype(np.float64), anchor.astype(np.float64)
    weights[...] = (weights - lr * g + pull * a) / (1 + pull)  # Parikh 2014, sec. 6.1.1
