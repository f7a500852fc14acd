"""`edge-cl check`."""

from __future__ import annotations

import sys

import click

from edge_cl.cli.options import json_option, state_argument
from edge_cl.cli.output import note, show_json, show_table
from edge_cl.state.check import check_file


@click.command("check")
@state_argument
@json_option
def command(state: str, as_json: bool) -> None:
    """Verify structure, digests and bounds of a state, and that its parts agree; exit 1 if they do not."""
    problems = list(check_file(state))
    if as_json:
        show_json({"state": state, "ok": not problems, "problems": problems})
    else:
        show_table("", ("state", "problems"), [(state, len(problems))])
        for problem in problems:
            note(f"{state}: {problem}")
    if problems:
        if not all("open it" in problem or "once to upgrade" in problem for problem in problems):
            note(f"{state}: not whole; restore a copy of it, or an earlier version: edge-cl rollback {state} VERSION")
        sys.exit(1)
