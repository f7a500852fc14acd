"""`edge-cl forget`."""

from __future__ import annotations

import click

from edge_cl.cli.options import AnyPath, backbone_option, device_option, json_option, state_argument, timeout_option
from edge_cl.cli.output import note, progress, show_json, show_table
from edge_cl.learner import Learner
from edge_cl.samples import read_class


@click.command("forget")
@state_argument
@click.argument("class_name", metavar="CLASS")
@click.option("--samples", type=AnyPath(), help="All that the class was learnt from: a folder of images, or an .npz.")
@backbone_option
@device_option
@timeout_option
@json_option
def command(state: str, class_name: str, samples: str | None, as_json: bool, **where: str | float | None) -> None:
    """Remove CLASS and all earlier versions, and overwrite their bytes in the file.

    Given its samples, its part of the second moment that all classes share goes too.
    """
    with Learner.open(state, **where, check=samples is not None) as learner:  # type: ignore[arg-type]
        found = read_class(samples, class_name) if samples is not None else None
        with progress("extracting", len(found) if found is not None else 0) as advance:
            report = learner.forget(class_name, found, on_progress=advance)
    if as_json:
        show_json(vars(report))
        return
    columns = ("version", "class", "samples", "stored", "earlier versions")
    row = (report.version, report.class_name, report.n_samples, report.n_stored, report.n_versions)
    show_table("forgotten", columns, [row])
    for text in report.remains:
        note(f"{state}: not removed: {text}")
