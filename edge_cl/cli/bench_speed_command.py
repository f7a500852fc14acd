"""`edge-cl bench speed`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from edge_cl.bench.measures import MEASURES
from edge_cl.bench.speed import Setup, run_speed
from edge_cl.bench.speed_report import check_folder, to_markdown, write_report
from edge_cl.bench.timing import LEAST_REPEATS
from edge_cl.cli.options import AnyPath, json_option
from edge_cl.cli.output import note, progress, show_json
from edge_cl.state import DEVICES


@click.command("speed")
@click.option("--backbone", default="tiny", show_default=True, help="tiny, an .onnx classifier, or a torchvision name.")
@click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True)
@click.option("--images", type=AnyPath(), help="Folder of your own photos.  [default: generated ones]")
@click.option("--classes", type=click.IntRange(2, 10_000), default=100, show_default=True, help="That the state knows.")
@click.option("--repeats", type=click.IntRange(1, 100_000), default=100, show_default=True, help="Of each measure, ...")
@click.option(
    "--seconds",
    type=click.FloatRange(0, 86_400),
    default=20.0,
    show_default=True,
    help=f"... or as many as fit these, but {LEAST_REPEATS}.",
)
@click.option("--out", type=AnyPath(), help="Folder for speed.json, speed.md and speed.png.")
@json_option
def command(out: str | None, as_json: bool, **setup: Any) -> None:
    """Time decoding, extraction, prediction, learning, Fisher, export and head swap on this machine.

    All of it is real: JPEG files, onnxruntime, a state file in a temporary folder that knows CLASSES and is full. A
    markdown table comes out; energy is read where an INA3221 watches the whole board.
    """
    folder = Path(out) if out is not None else None
    if folder:
        check_folder(folder)
    with progress("measuring", len(MEASURES)) as advance:
        run = run_speed(Setup(**setup), on_done=advance)
    files = write_report(folder, run) if folder else []
    if as_json:
        show_json({**run, "files": [str(file) for file in files]})
    else:
        click.echo(to_markdown(run), nl=False)
        if files:
            note(f"written: {', '.join(map(str, files))}")
    failed = [row for row in run["rows"] if "error" in row]
    if failed:
        note(f"{len(failed)} of {len(run['rows'])} measures failed; the first: {failed[0]['error']}")
        sys.exit(1)
