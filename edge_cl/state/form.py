"""Which recipes can teach which head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_cl.errors import InputError
from edge_cl.head import HEADS
from edge_cl.hidden import MAX_UNITS
from edge_cl.inputs import MAX_DIM, MAX_VALUE
from edge_cl.recipes import RECIPES, get_recipe

if TYPE_CHECKING:
    from edge_cl.state.schema import Settings

EXACT_CODECS = ("float32", "float16")
SUMS = ("edge", "ridge")  # recipes of a regression head: for the squared error both are the same sums


def check_form(settings: Settings) -> None:
    """Check that the recipe can teach the head.

    Raises:
        InputError: it cannot, or a number is out of range.
    """
    if settings.head not in HEADS:
        raise InputError(f"head: expected one of {', '.join(HEADS)}; found {settings.head!r}")
    check_number("hidden_units", settings.hidden_units, 1, MAX_UNITS)
    check_number("random_features", settings.random_features, 0, MAX_DIM)
    check_number("input_dim", settings.input_dim, 0, MAX_DIM)
    for name in ("has_tasks", "is_raised"):
        if not isinstance(getattr(settings, name), bool):
            raise InputError(f"{name}: expected true or false; found {getattr(settings, name)!r}")
    if settings.input_dim and not settings.random_features:
        raise InputError(f"input_dim: expected 0 without random features; found {settings.input_dim}")
    _check_constant(settings)
    recipe = settings.make_recipe()
    if recipe.keeps_all and settings.codec not in EXACT_CODECS:
        raise InputError(
            f"codec: recipe {recipe.name} stores samples as they are, by {' or '.join(EXACT_CODECS)}; "
            f"found {settings.codec!r}"
        )
    if settings.head == "regression":
        _check_regression(settings)
    if settings.head == "mlp" and not _trains_layers(settings.recipe):
        names = ", ".join(name for name in RECIPES if _trains_layers(name))
        raise InputError(f"recipe: head mlp needs one that trains it, of {names}; found {settings.recipe!r}")


def _trains_layers(name: str) -> bool:
    """Return whether a recipe can train a hidden layer: by cross-entropy on labels alone."""
    recipe = get_recipe(name)
    return recipe.trains and not recipe.distils and recipe.projects == "none"


def check_number(name: str, value: int, least: int, most: int) -> None:
    """Check a whole number.

    Raises:
        InputError: it is none, or out of its range.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{name}: expected a whole number of {least} to {most}; found {value!r}")


def _check_constant(settings: Settings) -> None:
    constant = settings.random_constant
    if isinstance(constant, bool) or not isinstance(constant, int | float) or not 0 <= constant <= MAX_VALUE:
        raise InputError(f"random_constant: expected a number of 0 to {MAX_VALUE:g}; found {constant!r}")
    if constant and not settings.input_dim:
        raise InputError(f"random_constant: expected 0 before the first sample is learnt; found {constant!r}")


def _check_regression(settings: Settings) -> None:
    if settings.recipe not in SUMS:
        raise InputError(f"recipe: head regression learns by edge, its sums are exact EWC; found {settings.recipe!r}")
    if settings.codec != "float32":
        raise InputError(f"codec: head regression stores float32, to leave samples out; found {settings.codec!r}")
    if settings.selection != "reservoir":
        raise InputError(f"selection: head regression stores any samples, reservoir; found {settings.selection!r}")
    for name in ("shrinkage", "penalty"):
        if getattr(settings, name) is not None:
            raise InputError(f"{name}: head regression chooses its ridge by itself; found {getattr(settings, name)!r}")
    if settings.has_tasks:
        raise InputError("task: head regression has no classes, so it has no tasks; give it several outputs instead")
