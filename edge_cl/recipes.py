"""The recipes: which memories of the past an update uses. A recipe is data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edge_cl.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """What an update starts from and what holds it.

    Attributes:
        name: what the user types.
        anchor: the head that an update starts from and that EWC holds on to: the closed form over the
            statistics, or the head of the version before.
        fisher: the metric of EWC's pull to the anchor: the Kronecker one (its feature factor is the shared covariance,
            so it is a plain square in whitened space), the exact diagonal one, or none.
        trains: whether softmax cross-entropy moves the head away from the anchor.
        replays: whether stored samples of the past are trained on beside the new ones.
    """

    name: str
    anchor: Literal["statistics", "previous"]
    fisher: Literal["kronecker", "diagonal", "none"]
    trains: bool
    replays: bool


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("edge", anchor="statistics", fisher="kronecker", trains=True, replays=True),
        Recipe("slda", anchor="statistics", fisher="none", trains=False, replays=False),
        Recipe("ewc", anchor="previous", fisher="diagonal", trains=True, replays=False),
        Recipe("replay", anchor="previous", fisher="none", trains=True, replays=True),
        Recipe("finetune", anchor="previous", fisher="none", trains=True, replays=False),
    )
}


def get_recipe(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        InputError: there is none.
    """
    if name not in RECIPES:
        raise InputError(f"recipe: expected one of {', '.join(RECIPES)}; found {name!r}")
    return RECIPES[name]
