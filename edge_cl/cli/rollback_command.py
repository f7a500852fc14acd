"""`edge-cl rollback`."""

from __future__ import annotations

import click

from edge_cl.cli.options import json_option, state_argument, timeout_option
from edge_cl.cli.output import show_json, show_table
from edge_cl.learner import Learner


@click.command("rollback")
@state_argument
@click.argument("version", type=int)
@timeout_option
@json_option
def command(state: str, version: int, timeout: float, as_json: bool) -> None:
    """Make a kept VERSION current again, as a new version; `edge-cl log` says which are kept."""
    with Learner.open(state, timeout=timeout, check=False) as learner:
        made = learner.rollback(version)
        facts = {"version": made.version, "restored": version, "classes": len(learner.classes)}
    if as_json:
        show_json(facts)
    else:
        show_table("", list(facts), [list(facts.values())])
