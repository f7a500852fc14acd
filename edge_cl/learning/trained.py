"""Heads trained from the head before, by softmax cross-entropy and whatever the recipe adds to it."""

from __future__ import annotations

from edge_kernels.arrays import Floats

from edge_cl.cholesky import inverse_cholesky
from edge_cl.devices import namespace
from edge_cl.learning.balance import correct, weigh
from edge_cl.learning.distillation import distil
from edge_cl.learning.hold import hold
from edge_cl.learning.projection import descend, gather
from edge_cl.learning.task import Learnt, Task
from edge_cl.recipes import Recipe
from edge_cl.refine import Objective, minimise

JITTER = 1e-4  # of the mean square length of the samples: two may be the same


def learn_from_head(task: Task, recipe: Recipe) -> Learnt:
    """Return the head trained from the one before."""
    train = ~task.held
    if not recipe.replays:
        train[: task.n_stored] = False
    before = task.within(task.features @ task.weights.T + task.bias)
    if not bool(train.any()):
        return Learnt(task.weights, task.bias, before, task.held, task.held)
    held = hold(task, recipe, train)
    inputs, basis = held.transform(task.features), None
    offsets = task.within(task.features @ held.weights.T + held.bias)
    weights, prior = weigh(task, recipe, train)
    if recipe.projects == "none" and held.pull.shape[1] == 1 and len(weights) < inputs.shape[1]:
        basis = span(inputs[train])  # the minimum lies there, and there are fewer coordinates
        inputs = inputs @ basis.T
    problem = Objective(inputs[train], offsets[train] + prior, task.labels[train], weights, held.pull, task.device)
    if recipe.projects != "none":
        old = ~task.held[: task.n_stored]
        stored = (inputs[: task.n_stored][old], offsets[: task.n_stored][old], task.labels[: task.n_stored][old])
        shift = descend(problem, gather(*stored, is_average=recipe.projects == "average"))
    else:
        start = namespace(inputs).zeros((len(task.bias), inputs.shape[1]), dtype=inputs.dtype)
        is_taught = recipe.distils and task.n_old
        taught = distil(problem, before[train][:, : task.n_old], prior) if is_taught else problem
        shift = minimise(taught, start)
    unseen = offsets + inputs @ shift.T
    head = held.head(shift if basis is None else shift @ basis)
    return correct(Learnt(*head, unseen, task.held, task.held), task, recipe)


def span(inputs: Floats) -> Floats:
    """Return directions (N, R) of length 1, at right angles to each other, that samples (N, R) lie in."""
    gram = inputs @ inputs.T
    diagonal = gram.reshape(-1)[:: len(gram) + 1]
    diagonal += JITTER * diagonal.mean()
    basis: Floats = inverse_cholesky(gram) @ inputs
    return basis
