"""`edge-cl slots`."""

from __future__ import annotations

import click

from edge_cl.cli.options import AnyPath, json_option
from edge_cl.cli.output import note, show_json, show_table


@click.command("slots")
@click.argument("folder", metavar="DIR", type=AnyPath())
@click.option("--confirm", "ends", flag_value="confirm", help="Make the head on trial the one that runs.")
@click.option("--reject", "ends", flag_value="reject", help="End the trial; what ran before runs on.")
@json_option
def command(folder: str, ends: str | None, as_json: bool) -> None:
    """Show the heads that are deployed in DIR, the confirmed one first."""
    from dataclasses import asdict

    from edge_firmware import deployment
    from edge_firmware.listing import list_slots

    if ends == "confirm":
        deployment.confirm(folder)
    elif ends == "reject":
        deployment.reject(folder)
    found = [asdict(line) for line in list_slots(folder)]
    if as_json:
        show_json(found)
        return
    columns = ("name", "state", "tries", "version", "counter", "product", "classes", "passes")
    rows = [[*list(line.values())[:-1], "no" if line["problem"] else "yes"] for line in found]
    show_table("", columns, rows)
    for line in found:
        if line["problem"]:
            note(f"{line['name']}: {line['problem']}")
