"""Codes of the leading directions: one matrix product and a loop that packs or unpacks the bits."""

from __future__ import annotations

import numpy as np

from edge_kernels.arrays import Codes, Floats, HostShapes, Ints, KernelError
from edge_kernels.cpu.blocks import float_blocks, row_slices, rows_of
from edge_kernels.cpu.compiled import compiled
from edge_kernels.cpu.scalars import check_finite, check_gather
from edge_kernels.reference import projection as reference
from edge_kernels.reference.projection import Projection


def fit_projection(centre: Floats, covariance: Floats, *, n_bytes: int) -> Projection:
    """See reference.fit_projection.

    Raises:
        KernelError: a shape or type does not fit, or there is no byte.
    """
    shapes = HostShapes()
    shapes.check("centre", centre, "D")
    shapes.check("covariance", covariance, "D D")
    if n_bytes < 1:
        raise KernelError(f"n_bytes: expected at least 1; found {n_bytes}")
    if not (np.isfinite(centre).all() and np.isfinite(covariance).all()):
        raise KernelError(
            f"covariance: expected finite numbers; found others in shape {covariance.shape} or its centre"
        )
    return reference.fit_projection(centre, covariance, n_bytes=n_bytes)


def encode_projection(features: Floats, projection: Projection) -> Codes:
    """See reference.encode_projection."""
    shapes = _check(projection)
    shapes.check("features", features, "N D")
    bits = projection.bits.astype(np.int64)
    codes = np.zeros((len(features), (int(bits.sum()) + 7) // 8), np.uint8)
    for block, rows in float_blocks(features, rows_of(features.shape[1])):
        places = (rows - projection.centre) @ projection.basis.T
        places /= projection.steps
        check_finite(features, block.start + np.flatnonzero(~np.isfinite(places).all(axis=1)))
        _pack(places, bits, codes[block])
    return codes


def decode_projection(codes: Codes, projection: Projection, rows: Ints, *, out: Floats | None = None) -> Floats:
    """See reference.decode_projection."""
    shapes = _check(projection)
    shapes.sizes["bytes"] = (int(projection.bits.sum(dtype=np.int64)) + 7) // 8
    shapes.check("codes", codes, "N bytes", "u1")
    rows, decoded = check_gather(shapes, rows, out)
    bits = projection.bits.astype(np.int64)
    places = np.empty((min(len(rows), rows_of(len(bits))), len(bits)), np.float32)
    for block in row_slices(len(rows), max(len(places), 1)):
        filled = places[: block.stop - block.start]
        _unpack(codes, rows[block], bits, projection.steps, filled)
        np.matmul(filled, projection.basis, out=decoded[block])
        decoded[block] += projection.centre
    return decoded


def _check(projection: Projection) -> HostShapes:
    shapes = HostShapes()
    for name, shape, kind in (("basis", "R D", "f4"), ("centre", "D", "f4"), ("steps", "R", "f4"), ("bits", "R", "u1")):
        shapes.check(f"projection.{name}", getattr(projection, name), shape, kind)
    return shapes


@compiled
def _pack(places, bits, codes):  # type: ignore[no-untyped-def]
    """Set the bits (n, bytes) of the levels in which the places (n, R), in steps from the centre, lie."""
    for n in range(places.shape[0]):
        at = 0
        for r in range(places.shape[1]):
            half = 1 << (bits[r] - 1)
            place = min(max(np.floor(places[n, r]), -half), half - 1)
            level = np.int64(place) + half
            codes[n, at >> 3] |= (level << (at & 7)) & 255
            if (at & 7) + bits[r] > 8:
                codes[n, (at >> 3) + 1] |= level >> (8 - (at & 7))
            at += bits[r]


@compiled
def _unpack(codes, rows, bits, steps, places):  # type: ignore[no-untyped-def]
    """Fill (n, R) with the middles of the levels."""
    for n in range(rows.shape[0]):
        at = 0
        for r in range(places.shape[1]):
            level = np.int64(codes[rows[n], at >> 3]) >> (at & 7)
            if (at & 7) + bits[r] > 8:
                level |= np.int64(codes[rows[n], (at >> 3) + 1]) << (8 - (at & 7))
            level &= (1 << bits[r]) - 1
            places[n, r] = (level + 0.5 - (1 << (bits[r] - 1))) * steps[r]
            at += bits[r]
