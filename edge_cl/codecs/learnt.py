"""Codecs whose codebook is fitted to samples: anew at each doubling of them, and when a batch loses twice as much.

Old codes are then decoded with the old codebook and encoded with the new one, which loses a little each time; a batch
unlike the first ones is always coded with a codebook that knows it. The codebook takes at most a quarter of the budget.
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

HEADER = struct.Struct("<QIIf")  # samples seen when fitted, directions or subspaces, codewords or 0, loss
PQ_STEPS = 5
FAR = 2.0  # times the usual length: a vector that is longer is scaled down to lie within the levels
WORSE = 2.0  # times the loss that it was fitted to: a batch that loses more asks for another codebook
NOISE = 1e-6  # of the largest variance: what is below it is rounding, and gets no bits


class Learnt(Codec):
    """A codec with a codebook."""

    has_codebook = True

    def __init__(self, name: str, dim: int, n_bytes: int, codebook: bytes) -> None:
        super().__init__(name, dim, n_bytes, codebook)
        self._n_fitted, *_, self._loss = HEADER.unpack_from(codebook) if codebook else (0, 0, 0, 0.0)
        if not 0 <= self._loss < np.inf:
            raise StateError("a codebook of numbers that are none")

    def is_stale(self, n_seen: int, features: Floats) -> bool:
        """See Codec.is_stale."""
        if n_seen >= 2 * self._n_fitted:
            return True
        return bool(self.loss(features) > WORSE * self._loss)

    def loss(self, features: Floats) -> float:
        """Return what the codes of features (N, D) lose, of their mean square."""
        blank = Statistics.empty(self.dim, has_scatter=False)
        apart = self.decode(self.encode(features), blank) - features
        energy = float(np.square(features, dtype=np.float64).sum()) or 1.0
        return float(np.square(apart, dtype=np.float64).sum()) / energy

    def with_loss(self, features: Floats) -> Learnt:
        """Return the codec with its loss on the samples that it was fitted to in its codebook."""
        *header, _ = HEADER.unpack_from(self.codebook)
        packed = HEADER.pack(*header, self.loss(features))
        return type(self)(self.dim, packed + self.codebook[HEADER.size :])  # type: ignore[arg-type, call-arg]


class Eigen(Learnt):
    """A float32 scale, then the leading directions of the second moment about the mean, the more bits the larger.

    The scale is 1 but for vectors twice as far from the mean as is usual. Codebook: header, bits u1 (R,), steps f4
    (R,), centre f4 (D,), sizes f4 (R,) and values i1 (R, D) of the directions.
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
        usual = np.linalg.norm(steps / np.asarray(GAUSSIAN_STEPS)[bits.astype(np.int64) - 1])
        lengths = np.linalg.norm((apart @ basis.T).astype(np.float64), axis=1, keepdims=True)
        scales = np.maximum(lengths / (FAR * usual), 1).astype(np.float32)
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

    def fit(self, features: Floats, statistics: Statistics, limit_bytes: int) -> Codec:
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
        variances = variances[order].astype(np.float64)
        variances[variances < max(NOISE * variances[0], 0)] = 0
        bits = allocate_bits(variances, n_bits=8 * few_bytes(self.dim))
        bits[0] = max(bits[0], 1)  # samples that are all the same have a code too
        used = np.flatnonzero(bits)
        basis = np.ascontiguousarray(directions[:, order[used]].T, dtype=np.float32)
        basis *= np.sign(basis[np.arange(len(used)), np.abs(basis).argmax(axis=1)])[:, None]  # eigh leaves it open
        sizes = largest(basis) / 127
        steps = np.asarray(GAUSSIAN_STEPS)[bits[used] - 1] * np.sqrt(variances[used])
        parts = (
            HEADER.pack(n_seen, len(used), 0, 0.0),
            bits[used].astype(np.uint8).tobytes(),
            np.maximum(steps, np.finfo(np.float32).tiny).astype("<f4").tobytes(),
            centre.astype("<f4").tobytes(),
            sizes.astype("<f4").tobytes(),
            np.rint(basis / sizes).astype(np.int8).tobytes(),
        )
        return Eigen(self.dim, b"".join(parts)).with_loss(features)


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
    fits = all(np.isfinite(part).all() for part in projection) and set(projection.bits) <= set(range(1, 9))
    if not fits or not (projection.steps > 0).all():
        raise StateError("a codebook of numbers that are none")
    return projection


