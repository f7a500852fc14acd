"""The head trained on every sample ever learnt, from zero: what retraining reaches, an upper bound for the others."""

from __future__ import annotations

from dataclasses import replace

from edge_cl.devices import namespace
from edge_cl.learning.hold import Hold, deviation_of, mean_of
from edge_cl.learning.task import Learnt, Task
from edge_cl.recipes import Recipe
from edge_cl.refine import Objective, cross_entropy, minimise

DECAYS = tuple(10.0 ** (-step / 2) for step in range(-2, 11))  # of each sample: 10 to 10^-5
FIRST_STEPS = 15  # of L-BFGS for each decay: the losses of the held-out slice then hardly change any more


def learn_from_nothing(task: Task, recipe: Recipe) -> Learnt:
    """Return the softmax head of all samples, its weight decay chosen on the held-out slice, which then joins the rest.

    The held-out slice is asked about the head that did not see it. From the firmest decay on, each starts where the one
    before has ended; the first that the slice likes less is the last.
    """
    xp, train = namespace(task.features), ~task.held
    space = _space(task)
    inputs = space.transform(task.features)
    offsets = task.within(xp.zeros((len(inputs), len(task.bias)), dtype=xp.float32))
    weights = xp.ones(len(inputs), dtype=xp.float32)
    everything = Objective(inputs, offsets, task.labels, weights, 0.0, task.device)
    best = shift = xp.zeros((len(task.bias), inputs.shape[1]), dtype=xp.float32)
    decays = DECAYS if recipe.penalty is None else (recipe.penalty,)
    decay, least = decays[len(decays) // 2], float("inf")
    if bool(task.held.any()) and bool(train.any()):
        some = Objective(inputs[train], offsets[train], task.labels[train], weights[train], 0.0, task.device)
        for tried in decays:
            pull = tried * len(some.labels) * space.pull
            shift = minimise(replace(some, pull=pull), shift, max_steps=FIRST_STEPS)
            logits = offsets[task.held] + inputs[task.held] @ shift.T
            loss = float(cross_entropy(logits, task.labels[task.held]).mean())
            if loss >= least:
                break
            best, decay, least = shift, tried, loss
    unseen = offsets + inputs @ best.T
    shift = minimise(replace(everything, pull=decay * len(inputs) * space.pull), best)
    return Learnt(*space.head(shift), unseen, task.held, task.held)


def _space(task: Task) -> Hold:
    """Return features about their mean and of variance 1, or all of one scale where they are of like size."""
    xp = namespace(task.features)
    mean = mean_of(task)
    deviation = deviation_of(task, mean, task.held | ~task.held)
    pull = xp.ones((1, len(mean) + 1), dtype=xp.float32)
    pull[:, -1] = 1e-6
    return Hold(0 * task.weights, 0 * task.bias, mean, 1 / deviation, 1.0, pull)
