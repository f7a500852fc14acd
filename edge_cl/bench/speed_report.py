"""A run of `edge-cl bench speed` for people: a table in markdown, a picture, and the three files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from edge_cl.bench.bars import Bar, draw_bars, show_ms
from edge_cl.bench.board import UNAVAILABLE
from edge_cl.errors import InputError
from edge_cl.files import write_whole

QUANTILES = ("p50_ms", "p95_ms", "p99_ms")
COLUMNS = (
    "measure",
    "n",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "resident peak MiB",
    "CUDA peak MiB",
    "J",
    "°C",
    "load",
    "providers",
)
NOTE = (
    "n runs after warm-up (the p99 of fewer than a hundred is nearly the longest), each measure in a process of its "
    "own. CUDA: what torch holds; J: of the whole board in one run, with what it draws when idle; load: above the "
    "cores, others had a share of them."
)


def write_report(folder: Path, run: dict[str, Any]) -> list[Path]:
    """Write speed.json, speed.md and speed.png, each whole or not at all; return their paths.

    Raises:
        OSError: the folder cannot be written.
    """
    files = {
        "speed.json": json.dumps(run, indent=1, allow_nan=False).encode() + b"\n",
        "speed.md": to_markdown(run).encode(),
        "speed.png": to_picture(run),
    }
    for name, data in files.items():
        write_whole(folder / name, data)
    return [folder / name for name in files]


def check_folder(folder: Path) -> None:
    """Make a folder for the report where there is none, before hours are spent on what it is to hold.

    Raises:
        InputError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / ".speed", b"")
        (folder / ".speed").unlink()
    except OSError as error:
        raise InputError(f"{folder}: expected a folder that can be written; found: {error.strerror}") from None


def to_markdown(run: dict[str, Any]) -> str:
    """Return what the figures depend on, and the table."""
    lines = [f"- {name}: {text}" for name, text in describe(run)]
    return "\n".join([*lines, "", *table(COLUMNS, map(_cells, run["rows"])), "", NOTE, ""])


def to_picture(run: dict[str, Any]) -> bytes:
    """Return the PNG."""
    bars = [
        Bar(row["measure"], tuple(row[key] for key in QUANTILES if key in row), row.get("error", ""))
        for row in run["rows"]
    ]
    facts = dict(describe(run))
    subtitle = f"{facts.get('board', UNAVAILABLE)}; {facts['backbone']}; {facts['state']}"
    return draw_bars("edge-cl bench speed", subtitle, bars)


def describe(run: dict[str, Any]) -> list[tuple[str, str]]:
    """Return names and texts of what the figures depend on: the machine, by the first row that did not fail."""
    settings = run["settings"]
    height, width = settings["input_size"]
    facts = [
        ("backbone", f"{settings['backbone']}, {height} x {width}, D = {settings['dim']}, device {settings['device']}"),
        ("state", f"{settings['classes']} classes, {settings['stored_samples']:,} stored samples"),
        ("photos", settings["photos"]),
    ]
    row = next((row for row in run["rows"] if "error" not in row), None)
    if row is None:
        return facts
    clocks = ", ".join(f"{name} {value}" for name, value in row["clocks"].items())
    memory = row["memory_bytes"]
    size = f", {memory / 2**30:.1f} GiB" if isinstance(memory, int) else ""
    versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    machine = [("board", f"{row['board']}, {row['cores']} cores{size}"), ("clocks", clocks), ("versions", versions)]
    return machine + facts


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table in markdown; bars within cells are escaped."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |")
    return lines


def _cells(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return [row["measure"], f"failed: {row['error']}", *[""] * (len(COLUMNS) - 2)]
    temperature, energy = row["temperature"], row["energy_j"]
    return [
        row["measure"],
        str(row["n"]),
        *(show_ms(row[key]) for key in QUANTILES),
        *(_mebibytes(row[key]) for key in ("resident_peak_bytes", "cuda_peak_bytes")),
        energy if isinstance(energy, str) else f"{energy:.3g}",
        temperature if isinstance(temperature, str) else f"{temperature['celsius']:.1f} ({temperature['zone']})",
        str(row["load"]),
        ", ".join(name.removesuffix("ExecutionProvider") for name in row["providers"]) or "none",
    ]


def _mebibytes(value: int | str) -> str:
    return value if isinstance(value, str) else f"{value / 2**20:.0f}"
