"""Recipes along a stream, through the same `Learner` that a user has."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import numpy as np

from edge_cl.bench import joint
from edge_cl.bench.course import NONE, Course, measure
from edge_cl.bench.report import Result
from edge_cl.bench.streams import Stream
from edge_cl.errors import EdgeClError, InputError
from edge_cl.learner import Learner
from edge_cl.quantities import parse_bytes
from edge_cl.recipes import get_recipe

ALL = "all"  # the budget of a recipe that has to keep every sample exactly
SLOT = 16  # bytes that are surely enough for what is stored beside the values of a sample
OWN = {"path", "backbone", "recipe", "seed", "preprocessing", "timeout"}  # what a plan cannot set


@dataclass(frozen=True)
class Plan:
    """A recipe with its settings, as `edge`, or as `edge[codec=float32,selection=herding]`.

    Attributes:
        text: as it was written.
        recipe: its name.
        settings: further arguments of `Learner.create`; `replay` is short for `replay_bytes`, and takes 1KB/class.
    """

    text: str
    recipe: str
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Plan:
        """Return the plan of a text.

        Raises:
            InputError: there is no such recipe, or no such setting.
        """
        name, bracket, rest = text.strip().partition("[")
        if bracket and not rest.endswith("]"):
            raise InputError(f"recipes: expected a recipe such as edge or edge[replay=0]; found {text!r}")
        get_recipe(name)
        known = set(signature(Learner.create).parameters) - OWN | {"replay"}
        settings: dict[str, Any] = {}
        for part in rest[:-1].split(",") if bracket else ():
            key, equals, value = (word.strip() for word in part.partition("="))
            if not equals or key not in known:
                raise InputError(f"recipes: {text}: expected settings among {', '.join(sorted(known))}; found {part!r}")
            settings[key] = value if key == "replay" else _as_number(value)
        return cls(text.strip(), name, settings)

    @property
    def budget(self) -> str | None:
        """The replay that the plan sets itself, as text; `all` for recipes that keep every sample; None for others."""
        own = self.settings.get("replay", self.settings.get("replay_bytes"))
        if own is None and get_recipe(self.recipe).keeps_all:
            return ALL
        return None if own is None else str(own)


def _as_number(text: str) -> int | float | str:
    """Return the number that a text is, or the text."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def split_plans(text: str) -> list[str]:
    """Return the parts between commas, except those between brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def parse_budget(text: str, n_classes: int) -> int:
    """Return the bytes of a budget such as 1MB or 1KB/class.

    Raises:
        InputError: it is none.
    """
    amount, slash, unit = text.partition("/")
    if slash and unit.strip() != "class":
        raise InputError(f"replay: expected bytes such as 1MB or 1KB/class; found {text!r}")
    try:
        return parse_bytes(amount) * (n_classes if slash else 1)
    except InputError:
        raise InputError(f"replay: expected bytes such as 1MB or 1KB/class; found {text!r}") from None


def run_all(
    streams: Sequence[Stream], recipes: Sequence[str], budgets: Sequence[str], on_done: Callable[[int], object] = int
) -> list[Result]:
    """Return what each recipe does along each stream with each budget; one that fails is a result with its error.

    Each depends on its stream and its recipe alone, so the results are the same whatever else is run.

    Args:
        streams: one for each order.
        recipes: plans as text, and `joint-cv`.
        budgets: of the replay, as text; a plan that sets its own is run once, and so is `joint-cv`.
        on_done: called with 1 after each task.

    Raises:
        InputError: a recipe or a budget is none; nothing was run.
    """
    if not recipes:
        raise InputError("recipes: expected at least one; found none")
    n_classes = len(streams[0].data.classes)
    for budget in budgets:
        parse_budget(budget, n_classes)
    plans = {text: Plan.parse(text) for text in recipes if text != joint.NAME}
    reference = joint.JointReference()
    results = []
    for text in recipes:
        own = plans[text].budget if text in plans else ""
        for budget in budgets if own is None else [own]:
            for stream in streams:
                try:
                    if text in plans:
                        course = follow(stream, plans[text], budget, on_done)
                    else:
                        course = reference.follow(stream)
                        on_done(stream.n_tasks)
                    results.append(Result(text, budget, stream.seed, measure(stream, course)))
                except Exception as error:
                    results.append(Result(text, budget, stream.seed, error=one_line(error)))
    return results


def follow(stream: Stream, plan: Plan, budget: str = "1MB", on_done: Callable[[int], object] = int) -> Course:
    """Return what a learner in memory answers along a stream; updates are never refused.

    Args:
        stream: the samples and their order.
        plan: the recipe; its own settings go before the budget.
        budget: of the replay.
        on_done: called with 1 after each task.

    Raises:
        InputError: a setting is out of its range.
    """
    data = stream.data
    settings = {"history_bytes": 0, "device": "cpu", **plan.settings}
    settings.pop("replay", None)
    if plan.budget == ALL:
        n_samples = sum(map(len, stream.train))
        dim = settings.get("random_features") or data.features.shape[1]
        settings = {"codec": "float32", **settings, "replay_bytes": n_samples * (4 * dim + SLOT)}
    else:
        settings["replay_bytes"] = parse_budget(plan.budget or budget, len(data.classes))
    asked = data.features[stream.asked(stream.n_tasks - 1)]
    answers = np.full((stream.n_tasks, len(asked)), NONE, np.int64)
    seconds = np.zeros(stream.n_tasks)
    with Learner.create(":memory:", recipe=plan.recipe, seed=stream.seed, **settings) as learner:
        for task in range(stream.n_tasks):
            for rows in stream.updates(task):
                names = [data.classes[k] for k in data.labels[rows]]
                seconds[task] += learner.learn(data.features[rows], names, min_retention=0).seconds
            probabilities = learner.predict(asked).probabilities
            places = np.array([data.classes.index(name) for name in learner.classes])
            answers[task] = places[probabilities.argmax(axis=1)]
            on_done(1)
        n_bytes = {part: n for part, n in learner.state_bytes.items() if part != "versions"}
    return Course(answers, probabilities.max(axis=1), seconds, n_bytes)


def one_line(error: Exception) -> str:
    """Return why something failed, in one line."""
    text = " ".join(str(error).split()) or "no reason given"
    return text if isinstance(error, EdgeClError) else f"{type(error).__name__}: {text}"
