"""`edge-cl demo`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from edge_cl.charts import draw_curves
from edge_cl.cli.options import AnyPath, json_option
from edge_cl.cli.output import note, show_json, show_table
from edge_cl.demo.digits import N_TRAIN
from edge_cl.demo.run import Result, Stage, run_demo
from edge_cl.files import write_whole


@click.command("demo")
@click.option("--out", type=AnyPath(), default=".", show_default=True, help="Folder for the three files.")
@json_option
def command(out: str, as_json: bool) -> None:
    """Learn handwritten digits: five at once, then five updates; writes demo.ecl, demo.onnx and demo.png."""
    folder = Path(out)
    result = run_demo(folder, lambda step: None if as_json else note(step))
    write_whole(folder / "demo.png", _chart(result))
    if as_json:
        stages = [
            {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in vars(s).items()}
            for s in result.stages
        ]
        files = [str(folder / f"demo.{suffix}") for suffix in ("ecl", "onnx", "png")]
        show_json({**vars(result), "stages": stages, "files": files})
        return
    for recipe in ("edge", "finetune"):
        rows = [_row(stage) for stage in result.stages if stage.recipe == recipe]
        columns = ("learnt", "classes", "old accuracy", "new accuracy", "retention", "ms", "bytes")
        show_table(f"{recipe}: {N_TRAIN} images of each digit, tested on others", columns, rows)
    agrees = "agrees" if result.onnx_difference <= 1e-4 else "DIFFERS"
    click.echo(
        f"demo.onnx in onnxruntime: accuracy {result.onnx_accuracy:.3f}, the learner's {result.accuracy:.3f}; "
        f"largest difference of a probability {result.onnx_difference:.1e}: {agrees}"
    )
    click.echo(f"written: {folder / 'demo.ecl'}, {folder / 'demo.onnx'}, {folder / 'demo.png'}")


def _row(stage: Stage) -> tuple[Any, ...]:
    accuracies = (stage.old_accuracy, stage.new_accuracy, stage.retention)
    shown = (None if math.isnan(value) else value for value in accuracies)
    return stage.learnt, stage.n_classes, *shown, round(stage.ms, 1), stage.state_bytes


def _chart(result: Result) -> bytes:
    curves = {}
    for recipe in ("edge", "finetune"):
        stages = [stage for stage in result.stages if stage.recipe == recipe and not math.isnan(stage.old_accuracy)]
        curves[f"{recipe}, old classes"] = [(s.n_classes, s.old_accuracy) for s in stages]
        curves[f"{recipe}, new class"] = [(s.n_classes, s.new_accuracy) for s in stages]
    return draw_curves("Accuracy on 1,397 test images of digits, one new class an update", "classes known", curves)
