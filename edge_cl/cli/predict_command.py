"""`edge-cl predict`."""

from __future__ import annotations

import sys
from typing import Any

import click

from edge_cl.cli.options import AnyPath, backbone_option, device_option, json_option, state_argument, task_option
from edge_cl.cli.output import note_skipped, progress, show_json, show_table
from edge_cl.learner import Learner
from edge_cl.reports import Predictions
from edge_cl.samples import list_images, read_features


@click.command("predict")
@state_argument
@click.argument("samples", type=AnyPath(), nargs=-1, required=True)
@click.option(
    "--top", type=click.IntRange(min=1), default=3, show_default=True, help="Classes to name for each sample."
)
@task_option
@backbone_option
@device_option
@json_option
def command(state: str, samples: tuple[str, ...], *, top: int, task: str | None, as_json: bool, **where: Any) -> None:
    """Name the class of SAMPLES, or give the values of a regression: images, folders, or one .npz of features X."""
    with Learner.open(state, read_only=True, **where) as learner:
        if samples[0].endswith(".npz") and len(samples) == 1:
            features = read_features(samples[0])
            names = [f"{samples[0]}[{row}]" for row in range(len(features))]
            predictions = learner.predict(features, top, task=task)
        else:
            found = [list_images(place) for place in samples]
            names = [image for part in found for image in part.samples]
            with progress("extracting", len(names)) as advance:
                predictions = learner.predict(names, top, task=task, strict=False, on_progress=advance)
        outputs = learner.outputs
    note_skipped(predictions.skipped)
    paths = [names[row] for row in predictions.rows]
    if outputs:
        _show_values(paths, outputs, predictions.values.tolist(), as_json)
    else:
        _show_classes(paths, predictions, as_json)
    if predictions.skipped:
        sys.exit(1)


def _show_values(paths: list[str], outputs: tuple[str, ...], values: list[list[float]], as_json: bool) -> None:
    if as_json:
        rows = zip(paths, values, strict=True)
        show_json([{"path": path, "values": dict(zip(outputs, row, strict=True))} for path, row in rows])
    elif paths:
        show_table("", ("path", *outputs), [(path, *row) for path, row in zip(paths, values, strict=True)])


def _show_classes(paths: list[str], predictions: Predictions, as_json: bool) -> None:
    answers = [
        {
            "path": path,
            "label": best[0][0],
            "probability": best[0][1],
            "top": [{"label": label, "probability": probability} for label, probability in best],
        }
        for path, best in zip(paths, predictions.top, strict=True)
    ]
    if as_json:
        show_json(answers)
    elif answers:
        rows = [
            (path, *(f"{name} {p:.3f}" for name, p in best)) for path, best in zip(paths, predictions.top, strict=True)
        ]
        show_table("", ("path", *(f"{place}." for place in range(1, len(rows[0])))), rows)
