"""`edge-cl learn`."""

from __future__ import annotations

import sys
from typing import Any

import click

from edge_cl.cli.options import (
    AnyPath,
    backbone_option,
    device_option,
    json_option,
    state_argument,
    task_option,
    timeout_option,
)
from edge_cl.cli.output import note, note_skipped, progress, show_json, show_table, skipped_rows
from edge_cl.learner import Learner
from edge_cl.reports import UpdateReport
from edge_cl.samples import read_samples


@click.command("learn")
@state_argument
@click.argument("samples", type=AnyPath())
@task_option
@click.option("--min-retention", type=click.FloatRange(0, 1), default=0.95, show_default=True)
@click.option("--strict", is_flag=True, help="Learn nothing if one file cannot be read.")
@backbone_option
@device_option
@timeout_option
@json_option
def command(
    state: str,
    samples: str,
    *,
    task: str | None,
    min_retention: float,
    strict: bool,
    as_json: bool,
    **where: Any,
) -> None:
    """Learn SAMPLES: a folder of class folders, a .csv of path,label, or an .npz of features X and labels y.

    For a regression, labels are numbers: a .csv of path,value,..., or an .npz with y (N,) or (N, M).
    """
    with Learner.open(state, **where) as learner:
        is_regression = learner.head_kind == "regression"
        found = read_samples(samples, has_values=is_regression)
        options: dict[str, Any] = {"task": task, "min_retention": min_retention, "strict": strict}
        with progress("extracting", len(found.samples)) as advance:
            report = learner.learn_samples(found, **options, on_progress=advance)
        classes = learner.classes
    if as_json:
        show_json({**vars(report), "skipped": skipped_rows(report.skipped)})
    else:
        note_skipped(report.skipped)
        if report.committed:
            _show(report, is_regression)
    if not report.committed:
        what = (
            "what was learnt would keep {:.1%} of its R2"
            if is_regression
            else "old classes would keep {:.1%} of their accuracy"
        )
        note(
            f"{state}: refused: {what.format(report.retention)}, expected at least {min_retention:.1%}; nothing was "
            f"changed; add more samples, or accept it: --min-retention {int(100 * report.retention) / 100:.2f}"
        )
        sys.exit(1)
    if report.retention < min_retention:
        note(f"{state}: retention {report.retention:.1%} is below {min_retention:.1%} by no more than its own error")
    if len(classes) == 1:
        note(f"{state}: knows one class only, so everything is {classes[0]!r}; learn a second one")


def _show(report: UpdateReport, is_regression: bool) -> None:
    names = ", ".join(report.new_classes[:5]) + (", ..." if len(report.new_classes) > 5 else "")
    accuracies = (report.accuracy_before, report.accuracy_after, report.retention)
    measure = "R2" if is_regression else "accuracy"
    columns = ("version", "samples", "new classes", f"{measure} before", "after", "retention", "seconds")
    show_table("", columns, [(report.version, report.n_samples, names or "-", *accuracies, report.seconds)])
