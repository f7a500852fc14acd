"""Which samples stay: a class-balanced reservoir by sorting, herding by a matrix-vector product for each choice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_kernels.arrays import Bools, Floats, HostShapes, Ints, KernelError
from edge_kernels.cpu.blocks import row_slices, rows_of
from edge_kernels.reference import selection as reference


def draw_priority(labels: Ints, sequence: Ints, *, seed: int) -> NDArray[np.uint64]:
    """See reference.draw_priority."""
    shapes = HostShapes()
    shapes.check("labels", labels, "N", "iu")
    shapes.check("sequence", sequence, "N", "iu")
    return reference.draw_priority(labels, sequence, seed=seed)


def balanced_reservoir(labels: Ints, order: Floats | NDArray[np.uint64], *, capacity: int) -> Bools:
    """See reference.balanced_reservoir.

    Raises:
        KernelError: a shape or type does not fit, or the capacity is negative.
    """
    shapes = HostShapes()
    shapes.check("labels", labels, "N", "iu")
    if capacity < 0 or getattr(order, "shape", None) != labels.shape:
        raise KernelError(
            f"order: expected (N,) with N = {len(labels)} and a capacity of at least 0; "
            f"found shape {getattr(order, 'shape', None)} and {capacity}"
        )
    queue = np.lexsort((order, labels))
    classes = labels[queue]
    rank = np.arange(len(queue)) - np.searchsorted(classes, classes)
    stays = np.zeros(len(labels), bool)
    stays[queue[np.lexsort((classes, rank))[:capacity]]] = True
    return stays


def herd(features: Floats, *, n_chosen: int, mean: Floats | None = None) -> Ints:
    """See reference.herd.

    Raises:
        KernelError: a shape or type does not fit, or more are to be chosen than there are.
    """
    shapes = HostShapes()
    shapes.check("features", features, "N D")
    n_rows, dim = features.shape
    if mean is not None:
        shapes.check("mean", mean, "D")
    if not 0 <= n_chosen <= n_rows:
        raise KernelError(f"n_chosen: expected 0 to {n_rows}, the samples; found {n_chosen}")
    if mean is not None:
        centre = mean.astype(np.float64)
    else:
        centre = features.mean(axis=0, dtype=np.float64) if n_rows else np.zeros(dim)
    scores, chosen = np.empty(n_rows), np.empty(n_chosen, np.int64)
    squares, total, target = np.empty(n_rows), np.zeros(dim), centre.astype(np.float32)
    offset = target - centre  # what the rounding of the centre leaves
    size = rows_of(dim)
    scratch = np.empty((min(size, n_rows), dim), np.float32)
    for block in row_slices(n_rows, size):
        apart = np.subtract(features[block], target, out=scratch[: block.stop - block.start], casting="same_kind")
        squares[block] = np.einsum("nd,nd->n", apart, apart)
    for m in range(n_chosen):
        # |(m + 1) mean - sum - x|^2, with all seen from the mean, is |x|^2 + 2 sum x + what is the same for all
        for block in row_slices(n_rows, size):
            apart = np.subtract(features[block], target, out=scratch[: block.stop - block.start], casting="same_kind")
            scores[block] = squares[block] + 2 * (apart @ (total + offset).astype(np.float32))
        scores[chosen[:m]] = np.inf
        chosen[m] = scores.argmin()
        total += features[chosen[m]] - centre
    return chosen
