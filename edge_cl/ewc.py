"""The exact diagonal Fisher of the head, summed over all samples learnt: EWC's memory in feature space."""

from __future__ import annotations

import numpy as np
from edge_kernels.reference import Floats

from edge_cl.head import Head


def with_one(features: Floats) -> Floats:
    """Return features (N, D) with a last column of ones (N, D + 1), so that the bias is a weight like the others."""
    return np.concatenate([features, np.ones((len(features), 1), np.float32)], axis=1)


def grow(fisher: Floats, n_classes: int) -> Floats:
    """Return the Fisher (K, D + 1) with rows of zeros for the classes that it has not seen."""
    rows = np.zeros((n_classes - len(fisher), fisher.shape[1]), np.float32)
    return np.concatenate([fisher, rows])


def add_batch(fisher: Floats, head: Head, features: Floats) -> Floats:
    """Return the summed true Fisher (K, D + 1) with a batch of features (N, D) added, at this head.

    The posterior's precision is a sum over samples, so the penalty needs no factor of its own (Huszar 2018, eq. 3).
    """
    from edge_kernels import cpu  # here, since numba costs half a second that other recipes need not pay

    batch = cpu.fisher_true(with_one(features), head.predict(features))
    return (grow(fisher, len(head.classes)) + len(features) * batch).astype(np.float32)
