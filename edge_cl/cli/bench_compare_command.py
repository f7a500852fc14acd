"""`edge-cl bench compare`."""

from __future__ import annotations

from pathlib import Path

import click

from edge_cl.bench.compare import compare_runs, read_run, to_markdown
from edge_cl.cli.options import AnyPath, json_option
from edge_cl.cli.output import show_json


@click.command("compare")
@click.argument("first", type=AnyPath())
@click.argument("second", type=AnyPath())
@json_option
def command(first: str, second: str, as_json: bool) -> None:
    """Compare two saved runs of `bench speed` (speed.json) or `bench accuracy` (results.json).

    Each row says what SECOND has of FIRST; above the table stands where their machines, versions and settings differ.
    """
    compared = compare_runs(read_run(Path(first)), read_run(Path(second)))
    if as_json:
        show_json(compared)
    else:
        click.echo(to_markdown(compared, (first, second)), nl=False)
