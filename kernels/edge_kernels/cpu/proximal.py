"""The EWC step, in one pass over memory."""

from __future__ import annotations

import numpy as np

from edge_kernels.arrays import Floats, HostShapes, KernelError, check_in_place
from edge_kernels.cpu.blocks import rows_of
from edge_kernels.cpu.compiled import compiled

LARGEST = float(np.finfo(np.float32).max)


def ewc_step(weights: Floats, gradient: Floats, *, fisher: Floats, anchor: Floats, lr: float, lam: float) -> None:
    """See reference.ewc_step.

    Raises:
        KernelError: a shape or type does not fit, or `lr` or `lam` is negative or not finite.
    """
    shapes = HostShapes()
    shapes.check("weights", weights, "K D", "f4")
    check_in_place("weights", weights)
    for name, array in (("gradient", gradient), ("fisher", fisher), ("anchor", anchor)):
        shapes.check(name, array, "K D")
    for name, value in (("lr", lr), ("lam", lam)):
        if not 0 <= value <= LARGEST:
            raise KernelError(f"{name}: expected a finite number of at least 0; found {value}")
    size = max(1, len(weights) if all(map(_is_ready, (gradient, fisher, anchor))) else rows_of(3 * weights.shape[1]))
    for start in range(0, len(weights), size):
        rows = slice(start, start + size)
        others = (
            array[rows] if _is_ready(array) else array[rows].astype(np.float32) for array in (gradient, fisher, anchor)
        )
        _ewc_rows(weights[rows], *others, np.float32(lr), np.float32(min(lr * lam, LARGEST)))


def _is_ready(array: Floats) -> bool:
    return bool(array.dtype == np.float32 and array.flags.c_contiguous)


@compiled
def _ewc_rows(weights, gradient, fisher, anchor, lr, pull):  # type: ignore[no-untyped-def]
    """Move each weight between where the gradient puts it and its anchor: never beyond either, whatever the pull."""
    one = np.float32(1)
    for k in range(weights.shape[0]):
        for d in range(weights.shape[1]):
            stepped, kept = weights[k, d] - lr * gradient[k, d], anchor[k, d]
            keep = one / (one + pull * fisher[k, d])  # 0 where the pull is infinite, exactly 1 where it is 0
            mixed = keep * stepped + (one - keep) * kept
            weights[k, d] = min(max(mixed, min(stepped, kept)), max(stepped, kept))
