"""`edge-cl eval`."""

from __future__ import annotations

from typing import Any

import click

from edge_cl.cli.options import AnyPath, backbone_option, device_option, json_option, state_argument
from edge_cl.cli.output import note, note_skipped, progress, show_json, show_table, skipped_rows
from edge_cl.learner import Learner
from edge_cl.samples import read_samples


@click.command("eval")
@state_argument
@click.argument("samples", type=AnyPath())
@backbone_option
@device_option
@json_option
def command(state: str, samples: str, as_json: bool, **where: Any) -> None:
    """Measure accuracy on SAMPLES: a folder of class folders, a .csv of path,label, or an .npz of X and y."""
    with Learner.open(state, read_only=True, **where) as learner:
        found = read_samples(samples)
        with progress("extracting", len(found.samples)) as advance:
            result = learner.evaluate(found.samples, found.labels, on_progress=advance)
        unknown = sorted(set(result.per_class) - set(learner.classes))
    skipped = (*found.skipped, *result.skipped)
    if unknown:
        note(f"{state}: never learnt {', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}: counted as wrong")
    if as_json:
        show_json({**vars(result), "skipped": skipped_rows(skipped)})
        return
    note_skipped(skipped)
    show_table("", ("class", "accuracy"), sorted(result.per_class.items(), key=lambda item: item[1]))
    show_table(
        "",
        ("samples", "accuracy", "class mean", "ms a sample"),
        [(result.n, result.accuracy, result.class_mean_accuracy, result.ms_per_sample)],
    )
