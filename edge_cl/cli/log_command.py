"""`edge-cl log`."""

from __future__ import annotations

import click

from edge_cl.cli.options import json_option, state_argument
from edge_cl.cli.output import show_json, show_table
from edge_cl.learner import Learner
from edge_cl.state import Version


@click.command("log")
@state_argument
@json_option
def command(state: str, as_json: bool) -> None:
    """Show every committed change, the oldest first; those that are kept can be restored with `rollback`."""
    with Learner.open(state, read_only=True, check=False) as learner:
        versions = learner.versions()
    if as_json:
        show_json({"versions": [vars(version) for version in versions]})
        return
    columns = (
        "version",
        "kept",
        "time (UTC)",
        "what",
        "samples",
        "seen",
        "accuracy before",
        "after",
        "retention",
        "ms",
    )
    rows = [
        (
            v.version,
            "yes" if v.is_kept else "",
            v.created,
            _what(v),
            v.n_samples,
            v.n_seen,
            *(
                (v.accuracy_before, v.accuracy_after, v.retention, 1000 * v.seconds)
                if v.kind == "learn"
                else [None] * 4
            ),
        )
        for v in versions
    ]
    show_table(state, columns, rows)


def _what(version: Version) -> str:
    if version.kind == "rollback":
        return f"rollback to {version.restored}"
    if version.kind != "learn" or not version.new_classes:
        return version.kind
    return "learn " + ", ".join(version.new_classes[:4]) + (", ..." if len(version.new_classes) > 4 else "")
