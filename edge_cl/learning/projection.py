"""Steps that no memory objects to: gradients are projected until they raise the loss of no group of stored samples.

Without task ids, each old class is a memory of its own (GEM), or all of them together are one (A-GEM).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from edge_kernels.arrays import Floats, Ints

from edge_cl.devices import Device, namespace
from edge_cl.refine import Objective

STEPS = 50  # of gradient descent, each as long as the curvature allows
POWER_STEPS = 15  # of the power method, for the curvature
JITTER = 1e-6  # of the mean square of the memories' gradients: two may be the same
PATIENCE = 3  # exchanges of sides that do not help, one after another
MOST_VALUES = 1 << 26  # of all gradients that a step is projected on: a quarter of a gigabyte


@dataclass(frozen=True)
class Memories:
    """Stored samples that must not be forgotten.

    Attributes:
        inputs: (M, R) in the coordinates of the objective.
        offsets: (M, K) logits of the anchor.
        labels: (M,) classes.
        groups: the rows of each memory's samples.
    """

    inputs: Floats
    offsets: Floats
    labels: Ints
    groups: list[Ints]

    def gradients(self, shift: Floats, device: Device) -> Floats:
        """Return the gradient of each memory's loss at the shift (K, R), unrolled: (G, K R)."""
        xp = namespace(shift)
        logits = self.offsets + self.inputs @ shift.T
        weights = xp.ones(len(self.labels), dtype=xp.float32)
        _, deltas = device.kernels.cross_entropy_delta(logits, self.labels, sample_weights=weights)
        each: Floats = xp.stack([(deltas[rows].T @ self.inputs[rows]).reshape(-1) for rows in self.groups])
        return each


def gather(inputs: Floats, offsets: Floats, labels: Ints, *, is_average: bool) -> Memories:
    """Return M stored samples as memories: one for each class, or one in all.

    Where there are more classes than a step can be projected on, several share a memory.

    Args:
        inputs: (M, R).
        offsets: (M, K).
        labels: (M,).
        is_average: whether all are one memory.
    """
    xp = namespace(inputs)
    most = 1 if is_average else max(1, MOST_VALUES // (offsets.shape[1] * inputs.shape[1]))
    classes = xp.unique(labels)
    shared = [labels % most == group for group in range(most)] if len(classes) > most else []
    found = shared or [labels == label for label in classes]
    return Memories(inputs, offsets, labels, [xp.where(rows)[0] for rows in found if bool(rows.any())])


def descend(objective: Objective, memories: Memories) -> Floats:
    """Return the shift (K, R) from the anchor that projected gradient descent comes to.

    Each step sees all samples, so there is nothing random in it. It is one by the largest curvature that the loss can
    have, which surely gains.

    Args:
        objective: of the new samples.
        memories: of the old ones.
    """
    xp = namespace(objective.inputs)
    shift: Floats = xp.zeros((objective.offsets.shape[1], objective.inputs.shape[1]), dtype=xp.float32)
    rate = 1 / _curvature(objective)
    for _ in range(STEPS):
        _, gradient = objective.value(shift)
        if memories.groups:
            each = memories.gradients(shift, objective.device)
            gradient = project(gradient.reshape(-1), each, objective.device).reshape(gradient.shape)
        shift = shift - rate * gradient
    return shift


def project(gradient: Floats, memories: Floats, device: Device) -> Floats:
    """Return the vector (P,) nearest to a gradient (P,) with no negative inner product with those of memories (G, P).

    Its dual has one unknown for each memory (Lopez-Paz 2017, eq. 11); with one memory it is A-GEM's projection
    (Chaudhry 2019, eq. 11).
    """
    xp = namespace(gradient)
    slopes = device.get(memories @ gradient).astype(np.float64)
    if not (slopes < 0).any():
        return gradient
    gram = device.get(memories @ memories.T).astype(np.float64)
    factors = xp.asarray(solve_dual(gram, slopes).tolist(), dtype=xp.float32)
    projected: Floats = gradient + factors @ memories
    return projected


def solve_dual(gram: Floats, slopes: Floats) -> Floats:
    """Return v (G,) >= 0 at which v' gram v / 2 + slopes v is least, by block pivoting (Kim 2011, alg. 2).

    All memories on the wrong side change sides at once, as long as that leaves fewer of them; when it has not for some
    time, the last one alone does, which must come to an end (Murty 1974).

    Args:
        gram: (G, G) inner products.
        slopes: (G,).
    """
    gram = gram + JITTER * max(float(gram.diagonal().mean()), 1e-300) * np.eye(len(slopes))
    tolerance = 1e-9 * float(np.abs(slopes).max(initial=0))
    active = slopes < 0
    fewest, patience = len(slopes) + 1, PATIENCE
    while True:
        found = np.zeros(len(slopes))
        found[active] = np.linalg.solve(gram[np.ix_(active, active)], -slopes[active])
        wrong = np.where(active, found < 0, gram @ found + slopes < -tolerance)
        n_wrong = int(wrong.sum())
        if not n_wrong:
            return found
        if n_wrong < fewest:
            fewest, patience = n_wrong, PATIENCE
        elif patience:
            patience -= 1
        else:
            wrong[: np.flatnonzero(wrong)[-1]] = False
        active ^= wrong


def _curvature(objective: Objective) -> float:
    """Return the largest curvature that the objective can have: p p' - diag(p) is at most 1 / 2 (Boehning 1992)."""
    xp, inputs = namespace(objective.inputs), objective.inputs
    weighted = objective.sample_weights[:, None] * inputs
    direction = (xp.ones(len(inputs), dtype=xp.float32) @ abs(weighted)) + 1e-6
    length = 0.0
    for _ in range(POWER_STEPS):
        direction = inputs.T @ (weighted @ direction)
        length = float((direction**2).sum()) ** 0.5
        direction = direction / max(length, 1e-30)
    pull = objective.pull if isinstance(objective.pull, float) else float(objective.pull.max())
    return 0.5 * 1.1 * length + pull
