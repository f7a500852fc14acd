"""Codecs that keep every value: a scale for each vector, and 4 to 32 bits a value."""

from __future__ import annotations

import numpy as np
from edge_kernels.arrays import Codes, Floats

from edge_cl.codecs.codec import Codec
from edge_cl.statistics import Statistics


class Float32(Codec):
    """The bytes of the features."""

    is_exact = True

    def __init__(self, dim: int) -> None:
        super().__init__("float32", dim, 4 * dim)

    def encode(self, features: Floats) -> Codes:
        """See Codec.encode."""
        return bytes_of(features, "<f4")

    def decode(self, codes: Codes, statistics: Statistics) -> Floats:  # noqa: ARG002
        """See Codec.decode."""
        return values_of(codes, "<f4").astype(np.float32)


class Float16(Codec):
    """A float32 scale, then D float16 values of at most 1."""

    is_exact = True

    def __init__(self, dim: int) -> None:
        super().__init__("float16", dim, 4 + 2 * dim)

    def encode(self, features: Floats) -> Codes:
        """See Codec.encode."""
        scales = largest(features)
        return np.concatenate([bytes_of(scales, "<f4"), bytes_of(features / scales, "<f2")], axis=1)

    def decode(self, codes: Codes, statistics: Statistics) -> Floats:  # noqa: ARG002
        """See Codec.decode."""
        features: Floats = values_of(codes[:, 4:], "<f2").astype(np.float32) * values_of(codes[:, :4], "<f4")
        return features


class Integers(Codec):
    """A float32 scale, the kernel's float16 scale, then D values of 8 or 4 bits."""

    def __init__(self, dim: int, n_bits: int) -> None:
        super().__init__(f"int{n_bits}", dim, 6 + (dim * n_bits + 7) // 8)
        self.n_bits = n_bits

    def encode(self, features: Floats) -> Codes:
        """See Codec.encode."""
        from edge_kernels import cpu

        scales = largest(features)  # so that any float32 is within a float16 scale's reach
        encode = cpu.encode_int8 if self.n_bits == 8 else cpu.encode_int4
        codes, steps = encode(features / scales)
        return np.concatenate([bytes_of(scales, "<f4"), bytes_of(steps[:, None], "<f2"), codes], axis=1)

    def decode(self, codes: Codes, statistics: Statistics) -> Floats:  # noqa: ARG002
        """See Codec.decode."""
        from edge_kernels import cpu

        rows, steps = np.arange(len(codes)), values_of(codes[:, 4:6], "<f2")[:, 0].astype(np.float16)
        packed = np.ascontiguousarray(codes[:, 6:])
        if self.n_bits == 8:
            decoded = cpu.decode_int8(packed, steps, rows)
        else:
            decoded = cpu.decode_int4(packed, steps, rows, dim=self.dim)
        decoded *= values_of(codes[:, :4], "<f4")
        return decoded


def largest(features: Floats) -> Floats:
    """Return the largest magnitude of each row (N, 1), or 1 where all are 0."""
    scales: Floats = np.abs(features).max(axis=1, initial=0, keepdims=True)
    scales[scales == 0] = 1
    return scales


def bytes_of(values: Floats, dtype: str) -> Codes:
    """Return (N, bytes) uint8 of values (N, n)."""
    rows = np.ascontiguousarray(values, dtype=dtype)
    return rows.view(np.uint8).reshape(len(rows), rows.shape[1] * rows.itemsize)


def values_of(codes: Codes, dtype: str) -> Floats:
    """Return (N, n) values of bytes (N, bytes)."""
    values: Floats = np.ascontiguousarray(codes).view(dtype)
    return values
