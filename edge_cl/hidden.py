"""The hidden layer of an `mlp` head: what it adds to the logits of the linear layer beside it.

It grows both ways: a row for each class, and units with the number of classes, as many for each (as Yoon 2018, DEN,
sec. 3, adds as many for each task). New units are read by no class at first, so that no logit moves (Chen 2016,
Net2Net: the wider network is the same function), and stay where the held-out slice surely gains by them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from edge_kernels.arrays import Floats, Ints

from edge_cl.devices import namespace

CLASSES = 10  # that the first units are for
MOST_TIMES = 4  # the first units
MAX_UNITS = 4096


@dataclass(frozen=True)
class Hidden:
    """H rectified units, and what each class makes of them: `max(0, x W^T + b) V^T`.

    Attributes:
        units: (H, D + 1) float32, W with b as the last column.
        rows: (K, H) float32, V.
        fisher: (H (D + 1) + K H,) float32, the summed diagonal Fisher of units, then rows; (0,) where none is kept.
        n_first: units that the first classes have.
    """

    units: Floats
    rows: Floats
    fisher: Floats
    n_first: int = 1

    @classmethod
    def empty(cls, n_units: int, dim: int) -> Hidden:
        """Return a layer of zeros for no class: it adds nothing, and its units are yet to be drawn."""
        return cls(
            np.zeros((n_units, dim + 1), np.float32),
            np.zeros((0, n_units), np.float32),
            np.zeros(0, np.float32),
            n_units,
        )

    @staticmethod
    def units_for(n_classes: int, n_first: int) -> int:
        """Return how many units so many classes have: n_first for 10, a tenth of it for each more, 4 times at most."""
        most = min(MOST_TIMES * n_first, max(MAX_UNITS, n_first))
        return max(n_first, min(-(-n_first * n_classes // CLASSES), most))

    @classmethod
    def unpack(cls, packed: Floats, fisher: Floats, n_classes: int, dim: int, *, n_first: int) -> Hidden:
        """Return the layer of what `pack` gave, and of its Fisher.

        Raises:
            ValueError: it is none of so many classes.
        """
        n_units, rest = divmod(len(packed), dim + 1 + n_classes)
        if rest or not n_first <= n_units <= Hidden.units_for(CLASSES * MOST_TIMES, n_first):
            raise ValueError(
                f"a hidden layer of {len(packed)} weights for {n_classes} classes and {n_first} first units"
            )
        cut = n_units * (dim + 1)
        rows = packed[cut:].reshape(n_classes, n_units)
        return cls(packed[:cut].reshape(n_units, dim + 1), rows, fisher, n_first)

    def of(self, units: Floats, rows: Floats, fisher: Floats) -> Hidden:
        """Return the layer of other weights."""
        return replace(self, units=units, rows=rows, fisher=fisher)

    def pack(self) -> Floats:
        """Return all weights: units, then rows."""
        return np.concatenate([self.units.reshape(-1), self.rows.reshape(-1)])

    def grow(self, n_classes: int) -> Hidden:
        """Return the layer with a zero row for each new class; all that was there keeps its bits."""
        new = (n_classes - len(self.rows)) * len(self.units)
        rows = np.concatenate([self.rows.reshape(-1), np.zeros(new, np.float32)]).reshape(n_classes, len(self.units))
        fisher = np.concatenate([self.fisher, np.zeros(new, np.float32)]) if len(self.fisher) else self.fisher
        return replace(self, rows=rows, fisher=fisher)

    def widen(self, n_units: int) -> Hidden:
        """Return the layer with units of zeros that no class reads: every logit, and the Fisher, are what they were."""
        xp = namespace(self.units)

        def pad(units: Floats, rows: Floats) -> tuple[Floats, Floats]:
            n_new = n_units - len(units)
            more = xp.zeros((n_new, units.shape[1]), dtype=units.dtype), xp.zeros((len(rows), n_new), dtype=rows.dtype)
            return xp.concatenate([units, more[0]]), xp.concatenate([rows, more[1]], axis=1)

        units, rows = pad(self.units, self.rows)
        fisher = self.fisher
        if len(fisher):
            cut = self.units.shape[0] * self.units.shape[1]
            known = pad(fisher[:cut].reshape(self.units.shape), fisher[cut:].reshape(self.rows.shape))
            fisher = xp.concatenate([part.reshape(-1) for part in known])
        return replace(self, units=units, rows=rows, fisher=fisher)

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
