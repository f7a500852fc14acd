"""`edge-cl patch`."""

from __future__ import annotations

import os

import click

from edge_cl.cli.options import AnyPath, json_option
from edge_cl.cli.output import show_json, show_table


@click.command("patch")
@click.argument("model", type=AnyPath())
@click.argument("delta", type=AnyPath())
@click.option("--out", type=AnyPath(), metavar="FILE", help="Where the result goes, instead of in MODEL's place.")
@json_option
def command(model: str, delta: str, out: str | None, as_json: bool) -> None:
    """Bring MODEL, an exported file, up to date by DELTA, which `edge-cl export --delta-from` wrote."""
    from pathlib import Path

    from edge_cl.export.patch import patch_file

    target = out or model
    later = patch_file(Path(model), Path(delta), Path(target))
    facts = {
        "path": target,
        "kind": later.options.kind,
        "bytes": os.path.getsize(target),
        "delta_bytes": os.path.getsize(delta),
        "version": later.version,
        "classes": len(later.head.classes),
    }
    if as_json:
        show_json(facts)
    else:
        show_table("", list(facts), [list(facts.values())])
