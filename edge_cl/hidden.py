"""The hidden layer of an `mlp` head: what it adds to the logits of the linear layer beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from edge_kernels.arrays import Floats, Ints


@dataclass(frozen=True)
class Hidden:
    """H rectified units, and what each class makes of them: `max(0, x W^T + b) V^T`.

    Attributes:
        units: (H, D + 1) float32, W with b as the last column.
        rows: (K, H) float32, V.
        fisher: (H (D + 1) + K H,) float32, the summed diagonal Fisher of units, then rows; (0,) where none is kept.
    """

    units: Floats
    rows: Floats
    fisher: Floats

    @classmethod
    def empty(cls, n_units: int, dim: int) -> Hidden:
        """Return a layer of zeros for no class: it adds nothing, and its units are yet to be drawn."""
        return cls(
            np.zeros((n_units, dim + 1), np.float32), np.zeros((0, n_units), np.float32), np.zeros(0, np.float32)
        )

    @staticmethod
    def size(n_classes: int, n_units: int, dim: int) -> int:
        """Return how many weights there are."""
        return n_units * (dim + 1 + n_classes)

    @classmethod
    def unpack(cls, packed: Floats, fisher: Floats, n_units: int, dim: int) -> Hidden:
        """Return the layer of what `pack` gave, and of its Fisher."""
        cut = n_units * (dim + 1)
        return cls(packed[:cut].reshape(n_units, dim + 1), packed[cut:].reshape(-1, n_units), fisher)

    def pack(self) -> Floats:
        """Return all weights: units, then rows."""
        return np.concatenate([self.units.reshape(-1), self.rows.reshape(-1)])

    def grow(self, n_classes: int) -> Hidden:
        """Return the layer with a zero row for each new class; all that was there keeps its bits."""
        new = (n_classes - len(self.rows)) * len(self.units)
        rows = np.concatenate([self.rows.reshape(-1), np.zeros(new, np.float32)]).reshape(n_classes, len(self.units))
        fisher = np.concatenate([self.fisher, np.zeros(new, np.float32)]) if len(self.fisher) else self.fisher
        return replace(self, rows=rows, fisher=fisher)

    def keep(self, rows: Ints) -> Hidden:
        """Return the layer of some of its classes (K',)."""
        fisher = self.fisher
        if len(fisher):
            own = fisher[self.units.size :].reshape(self.rows.shape)
            fisher = np.concatenate([fisher[: self.units.size], own[rows].reshape(-1)])
        return replace(self, rows=self.rows[rows], fisher=fisher)

    def activations(self, features: Floats) -> Floats:
        """Return (N, H) for features (N, D)."""
        active: Floats = (features @ self.units[:, :-1].T + self.units[:, -1]).clip(0)
        return active

    def logits(self, features: Floats) -> Floats:
        """Return what is added to the logits (N, K) of features (N, D)."""
        added: Floats = self.activations(features) @ self.rows.T
        return added
