"""Softmax cross-entropy over both layers of a small network, held to where they were: the objective of L-BFGS."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edge_kernels.arrays import Floats

from edge_cl.devices import namespace
from edge_cl.refine import Objective


@dataclass(frozen=True)
class Layered(Objective):
    """Cross-entropy of `offsets + max(0, inputs units^T) rows^T` plus half of `pull * shift^2`, summed.

    Attributes:
        start: (P,) units (H, R), then rows (K, H), flat; shifts, gradients and the pull have the same shape.
        n_units: H.
    """

    start: Floats = field(kw_only=True)
    n_units: int = field(kw_only=True)

    def value(self, shift: Floats) -> tuple[float, Floats]:
        """Return the loss and its gradient (P,) at the shift (P,)."""
        pulled = self.pull * shift
        units, out = split(self.start + shift, self.n_units, self.inputs.shape[1])
        sums: list[Any] = [0.5 * float(pulled @ shift), pulled]

        def add(rows: slice) -> None:
            inputs = self.inputs[rows]
            before = inputs @ units.T
            active = before.clip(0)
            loss, delta = self.device.kernels.cross_entropy_delta(
                self.offsets[rows] + active @ out.T, self.labels[rows], sample_weights=self.sample_weights[rows]
            )
            back = (delta @ out) * (before > 0)
            sums[:] = sums[0] + loss, sums[1] + join(back.T @ inputs, delta.T @ active)

        self.device.each(len(self.labels), add)
        return sums[0], sums[1]

    def first_step(self, gradient: Floats) -> Floats:
        """Return a step (P,) down the gradient (P,), short enough for the steepest of the rows."""
        xp = namespace(gradient)
        active = (self.inputs @ split(self.start, self.n_units, self.inputs.shape[1])[0].T).clip(0)
        steepest = 0.25 * float(xp.amax(self.sample_weights @ active**2, 0))
        step: Floats = -gradient / (self.pull + max(steepest, 1e-30))
        return step


def split(flat: Floats, n_units: int, n_inputs: int) -> tuple[Floats, Floats]:
    """Return units (H, R) and rows (K, H) of (P,)."""
    cut = n_units * n_inputs
    return flat[:cut].reshape(n_units, n_inputs), flat[cut:].reshape(-1, n_units)


def join(units: Floats, rows: Floats) -> Floats:
    """Return units (H, R) and rows (K, H) as (P,)."""
    joined: Floats = namespace(units).concatenate([units.reshape(-1), rows.reshape(-1)])
    return joined
