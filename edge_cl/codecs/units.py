"""A codec for features whose units or offsets differ, as those of raw sensors do: they are standardised first.

A scale for each vector leaves nothing of a feature that is a thousand times smaller than another one, or that varies by
a hundredth of its mean. Deep features need none of this, and get none.
"""

from __future__ import annotations

import numpy as np
from edge_kernels.arrays import Codes, Floats

from edge_cl.codecs.codec import Codec
from edge_cl.errors import StateError
from edge_cl.statistics import Statistics

FEW, YOUNG = 30, 200  # samples: what fewer than the first say is chance, and from the second on it stays as it is
FAR_DEVIATION = 10.0  # of a feature, times the median one
FAR_MEAN = 5.0  # root mean square of the means, times that of the deviations


class Standardised(Codec):
    """Another codec's codes of features less an offset, by a unit.

    Codebook: units f4 (D,), offsets f4 (D,); nothing where the features are coded as they are.
    """

    def __init__(self, inner: Codec, codebook: bytes = b"") -> None:
        super().__init__(inner.name, inner.dim, inner.n_bytes, codebook)
        self._inner = inner
        self.needs_scatter, self.is_exact = inner.needs_scatter, inner.is_exact
        self._frame: Floats | None = None
        if codebook:
            fits = len(codebook) == 8 * inner.dim
            frame = np.frombuffer(codebook, "<f4").astype(np.float32).reshape(2, -1) if fits else np.zeros((2, 1))
            if not (np.isfinite(frame).all() and (frame[0] > 0).all()):
                raise StateError(f"a codebook of {len(codebook)} bytes does not fit {inner.dim} features")
            self._frame = frame

    def encode(self, features: Floats) -> Codes:
        """See Codec.encode."""
        if self._frame is None:
            return self._inner.encode(features)
        units, offsets = self._frame
        return self._inner.encode((features - offsets) / units)

    def decode(self, codes: Codes, statistics: Statistics) -> Floats:
        """See Codec.decode."""
        if self._frame is None:
            return self._inner.decode(codes, statistics)
        units, offsets = self._frame
        scatter = statistics.scatter
        if scatter is not None and self.needs_scatter:
            scatter = scatter / (units[:, None] * units)
        means = (statistics.means - offsets) / units
        decoded = self._inner.decode(codes, Statistics(statistics.counts, means, scatter))
        decoded *= units
        decoded += offsets
        return decoded

    def is_stale(self, n_seen: int, features: Floats) -> bool:
        """See Codec.is_stale."""
        return n_seen >= FEW and n_seen - len(features) < YOUNG

    def fit(self, features: Floats, statistics: Statistics, limit_bytes: int) -> Codec:  # noqa: ARG002
        """See Codec.fit; it is the same one where the units have not changed by more than twice."""
        deviations, means = features.std(axis=0, dtype=np.float64), features.mean(axis=0, dtype=np.float64)
        some = deviations > 0
        if not some.any() or 8 * self.dim > limit_bytes:
            return self
        middle = float(np.median(deviations[some]))
        units = np.where(some, deviations, middle)
        is_far = bool((deviations > FAR_DEVIATION * middle).any())
        is_far |= bool(np.square(means).sum() > FAR_MEAN**2 * np.square(deviations).sum())
        if self._frame is None and not is_far:
            return self
        if self._frame is not None and (np.maximum(units / self._frame[0], self._frame[0] / units) < 2).all():
            return self
        return Standardised(self._inner, np.stack([units, means]).astype("<f4").tobytes())
