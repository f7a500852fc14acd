"""`edge-cl set`."""

from __future__ import annotations

import click

from edge_cl.cli.options import Bytes, json_option, state_argument, timeout_option
from edge_cl.cli.output import show_json, show_table
from edge_cl.learner import Learner


@click.command("set")
@state_argument
@click.option("--replay", "replay_bytes", type=Bytes(), help="Bytes of stored samples.")
@click.option("--history", "history_bytes", type=Bytes(), help="Bytes of earlier versions.")
@timeout_option
@json_option
def command(state: str, replay_bytes: int | None, history_bytes: int | None, timeout: float, as_json: bool) -> None:
    """Change a budget, and shrink what is stored to it."""  # noqa: DOC501 - the text is the help
    if replay_bytes is None and history_bytes is None:
        raise click.UsageError("name a budget: --replay BYTES or --history BYTES")
    with Learner.open(state, timeout=timeout, check=False) as learner:
        learner.resize(replay_bytes=replay_bytes, history_bytes=history_bytes)
        usage, sizes = learner.replay_usage(), learner.state_bytes
        facts = {
            "version": learner.version,
            "replay_bytes": usage["limit"],
            "stored": usage["samples"],
            "stored_bytes": usage["bytes"],
            "history_bytes": learner.history_bytes,
            "versions_bytes": sizes["versions"],
        }
    if as_json:
        show_json(facts)
    else:
        show_table("", list(facts), [list(facts.values())])
