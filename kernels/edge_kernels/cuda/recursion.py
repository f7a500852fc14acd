"""Recursive least squares on a GPU; see `reference.rls_update` for the arguments."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edge_kernels.arrays import Shapes
from edge_kernels.cuda.launch import DeviceArray, Place, check_writable, settle, spans
from edge_kernels.cuda.matrices import add_part, add_square, mirror, multiply
from edge_kernels.cuda.target import ROW_THREADS, cuda

BATCH_ROWS = 64  # samples at a time, which one small Cholesky factor holds
TILE_ROWS = 128  # of the covariance and of the weights at a time


def rls_update(weights: DeviceArray, covariance: DeviceArray, *, features: DeviceArray, targets: DeviceArray) -> None:
    """See `reference.rls_update`; no matrix (D, D) is inverted, only one of a few samples (Woodbury 1950).

    Products are float64: with `identity / ridge` as the covariance `I + x C x^T` has digits that float32 does not.
    """
    place, (w, covariance, x, targets) = settle(
        weights=weights, covariance=covariance, features=features, targets=targets
    )
    shapes = Shapes()
    shapes.check("weights", w, "K D")
    shapes.check("covariance", covariance, "D D")
    shapes.check("features", x, "N D")
    shapes.check("targets", targets, "N K")
    check_writable(weights=w, covariance=covariance)
    tile = place.empty(TILE_ROWS, x.shape[1], dtype="float64")
    for rows in spans(len(x), BATCH_ROWS):
        _learn(place, w, covariance, (_wide(place, x[rows]), _wide(place, targets[rows])), tile)
    mirror(place, covariance)


def _learn(place: Place, weights: Any, covariance: Any, batch: tuple[Any, Any], tile: Any) -> None:
    """Learn a few samples, (B, D) and (B, K) float64."""
    x, targets = batch
    gain, inner = place.zeros(*x.shape, dtype="float64"), place.empty(len(x), len(x), dtype="float64")
    for rows in spans(len(covariance), TILE_ROWS):
        wide = place.copy(covariance[rows], tile[: rows.stop - rows.start])
        multiply(place, x[:, rows], wide, gain, keeps=True)
    multiply(place, gain, x, inner, form="NT")
    place.start(_factorise, 1, ROW_THREADS, inner)
    place.launch(_solve_lower, x.shape[1], inner, gain)
    add_square(place, covariance, gain, -1, tile)
    place.launch(_solve_upper, x.shape[1], inner, gain)  # it is x times the new covariance now
    for rows in spans(len(weights), TILE_ROWS):
        part, residual = tile[: rows.stop - rows.start], place.empty(len(x), rows.stop - rows.start, dtype="float64")
        multiply(place, x, place.copy(weights[rows], part), residual, form="NT")
        place.launch(_subtract_from, residual.shape[0] * residual.shape[1], targets[:, rows], residual)
        multiply(place, residual, gain, part, form="TN")
        place.launch(add_part, part.shape[0] * part.shape[1], part, weights[rows], np.float32(1))  # Plackett 1950


def _wide(place: Place, array: Any) -> Any:
    return place.copy(place.readable(array), place.empty(*array.shape, dtype="float64"))


@cuda.jit
def _factorise(matrix):  # type: ignore[no-untyped-def]
    """Turn a matrix into the lower Cholesky factor of itself plus the identity, by one block of threads."""
    for c in range(matrix.shape[0]):
        if cuda.threadIdx.x == 0:
            rest = matrix[c, c] + 1
            for e in range(c):
                rest -= matrix[c, e] * matrix[c, e]
            matrix[c, c] = math.sqrt(rest)
        cuda.syncthreads()
        for r in range(c + 1 + cuda.threadIdx.x, matrix.shape[0], ROW_THREADS):
            rest = matrix[r, c]
            for e in range(c):
                rest -= matrix[r, e] * matrix[c, e]
            matrix[r, c] = rest / matrix[c, c]
        cuda.syncthreads()


@cuda.jit
def _solve_lower(factor, rows):  # type: ignore[no-untyped-def]
    for d in range(cuda.grid(1), rows.shape[1], cuda.gridsize(1)):
        for r in range(rows.shape[0]):
            rest = rows[r, d]
            for e in range(r):
                rest -= factor[r, e] * rows[e, d]
            rows[r, d] = rest / factor[r, r]


@cuda.jit
def _solve_upper(factor, rows):  # type: ignore[no-untyped-def]
    for d in range(cuda.grid(1), rows.shape[1], cuda.gridsize(1)):
        for r in range(rows.shape[0] - 1, -1, -1):
            rest = rows[r, d]
            for e in range(r + 1, rows.shape[0]):
                rest -= factor[e, r] * rows[e, d]
            rows[r, d] = rest / factor[r, r]


@cuda.jit
def _subtract_from(targets, out):  # type: ignore[no-untyped-def]
    for t in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        n, k = divmod(t, out.shape[1])
        out[n, k] = targets[n, k] - out[n, k]
