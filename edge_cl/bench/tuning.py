"""Which budget, shrinkage and penalty suit some samples: all of them are tried on a few, the better ones on the rest.

Each is a course of tasks as in `edge_cl.bench.accuracy`, asked about a quarter of each class that it never learns.
Halving (Jamieson 2016) goes on within each budget, since what bytes cost is for the user to weigh. The shrinkage that
suits few samples is too much for many, so what is chosen by itself always goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from edge_cl.bench.accuracy import Plan, follow, one_line
from edge_cl.bench.data import DataSet
from edge_cl.bench.streams import Stream, class_incremental
from edge_cl.codecs import open_codec
from edge_cl.errors import InputError
from edge_cl.recipes import Recipe
from edge_cl.replay import Replay
from edge_cl.state import Settings

SHARE = 0.1  # of the samples of each class that all choices learn
FEW = 5  # and at least so many
KEPT = 1 / 3  # of the choices of each budget, that learn all samples
SHRINKAGES = (0.05, 0.2, 0.5)
DECAYS = (0.1, 0.01, 1e-3)
FACTORS = (0.01, 0.1, 10.0, 100.0)


@dataclass(frozen=True)
class Choice:
    """What is tried.

    Attributes:
        replay_bytes: of stored samples, were all learnt; of fewer, as much less.
        shrinkage: of the covariance; None: chosen by itself.
        penalty: on weights; likewise.
    """

    replay_bytes: int
    shrinkage: float | None = None
    penalty: float | None = None


@dataclass(frozen=True)
class Trial:
    """What a choice came to.

    Attributes:
        choice: that was tried.
        accuracy: of the last head on the samples that were left out, all orders together; NaN where it failed.
        error: its standard error.
        state_bytes: of all but earlier versions, the mean of the orders.
        seconds: of an update, the median.
        failure: why it failed; empty where it did not.
    """

    choice: Choice
    accuracy: float = math.nan
    error: float = math.nan
    state_bytes: float = math.nan
    seconds: float = math.nan
    failure: str = ""


@dataclass(frozen=True)
class Tuning:
    """What all trials came to.

    Attributes:
        settings: of the state.
        n_few: samples that the first trials learnt; 0 where there were none.
        few: trials of all choices; empty where as few samples as that are all.
        full: trials on all samples, of the better choices.
    """

    settings: Settings
    n_few: int
    few: tuple[Trial, ...]
    full: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The most accurate trial on all samples; of several the state's own, then the one of fewest bytes."""
        sound, own = [trial for trial in self.full if not trial.failure], own_choice(self.settings)
        return min(sound, key=lambda trial: (-trial.accuracy, trial.choice != own, trial.state_bytes))

    @property
    def cheapest(self) -> Trial:
        """That of fewest bytes whose accuracy lies within one standard error of the best (Hastie 2009, sec. 7.10)."""
        least = self.best.accuracy - self.best.error
        sound = [trial for trial in self.full if not trial.failure and trial.accuracy >= least]
        return min(sound, key=lambda trial: (trial.state_bytes, -trial.accuracy))

    @property
    def as_it_is(self) -> Trial:
        """That of the state's own settings."""
        return next(trial for trial in self.full if trial.choice == own_choice(self.settings))


def own_choice(settings: Settings) -> Choice:
    """Return what a state has now."""
    return Choice(settings.replay_bytes, settings.shrinkage, settings.penalty)


