"""The ways in which an update moves the head, one for each anchor that a recipe can start from."""

from __future__ import annotations

from edge_cl.learning.anchored import learn_from_statistics
from edge_cl.learning.cosine import to_cosine
from edge_cl.learning.joint import learn_from_nothing
from edge_cl.learning.layer import learn_layer
from edge_cl.learning.means import learn_from_exemplars, learn_from_means
from edge_cl.learning.one_hot import learn_from_one_hot
from edge_cl.learning.task import Learnt, Task
from edge_cl.learning.trained import learn_from_head
from edge_cl.recipes import Recipe

__all__ = ["WAYS", "Learnt", "Task", "learn", "learn_layer", "to_cosine"]

WAYS = {
    "statistics": learn_from_statistics,
    "means": learn_from_means,
    "exemplars": learn_from_exemplars,
    "ridge": learn_from_one_hot,
    "previous": learn_from_head,
    "nothing": learn_from_nothing,
}


def learn(task: Task, recipe: Recipe) -> Learnt:
    """Return what a task comes to by a recipe."""
    return WAYS[recipe.anchor](task, recipe)
