"""`edge-cl log`."""

from __future__ import annotations

import click

from edge_cl.cli.options import json_option, state_argument
from edge_cl.cli.output import show_json, show_table
from edge_cl.learner import Learner


@click.command("log")
@state_argument
@json_option
def command(state: str, as_json: bool) -> None:
    """Show every committed update, the oldest first."""
    with Learner.open(state, read_only=True, check=False) as learner:
        versions = learner.versions()
    if as_json:
        show_json({"versions": [vars(version) for version in versions]})
        return
    rows = [
        (
            v.version,
            v.created,
            v.n_samples,
            ", ".join(v.new_classes[:4]) + (", ..." if len(v.new_classes) > 4 else ""),
            v.accuracy_before,
            v.accuracy_after,
            v.retention,
            1000 * v.seconds,
        )
        for v in versions
    ]
    columns = ("version", "time (UTC)", "samples", "new classes", "accuracy before", "after", "retention", "ms")
    show_table(state, columns, rows)
