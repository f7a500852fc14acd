"""`edge-cl predict`."""

from __future__ import annotations

import sys
from typing import Any

import click

from edge_cl.cli.options import AnyPath, backbone_option, device_option, json_option, state_argument
from edge_cl.cli.output import note_skipped, progress, show_json, show_table
from edge_cl.learner import Learner
from edge_cl.samples import list_images, read_features


@click.command("predict")
@state_argument
@click.argument("samples", type=AnyPath(), nargs=-1, required=True)
@click.option(
    "--top", type=click.IntRange(min=1), default=3, show_default=True, help="Classes to name for each sample."
)
@backbone_option
@device_option
@json_option
def command(state: str, samples: tuple[str, ...], top: int, as_json: bool, **where: Any) -> None:
    """Name the class of SAMPLES: images, folders of images, or one .npz of features X."""
    with Learner.open(state, read_only=True, **where) as learner:
        if samples[0].endswith(".npz") and len(samples) == 1:
            features = read_features(samples[0])
            names = [f"{samples[0]}[{row}]" for row in range(len(features))]
            predictions = learner.predict(features, top)
        else:
            found = [list_images(place) for place in samples]
            names = [image for part in found for image in part.samples]
            with progress("extracting", len(names)) as advance:
                predictions = learner.predict(names, top, strict=False, on_progress=advance)
    answers = [
        {
            "path": names[row],
            "label": best[0][0],
            "probability": best[0][1],
            "top": [{"label": label, "probability": probability} for label, probability in best],
        }
        for row, best in zip(predictions.rows, predictions.top, strict=True)
    ]
    note_skipped(predictions.skipped)
    if as_json:
        show_json(answers)
    elif answers:
        rows = [(a["path"], *(f"{t['label']} {t['probability']:.3f}" for t in a["top"])) for a in answers]
        show_table("", ("path", *(f"{place}." for place in range(1, len(rows[0])))), rows)
    if predictions.skipped:
        sys.exit(1)
