"""What every codec can do."""

from __future__ import annotations

from abc import ABC, abstractmethod

from edge_kernels.arrays import Codes, Floats

from edge_cl.statistics import Statistics


def few_bytes(dim: int) -> int:
    """Return the bytes that the codecs of few bits spend on the values of one vector: D / 8, and more for small D."""
    return min(dim, max(dim // 8, 160) - 11)  # 11: label, number and scale make the record whole


class Codec(ABC):
    """Codes of features (N, D).

    Attributes:
        name: what the user types.
        dim: D.
        n_bytes: of one code; 0 as long as a codebook is needed and not fitted.
        codebook: what has to be kept beside the codes; its bytes count.
        needs_scatter: whether it reads the second moment.
        has_codebook: whether it needs one, fitted to samples.
        is_exact: whether what is decoded is as good as the sample itself, so that statistics which hold the one can be
            asked what they would be without the other. At 4 bits that is no longer so: of ten samples of each of 30
            classes, 71 % instead of 94 % would be right; at 8 bits, with raw sensors, neither.
    """

    needs_scatter = False
    is_exact = False
    has_codebook = False

    def __init__(self, name: str, dim: int, n_bytes: int, codebook: bytes = b"") -> None:
        self.name = name
        self.dim = dim
        self.n_bytes = n_bytes
        self.codebook = codebook

    @abstractmethod
    def encode(self, features: Floats) -> Codes:
        """Return codes (N, n_bytes) uint8 of features (N, D) float32."""

    @abstractmethod
    def decode(self, codes: Codes, statistics: Statistics) -> Floats:
        """Return features (N, D) float32 of codes (N, n_bytes), given the statistics of all samples so far."""

    def is_stale(self, n_seen: int, features: Floats) -> bool:  # noqa: ARG002
        """Return whether the codebook should be fitted anew, before features (N, D) are encoded.

        Args:
            n_seen: samples so far, these too.
            features: that come now.
        """
        return False

    def fit(self, features: Floats, statistics: Statistics, limit_bytes: int) -> Codec:  # noqa: ARG002
        """Return the codec with a codebook for these samples, or one that is not fitted where the limit is too low.

        Args:
            features: (N, D) all that are at hand.
            statistics: of all samples so far.
            limit_bytes: of the codebook.
        """
        return self
