"""Softmax cross-entropy over few samples, held to an anchor: the objective and the L-BFGS that minimises it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from edge_kernels.arrays import Floats, Ints

from edge_cl.devices import HOST, Device, namespace

HISTORY = 8  # pairs that L-BFGS remembers
TOLERANCE = 1e-5  # stop when a step gains less than this share of the loss


@dataclass(frozen=True)
class Objective:
    """Cross-entropy of `offsets + inputs @ shift.T` plus half of `pull * shift^2`, summed.

    Attributes:
        inputs: (N, R) float32 samples, in whatever space the pull is diagonal in.
        offsets: (N, K) float32 logits of the anchor.
        labels: (N,) classes.
        sample_weights: (N,) float32.
        pull: (K, R) float32 or a number: EWC's precision of each weight around the anchor.
        device: where the arrays live.
        moving: (K, 1) float32, 1 for rows that move, or the number 1.
    """

    inputs: Floats
    offsets: Floats
    labels: Ints
    sample_weights: Floats
    pull: Floats | float
    device: Device = HOST
    moving: Floats | float = 1.0

    def value(self, shift: Floats) -> tuple[float, Floats]:
        """Return the loss and its gradient (K, R) at the shift (K, R) from the anchor."""
        held = self.pull * shift
        sums: list[Any] = [0.5 * _dot(held, shift), held]

        def add(rows: slice) -> None:
            inputs = self.inputs[rows]
            loss, delta = self.device.kernels.cross_entropy_delta(
                self.offsets[rows] + inputs @ shift.T, self.labels[rows], sample_weights=self.sample_weights[rows]
            )
            sums[:] = sums[0] + loss, sums[1] + delta.T @ inputs

        self.device.each(len(self.labels), add)
        return sums[0], self.moving * sums[1]  # Kirkpatrick 2017, eq. 3

    def first_step(self, gradient: Floats) -> Floats:
        """Return the step (K, R) down the gradient (K, R) that surely gains, whatever the units of the inputs.

        It minimises a parabola above the loss: p (1 - p) is at most 1 / 4.
        """
        bound = 0.25 * (self.sample_weights @ self.inputs**2) + self.pull
        steepness = _dot(gradient, bound * gradient)
        step: Floats = -gradient * (_dot(gradient, gradient) / max(steepness, 1e-30))
        return step


class Problem(Protocol):
    """What can be minimised: an objective, or one with more terms."""

    def value(self, shift: Floats) -> tuple[float, Floats]:
        """Return the loss and its gradient (K, R), which may be changed, at a shift (K, R)."""

    def first_step(self, gradient: Floats) -> Floats:
        """Return a step (K, R) down the gradient (K, R)."""


def minimise(objective: Problem, start: Floats, max_steps: int = 100) -> Floats:
    """Return the shift (K, R) that L-BFGS reaches from `start` (K, R) (Nocedal 2006, alg. 7.4 and 7.5)."""
    shift = start
    loss, gradient = objective.value(shift)
    pairs: list[tuple[Floats, Floats]] = []
    for _ in range(max_steps):
        direction = _two_loops(gradient, pairs) if pairs else objective.first_step(gradient)
        slope = _dot(direction, gradient)
        step, trial, trial_loss, trial_gradient = 1.0, shift, loss, gradient
        while step > 1e-6:
            trial = shift + step * direction
            trial_loss, trial_gradient = objective.value(trial)
            if trial_loss <= loss + 1e-4 * step * slope:
                break
            step /= 2
        else:
            break
        moved, turned = trial - shift, trial_gradient - gradient
        if _dot(moved, turned) > 1e-10 * (_dot(moved, moved) * _dot(turned, turned)) ** 0.5:
            pairs = [*pairs[1 - HISTORY :], (moved, turned)]
        gained = loss - trial_loss
        shift, loss, gradient = trial, trial_loss, trial_gradient
        if gained <= TOLERANCE * max(abs(loss), 1.0):
            break
    return shift


def _two_loops(gradient: Floats, pairs: list[tuple[Floats, Floats]]) -> Floats:
    """Return the descent direction (K, R): minus the approximate inverse Hessian times the gradient (K, R).

    Args:
        gradient: at the shift.
        pairs: steps and the gradient's changes over them, the oldest first, at least one.
    """
    direction: Floats = -gradient
    factors = []
    for moved, turned in reversed(pairs):
        factor = _dot(moved, direction) / _dot(moved, turned)
        direction = direction - factor * turned
        factors.append(factor)
    moved, turned = pairs[-1]
    direction = direction * (_dot(moved, turned) / _dot(turned, turned))
    for (moved, turned), factor in zip(pairs, reversed(factors), strict=True):
        direction = direction + (factor - _dot(turned, direction) / _dot(moved, turned)) * moved
    return direction


def _dot(first: Floats, second: Floats) -> float:
    return float(first.reshape(-1) @ second.reshape(-1))


def cross_entropy(logits: Floats, labels: Ints) -> Floats:
    """Return the cross-entropy (N,) of logits (N, K) at labels (N,)."""
    xp = namespace(logits)
    gap = xp.asarray(logits - logits[xp.arange(len(labels)), labels][:, None], dtype=xp.float64)
    peak = xp.amax(gap, 1)
    entropy: Floats = xp.log(xp.exp(gap - peak[:, None]).sum(1)) + peak
    return entropy


def brier_score(logits: Floats, labels: Ints) -> Floats:
    """Return the squared distance (N,) of the probabilities of logits (N, K) from labels (N,) (Brier 1950)."""
    xp = namespace(logits)
    rows = xp.arange(len(labels))
    likely = xp.exp(xp.asarray(logits, dtype=xp.float64) - xp.amax(logits, 1)[:, None])
    likely = likely / likely.sum(1)[:, None]
    score: Floats = 1 - 2 * likely[rows, labels] + (likely**2).sum(1)
    return score
