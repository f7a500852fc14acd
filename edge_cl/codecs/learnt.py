"""Codecs whose codebook is fitted to samples: fitted anew each time that twice as many samples have been seen.

Old codes are then decoded with the old codebook and encoded with the new one. So classes unlike the first are
never coded for long by what the first ones taught, and a sample is coded no more than some ten times in its life.
The codebook takes at most a quarter of the budget.
"""

from __future__ import annotations

import struct

import numpy as np
from edge_kernels.arrays import Codes, Floats
from edge_kernels.reference.projection import GAUSSIAN_STEPS, Projection, allocate_bits

from edge_cl.codecs.codec import Codec, few_bytes
from edge_cl.codecs.scalars import bytes_of, largest, values_of
from edge_cl.errors import StateError
from edge_cl.statistics import Statistics

HEADER = struct.Struct("<QII")  # samples seen when it was fitted, directions or subspaces, codewords or 0
PQ_STEPS = 5


class Learnt(Codec):
    """A codec with a codebook."""

    has_codebook = True

    def __init__(self, name: str, dim: int, n_bytes: int, codebook: bytes) -> None:
        super().__init__(name, dim, n_bytes, codebook)
        self._n_fitted = HEADER.unpack_from(codebook)[0] if codebook else 0

    def is_stale(self, n_seen: int) -> bool:
        """See Codec.is_stale."""
        return n_seen >= 2 * self._n_fitted


class Eigen(Learnt):
    """A float32 scale, then the leading directions of the second moment about the mean, the more bits the larger.

    The scale is 1 but for vectors that lie beyond the levels. Codebook: header, bits u1 (R,), steps f4 (R,), centre
    f4 (D,), sizes f4 (R,) and values i1 (R, D) of the directions.
    """

    needs_scatter = True

    def __init__(self, dim: int, codebook: bytes = b"") -> None:
        self._projection = _unpack_eigen(codebook, dim) if codebook else None
        n_bits = int(self._projection.bits.sum(dtype=np.int64)) if self._projection else 0
        super().__init__("eigen", dim, 4 + (n_bits + 7) // 8 if n_bits else 0, codebook)

    def encode(self, features: Floats) -> Codes:
        """See Codec.encode."""
        from edge_kernels.cpu import encode_projection

        assert self._projection is not None
        basis, centre, steps, bits = self._projection
        apart = features - centre
        reach = np.abs(apart @ basis.T / (steps * 2.0 ** (bits - 1.0))).max(axis=1, initial=0, keepdims=True)
        scales = np.maximum(reach, 1).astype(np.float32)
        codes = encode_projection(apart / scales, self._projection._replace(centre=np.zeros_like(centre)))
        return np.concatenate([bytes_of(scales, "<f4"), codes], axis=1)

    def decode(self, codes: Codes, statistics: Statistics) -> Floats:  # noqa: ARG002
        """See Codec.decode."""
        from edge_kernels.cpu import decode_projection

        assert self._projection is not None
        centred = self._projection._replace(centre=np.zeros_like(self._projection.centre))
        features = decode_projection(np.ascontiguousarray(codes[:, 4:]), centred, np.arange(len(codes)))
        features *= values_of(codes[:, :4], "<f4")
        features += self._projection.centre
        return features

    def fit(self, features: Floats, statistics: Statistics, limit_bytes: int) -> Codec:  # noqa: ARG002
        """See Codec.fit."""
        assert statistics.scatter is not None
        n_most = max(0, (limit_bytes - HEADER.size - 4 * self.dim) // (self.dim + 9))
        if not n_most:
            return Eigen(self.dim)
        n_seen = int(statistics.counts.sum())
        shares = np.sqrt(statistics.counts / n_seen).astype(np.float32)[:, None]
        centre = np.average(statistics.means, axis=0, weights=statistics.counts).astype(np.float32)
        between = shares * (statistics.means - centre)
        variances, directions = np.linalg.eigh(statistics.scatter / np.float32(n_seen) + between.T @ between)
        order = np.argsort(-variances)[: min(n_most, 8 * few_bytes(self.dim))]
        variances = np.maximum(variances[order], 0).astype(np.float64)
        bits = allocate_bits(variances, n_bits=8 * few_bytes(self.dim))
        used = np.flatnonzero(bits)
        if not len(used):
            return Eigen(self.dim)
        basis = np.ascontiguousarray(directions[:, order[used]].T, dtype=np.float32)
        sizes = largest(basis) / 127
        steps = np.asarray(GAUSSIAN_STEPS)[bits[used] - 1] * np.sqrt(variances[used])
        parts = (
            HEADER.pack(n_seen, len(used), 0),
            bits[used].astype(np.uint8).tobytes(),
            np.maximum(steps, np.finfo(np.float32).tiny).astype("<f4").tobytes(),
            centre.astype("<f4").tobytes(),
            sizes.astype("<f4").tobytes(),
            np.rint(basis / sizes).astype(np.int8).tobytes(),
        )
        return Eigen(self.dim, b"".join(parts))


def _unpack_eigen(codebook: bytes, dim: int) -> Projection:
    """Return the projection of a codebook.

    Raises:
        StateError: it is none for D features.
    """
    n_directions = HEADER.unpack_from(codebook)[1] if len(codebook) >= HEADER.size else 0
    if not n_directions or len(codebook) != HEADER.size + n_directions * (dim + 9) + 4 * dim:
        raise StateError(f"a codebook of {len(codebook)} bytes does not fit {dim} features")
    ends = np.cumsum([HEADER.size, n_directions, 4 * n_directions, 4 * dim, 4 * n_directions])
    bits, steps, centre, sizes, values = (codebook[a:b] for a, b in zip(ends, [*ends[1:], len(codebook)], strict=True))
    basis = np.frombuffer(values, np.int8).reshape(n_directions, dim) * _floats(sizes)[:, None]
    projection = Projection(basis, _floats(centre), _floats(steps), np.frombuffer(bits, np.uint8))
    if not all(np.isfinite(part).all() for part in projection) or not set(projection.bits) <= set(range(1, 9)):
        raise StateError("a codebook of numbers that are none")
    return projection


class Product(Learnt):
    """A float32 scale, then for each part of the vector the number of its nearest codeword.

    The scale is the largest magnitude. Codebook: header, codewords f2 (M, C, D / M).
    """

    def __init__(self, dim: int, codebook: bytes = b"") -> None:
        self._codewords = _unpack_product(codebook, dim) if codebook else None
        super().__init__("pq", dim, 4 + len(self._codewords) if self._codewords is not None else 0, codebook)

    def encode(self, features: Floats) -> Codes:
        """See Codec.encode."""
        from edge_kernels.cpu import encode_pq

        assert self._codewords is not None
        scales = largest(features)
        return np.concatenate([bytes_of(scales, "<f4"), encode_pq(features / scales, self._codewords)], axis=1)

    def decode(self, codes: Codes, statistics: Statistics) -> Floats:  # noqa: ARG002
        """See Codec.decode."""
        from edge_kernels.cpu import decode_pq

        assert self._codewords is not None
        features = decode_pq(np.ascontiguousarray(codes[:, 4:]), self._codewords, np.arange(len(codes)))
        features *= values_of(codes[:, :4], "<f4")
        return features

    def fit(self, features: Floats, statistics: Statistics, limit_bytes: int) -> Codec:
        """See Codec.fit."""
        from edge_kernels.cpu import train_pq

        n_codewords = min(256, (limit_bytes - HEADER.size) // (2 * self.dim))
        if n_codewords < 1:
            return Product(self.dim)
        n_subspaces = max(m for m in range(1, few_bytes(self.dim) + 1) if self.dim % m == 0)
        normed = features / largest(features)
        codewords = train_pq(normed, n_subspaces=n_subspaces, n_codewords=n_codewords, n_steps=PQ_STEPS)
        header = HEADER.pack(int(statistics.counts.sum()), n_subspaces, n_codewords)
        return Product(self.dim, header + codewords.astype("<f2").tobytes())


def _unpack_product(codebook: bytes, dim: int) -> Floats:
    """Return the codewords (M, C, D / M) of a codebook.

    Raises:
        StateError: it is none for D features.
    """
    header = HEADER.unpack_from(codebook) if len(codebook) >= HEADER.size else (0, 0, 0)
    n_subspaces, n_codewords = header[1:]
    if not 0 < n_codewords <= 256 or not n_subspaces or dim % n_subspaces:
        raise StateError(f"a codebook of {len(codebook)} bytes does not fit {dim} features")
    if len(codebook) != HEADER.size + 2 * n_codewords * dim:
        raise StateError(f"a codebook of {len(codebook)} bytes does not fit {dim} features")
    values = np.frombuffer(codebook, "<f2", offset=HEADER.size).astype(np.float32)
    if not np.isfinite(values).all():
        raise StateError("a codebook of numbers that are none")
    return values.reshape(n_subspaces, n_codewords, -1)


def _floats(data: bytes) -> Floats:
    return np.frombuffer(data, "<f4").astype(np.float32)
