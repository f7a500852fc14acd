"""Rows of a head beside those of its classes: one for each further look; a class answers by the highest of its own.

Its bytes are `<i8` of the owners (E,), then `<f4` of the weights (E, D) and the bias (E,).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from edge_kernels.arrays import Floats, Ints

from edge_cl.devices import namespace

MOST = 3  # looks of a class beside its first


@dataclass(frozen=True)
class LookRows:
    """E rows of further looks.

    Attributes:
        owners: (E,) int64 rows of the classes, ascending; always numpy's.
        weights: (E, D) float32.
        bias: (E,) float32.
    """

    owners: Ints
    weights: Floats
    bias: Floats

    def keep(self, rows: Ints) -> LookRows | None:
        """Return those of some classes (K',), in the order of their new rows; None where none is left."""
        pairs = [(new, row) for new, old in enumerate(rows) for row in np.flatnonzero(self.owners == old)]
        if not pairs:
            return None
        owners, chosen = np.array(pairs, np.int64).T
        return LookRows(owners, self.weights[chosen], self.bias[chosen])

    def logits(self, features: Floats, logits: Floats) -> Floats:
        """Return logits (N, K) of features (N, D), given those (N, K) of the classes' first looks."""
        return highest(logits, features @ self.weights.T + self.bias, self.owners)

    def table(self, n_classes: int) -> Ints:
        """Return (K, J) which of the K + E rows are each class's; its first one again where it has fewer than J."""
        rows = [np.arange(n_classes)]
        for which in _ranks(self.owners):
            rows.append(rows[0].copy())
            rows[-1][self.owners[which]] = n_classes + which
        return np.stack(rows, axis=1)

    def pack(self) -> bytes:
        """Return its bytes."""
        values = np.concatenate([self.weights.reshape(-1), self.bias]).astype("<f4", copy=False)
        return self.owners.astype("<i8").tobytes() + values.tobytes()

    @classmethod
    def unpack(cls, data: bytes, n_classes: int, dim: int) -> LookRows:
        """Return what `pack` gave.

        Raises:
            ValueError: it gave something else.
        """
        n_rows, rest = divmod(len(data), 8 + 4 * (dim + 1))
        if rest or not n_rows:
            raise ValueError(f"rows of looks of {len(data)} bytes")
        owners = np.frombuffer(data, "<i8", n_rows).astype(np.int64)
        values = np.frombuffer(data, "<f4", offset=8 * n_rows).astype(np.float32)
        is_sorted = (np.diff(owners) >= 0).all() and owners[0] >= 0 and owners[-1] < n_classes
        if not is_sorted or np.bincount(owners).max() > MOST or not np.isfinite(values).all():
            raise ValueError("rows of looks of numbers that are none")
        return cls(owners, values[: n_rows * dim].reshape(n_rows, dim), values[n_rows * dim :])


def highest(logits: Floats, further: Floats, owners: Ints) -> Floats:
    """Return logits (N, K), raised to those of further looks (N, E) where these are higher.

    Args:
        logits: (N, K); changed in place.
        further: (N, E).
        owners: (E,) rows of the classes, ascending.
    """
    xp = namespace(logits)
    for which in _ranks(owners):
        rows = owners[which]
        logits[:, rows] = xp.maximum(logits[:, rows], further[:, which])
    return logits


def _ranks(owners: Ints) -> list[Ints]:
    """Return the indices of the first look of each class, of the second, and so on: no class is twice in one."""
    rank = np.arange(len(owners)) - np.searchsorted(owners, owners)
    return [np.flatnonzero(rank == place) for place in range(int(rank.max(initial=-1)) + 1)]
