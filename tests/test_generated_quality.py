"""On features of shapes that nothing was made for, `edge` reaches a joint softmax head with cross-validated decay.

That head has seen all samples at once; `edge` gets them class by class within 1 MB.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import Phase, given, settings

from edge_cl.bench.accuracy import Plan, follow
from edge_cl.bench.joint import JointReference
from edge_cl.bench.streams import class_incremental
from tests.generated_features import Shape, generate, shapes

BELOW = 0.6  # points that `edge` may lie below the joint head
CHANCE = 3.0  # standard errors that it may lie farther: of 40 figures that lie there, hardly one fails by chance
N_TEST = 4000
ENOUGH = 300  # samples learnt; with fewer, luck decides by points, so several draws of the shape are averaged
MOST_DRAWS = 6

NAMED = {
    "seven classes": Shape(n_classes=7, dim=64, per_class=60),
    "two hundred classes": Shape(n_classes=200, dim=64, per_class=12, error=0.3),
    "raw units": Shape(n_classes=10, dim=48, per_class=60, offset=30.0, has_units=True),
    "1000 : 1": Shape(n_classes=10, dim=32, per_class=1000, imbalance=1000.0),
    "more features than samples": Shape(n_classes=10, dim=300, per_class=8, error=0.02),
    "one sample of each": Shape(n_classes=20, dim=64, per_class=1, spectrum="isotropic", error=0.01),
    "one sample of each, few features": Shape(n_classes=20, dim=4, per_class=1, spectrum="isotropic", error=0.02),
    "many things at once": Shape(
        seed=1042,
        n_classes=20,
        dim=8,
        per_class=103,
        imbalance=1000.0,
        error=0.3,
        spectrum="low-rank",
        freedom=3,
        n_modes=3,
        form="unit",
        offset=30.0,
    ),
    "spreads of their own": Shape(n_classes=10, dim=32, per_class=80, spread=0.6),
    "clusters": Shape(n_classes=10, dim=32, per_class=100, n_modes=3),
    "rectified": Shape(n_classes=20, dim=128, per_class=30, form="rectified"),
    "binary": Shape(n_classes=10, dim=64, per_class=60, form="binary"),
    "unit length": Shape(n_classes=10, dim=64, per_class=60, form="unit"),
    "heavy tails": Shape(n_classes=10, dim=32, per_class=60, freedom=3),
    "warped": Shape(n_classes=10, dim=32, per_class=60, form="warped"),
    "squashed": Shape(n_classes=10, dim=32, per_class=60, form="squashed"),
    "low rank": Shape(n_classes=20, dim=128, per_class=30, spectrum="low-rank", means="leading"),
    "few directions": Shape(n_classes=40, dim=64, per_class=20, means="few"),
    "dead, repeated, mislabelled": Shape(dim=48, per_class=60, dead=0.3, repeated=0.2, mislabelled=0.05),
    "codes that lose": Shape(n_classes=10, dim=520, per_class=60, means="raw", error=0.02),
}


class Lead(NamedTuple):
    """How far `edge` lies above the joint head, in points.

    Attributes:
        balanced: where each class is asked as often: the mean over classes too.
        balanced_error: its standard error.
        natural: where classes are asked as often as they were learnt.
        natural_error: its standard error.
    """

    balanced: float
    balanced_error: float
    natural: float
    natural_error: float


@cache
def lead_of(shape: Shape) -> Lead:
    """Return the lead on a shape: the mean over some draws of it where it has few samples."""
    n_draws = int(np.clip(ENOUGH // shape.sizes.sum(), 1, MOST_DRAWS))
    leads = np.array([_lead(replace(shape, seed=shape.seed + draw)) for draw in range(n_draws)])
    balanced, balanced_error, natural, natural_error = leads.mean(axis=0)
    chance = leads.std(axis=0, ddof=1) if n_draws > 1 else np.zeros(4)  # of the draws, those of the test in it
    errors = np.maximum([balanced_error, natural_error], chance[[0, 2]]) / n_draws**0.5
    return Lead(balanced, errors[0], natural, errors[1])


def _lead(shape: Shape) -> Lead:
    """Return the lead on one draw; both heads answer the same samples, so only answers that differ count."""
    stream = class_incremental(generate(shape, N_TEST), min(shape.n_classes, 5), 0)
    labels = stream.data.labels[stream.asked(stream.n_tasks - 1)]
    edge, joint = follow(stream, Plan.parse("edge")), JointReference().follow(stream)
    gained = 100.0 * ((edge.answers[-1] == labels).astype(float) - (joint.answers[-1] == labels))
    learnt = np.bincount(stream.data.labels[np.concatenate(stream.train)], minlength=shape.n_classes)[labels]
    figures = []
    for weights in (np.ones(len(labels)), learnt):
        share = weights / weights.sum()
        lead = float(share @ gained)
        figures += [lead, float((share**2 @ (gained - lead) ** 2) ** 0.5)]
    return Lead(*figures)


@pytest.mark.parametrize("name", NAMED)
def test_edge_reaches_the_joint_head(name: str) -> None:
    lead = lead_of(NAMED[name])
    assert lead.balanced >= -BELOW - CHANCE * lead.balanced_error, lead
    assert lead.natural >= -BELOW - CHANCE * lead.natural_error, lead


def test_edge_lies_above_the_joint_head_on_average() -> None:
    leads = [lead_of(shape) for shape in NAMED.values()]
    for mean, errors in (
        (np.mean([lead.balanced for lead in leads]), [lead.balanced_error for lead in leads]),
        (np.mean([lead.natural for lead in leads]), [lead.natural_error for lead in leads]),
    ):
        assert mean >= 2 * np.linalg.norm(errors) / len(errors), leads  # more than chance would give


@settings(max_examples=24, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(shape=shapes())
def test_edge_reaches_the_joint_head_on_any_shape(shape: Shape) -> None:
    """Where every class is asked as often: what rare classes win, frequent ones lose where they are asked more."""
    lead = lead_of(shape)
    assert lead.balanced >= -BELOW - CHANCE * lead.balanced_error, lead
