"""Fisher matrices beyond the diagonal: symmetric products, and recursive least squares."""

from __future__ import annotations

import numpy as np

from edge_kernels.arrays import Floats, HostShapes, KernelError, check_in_place
from edge_kernels.cpu.blas import add_squares, mirror
from edge_kernels.cpu.blocks import float_blocks, row_slices, rows_of

RLS_ROWS = 64  # learnt at a time: the matrix to be solved stays small
FACTOR_ROWS = 128  # of the label factor
TILE_BYTES = 1 << 20  # of a product


def second_moment(features: Floats) -> Floats:
    """See reference.second_moment."""
    shapes = HostShapes()
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
    shapes = HostShapes()
    shapes.check("probabilities", probabilities, "N K")
    shapes.need_rows("probabilities")
    covariance, spread = -second_moment(probabilities), np.zeros(probabilities.shape[1])
    for _, p in float_blocks(probabilities, rows_of(probabilities.shape[1])):
        spread += (p * (1 - p)).sum(axis=0, dtype=np.float64)
    # the difference of the two means would lose a confident head's digits
    covariance[np.diag_indices(len(covariance))] = spread / len(probabilities)
    return covariance


def kronecker_product(weights: Floats, *, label_factor: Floats, feature_factor: Floats) -> Floats:
    """See reference.kronecker_product."""
    shapes = HostShapes()
    shapes.check("weights", weights, "K D")
    shapes.check("label_factor", label_factor, "K K")
    shapes.check("feature_factor", feature_factor, "D D")
    product, half = np.empty(weights.shape, np.float32), np.empty((FACTOR_ROWS, weights.shape[1]), np.float32)
    for block, rows in float_blocks(label_factor, FACTOR_ROWS):
        _multiply(rows, weights, half[: len(rows)])
        _multiply(half[: len(rows)], feature_factor, product[block])
    return product


def _multiply(left: Floats, right: Floats, out: Floats) -> None:
    """Write a product of float32 with a matrix of any type, of which a few rows are converted at a time."""
    out[...] = 0
    for block, rows in float_blocks(right, rows_of(right.shape[1], TILE_BYTES)):
        out += left[:, block] @ rows


def rls_update(weights: Floats, covariance: Floats, *, features: Floats, targets: Floats) -> None:
    """See reference.rls_update.

    Raises:
        KernelError: a shape or type does not fit.
    """
    shapes = HostShapes()
    shapes.check("weights", weights, "K D")
    shapes.check("covariance", covariance, "D D")
    shapes.check("features", features, "N D")
    shapes.check("targets", targets, "N K")
    check_in_place("weights", weights)
    check_in_place("covariance", covariance)
    n_rows, dim = features.shape
    tiles = list(row_slices(dim, rows_of(2 * dim, TILE_BYTES)))
    for block in row_slices(n_rows, RLS_ROWS):
        # float64 whatever the arrays are: 1 + x C x^T loses its 1 where the ridge is small
        x = features[block].astype(np.float64)
        spread = np.concatenate([x @ covariance[:, tile] for tile in tiles], axis=1)
        try:
            root = np.linalg.cholesky(x @ spread.T + np.eye(len(x)))
        except np.linalg.LinAlgError:
            raise KernelError(
                f"covariance: expected a positive definite matrix; shape {covariance.shape} {covariance.dtype} is none"
            ) from None
        half = np.linalg.solve(root, spread)  # (n, D)
        gain = np.linalg.solve(root.T, half)
        for tile in row_slices(len(weights), rows_of(4 * dim, TILE_BYTES)):
            error = targets[block, tile] - x @ weights[tile].T
            weights[tile] += (error.T @ gain).astype(weights.dtype)
        for tile in tiles:  # Woodbury: C - spread^T (1 + x spread^T)^-1 spread
            covariance[tile] -= half[:, tile].T @ half
        mirror(covariance)
