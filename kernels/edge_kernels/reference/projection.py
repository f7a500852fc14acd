"""Codes of the leading directions of a covariance, the more bits the more a direction varies.

A vector's code is the bits of its directions one after another, the lowest bit of a number first, the first number
in the lowest bits of the first byte; what is left of the last byte is 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge_kernels.arrays import Codes, Floats, Ints, fill

# Distance of the levels of the best uniform quantiser of a Gaussian of deviation 1, for 1 to 8 bits (Max 1960)
GAUSSIAN_STEPS = (1.5956, 0.9957, 0.5860, 0.3352, 0.1881, 0.1041, 0.0569, 0.0308)


class Projection(NamedTuple):
    """What codes of R directions mean.

    Attributes:
        basis: (R, D) float32, orthonormal rows.
        centre: (D,) float32.
        steps: (R,) float32 distance of neighbouring levels.
        bits: (R,) uint8, 1 to 8.
    """

    basis: Floats
    centre: Floats
    steps: Floats
    bits: Codes


def fit_projection(centre: Floats, covariance: Floats, *, n_bytes: int) -> Projection:
    """Return the projection whose codes of at most `n_bytes` lose least of a Gaussian.

    Args:
        centre: (D,) mean of the features.
        covariance: (D, D), or any second moment of them about the centre.
        n_bytes: of one vector's code.
    """
    variances, directions = np.linalg.eigh(covariance.astype(np.float64))
    variances, directions = np.maximum(variances[::-1], 0), directions[:, ::-1]
    bits = allocate_bits(variances, n_bits=8 * n_bytes)
    taken = np.flatnonzero(bits)
    basis = directions[:, taken].T
    basis *= np.sign(basis[np.arange(len(taken)), np.abs(basis).argmax(axis=1)])[:, None]  # eigh leaves the sign open
    steps = np.asarray(GAUSSIAN_STEPS)[bits[taken] - 1] * np.sqrt(variances[taken])
    steps = np.maximum(steps, np.finfo(np.float32).tiny)
    return Projection(
        basis.astype(np.float32), centre.astype(np.float32), steps.astype(np.float32), bits[taken].astype(np.uint8)
    )


def allocate_bits(variances: Floats, *, n_bits: int) -> Ints:
    """Return the bits (D,) of each direction, 0 to 8: one bit after another goes where most error is left.

    Args:
        variances: (D,) of the directions.
        n_bits: to give away; directions without variance take none.
    """
    left, bits = variances.astype(np.float64), np.zeros(len(variances), np.int64)
    for _ in range(n_bits):
        d = int(np.where(bits < 8, left, 0).argmax())
        if bits[d] == 8 or left[d] <= 0:
            break
        bits[d] += 1
        left[d] /= 4  # Gersho 1992, sec. 8.3: a bit halves the error
    return bits


def encode_projection(features: Floats, projection: Projection) -> Codes:
    """Return the codes (N, bytes) of features (N, D)."""
    basis, centre, steps, bits = (part.astype(np.float64) for part in projection)
    levels = np.floor((features - centre) @ basis.T / steps) + 2 ** (bits - 1)
    return pack_levels(np.clip(levels, 0, 2**bits - 1).astype(np.uint8), projection.bits)


def decode_projection(codes: Codes, projection: Projection, rows: Ints, *, out: Floats | None = None) -> Floats:
    """Return the features (B, D) of some rows.

    Args:
        codes: (N, bytes) uint8.
        projection: the one that they were encoded with.
        rows: (B,) below N.
        out: (B, D) float32 to decode into, instead of a new array.
    """
    basis, centre, steps, bits = (part.astype(np.float64) for part in projection)
    levels = unpack_levels(codes[rows], projection.bits)
    return fill(out, (levels + 0.5 - 2 ** (bits - 1)) * steps @ basis + centre)


def pack_levels(levels: Codes, bits: Codes) -> Codes:
    """Return the codes (N, bytes) of levels (N, R), each below 2 to the power of its bits (R,)."""
    flags = np.unpackbits(levels[:, :, None], axis=2, bitorder="little")
    return np.packbits(flags[:, np.arange(8) < bits[:, None]], axis=1, bitorder="little")


def unpack_levels(codes: Codes, bits: Codes) -> Codes:
    """Return the levels (N, R) of codes (N, bytes)."""
    used = np.arange(8) < bits[:, None]
    flags = np.zeros((len(codes), *used.shape), np.uint8)
    flags[:, used] = np.unpackbits(codes, axis=1, bitorder="little")[:, : used.sum()]
    levels: Codes = np.packbits(flags, axis=2, bitorder="little")[:, :, 0]
    return levels
