"""Codes of the leading directions: one matrix product and a loop that packs or unpacks the bits."""

from __future__ import annotations

import numpy as np

from edge_kernels.arrays import Codes, Floats, HostShapes, Ints, KernelError
from edge_kernels.cpu.blocks import float_blocks, row_slices, rows_of
from edge_kernels.cpu.gather import check_finite, check_gather
from edge_kernels.reference import projection as reference
from edge_kernels.reference.projection import Projection, pack_levels, unpack_levels

FEW = 1 << 18  # levels; numpy has packed so many before numba is imported


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
    codes = np.zeros((len(features), (int(projection.bits.sum(dtype=np.int64)) + 7) // 8), np.uint8)
    for block, rows in float_blocks(features, rows_of(features.shape[1])):
        places = (rows - projection.centre) @ projection.basis.T
        places /= projection.steps
        check_finite(features, block.start + np.flatnonzero(~np.isfinite(places).all(axis=1)))
        _pack(places, projection.bits, codes[block])
    return codes


def decode_projection(codes: Codes, projection: Projection, rows: Ints, *, out: Floats | None = None) -> Floats:
    """See reference.decode_projection."""
    shapes = _check(projection)
    shapes.sizes["bytes"] = (int(projection.bits.sum(dtype=np.int64)) + 7) // 8
    shapes.check("codes", codes, "N bytes", "u1")
    rows, decoded = check_gather(shapes, rows, out)
    n_places = len(projection.bits)
    places = np.empty((min(len(rows), rows_of(n_places)), n_places), np.float32)
    for block in row_slices(len(rows), max(len(places), 1)):
        filled = places[: block.stop - block.start]
        _unpack(codes, rows[block], projection, filled)
        np.matmul(filled, projection.basis, out=decoded[block])
        decoded[block] += projection.centre
    return decoded


def _check(projection: Projection) -> HostShapes:
    shapes = HostShapes()
    for name, shape, kind in (("basis", "R D", "f4"), ("centre", "D", "f4"), ("steps", "R", "f4"), ("bits", "R", "u1")):
        shapes.check(f"projection.{name}", getattr(projection, name), shape, kind)
    return shapes


def _pack(places: Floats, bits: Codes, codes: Codes) -> None:
    """Set the codes (n, bytes) of the levels in which the places (n, R), in steps from the centre, lie."""
    if places.size <= FEW:
        half = 2.0 ** (bits.astype(np.float64) - 1)
        codes[...] = pack_levels((np.clip(np.floor(places), -half, half - 1) + half).astype(np.uint8), bits)
        return
    from edge_kernels.cpu.packing import pack

    pack(places, bits.astype(np.int64), codes)


def _unpack(codes: Codes, rows: Ints, projection: Projection, places: Floats) -> None:
    """Fill (n, R) with the middles of the levels of some rows (n,)."""
    if places.size <= FEW:
        levels = unpack_levels(codes[rows], projection.bits)
        np.multiply(levels + np.float32(0.5) - 2 ** (projection.bits - 1.0), projection.steps, out=places)
        return
    from edge_kernels.cpu.packing import unpack

    unpack(codes, rows, projection.bits.astype(np.int64), projection.steps, places)
