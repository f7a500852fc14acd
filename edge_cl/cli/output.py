"""What the user sees: JSON or a table on stdout; progress and notes on stderr, quiet when that is no terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any

import click

from edge_cl.backbones import Skipped

MAX_LISTED = 10  # skipped files named one by one on a terminal


def show_json(value: Any) -> None:
    """Print one JSON value on stdout."""
    click.echo(json.dumps(value, allow_nan=False))  # ASCII, whatever names and the terminal's encoding are


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table on stdout; numbers stand right, and nothing is cut off.

    A single row that the terminal has no room for is shown as lines, one for each column.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160)
    filled = [[_cell(value) for value in row] for row in rows]
    kinds = [all(isinstance(value, str) for value in column) for column in zip(*rows, strict=True)] if rows else []
    table = Table(title=Text(title) if title else None, title_justify="left")
    if len(rows) == 1 and sum(3 + max(map(len, pair)) for pair in zip(columns, filled[0], strict=True)) > console.width:
        table.show_header = False
        filled, columns, kinds = [list(pair) for pair in zip(columns, filled[0], strict=True)], ("", ""), [True, True]
    for number, column in enumerate(columns):
        is_text = kinds[number] if number < len(kinds) else True
        width = 0 if is_text else max(len(row[number]) for row in filled)  # a number is never broken
        table.add_column(column, justify="left" if is_text else "right", overflow="fold", min_width=width)
    for row in filled:
        table.add_row(*(Text(cell) for cell in row))
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def note(text: str) -> None:
    """Print one line on stderr."""
    click.echo(f"edge-cl: {text}", err=True)


def note_skipped(skipped: Sequence[Skipped]) -> None:
    """Say on stderr which files were left out, and why."""
    for item in skipped[:MAX_LISTED]:
        note(f"skipped {item.path}: {item.reason}")
    if len(skipped) > MAX_LISTED:
        note(f"skipped {len(skipped) - MAX_LISTED} more; --json lists them all")


def skipped_rows(skipped: Sequence[Skipped]) -> list[dict[str, str]]:
    """Return what JSON says of the files that were left out."""
    return [{"path": item.path, "reason": item.reason} for item in skipped]


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], object]]:
    """Give a function to call with the number of samples done; a bar on stderr where that is a terminal."""
    if not sys.stderr.isatty() or total < 2:
        yield int
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda n_done: bar.advance(task, n_done)
