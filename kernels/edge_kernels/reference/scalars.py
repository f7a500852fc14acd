"""Codecs of one scale for each vector: 8 or 4 bits a value and a float16.

| part   | type    | shape | meaning |
|--------|---------|-------|---------|
| codes  | uint8   | (N, D) for 8 bits; (N, (D + 1) // 2) for 4: value 2 d in the low half of byte d, 2 d + 1 above |
| scales | float16 | (N,)  | positive: codes are two's complement, -127..127 or -7..7, times the scale; |
|        |         |       | negative: no value is below 0, codes are 0..255 or 0..15, times minus the scale |

Features behind a ReLU are never negative: the second form halves their error and costs nothing. A scale is at most
65504, so that a value of more than 7 to 255 times as much, by bits and sign, cannot be encoded.
"""

from __future__ import annotations

import numpy as np

from edge_kernels.arrays import Codes, Floats, Ints, fill


def encode_int8(features: Floats) -> tuple[Codes, Floats]:
    """Return codes (N, D) and scales (N,) float16 of features (N, D); a value is at most half a scale off."""
    return _encode(features, 8)


def decode_int8(codes: Codes, scales: Floats, rows: Ints, *, out: Floats | None = None) -> Floats:
    """Return the features (B, D) of some rows.

    Args:
        codes: (N, D) uint8.
        scales: (N,) float16.
        rows: (B,) below N.
        out: (B, D) float32 to decode into, instead of a new array.
    """
    return fill(out, _decode(codes[rows], scales[rows].astype(np.float64), 8))


def encode_int4(features: Floats) -> tuple[Codes, Floats]:
    """Return codes (N, (D + 1) // 2) and scales (N,) float16 of features (N, D); at most half a scale off."""
    codes, scales = _encode(features, 4)
    if codes.shape[1] % 2:
        codes = np.concatenate([codes, np.zeros((len(codes), 1), np.uint8)], axis=1)
    return (codes[:, ::2] | codes[:, 1::2] << 4).astype(np.uint8), scales


def decode_int4(codes: Codes, scales: Floats, rows: Ints, *, dim: int, out: Floats | None = None) -> Floats:
    """Return the features (B, D) of some rows.

    Args:
        codes: (N, (D + 1) // 2) uint8.
        scales: (N,) float16.
        rows: (B,) below N.
        dim: D.
        out: (B, D) float32 to decode into, instead of a new array.
    """
    taken = codes[rows]
    halves = np.stack([taken & 15, taken >> 4], axis=2).reshape(len(taken), 2 * codes.shape[1])
    return fill(out, _decode(halves[:, :dim], scales[rows].astype(np.float64), 4))


def _encode(features: Floats, n_bits: int) -> tuple[Codes, Floats]:
    x = features.astype(np.float64)
    is_signed = x.min(axis=1, initial=0) < 0
    top = np.where(is_signed, 2 ** (n_bits - 1) - 1, 2**n_bits - 1)
    exact = np.abs(x).max(axis=1, initial=0) / top
    scales = exact.astype(np.float16)
    scales = np.where(scales < exact, np.nextafter(scales, np.float16(np.inf)), scales)  # the largest value fits
    steps = np.where(scales == 0, 1, scales).astype(np.float64)
    codes = np.rint(x / steps[:, None]).astype(np.int16) & (2**n_bits - 1)
    return codes.astype(np.uint8), np.where(is_signed, scales, -scales).astype(np.float16)


def _decode(codes: Codes, scales: Floats, n_bits: int) -> Floats:
    is_negative = (scales[:, None] > 0) & (codes >= 2 ** (n_bits - 1))
    decoded: Floats = (codes.astype(np.float64) - 2**n_bits * is_negative) * np.abs(scales)[:, None]
    return decoded