def make_grid(
    settings: Settings,
    *,
    budgets: Sequence[int] = (),
    shrinkages: Sequence[float | None] | None = None,
    penalties: Sequence[float | None] | None = None,
) -> list[Choice]:
    """Return every combination that can make a difference, the state's own among them.

    Args:
        settings: of the state.
        budgets: bytes of stored samples, beside those of the state.
        shrinkages: to try; None: by itself, and a few that suit the recipe.
        penalties: likewise.

    Raises:
        InputError: the recipe has no such strength, or a number is out of its range.
    """
    recipe, own = settings.make_recipe(), own_choice(settings)
    if settings.head == "regression":
        raise InputError("head: a regression chooses its ridge by itself, and stores what it is given; nothing to tune")
    if settings.has_tasks:
        raise InputError("task: classes are told apart within their task; make a state of one task's classes to tune")
    if recipe.keeps_all and budgets:
        raise InputError(f"replay: recipe {recipe.name} stores every sample; leave out --replay")
    first, second = _usual_strengths(recipe)
    axes = (
        dict.fromkeys([own.replay_bytes, *budgets]),
        dict.fromkeys([own.shrinkage, *(first if shrinkages is None else shrinkages)]),
        dict.fromkeys([own.penalty, *(second if penalties is None else penalties)]),
    )
    choices = [Choice(*point) for point in product(*axes)]
    for choice in choices:
        replace(settings, **vars(choice)).checked()
    is_closed = recipe.anchor == "statistics"  # without a stored sample it trains nothing that decays
    return [choice for choice in choices if choice.replay_bytes or not is_closed or choice.penalty == own.penalty]


