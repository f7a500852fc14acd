"""`edge-cl eval`."""

from __future__ import annotations

from typing import Any

import click

from edge_cl.cli.options import AnyPath, backbone_option, device_option, json_option, state_argument, task_option
from edge_cl.cli.output import note, note_skipped, progress, show_json, show_table, skipped_rows
from edge_cl.learner import Learner
from edge_cl.samples import read_samples
from edge_cl.tasks import name_rows


@click.command("eval")
@state_argument
@click.argument("samples", type=AnyPath())
@task_option
@backbone_option
@device_option
@json_option
def command(state: str, samples: str, *, task: str | None, as_json: bool, **where: Any) -> None:
    """Measure accuracy on SAMPLES: a folder of class folders, a .csv of path,label, or an .npz of X and y.

    Of a regression, its error: see `learn` for the numbers.
    """
    with Learner.open(state, read_only=True, **where) as learner:
        is_regression = learner.head_kind == "regression"
        found = read_samples(samples, has_values=is_regression)
        with progress("extracting", len(found.samples)) as advance:
            result = learner.evaluate(found.samples, found.labels, task=task, on_progress=advance)
        unknown = sorted(set(name_rows(list(result.per_class), task)) - set(learner.classes))
    skipped = (*found.skipped, *result.skipped)
    if unknown:
        note(f"{state}: never learnt {', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}: counted as wrong")
    if as_json:
        empty = {"r2", "rmse", "mae"} if not is_regression else {"accuracy", "class_mean_accuracy", "per_class"}
        facts = {key: value for key, value in vars(result).items() if key not in empty}
        show_json({**facts, "skipped": skipped_rows(skipped)})
        return
    note_skipped(skipped)
    if is_regression:
        rows = [(name, result.r2[name], result.rmse[name], result.mae[name]) for name in result.r2]
        show_table("", ("output", "R2", "RMSE", "MAE"), rows)
        show_table("", ("samples", "ms a sample"), [(result.n, result.ms_per_sample)])
        return
    show_table("", ("class", "accuracy"), sorted(result.per_class.items(), key=lambda item: item[1]))
    show_table(
        "",
        ("samples", "accuracy", "class mean", "ms a sample"),
        [(result.n, result.accuracy, result.class_mean_accuracy, result.ms_per_sample)],
    )
