"""The head: one row of weights and one bias for each class, addressed by its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from edge_kernels.arrays import Floats


@dataclass(frozen=True)
class Head:
    """A linear softmax classifier that grows a row for each class.

    Attributes:
        classes: K names; the index of a name is its row.
        weights: (K, D) float32.
        bias: (K,) float32.
    """

    classes: tuple[str, ...]
    weights: Floats
    bias: Floats

    @classmethod
    def empty(cls, dim: int) -> Head:
        """Return a head that knows no class."""
        return cls((), np.zeros((0, dim), np.float32), np.zeros(0, np.float32))

    def grow(self, names: Sequence[str]) -> Head:
        """Return a head with a zero row appended for each name; the old rows keep their bits."""
        zeros = np.zeros((len(names), self.weights.shape[1]), np.float32)
        return Head(
            (*self.classes, *names),
            np.concatenate([self.weights, zeros]),
            np.concatenate([self.bias, zeros[:, :1].reshape(-1)]),
        )

    def logits(self, features: Floats) -> Floats:
        """Return (N, K) float32 for features (N, D)."""
        with np.errstate(over="ignore", invalid="ignore"):
            logits: Floats = features @ self.weights.T + self.bias
        return logits

    def predict(self, features: Floats) -> Floats:
        """Return probabilities (N, K) float32 for features (N, D)."""
        return softmax(self.logits(features))


def softmax(logits: Floats) -> Floats:
    """Return probabilities (N, K) in the type of the logits (N, K); each row sums to 1."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Floats = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities
