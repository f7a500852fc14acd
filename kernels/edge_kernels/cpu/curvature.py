"""Fisher matrices beyond the diagonal: symmetric products, and recursive least squares."""

from __future__ import annotations

import numpy as np

from edge_kernels.arrays import Floats, KernelError, Shapes
from edge_kernels.cpu.blas import add_squares, mirror
from edge_kernels.cpu.blocks import float_blocks, row_slices, rows_of

RLS_ROWS = 64  # learnt at a time: the matrix to be solved stays small


def second_moment(features: Floats) -> Floats:
    """See reference.second_moment."""
    shapes = Shapes()
    shapes.check("features", features, "N D")
    shapes.need_rows("features")
    moment = np.zeros((features.shape[1],) * 2, np.float32)
    for _, rows in float_blocks(features, rows_of(features.shape[1], 4 << 20)):
        add_squares(moment, rows)
    mirror(moment)
    moment /= len(features)
    return moment


def label_covariance(probabilities: Floats) -> Floats:
    """See reference.label_covariance."""
    shapes = Shapes()
    shapes.check("probabilities", probabilities, "N K")
    shapes.need_rows("probabilities")
    covariance = -second_moment(probabilities)
    covariance[np.diag_indices(len(covariance))] += probabilities.mean(axis=0, dtype=np.float64).astype(np.float32)
    return covariance


def kronecker_product(weights: Floats, *, label_factor: Floats, feature_factor: Floats) -> Floats:
    """See reference.kronecker_product."""
    shapes = Shapes()
    shapes.check("weights", weights, "K D")
    shapes.check("label_factor", label_factor, "K K")
    shapes.check("feature_factor", feature_factor, "D D")
    product = np.empty(weights.shape, np.float32)
    for block, rows in float_blocks(label_factor, rows_of(weights.shape[1])):
        np.matmul(rows @ weights, feature_factor, out=product[block], casting="same_kind")
    return product


def rls_update(weights: Floats, covariance: Floats, *, features: Floats, targets: Floats) -> None:
    """See reference.rls_update.

    Raises:
        KernelError: a shape or type does not fit.
    """
    shapes = Shapes()
    shapes.check("weights", weights, "K D")
    shapes.check("covariance", covariance, "D D")
    shapes.check("features", features, "N D")
    shapes.check("targets", targets, "N K")
    if covariance.itemsize < 4 or not covariance.flags.c_contiguous:
        raise KernelError(
            f"covariance: is changed in place, expected contiguous float32 or float64; "
            f"found shape {covariance.shape} {covariance.dtype} with strides {covariance.strides}"
        )
    for start in range(0, len(features), RLS_ROWS):
        x = features[start : start + RLS_ROWS].astype(covariance.dtype)
        spread = x @ covariance
        # Woodbury: covariance - spread^T (1 + x spread^T)^-1 spread, as a square, so that it stays symmetric
        root = np.linalg.cholesky((x @ spread.T).astype(np.float64) + np.eye(len(x)))
        half = np.linalg.solve(root, spread.astype(np.float64))  # (n, D)
        gain = np.linalg.solve(root.T, half)
        for tile in row_slices(len(weights), rows_of(2 * weights.shape[1], 1 << 20)):
            error = targets[start : start + RLS_ROWS, tile] - x @ weights[tile].T
            weights[tile] += (error.T @ gain).astype(weights.dtype)
        add_squares(covariance, half.astype(covariance.dtype), -1.0)
        mirror(covariance)
