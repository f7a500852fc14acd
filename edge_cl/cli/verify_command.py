"""`edge-cl verify`."""

from __future__ import annotations

from dataclasses import asdict

import click

from edge_cl.cli.options import AnyPath, backbone_option, json_option
from edge_cl.cli.output import note, show_json, show_table
from edge_cl.learner import Learner


@click.command("verify")
@click.argument("model", type=AnyPath())
@click.option("--against", "state", type=AnyPath(), required=True, metavar="STATE", help="The state it came from.")
@click.option("--images", type=AnyPath(), metavar="DIR", help="Images that both are asked about.")
@backbone_option
@json_option
def command(model: str, state: str, images: str | None, backbone: str | None, as_json: bool) -> None:
    """Check that MODEL, an exported file or folder, still is what the state's version of its number answers."""
    with Learner.open(state, read_only=True, backbone=backbone, check=False) as learner:
        report = learner.verify(model, images)
        current = learner.version
    facts = {**asdict(report), "current_version": current}
    if as_json:
        show_json(facts)
    else:
        show_table("agrees", list(facts), [list(facts.values())])
    if current != report.version:
        note(f"{state} is at version {current} now; to bring {model} up to date, export it again as it was exported")
