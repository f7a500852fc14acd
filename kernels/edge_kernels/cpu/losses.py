"""The cross-entropy with its derivative, a block of rows at a time."""

from __future__ import annotations

import numpy as np

from edge_kernels.arrays import Floats, HostShapes, Ints, check_labels
from edge_kernels.cpu.blocks import row_slices, rows_of


def cross_entropy_delta(logits: Floats, labels: Ints, *, sample_weights: Floats) -> tuple[float, Floats]:
    """See reference.cross_entropy_delta."""
    shapes = HostShapes()
    shapes.check("logits", logits, "N K")
    shapes.check("labels", labels, "N", "iu")
    shapes.check("sample_weights", sample_weights, "N")
    check_labels(labels, logits.shape[1])
    loss, delta = 0.0, np.empty(logits.shape, np.float32)
    wide = np.result_type(logits.dtype, np.float32)  # float64 is not rounded before the peak is taken off
    for block in row_slices(len(logits), rows_of(logits.shape[1])):
        x, y, weights = logits[block], labels[block], sample_weights[block].astype(np.float32)
        rows, peak = np.arange(len(x)), x.max(axis=1)
        own = np.subtract(x[rows, y], peak, dtype=wide)
        p = np.subtract(x, peak[:, None], out=delta[block], dtype=wide, casting="same_kind")
        np.exp(p, out=p)
        total = p.sum(axis=1)
        loss += float(np.dot(weights.astype(np.float64), np.log(total) - own))
        p *= (weights / total)[:, None]
        p[rows, y] -= weights
    return loss, delta
