"""Distillation: the head before teaches the new one what it would have said of the old classes."""

from __future__ import annotations

from dataclasses import dataclass

from edge_kernels.arrays import Floats

from edge_cl.devices import namespace
from edge_cl.refine import Objective

TEMPERATURE = 2.0  # Li 2017, sec. 3


@dataclass(frozen=True)
class Distilled:
    """An objective with the cross-entropy to the answers of the head before added to it.

    Attributes:
        objective: without it.
        inputs: (M, R) those of its samples that have an answer.
        offsets: (M, K') logits of the anchor for the old classes.
        answers: (M, K') probabilities of the old classes by the head before, at the temperature.
        weights: (M,) of the samples.
    """

    objective: Objective
    inputs: Floats
    offsets: Floats
    answers: Floats
    weights: Floats

    def value(self, shift: Floats) -> tuple[float, Floats]:
        """Return the loss and its gradient (K, R) at the shift (K, R) from the anchor."""
        loss, gradient = self.objective.value(shift)
        xp, n_old = namespace(shift), self.answers.shape[1]
        logits = (self.offsets + self.inputs @ shift[:n_old].T) / TEMPERATURE
        logits -= xp.amax(logits, 1)[:, None]
        odds = xp.exp(logits)
        total = odds.sum(1)
        told = xp.where(self.answers > 0, logits, 0.0)  # a class of another task has a logit of minus infinity
        losses = xp.log(total) - (self.answers * told).sum(1)  # Li 2017, eq. 2
        delta = (odds / total[:, None] - self.answers) * (self.weights / TEMPERATURE)[:, None]
        gradient[:n_old] += delta.T @ self.inputs
        return loss + float(self.weights @ losses), gradient

    def first_step(self, gradient: Floats) -> Floats:
        """Return a step (K, R) down the gradient (K, R) that is about as long as it may be."""
        return self.objective.first_step(gradient)


def distil(objective: Objective, before: Floats, prior: Floats) -> Distilled:
    """Return the objective with the head before as a teacher of the old classes.

    Args:
        objective: of N samples.
        before: (N, K') logits of the head before; minus infinity for classes of tasks that a sample is not of. A
            sample whose task is new has no answer.
        prior: (K,) what the objective adds to the logits for training alone.
    """
    xp, n_old = namespace(before), before.shape[1]
    taught = xp.amax(before, 1) > -xp.inf
    logits = before[taught] / TEMPERATURE
    odds = xp.exp(logits - xp.amax(logits, 1)[:, None]) if len(logits) else logits
    offsets = objective.offsets[taught][:, :n_old] - prior[:n_old]
    answers = odds / odds.sum(1)[:, None]
    return Distilled(objective, objective.inputs[taught], offsets, answers, objective.sample_weights[taught])
