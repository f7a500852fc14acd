"""The cross-entropy with its derivative, a block of rows at a time."""

from __future__ import annotations

import numpy as np

from edge_kernels.arrays import Floats, Ints, Shapes, check_labels
from edge_kernels.cpu.blocks import float_blocks, rows_of


def cross_entropy_delta(logits: Floats, labels: Ints, *, sample_weights: Floats) -> tuple[float, Floats]:
    """See reference.cross_entropy_delta."""
    shapes = Shapes()
    shapes.check("logits", logits, "N K")
    shapes.check("labels", labels, "N", "iu")
    shapes.check("sample_weights", sample_weights, "N")
    check_labels(labels, logits.shape[1])
    loss, delta = 0.0, np.empty(logits.shape, np.float32)
    for block, x in float_blocks(logits, rows_of(logits.shape[1])):
        rows, weights = np.arange(len(x)), sample_weights[block].astype(np.float32)
        peak = x.max(axis=1)
        own = x[rows, labels[block]] - peak
        p = np.subtract(x, peak[:, None], out=delta[block])
        np.exp(p, out=p)
        total = p.sum(axis=1)
        loss += float(np.dot(weights.astype(np.float64), np.log(total) - own))
        p *= (weights / total)[:, None]
        p[rows, labels[block]] -= weights
    return loss, delta
