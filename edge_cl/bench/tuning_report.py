"""What tuning came to as a table, as JSON, and as curves."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edge_cl.bench.tuning import Choice, Trial, Tuning, own_choice
from edge_cl.charts import Curve, draw_curves
from edge_cl.state import Settings

HEADS = ("replay", "shrinkage", "penalty", "accuracy", "bytes", "seconds an update")
AUTO = "auto"


def to_markdown(title: str, tuning: Tuning) -> str:
    """Return the table of the choices that learnt all samples, and below it that of those that learnt a few.

    Args:
        title: one line above it.
        tuning: what was tried.
    """
    parts = [title, "", *_table(tuning.full, lambda trial: marks_of(trial, tuning))]
    if tuning.few:
        kept = {trial.choice for trial in tuning.full}
        note = "All choices on {:,} of these samples; the better ones of each budget went on to all:"
        parts += ["", note.format(tuning.n_few), ""]
        parts += _table(tuning.few, lambda trial: "went on" if trial.choice in kept else "")
    return "\n".join(parts) + "\n"


def marks_of(trial: Trial, tuning: Tuning) -> str:
    """Return what a trial on all samples stands out for."""
    marks = {
        "best": trial is tuning.best,
        "cheapest within one standard error": trial is tuning.cheapest,
        "as it is": trial is tuning.as_it_is,
    }
    return ", ".join(mark for mark, is_so in marks.items() if is_so)


def _table(trials: Sequence[Trial], mark: Callable[[Trial], str]) -> list[str]:
    """Return the lines of a table, the largest budget first, and in it the best."""
    lines = [f"| {' | '.join(HEADS)} | |", "|" + "---:|" * len(HEADS) + "---|"]
    for trial in sorted(trials, key=lambda trial: (-trial.choice.replay_bytes, bool(trial.failure), -trial.accuracy)):
        choice = trial.choice
        cells = [f"{choice.replay_bytes:,}", show(choice.shrinkage), show(choice.penalty)]
        if trial.failure:
            cells += ["-", "-", "-", f"failed: {trial.failure.replace('|', '/')}"]
        else:
            cells += [f"{100 * trial.accuracy:.2f} ± {100 * trial.error:.2f}", f"{trial.state_bytes:,.0f}"]
            cells += [f"{trial.seconds:.2f}", mark(trial)]
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return lines


def show(strength: float | None) -> str:
    """Return a strength as the user types it."""
    return AUTO if strength is None else f"{strength:g}"


def command_of(state: str, choice: Choice, settings: Settings) -> str:
    """Return the line that gives a state what was chosen; empty where it has that already."""
    own, options = own_choice(settings), []
    if choice.replay_bytes != own.replay_bytes:
        options.append(f"--replay {choice.replay_bytes}")
    if choice.shrinkage != own.shrinkage:
        options.append(f"--shrinkage {_exact(choice.shrinkage)}")
    if choice.penalty != own.penalty:
        options.append(f"--penalty {_exact(choice.penalty)}")
    return " ".join(["edge-cl set", shlex.quote(state), *options]) if options else ""


def _exact(strength: float | None) -> str:
    return AUTO if strength is None else repr(float(strength))


def to_json(header: dict[str, Any], tuning: Tuning) -> dict[str, Any]:
    """Return one JSON object: the header, each trial, and those that stand out.

    Args:
        header: what was tried on what.
        tuning: what it came to.
    """
    return {
        "kind": "tune",
        **header,
        "n_few": tuning.n_few,
        "few": [_trial_row(trial) for trial in tuning.few],
        "full": [_trial_row(trial) for trial in tuning.full],
        "best": _trial_row(tuning.best),
        "cheapest": _trial_row(tuning.cheapest),
        "as_it_is": _trial_row(tuning.as_it_is),
    }


def _trial_row(trial: Trial) -> dict[str, Any]:
    figures = {
        "accuracy": trial.accuracy,
        "standard_error": trial.error,
        "state_bytes": trial.state_bytes,
        "seconds": trial.seconds,
    }
    known = {name: None if math.isnan(value) else value for name, value in figures.items()}
    return {**vars(trial.choice), **known, "error": trial.failure}


def draw_all(name: str, tuning: Tuning) -> dict[str, bytes]:
    """Return PNGs by the names of their files: accuracy against bytes, and against each strength of several.

    Strengths are drawn from the trials that all choices took part in: each with the best of the other, beside a level
    line of what is chosen by itself. What lies above the line of one standard error is as good as the best.

    Args:
        name: of the samples.
        tuning: what was tried.
    """
    pictures = {"bytes.png": _draw_bytes(f"{name}: all samples learnt", tuning)}
    trials = [trial for trial in tuning.few or tuning.full if not trial.failure]
    title = f"{name}: {tuning.n_few:,} samples learnt" if tuning.n_few else f"{name}: all samples learnt"
    for strength in ("shrinkage", "penalty"):
        curves = _curves_of(trials, strength)
        if curves:
            curves |= _error_line(trials, curves)
            pictures[f"{strength}.png"] = draw_curves(title, strength, curves, log_x=True, fit_y=True, in_bytes=False)
    return pictures


def _draw_bytes(title: str, tuning: Tuning) -> bytes:
    """Return a PNG of the accuracy against the bytes of the state: of the best of each budget, and as it is."""
    own, curves = own_choice(tuning.settings), dict[str, Curve]()
    sound = [trial for trial in tuning.full if not trial.failure]
    groups = {
        "as it is": [t for t in sound if (t.choice.shrinkage, t.choice.penalty) == (own.shrinkage, own.penalty)],
        "best of each budget": list(_best_by(sound, lambda trial: trial.choice.replay_bytes).values()),
    }
    for name, trials in groups.items():
        curves[name] = sorted((round(trial.state_bytes / 1000, 1), trial.accuracy) for trial in trials)
    return draw_curves(title, "kB of the state", {**curves, **_error_line(sound, curves)}, fit_y=True)


def _error_line(trials: Sequence[Trial], curves: Mapping[str, Curve]) -> dict[str, Curve]:
    """Return a level line, as long as the curves, at one standard error below the best of the trials."""
    best = max(trials, key=lambda trial: trial.accuracy)
    places = [x for curve in curves.values() for x, _ in curve]
    level = best.accuracy - best.error
    return {"one standard error below": [(min(places), level), (max(places), level)]}


def _curves_of(trials: Sequence[Trial], strength: str) -> dict[str, Curve]:
    """Return a curve for each budget over the numbers of a strength, and a level one where it is chosen by itself."""
    curves: dict[str, Curve] = {}
    for budget in sorted({trial.choice.replay_bytes for trial in trials}, reverse=True):
        of_budget = [trial for trial in trials if trial.choice.replay_bytes == budget]
        found = _best_by(of_budget, lambda trial: getattr(trial.choice, strength))
        alone = found.pop(None, None)
        if len(found) > 1:
            curves[f"{budget:,} bytes"] = [(value, found[value].accuracy) for value in sorted(found)]
            if alone is not None:
                curves[f"{budget:,} bytes, {AUTO}"] = [(value, alone.accuracy) for value in (min(found), max(found))]
    return curves


def _best_by(trials: Sequence[Trial], key: Callable[[Trial], Any]) -> dict[Any, Trial]:
    """Return the most accurate trial for each value of the key."""
    found: dict[Any, Trial] = {}
    for trial in trials:
        if key(trial) not in found or trial.accuracy > found[key(trial)].accuracy:
            found[key(trial)] = trial
    return found
