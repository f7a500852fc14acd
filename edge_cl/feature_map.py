"""What samples' features become before anything learns from them: fixed by the first of them, needing no memory.

Features that a rectifier gave are skewed, and classes come out alike in shape when they are raised to a power below 1
(Tukey 1977): with 3/4, which two square roots give on every machine to the last bit, the closed form gains 0.4 points
on Caltech-101, and 1.3 with a weaker backbone. `random_features` gives max(0, x P), with P drawn once from a seed:
classes that no plane separates in x can be separated there (McDonnell 2023, RanPAC). Such features of 2 x are twice
those of x, so that of how far a sample lies from the origin they say no more than x does: of four rings around it a
ridge regression tells 52 % apart. With a constant beside the features, about as large as they are (Huang 2006: a bias),
it is 98 %, and with those of backbones, which are many, nothing changes. A `cosine` head sees vectors of unit
length. ONNX exports carry the same map.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from edge_kernels.arrays import Floats, Ints
from edge_kernels.reference.selection import draw_priority

BLOCK = 1 << 20  # numbers drawn at a time
LARGER = 2.0  # the constant than a typical value of the first samples, which may be those nearest to the origin
MAX_CONSTANT = 1e12  # as of a feature
SHORTEST = 1e-12  # length that a vector is divided by at least


@dataclass(frozen=True)
class FeatureMap:
    """A map of features (N, d) to features (N, D).

    Attributes:
        n_inputs: d.
        n_random: D random features, or 0: the features as they are.
        is_unit: whether each vector is brought to unit length, in the end.
        is_raised: whether features are raised to the power 3/4, first; their signs stay.
        seed: of the projection.
        constant: a feature beside those of each sample, before they become random ones; 0: there is none.
    """

    n_inputs: int
    n_random: int = 0
    is_unit: bool = False
    is_raised: bool = False
    seed: int = 0
    constant: float = 0.0

    @property
    def dim(self) -> int:
        """D."""
        return self.n_random or self.n_inputs

    @property
    def is_identity(self) -> bool:
        """Whether features stay as they are."""
        return not (self.n_random or self.is_unit or self.is_raised)

    @property
    def projection(self) -> Floats:
        """P (d, D) float32, normally distributed, the same on every machine to its rounding.

        All of it is divided by one number, so that no random feature is larger than the largest feature: what is a
        legal value stays one.
        """
        drawn: Floats = self._drawn[: self.n_inputs]
        return drawn

    @property
    def offsets(self) -> Floats:
        """What the constant adds to each random feature (D,), before it is rectified."""
        return np.asarray(self._drawn[self.n_inputs :].sum(axis=0) * np.float32(self.constant))

    @cached_property
    def _drawn(self) -> Floats:
        """P with a row more where there is a constant; what other rows are does not depend on it but for the scale."""
        n_rows = self.n_inputs + (self.constant > 0)
        size = n_rows * self.n_random
        drawn = np.empty(size, np.float32)
        for start in range(0, size, BLOCK):
            places = np.arange(start, min(start + BLOCK, size))
            drawn[places] = draw_normal(places, self.seed)
        projection = drawn.reshape(n_rows, self.n_random)
        return np.asarray(projection / np.abs(projection).sum(axis=0, dtype=np.float64).max(), dtype=np.float32)

    def apply(self, features: Floats) -> Floats:
        """Return features (N, D) float32 of features (N, d)."""
        if self.is_raised:
            root = np.sqrt(np.abs(features))
            features = np.copysign(root * np.sqrt(root), features)
        if self.n_random:
            features = features @ self.projection
            if self.constant:
                features += self.offsets
            features = np.maximum(features, 0)
        if self.is_unit:
            lengths = np.sqrt(np.square(features, dtype=np.float64).sum(axis=1, keepdims=True))
            features = (features / np.maximum(lengths, SHORTEST)).astype(np.float32)
        return features

    def invert(self, features: Floats) -> Floats | None:
        """Return features (N, d) that become these (N, D), to float32's rounding; None where that cannot be told."""
        if self.n_random:
            return None
        if self.is_raised:
            size = np.abs(features)
            features = np.copysign(size * np.cbrt(size), features)  # the power 4/3
        return features.astype(np.float32)


def draw_normal(places: Ints, seed: int) -> Floats:
    """Return normally distributed numbers (n,) float32, each by its place (n,) and the seed alone."""
    uniform = [(draw_priority(np.full_like(places, part), places, seed=seed) + 0.5) / 2.0**64 for part in (0, 1)]
    drawn = np.sqrt(-2 * np.log(uniform[0])) * np.cos(2 * np.pi * uniform[1])  # Box 1958, eq. 1
    return np.asarray(drawn, dtype=np.float32)


def choose_constant(features: Floats) -> float:
    """Return the constant beside features (N, d) that become random ones, by the first that are learnt."""
    if not features.size:
        return 0.0
    typical = np.sqrt(np.square(features, dtype=np.float64).mean())
    return float(np.float32(min(LARGER * typical, MAX_CONSTANT)))
