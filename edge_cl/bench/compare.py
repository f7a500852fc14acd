"""Two saved runs of one kind side by side: what the second has of the first, and where their machines differ."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_cl.bench.speed_report import table
from edge_cl.errors import InputError

MAX_BYTES = 256 << 20
MAX_FIGURE = 1e100


@dataclass(frozen=True)
class Kind:
    """What is compared in a kind of run.

    Attributes:
        names: the keys of a row that name it.
        ratios: figures of which the second is divided by the first.
        points: shares, of which the second's hundredths more are told.
        facts: keys of a row that tell on what it was measured.
    """

    names: tuple[str, ...]
    ratios: tuple[str, ...]
    points: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()

    @property
    def first(self) -> str:
        """The figure that is shown itself, too."""
        return (*self.points, *self.ratios)[0]


KINDS = {
    "speed": Kind(
        ("measure",),
        ("p50_ms", "p95_ms", "p99_ms", "resident_peak_bytes", "cuda_peak_bytes", "energy_j"),
        facts=("board", "cores", "memory_bytes", "clocks", "versions"),
    ),
    "accuracy": Kind(
        ("recipe", "replay"),
        ("seconds", "state_bytes"),
        ("final_accuracy", "class_mean_accuracy", "average_incremental_accuracy", "forgetting"),
    ),
}


def read_run(path: Path) -> dict[str, Any]:
    """Return a run that `edge-cl bench` has saved.

    Raises:
        InputError: the file is none.
    """
    wanted = (
        f"{path}: expected speed.json or results.json, as edge-cl bench speed or accuracy --out DIR saves it; found"
    )
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{wanted} {path.stat().st_size} bytes")
        run: dict[str, Any] = json.loads(path.read_bytes(), parse_constant=_finite, parse_float=_finite)
    except OSError as error:
        raise InputError(f"{wanted}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{wanted} no JSON") from None
    kind = KINDS.get(str(run.get("kind"))) if isinstance(run, dict) else None
    if kind is None:
        raise InputError(f"{wanted} JSON of another kind")
    rows = run.get("rows")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{wanted} no rows")
    for row in rows:
        if not all(isinstance(row.get(name), str) for name in kind.names):
            raise InputError(f"{wanted} a row without its {' and '.join(kind.names)}")
        if not row.get("error") and _figure(row, kind.first) is None:
            raise InputError(f"{wanted} a row without its {kind.first}")
    return run


def compare_runs(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return kind, differences (of machine and settings), and rows with what the second has of the first.

    Args:
        first: of `read_run`.
        second: of `read_run`.

    Raises:
        InputError: they are of two kinds.
    """
    if first["kind"] != second["kind"]:
        raise InputError(f"compare: expected two runs of one kind; found {first['kind']} and {second['kind']}")
    kind = KINDS[first["kind"]]
    here, there = (dict(_facts(run, kind)) for run in (first, second))
    differences = [
        {"what": what, "first": here.get(what), "second": there.get(what)}
        for what in dict.fromkeys([*here, *there])
        if here.get(what) != there.get(what)
    ]
    named = [{tuple(row[name] for name in kind.names): row for row in run["rows"]} for run in (first, second)]
    rows = [
        _row(name, named[0].get(name, {}), named[1].get(name, {}), kind)
        for name in dict.fromkeys([*named[0], *named[1]])
    ]
    return {"kind": first["kind"], "differences": differences, "rows": rows}


def to_markdown(compared: dict[str, Any], names: tuple[str, str]) -> str:
    """Return the differences and the table.

    Args:
        compared: what `compare_runs` returned.
        names: of the first and the second run.
    """
    kind = KINDS[compared["kind"]]
    lines = [f"- first: {names[0]}", f"- second: {names[1]}"]
    for found in compared["differences"]:
        lines.append(f"- {found['what']}: {_show(found['first'])} | {_show(found['second'])}")
    if not compared["differences"]:
        lines.append("- machine and settings: no difference")
    shown = kind.first.replace("_", " ")
    columns = [" ".join(kind.names), f"first {shown}", f"second {shown}"]
    columns += [f"{key.replace('_', ' ')}, points" for key in kind.points]
    columns += [f"{key.replace('_', ' ')}, x" for key in kind.ratios]
    rows = []
    for row in compared["rows"]:
        cells = [row["row"], *(_digits(row[side].get(kind.first)) for side in ("first", "second"))]
        cells += [_signed(row["points"][key]) for key in kind.points]
        rows.append([*cells, *(_digits(row["ratio"][key]) for key in kind.ratios)])
    note = (
        "x: the second's over the first's; points: hundredths that the second has more. -: one of them has no figure."
    )
    return "\n".join([*lines, "", *table(columns, rows), "", note, ""])


def _row(name: tuple[str, ...], first: dict[str, Any], second: dict[str, Any], kind: Kind) -> dict[str, Any]:
    """Return what two rows have of each other; None where one of them has no figure."""
    here, there = ({key: _figure(row, key) for key in (*kind.points, *kind.ratios)} for row in (first, second))
    points: dict[str, float | None] = {}
    ratio: dict[str, float | None] = {}
    for key in kind.points:
        before, after = here[key], there[key]
        points[key] = None if before is None or after is None else 100 * (after - before)
    for key in kind.ratios:
        before, after = here[key], there[key]
        ratio[key] = after / before if before and after is not None and abs(before) > 1 / MAX_FIGURE else None
    return {"row": " ".join(name).strip(), "first": here, "second": there, "points": points, "ratio": ratio}


def _facts(run: dict[str, Any], kind: Kind) -> Iterator[tuple[str, Any]]:
    """Give the names and values that two runs must share for their figures to differ by the program alone."""
    row: dict[str, Any] = next((row for row in run["rows"] if not row.get("error")), {})
    providers = {str(name) for row in run["rows"] for name in _list(row.get("providers"))}
    facts = {key: row.get(key) for key in kind.facts} | {"providers": ", ".join(sorted(providers))}
    facts |= {key: value for key, value in run.items() if key not in ("kind", "rows", "files")}
    for key, value in facts.items():
        if isinstance(value, dict):
            yield from ((f"{key} {name}", inner) for name, inner in value.items())
        else:
            yield key, value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _figure(row: dict[str, Any], key: str) -> float | None:
    """Return a figure of a row, or of its `mean`; None where it has none."""
    mean = row.get("mean")
    value = (mean if isinstance(mean, dict) else row).get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MAX_FIGURE:
        return None
    return float(value)


def _finite(text: str) -> float:
    """Return a number of a JSON text; NaN, Infinity and what is too large for a float are none.

    Raises:
        ValueError: it is one of these.
    """
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _show(value: Any) -> str:
    return "-" if value is None else str(value)