def usual_budgets(settings: Settings, stream: Stream) -> tuple[int, ...]:
    """Return the budgets that are tried if the user does not say: half of what there is to store or room for, and none.

    Args:
        settings: of the state.
        stream: of the samples.
    """
    if settings.make_recipe().keeps_all:
        return ()
    codec = open_codec(settings.codec, settings.random_features or stream.data.features.shape[1])
    n_bytes = sum(map(len, stream.train)) * Replay.empty(0, 0, codec).record_bytes
    return (min(n_bytes, settings.replay_bytes) // 2, 0)


def tune(
    streams: Sequence[Stream], settings: Settings, choices: Sequence[Choice], on_done: Callable[[int], object] = int
) -> Tuning:
    """Return what the choices come to: all of them on a few samples, then the better ones of each budget on all.

    Args:
        streams: of the same data, one for each order.
        settings: of the state; nothing else of it is used.
        choices: of `make_grid`.
        on_done: called with 1 after each task; `count_tasks` says how often.

    Raises:
        InputError: nothing could be learnt with any of them.
    """
    thinned = [thin(stream) for stream in streams]
    n_few, n_all = (sum(map(len, some[0].train)) for some in (thinned, streams))
    few: list[Trial] = []
    if n_few < n_all:
        few = [_try(thinned, settings, choice, n_few / n_all, on_done) for choice in choices]
        choices = better(few, own_choice(settings))
    full = [_try(streams, settings, choice, 1.0, on_done) for choice in choices]
    if all(trial.failure for trial in full):
        raise InputError(f"{streams[0].data.name}: nothing could be learnt: {full[0].failure}")
    return Tuning(settings, n_few if few else 0, tuple(few), tuple(full))


def count_tasks(streams: Sequence[Stream], settings: Settings, choices: Sequence[Choice]) -> int:
    """Return how many tasks `tune` learns."""
    n_few, n_all = (sum(map(len, stream.train)) for stream in (thin(streams[0]), streams[0]))
    n_kept = len(better([Trial(choice) for choice in choices], own_choice(settings))) if n_few < n_all else 0
    return (len(choices) + n_kept) * sum(stream.n_tasks for stream in streams)


def better(trials: Sequence[Trial], own: Choice) -> list[Choice]:
    """Return, of each budget, the choice with the state's own strengths and the better third of the others.

    Args:
        trials: of all choices; these come back in the same order.
        own: of the state.
    """
    kept: set[Choice] = set()
    for budget in dict.fromkeys(trial.choice.replay_bytes for trial in trials):
        as_it_is = replace(own, replay_bytes=budget)
        others = [trial for trial in trials if trial.choice.replay_bytes == budget and trial.choice != as_it_is]
        others.sort(key=lambda trial: (bool(trial.failure), 0.0 if trial.failure else -trial.accuracy))
        kept |= {as_it_is, *(trial.choice for trial in others[: math.ceil(KEPT * len(others))])}
    return [trial.choice for trial in trials if trial.choice in kept]


def thin(stream: Stream) -> Stream:
    """Return the stream with a tenth of the samples of each class to learn, and at least five; the same to ask."""
    labels, rows = stream.data.labels, np.sort(np.concatenate(stream.train))
    rng = np.random.default_rng((stream.seed, 3))
    chosen = np.zeros(len(labels), bool)
    for k in range(len(stream.data.classes)):
        own = rng.permutation(rows[labels[rows] == k])
        chosen[own[: max(FEW, math.ceil(SHARE * len(own)))]] = True
    return replace(stream, train=tuple(part[chosen[part]] for part in stream.train))


def make_streams(data: DataSet, *, n_tasks: int | None = None, n_orders: int = 1, seed: int = 0) -> list[Stream]:
    """Return a stream for each order of the classes: a quarter of each class is asked about, and never learnt.

    What the data marks for testing is in none of them.

    Args:
        data: with at least two classes.
        n_tasks: None: ten, if there are so many classes.
        n_orders: how many.
        seed: of the first.

    Raises:
        InputError: there are too few classes or samples.
    """
    rows = np.flatnonzero(data.is_train) if data.is_train is not None else np.arange(len(data.labels))
    present, labels = np.unique(data.labels[rows], return_inverse=True)
    if len(present) < 2:
        raise InputError(f"{data.name}: expected samples of at least two classes to learn; found {len(present)}")
    names = tuple(data.classes[k] for k in present)
    known = DataSet(data.name, data.features[rows], labels.astype(np.int64), names)
    n_tasks = n_tasks or min(10, len(names))
    return [class_incremental(known, n_tasks, seed + order) for order in range(n_orders)]


def _try(
    streams: Sequence[Stream], settings: Settings, choice: Choice, share: float, on_done: Callable[[int], object]
) -> Trial:
    """Return what a choice comes to on a share of all samples."""
    plan = _plan(settings, choice, share)
    asked = np.sort(streams[0].asked(streams[0].n_tasks - 1))
    labels = streams[0].data.labels
    hits = np.zeros((len(streams), len(labels)))
    n_bytes, seconds = [], []
    done = 0

    def advance(n_done: int) -> None:
        nonlocal done
        done += n_done
        on_done(n_done)

    try:
        for n, stream in enumerate(streams):
            course = follow(stream, plan, on_done=advance)
            rows = stream.asked(stream.n_tasks - 1)
            hits[n, rows] = course.answers[-1] == labels[rows]
            n_bytes.append(sum(course.n_bytes.values()))
            seconds.append(float(np.median(course.seconds)))  # the first may have kernels to load
    except Exception as error:
        on_done(sum(stream.n_tasks for stream in streams) - done)
        return Trial(choice, failure=one_line(error))
    right = hits[:, asked].mean(0)
    deviation = float(right.std()) / math.sqrt(max(len(asked) - 1, 1))
    return Trial(choice, float(right.mean()), deviation, float(np.mean(n_bytes)), float(np.mean(seconds)))


def _plan(settings: Settings, choice: Choice, share: float) -> Plan:
    """Return how a learner of these settings is made for a share of all samples; it stores the same share of them."""
    names = ("codec", "selection", "head", "hidden_units", "random_features", "device")
    made: dict[str, Any] = {name: getattr(settings, name) for name in names}
    made |= {"balance": settings.balance or None, "shrinkage": choice.shrinkage, "penalty": choice.penalty}
    if not settings.make_recipe().keeps_all:
        made["replay_bytes"] = round(share * choice.replay_bytes)
    return Plan(settings.recipe, settings.recipe, made)


def _usual_strengths(recipe: Recipe) -> tuple[list[float | None], list[float | None]]:
    """Return the shrinkages and the penalties that are tried if the user does not say."""
    penalties = DECAYS if recipe.decays_weights else FACTORS if recipe.is_penalised else ()
    return [None, *(SHRINKAGES if recipe.shrinks else ())], [None, *penalties]
