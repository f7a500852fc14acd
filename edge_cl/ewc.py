"""The exact diagonal Fisher of the head, summed over all samples learnt: EWC's memory in feature space.

A row holds a Fisher for each weight, D + 1 numbers with the bias. Where the anchors of all updates pull (Kirkpatrick
2017, eq. 3), D + 1 more follow: the sum of each update's Fisher times the head after it. No more is needed for any
number of updates, since sum_t F_t (w - a_t)^2 = F (w - a)^2 + constant, with F = sum_t F_t and a = sum_t F_t a_t / F.
"""

from __future__ import annotations

import numpy as np
from edge_kernels.arrays import Floats

from edge_cl.devices import Device, namespace


def with_one(features: Floats) -> Floats:
    """Return features (N, D) with a last column of ones (N, D + 1), so that the bias is a weight like the others."""
    xp = namespace(features)
    joined: Floats = xp.concatenate([features, xp.ones((len(features), 1), dtype=xp.float32)], axis=1)
    return joined


def with_bias(weights: Floats, bias: Floats) -> Floats:
    """Return weights (K, D) with the bias (K,) as a last column (K, D + 1)."""
    joined: Floats = namespace(weights).concatenate([weights, bias[:, None]], axis=1)
    return joined


def grow(fisher: Floats, n_classes: int, width: int) -> Floats:
    """Return the Fisher (K, W) with rows of zeros for the classes that it has not seen.

    Args:
        fisher: (K', W), or (0, anything) before the first update.
        n_classes: K.
        width: W.
    """
    old = fisher if len(fisher) else np.zeros((0, width), np.float32)
    return np.concatenate([old, np.zeros((n_classes - len(old), width), np.float32)])


def add_batch(fisher: Floats, logits: Floats, features: Floats, device: Device) -> Floats:
    """Return the summed true Fisher (K, D + 1) with a batch of features (N, D) added, at the logits (N, K) of a head.

    The posterior's precision is a sum over samples, so the penalty needs no factor of its own (Huszar 2018, eq. 3).
    """
    batch = device.kernels.fisher_true(features, device.kernels.softmax(logits), has_bias=True)
    summed: Floats = fisher + len(features) * batch
    return summed


def remember(fisher: Floats, rows: Floats, batch: tuple[Floats, Floats], decay: float, device: Device) -> Floats:
    """Return the Fisher (K, W) after an update.

    Args:
        fisher: (K, W) before.
        rows: (K, D + 1) weights and bias after it: where the anchors of all updates pull, the next of them.
        batch: logits (N, K) and features (N, D) of its samples.
        decay: what remains of what was there (Schwarz 2018, eq. 9).
        device: where the arrays are.
    """
    width = rows.shape[1]
    if fisher.shape[1] == width:
        return add_batch(decay * fisher, *batch, device)
    own = add_batch(0 * rows, *batch, device)
    joined: Floats = namespace(rows).concatenate([own, own * rows], axis=1)
    return decay * fisher + joined


def pull_of(fisher: Floats, rows: Floats) -> tuple[Floats, Floats]:
    """Return the diagonal precision (K, D + 1), and where it pulls to (K, D + 1).

    Args:
        fisher: (K, W).
        rows: (K, D + 1) weights and bias of the head before: what it pulls to, unless the anchors of all updates do.
    """
    width = rows.shape[1]
    precision = fisher[:, :width]
    if fisher.shape[1] == width:
        return precision, rows
    xp = namespace(fisher)
    known = precision > 0
    anchor: Floats = xp.where(known, fisher[:, width:] / xp.where(known, precision, 1.0), rows)
    return precision, anchor
