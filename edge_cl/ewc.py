"""The exact diagonal Fisher of the head, summed over all samples learnt: EWC's memory in feature space."""

from __future__ import annotations

import numpy as np
from edge_kernels.arrays import Floats

from edge_cl.devices import Device, namespace


def with_one(features: Floats) -> Floats:
    """Return features (N, D) with a last column of ones (N, D + 1), so that the bias is a weight like the others."""
    xp = namespace(features)
    joined: Floats = xp.concatenate([features, xp.ones((len(features), 1), dtype=xp.float32)], axis=1)
    return joined


def grow(fisher: Floats, n_classes: int) -> Floats:
    """Return the Fisher (K, D + 1) with rows of zeros for the classes that it has not seen."""
    rows = np.zeros((n_classes - len(fisher), fisher.shape[1]), np.float32)
    return np.concatenate([fisher, rows])


def add_batch(fisher: Floats, logits: Floats, features: Floats, device: Device) -> Floats:
    """Return the summed true Fisher (K, D + 1) with a batch of features (N, D) added, at the logits (N, K) of a head.

    The posterior's precision is a sum over samples, so the penalty needs no factor of its own (Huszar 2018, eq. 3).
    """
    batch = device.kernels.fisher_true(features, device.kernels.softmax(logits), has_bias=True)
    summed: Floats = fisher + len(features) * batch
    return summed
