"""Softmax cross-entropy over few samples, held to an anchor: the objective and the L-BFGS that minimises it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from edge_kernels.reference import Floats, Ints

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
    """

    inputs: Floats
    offsets: Floats
    labels: Ints
    sample_weights: Floats
    pull: Floats | float

    def value(self, shift: Floats) -> tuple[float, Floats]:
        """Return the loss and its gradient (K, R) at the shift (K, R) from the anchor."""
        rows = np.arange(len(self.labels))
        logits = self.offsets + self.inputs @ shift.T
        logits -= logits[rows, self.labels][:, None]
        peak = np.maximum(logits.max(axis=1), 0)
        delta = np.exp(logits - peak[:, None])
        total = delta.sum(axis=1)
        entropy = np.log(total) + peak
        delta *= (self.sample_weights / total)[:, None]
        delta[rows, self.labels] -= self.sample_weights
        held = self.pull * shift
        loss = np.dot(self.sample_weights.astype(np.float64), entropy) + 0.5 * np.vdot(held, shift)
        return float(loss), delta.T @ self.inputs + held  # Kirkpatrick 2017, eq. 3

    def first_step(self, gradient: Floats) -> Floats:
        """Return the step (K, R) down the gradient (K, R) that surely gains, whatever the units of the inputs.

        It minimises a parabola above the loss: p (1 - p) is at most 1 / 4.
        """
        bound = 0.25 * (self.sample_weights @ np.square(self.inputs)) + self.pull
        steepness = float(np.vdot(gradient, bound * gradient))
        step: Floats = -gradient * np.float32(np.vdot(gradient, gradient) / max(steepness, 1e-30))
        return step


def minimise(objective: Objective, start: Floats, max_steps: int = 100) -> Floats:
    """Return the shift (K, R) that L-BFGS reaches from `start` (K, R) (Nocedal 2006, alg. 7.4 and 7.5)."""
    shift = start
    loss, gradient = objective.value(shift)
    pairs: list[tuple[Floats, Floats]] = []
    for _ in range(max_steps):
        direction = _two_loops(gradient, pairs) if pairs else objective.first_step(gradient)
        slope = float(np.vdot(direction, gradient))
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
        if np.vdot(moved, turned) > 1e-10 * np.linalg.norm(moved) * np.linalg.norm(turned):
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
        factor = np.vdot(moved, direction) / np.vdot(moved, turned)
        direction = direction - factor * turned
        factors.append(factor)
    moved, turned = pairs[-1]
    direction = direction * (np.vdot(moved, turned) / np.vdot(turned, turned))
    for (moved, turned), factor in zip(pairs, reversed(factors), strict=True):
        direction = direction + (factor - np.vdot(turned, direction) / np.vdot(moved, turned)) * moved
    return direction


def cross_entropy(logits: Floats, labels: Ints) -> Floats:
    """Return the cross-entropy (N,) of logits (N, K) at labels (N,)."""
    gap = (logits - logits[np.arange(len(labels)), labels][:, None]).astype(np.float64)
    peak = gap.max(axis=1)
    return np.asarray(np.log(np.exp(gap - peak[:, None]).sum(axis=1)) + peak)
