"""Results of many courses as a table, as JSON, and as curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edge_cl.charts import draw_curves

SHARES = {  # of the figures that are shown in percent: the head of the table's column
    "final_accuracy": "final accuracy",
    "class_mean_accuracy": "class mean",
    "task_mean_accuracy": "task mean",
    "average_incremental_accuracy": "average incremental",
    "forgetting": "forgetting",
    "backward_transfer": "backward transfer",
    "forward_transfer": "forward transfer",
    "learning_accuracy": "learning accuracy",
    "old_class_retention": "old-class retention",
    "new_class_accuracy": "new-class accuracy",
    "calibration_error": "calibration error",
}
AMOUNTS = ("seconds", "state_bytes")


@dataclass(frozen=True)
class Result:
    """What one recipe did along one stream.

    Attributes:
        recipe: as it was written.
        budget: of the replay, as it was written; empty where there is none.
        seed: of the stream.
        figures: of `edge_cl.bench.course.measure`; empty where it failed.
        error: why it failed; empty where it did not.
    """

    recipe: str
    budget: str
    seed: int
    figures: dict[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Row:
    """The results of one recipe with one budget over all orders.

    Attributes:
        recipe: as it was written.
        budget: likewise.
        results: one for each order.
    """

    recipe: str
    budget: str
    results: tuple[Result, ...]

    @property
    def error(self) -> str:
        """Why the first that failed did; empty where none did."""
        return next((result.error for result in self.results if result.error), "")

    @property
    def n_failed(self) -> int:
        """Along how many orders it failed."""
        return sum(bool(result.error) for result in self.results)

    def mean(self, figure: str) -> float:
        """Return the mean of a figure over the orders; NaN where there is none."""
        values = self._values(figure)
        return float(values.mean()) if len(values) else math.nan

    def deviation(self, figure: str) -> float:
        """Return the deviation of a figure over the orders (that of a sample: N - 1); NaN for one order."""
        values = self._values(figure)
        return float(values.std(ddof=1)) if len(values) > 1 else math.nan

    def mean_curve(self, figure: str) -> list[float]:
        """Return the mean over the orders of a figure that has one value for each task; empty where there is none."""
        curves = [result.figures[figure] for result in self.results if figure in result.figures]
        return np.mean(curves, axis=0).tolist() if curves else []

    def _values(self, figure: str) -> Any:
        values = np.array([result.figures.get(figure, math.nan) for result in self.results], np.float64)
        return values[~np.isnan(values)]


def gather(results: Sequence[Result]) -> list[Row]:
    """Return the results by recipe and budget, in the order in which these come."""
    rows: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        rows.setdefault((result.recipe, result.budget), []).append(result)
    return [Row(*key, tuple(group)) for key, group in rows.items()]


def to_markdown(title: str, rows: Sequence[Row]) -> str:
    """Return a table of the rows: shares in percent with their deviation, over the orders that ran; why others failed.

    Args:
        title: one line above it.
        rows: of `gather`.
    """
    shown = [name for name in SHARES if any(not math.isnan(row.mean(name)) for row in rows)]
    heads = ["recipe", "replay", *(SHARES[name] for name in shown), "seconds", "bytes"]
    lines = [title, "", f"| {' | '.join(heads)} |", "|---|---|" + "---:|" * (len(heads) - 2)]
    for row in rows:
        cells = [f"`{row.recipe}`", row.budget or "-"]
        if row.n_failed == len(row.results):
            cells += [f"failed: {row.error.replace('|', '/')}", *[""] * (len(heads) - 3)]
        else:
            if row.error:
                cells[0] += f" ({row.n_failed} of {len(row.results)} orders failed: {row.error.replace('|', '/')})"
            cells += [_percent(row.mean(name), row.deviation(name)) for name in shown]
            cells += [_amount(row.mean("seconds"), 1), _amount(row.mean("state_bytes"), 0)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def to_json(header: dict[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """Return one JSON object: the header, and each row with its mean, its deviation and what each order gave.

    Args:
        header: what was run on what.
        rows: of `gather`.
    """
    figures = (*SHARES, *AMOUNTS)
    return {
        "kind": "accuracy",
        **header,
        "rows": [
            {
                "recipe": row.recipe,
                "replay": row.budget,
                "error": row.error,
                "mean": {name: _known(row.mean(name)) for name in figures},
                "deviation": {name: _known(row.deviation(name)) for name in figures},
                "orders": [{"seed": r.seed, "error": r.error, **_known(r.figures)} for r in row.results],
            }
            for row in rows
        ],
    }


def draw_classes(title: str, rows: Sequence[Row]) -> bytes:
    """Return a PNG of the accuracy on what was seen by then against the classes seen (or domains, which share them).

    Args:
        title: above it.
        rows: of `gather`.
    """
    curves = {}
    has_domains = all(len(set(row.mean_curve("classes_seen"))) <= 1 for row in rows)
    for row in rows:
        seen, accuracies = row.mean_curve("classes_seen"), row.mean_curve("seen_accuracies")
        places = [n + 1.0 for n in range(len(seen))] if has_domains else seen
        points = [(x, y) for x, y in zip(places, accuracies, strict=True) if not math.isnan(y)]
        if points:
            curves[_name(row, rows, points[-1][1])] = points
    return draw_curves(title, "domains learnt" if has_domains else "classes known", curves, fit_y=True)


def draw_bytes(title: str, rows: Sequence[Row]) -> bytes:
    """Return a PNG of the final accuracy against the bytes of the state, one curve for each recipe.

    Args:
        title: above it.
        rows: of `gather`.
    """
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        point = (row.mean("state_bytes"), row.mean("final_accuracy"))
        if not any(map(math.isnan, point)) and point[0] > 0:
            curves.setdefault(row.recipe, []).append(point)
    curves = {f"{name} {100 * max(curve)[1]:.1f}": sorted(curve) for name, curve in curves.items()}
    return draw_curves(title, "bytes of the state", curves, log_x=True, fit_y=True)


def _name(row: Row, rows: Sequence[Row], last: float) -> str:
    """Return the name of a row's curve, with its last value: many end close together."""
    several = len({other.budget for other in rows if other.recipe == row.recipe}) > 1
    return f"{row.recipe} {row.budget} {100 * last:.1f}" if several else f"{row.recipe} {100 * last:.1f}"


def _percent(mean: float, deviation: float) -> str:
    if math.isnan(mean):
        return "-"
    return f"{100 * mean:.2f}" if math.isnan(deviation) else f"{100 * mean:.2f} ± {100 * deviation:.2f}"


def _amount(mean: float, digits: int) -> str:
    return "-" if math.isnan(mean) else f"{mean:,.{digits}f}"


def _known(value: Any) -> Any:
    """Return a value with None instead of NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _known(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_known(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
