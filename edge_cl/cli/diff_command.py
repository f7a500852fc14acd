"""`edge-cl diff`."""

from __future__ import annotations

from typing import Any

import click

from edge_cl.cli.options import json_option, state_argument
from edge_cl.cli.output import show_json, show_table
from edge_cl.learner import Learner


@click.command("diff")
@state_argument
@click.argument("before", type=int)
@click.argument("after", type=int)
@json_option
def command(state: str, before: int, after: int, as_json: bool) -> None:
    """Show what changed for each class between two kept versions: row, samples, accuracy on stored samples."""
    with Learner.open(state, read_only=True, check=False) as learner:
        changes = learner.diff(before, after)
    if as_json:
        rows = [{**vars(change), "class": change.name, "status": change.status} for change in changes]
        show_json({
            "before": before,
            "after": after,
            "classes": [{k: v for k, v in r.items() if k != "name"} for r in rows],
        })
        return
    columns = ("class", "status", "row moved", "samples", "stored", "accuracy")
    show_table(
        f"{state}: version {before} to {after}",
        columns,
        [(c.name, c.status, c.moved, _pair(c.samples), _pair(c.stored), _pair(c.accuracy)) for c in changes],
    )


def _pair(values: tuple[Any, Any]) -> str:
    texts = ["-" if v is None else f"{v:.3f}" if isinstance(v, float) else f"{v:,}" for v in values]
    return texts[0] if texts[0] == texts[1] else " > ".join(texts)
