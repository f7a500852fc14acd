"""The companion: a softmax head trained on stored samples, whose logits are added to those of the closed form.

The closed form knows every sample ever learnt, but takes the classes for Gaussian; the companion does not, but knows
only what is stored. What one gets wrong the other often gets right (Raina 2003).

Its bytes are `<f8` of n_seen, shrinkage, pull, factor and share, then `<f4` of the rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from edge_kernels.arrays import Floats, Ints

HEADER = 5  # numbers before the rows
GROWTH = 1.5  # samples seen against those of the last time from which on everything is chosen anew


@dataclass(frozen=True)
class Companion:
    """The companion of a closed-form head, and what was chosen for both when all that is stored was last looked at.

    Attributes:
        rows: (K, D + 1) float32 weights and bias, in feature space; zeros where the closed form is better alone.
        n_seen: samples that had been seen then; 0 if it never was.
        shrinkage: of the closed form's covariance.
        pull: weight decay of the companion for each sample.
        factor: on the closed form's logits, alone.
        share: of these beside the companion's; `weigh` says what the companion then gets.
    """

    rows: Floats
    n_seen: int = 0
    shrinkage: float = 0.0
    pull: float = 0.0
    factor: float = 0.0
    share: float = 0.0

    @classmethod
    def empty(cls, dim: int) -> Companion:
        """Return the companion of a head that knows no class."""
        return cls(np.zeros((0, dim + 1), np.float32))

    def grow(self, n_classes: int) -> Companion:
        """Return it with rows of zeros for the classes that are new."""
        zeros = np.zeros((n_classes - len(self.rows), self.rows.shape[1]), np.float32)
        return replace(self, rows=np.concatenate([self.rows, zeros]))

    def keep(self, rows: Ints) -> Companion:
        """Return it without all but some rows (K',), to be trained anew: the others had a part in these."""
        return replace(self.due(), rows=np.zeros_like(self.rows[rows]))

    def due(self) -> Companion:
        """Return it as one for which all that is stored was never looked at."""
        return replace(self, n_seen=0)

    def is_due(self, n_seen: int) -> bool:
        """Return whether there are so many more samples that all should be looked at again."""
        return n_seen >= GROWTH * self.n_seen

    def pack(self) -> bytes:
        """Return its bytes; none where nothing was chosen yet."""
        if not self.n_seen and not self.factor:
            return b""
        header = np.array([self.n_seen, self.shrinkage, self.pull, self.factor, self.share], "<f8")
        return header.tobytes() + self.rows.astype("<f4", copy=False).tobytes()

    @classmethod
    def unpack(cls, data: bytes, n_classes: int, dim: int) -> Companion:
        """Return what `pack` gave; one of no rows of no bytes.

        Raises:
            ValueError: it gave something else.
        """
        if not data:
            return cls.empty(dim)
        if len(data) != 8 * HEADER + 4 * n_classes * (dim + 1):
            raise ValueError(f"a companion of {len(data)} bytes beside {n_classes} classes")
        header = np.frombuffer(data, "<f8", HEADER)
        n_seen, shrinkage, pull, factor, share = (float(value) for value in header)
        rows = np.frombuffer(data, "<f4", offset=8 * HEADER).reshape(n_classes, dim + 1).astype(np.float32)
        are_sound = all(math.isfinite(value) and value >= 0 for value in header) and np.isfinite(rows).all()
        if not are_sound or max(shrinkage, share) > 1 or n_seen != int(n_seen):
            raise ValueError("a companion of numbers that are none")
        return cls(rows, int(n_seen), shrinkage, pull, factor, share)


def weigh(share: float, alone: Floats, companion: Floats) -> Floats:
    """Return what the closed form gives and what its companion gives as one.

    Both at full length would be too sure where they agree. Fits on six sets of features gave each 0.5 to 0.8.
    """
    both: Floats = share * alone + (1 - share / 2) * companion
    return both