class Product(Learnt):
    """A float32 scale, then for each part of the vector the number of its nearest codeword.

    The scale is the largest magnitude. Parts are of equal length: zeros follow the last value where D is no multiple.
    Codebook: header, codewords f2 (M, C, ceil(D / M)).
    """

    def __init__(self, dim: int, codebook: bytes = b"") -> None:
        self._codewords = _unpack_product(codebook, dim) if codebook else None
        super().__init__("pq", dim, 4 + len(self._codewords) if self._codewords is not None else 0, codebook)

    def encode(self, features: Floats) -> Codes:
        """See Codec.encode."""
        from edge_kernels.cpu import encode_pq

        assert self._codewords is not None
        scales = largest(features)
        padded = _pad(features / scales, len(self._codewords))
        return np.concatenate([bytes_of(scales, "<f4"), encode_pq(padded, self._codewords)], axis=1)

    def decode(self, codes: Codes, statistics: Statistics) -> Floats:  # noqa: ARG002
        """See Codec.decode."""
        from edge_kernels.cpu import decode_pq

        assert self._codewords is not None
        padded = decode_pq(np.ascontiguousarray(codes[:, 4:]), self._codewords, np.arange(len(codes)))
        features = np.ascontiguousarray(padded[:, : self.dim])
        features *= values_of(codes[:, :4], "<f4")
        return features

    def fit(self, features: Floats, statistics: Statistics, limit_bytes: int) -> Codec:
        """See Codec.fit."""
        from edge_kernels.cpu import train_pq

        n_subspaces = few_bytes(self.dim)
        normed = _pad(features / largest(features), n_subspaces)
        n_codewords = min(256, (limit_bytes - HEADER.size) // (2 * normed.shape[1]))
        if n_codewords < 1:
            return Product(self.dim)
        codewords = train_pq(normed, n_subspaces=n_subspaces, n_codewords=n_codewords, n_steps=PQ_STEPS)
        header = HEADER.pack(int(statistics.counts.sum()), n_subspaces, n_codewords, 0.0)
        return Product(self.dim, header + codewords.astype("<f2").tobytes()).with_loss(features)


def _unpack_product(codebook: bytes, dim: int) -> Floats:
    """Return the codewords (M, C, ceil(D / M)) of a codebook.

    Raises:
        StateError: it is none for D features.
    """
    header = HEADER.unpack_from(codebook) if len(codebook) >= HEADER.size else (0, 0, 0, 0.0)
    n_subspaces, n_codewords = header[1:3]
    length = -(-dim // n_subspaces) if n_subspaces else 0
    n_values = n_subspaces * n_codewords * length
    if not 0 < n_codewords <= 256 or not n_values or len(codebook) != HEADER.size + 2 * n_values:
        raise StateError(f"a codebook of {len(codebook)} bytes does not fit {dim} features")
    values = np.frombuffer(codebook, "<f2", offset=HEADER.size).astype(np.float32)
    if not np.isfinite(values).all():
        raise StateError("a codebook of numbers that are none")
    return values.reshape(n_subspaces, n_codewords, -1)


def _pad(features: Floats, n_subspaces: int) -> Floats:
    """Return features (N, D) with zeros after them, up to a multiple of the subspaces."""
    n_missing = -features.shape[1] % n_subspaces
    return np.pad(features, ((0, 0), (0, n_missing))) if n_missing else features


def _floats(data: bytes) -> Floats:
    return np.frombuffer(data, "<f4").astype(np.float32)
