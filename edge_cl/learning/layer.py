"""The hidden layer of an `mlp` head, trained on what the linear layer beside it leaves over.

The linear layer learns by its recipe alone. Then the cross-entropy of `linear logits + max(0, x W^T + b) V^T` is
minimised over W, b and V, held to what they were by EWC with the exact diagonal Fisher of both layers, where the recipe
has a Fisher. The held-out slice chooses how firmly, and whether there is a layer at all: where it does not surely gain,
the head is the linear one. So it is with the units that a layer gets for more classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from edge_kernels.arrays import Bools, Floats

from edge_cl.devices import namespace
from edge_cl.ewc import with_one
from edge_cl.feature_map import SHORTEST, draw_normal
from edge_cl.hidden import Hidden
from edge_cl.learning.balance import weigh
from edge_cl.learning.layered import Layered, join, split
from edge_cl.learning.task import Learnt, Task
from edge_cl.recipes import Recipe
from edge_cl.refine import cross_entropy, minimise

PULLS = (1e-2, 1e-3, 1e-4)  # on each weight of scaled features, for each sample, tried from the firmest on
ALONE = 1e-3  # the one that is taken where fewer than FEW samples are held out to choose
FEW = 10
LEAST_GAIN = 1e-3  # of the held-out cross-entropy, in nats
N_STEPS = 100  # of L-BFGS, at most

Judge = Callable[[Floats], Any]


def learn_layer(learnt: Learnt, task: Task, recipe: Recipe, seed: int) -> Learnt:
    """Return what was learnt with a hidden layer, and logits of unseen samples with what it adds.

    What a layer was trained on can no longer be asked as if unseen, even beside a closed form.

    Args:
        learnt: the linear layer.
        task: what it was learnt from; its `hidden` is the layer before.
        recipe: which samples are trained on, and whether a Fisher holds the layer.
        seed: of the units, before they are trained.
    """
    assert task.hidden is not None
    hidden, is_closed = task.hidden, recipe.anchor == "statistics"
    train = ~task.held
    if not (recipe.replays or recipe.keeps_all):
        train[: task.n_stored] = False
    is_judged = int(task.held.sum()) >= FEW
    if bool(train.any()) and (not is_closed or (is_judged and bool(task.exact.all()))):  # lossy codes have no say there
        hidden = _train(learnt, task, recipe, train, seed)
    unseen = learnt.unseen + hidden.logits(task.features)
    if recipe.fisher in {"diagonal", "kronecker"} and not is_closed:
        fisher = _fisher_of(hidden, unseen[task.n_stored :], task)
        hidden = replace(hidden, fisher=recipe.decay * _fisher(hidden) + fisher)
    if not bool((hidden.rows != 0).any()):
        return replace(learnt, hidden=hidden)
    honest, comparable = learnt.honest & task.held, learnt.comparable & task.held
    return replace(learnt, hidden=hidden, unseen=unseen, honest=honest, comparable=comparable)


@dataclass(frozen=True)
class _Lesson:
    """What a layer of any size is trained on and judged by.

    Attributes:
        task: of the update.
        train: (N,) samples trained on.
        inputs: (N, R) features with a 1 behind, divided by the scale.
        scale: (R,) of the inputs: whatever the units of a feature are, the problem is the same.
        offsets: (N, K) logits of the linear layer, as if unseen for the held-out samples.
        prior: (K,) that is added to them in training.
        weights: (n,) of the samples trained on.
    """

    task: Task
    train: Bools
    inputs: Floats
    scale: Floats
    offsets: Floats
    prior: Floats | float
    weights: Floats

    @classmethod
    def of(cls, learnt: Learnt, task: Task, recipe: Recipe, train: Bools) -> _Lesson:
        xp, inputs = namespace(task.features), with_one(task.features)
        scale = task.device.kernels.fisher_mse(inputs[train]) ** 0.5
        scale[scale == 0] = 1
        linear = task.within(task.features @ learnt.weights.T + learnt.bias)
        offsets = xp.where(task.held[:, None], learnt.unseen, linear)
        is_closed = recipe.anchor == "statistics"
        weights, prior = weigh(task, replace(recipe, balance="seen") if is_closed else recipe, train)
        return cls(task, train, inputs / scale, scale, offsets, prior, weights)

    @property
    def is_judged(self) -> bool:
        """Whether enough samples are held out."""
        return int(self.task.held.sum()) >= FEW

    def judge(self, units: Floats, rows: Floats) -> Any:
        """Return the losses of the held-out samples, on the host, for units (H, R) of the scaled inputs."""
        held = self.task.held
        logits = self.offsets[held] + (self.inputs[held] @ units.T).clip(0) @ rows.T
        return self.task.device.get(cross_entropy(logits, self.task.labels[held]))

    def teach(self, hidden: Hidden) -> tuple[Hidden, Any]:
        """Return the layer, trained where that surely gains, and the losses of the held-out samples if they judge."""
        n_units, n_inputs = hidden.units.shape
        units, rows = split(_fisher(hidden), n_units, n_inputs)
        pull, start = join(units / self.scale**2, rows), join(hidden.units * self.scale, hidden.rows)
        train = self.train
        samples = self.inputs[train], self.offsets[train] + self.prior, self.task.labels[train], self.weights
        problem = Layered(*samples, pull, self.task.device, start=start, n_units=n_units)

        def judge(flat: Floats) -> Any:
            return self.judge(*split(flat, n_units, n_inputs))

        found = _choose(problem, judge if self.is_judged else None)
        units, rows = split(found, n_units, n_inputs)
        return replace(hidden, units=units / self.scale, rows=rows), judge(found) if self.is_judged else None


def _train(learnt: Learnt, task: Task, recipe: Recipe, train: Bools, seed: int) -> Hidden:
    """Return the layer trained on some of the samples (N,), with units for more classes where those surely gain.

    Where nothing can judge, it has them.
    """
    assert task.hidden is not None
    lesson, before = _Lesson.of(learnt, task, recipe, train), task.hidden
    is_new = recipe.anchor == "nothing" or not bool((before.rows != 0).any())
    n_units = max(len(before.units), before.units_for(len(before.rows), before.n_first))
    sizes = dict.fromkeys((len(before.units), n_units) if lesson.is_judged else (n_units,))
    found = [lesson.teach(_begin(before, lesson, size, seed, is_new=is_new)) for size in sizes]
    (hidden, losses), (wide, wide_losses) = found[0], found[-1]
    return wide if len(found) > 1 and _surely(losses - wide_losses) else hidden


def _surely(gains: Any) -> bool:
    """Return whether gains (n,) in nats of held-out samples are no accident."""
    return bool(gains.mean() > max(LEAST_GAIN, 2 * gains.std(ddof=1) / np.sqrt(len(gains))))


def _begin(before: Hidden, lesson: _Lesson, n_units: int, seed: int, *, is_new: bool) -> Hidden:
    """Return the layer to train, of so many units; those that are added, or all of a new one, are drawn."""
    hidden, first = before.widen(n_units), 0 if is_new else len(before.units)
    if first == n_units:
        return hidden
    drawn = _draw(lesson.inputs[lesson.train], range(first, n_units), seed) / lesson.scale
    units = namespace(drawn).concatenate([hidden.units[:first], drawn])
    return replace(hidden, units=units, rows=0 * hidden.rows if is_new else hidden.rows)


def _choose(problem: Layered, judge: Judge | None) -> Floats:
    """Return the layer (P,) whose pull the held-out samples like best, if it surely gains on none and on that before.

    Args:
        problem: its pull is the Fisher's, to which that on all weights is added.
        judge: returns the losses of the held-out samples; None where there are too few.
    """
    start, n_seen = problem.start, float(problem.sample_weights.sum())
    shift = 0 * start
    if judge is None:
        return start + minimise(replace(problem, pull=problem.pull + ALONE * n_seen), shift, N_STEPS)
    units, rows = split(start, problem.n_units, problem.inputs.shape[1])
    candidates = [(flat, judge(flat)) for flat in (join(units, 0 * rows), start)]
    base, losses = min(candidates, key=lambda pair: pair[1].mean())
    best, best_losses = base, losses
    for share in PULLS:
        shift = minimise(replace(problem, pull=problem.pull + share * n_seen), shift, N_STEPS)
        found = judge(start + shift)
        if found.mean() >= best_losses.mean():
            break
        best, best_losses = start + shift, found
    return best if _surely(losses - best_losses) else base


def _draw(inputs: Floats, numbers: range, seed: int) -> Floats:
    """Return units (H, R), each zero at one of the inputs (n, R), its slope by their spread.

    A unit's direction depends on the seed and its number alone, so that it is the same whenever it is added.
    """
    xp, n_units, dim = namespace(inputs), len(numbers), inputs.shape[1] - 1
    drawn = draw_normal(np.arange(numbers.start * dim, numbers.stop * dim), seed).reshape(n_units, dim)
    drawn /= np.sqrt(np.square(drawn).sum(axis=1, keepdims=True)).clip(SHORTEST)
    directions = xp.asarray(drawn)
    values = inputs[:, :-1] @ directions.T
    spread = ((values - values.mean(0)) ** 2).mean(0) ** 0.5
    spread[spread == 0] = 1
    places = xp.asarray(np.arange(n_units) * len(inputs) // n_units)
    middle = values[places, xp.arange(n_units)] / inputs[0, -1]
    units: Floats = xp.concatenate([directions, -middle[:, None]], axis=1) / spread[:, None]
    return units


def _fisher(hidden: Hidden) -> Floats:
    """Return the Fisher (P,) that the layer has so far."""
    return hidden.fisher if len(hidden.fisher) else 0 * join(hidden.units, hidden.rows)


def _fisher_of(hidden: Hidden, logits: Floats, task: Task) -> Floats:
    """Return the summed true Fisher (P,) of the batch at its logits (B, K)."""
    features = task.features[task.n_stored :]
    active = hidden.activations(features)
    found = task.device.kernels.fisher_hidden_true(
        features,
        active,
        slopes=namespace(active).asarray(active > 0, dtype=active.dtype),
        probabilities=task.device.kernels.softmax(logits),
        weights=hidden.rows,
    )
    units = namespace(active).concatenate([found.weights_in, found.bias_in[:, None]], axis=1)
    summed: Floats = len(features) * join(units, found.weights_out)
    return summed
