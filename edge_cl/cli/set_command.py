"""`edge-cl set`."""

from __future__ import annotations

from typing import Any

import click

from edge_cl.cli.options import Bytes, Strength, json_option, state_argument, timeout_option, told
from edge_cl.cli.output import show_json, show_table
from edge_cl.learner import Learner
from edge_cl.state import STRENGTHS


@click.command("set")
@state_argument
@click.option("--replay", "replay_bytes", type=Bytes(), help="Bytes of stored samples.")
@click.option("--history", "history_bytes", type=Bytes(), help="Bytes of earlier versions.")
@click.option("--shrinkage", type=Strength(), help="Of the covariance, from the next update on.")
@click.option("--penalty", type=Strength(), help="On weights, from the next update on; see `edge-cl new`.")
@timeout_option
@json_option
def command(state: str, timeout: float, as_json: bool, **given: Any) -> None:
    """Change a budget, and shrink what is stored to it; or how firmly the next updates hold the weights."""  # noqa: DOC501 - the text is the help
    changes = {key: value for key, value in given.items() if value is not None}
    if not changes:
        raise click.UsageError("name a setting, as --replay BYTES, --history BYTES, --shrinkage or --penalty NUMBER")
    changes |= {key: told(changes[key]) for key in STRENGTHS if key in changes}
    with Learner.open(state, timeout=timeout, check=False) as learner:
        learner.change(**changes)
        settings, usage, sizes = learner.settings, learner.replay_usage(), learner.state_bytes
        facts = {
            "version": learner.version,
            "replay_bytes": usage["limit"],
            "stored": usage["samples"],
            "stored_bytes": usage["bytes"],
            "history_bytes": learner.history_bytes,
            "versions_bytes": sizes["versions"],
            "shrinkage": settings.shrinkage,
            "penalty": settings.penalty,
        }
    if as_json:
        show_json(facts)
    else:
        show_table("", list(facts), [list(facts.values())])
