"""`edge-cl export`."""

from __future__ import annotations

import os

import click

from edge_cl.cli.options import AnyPath, backbone_option, json_option, state_argument
from edge_cl.cli.output import show_json, show_table
from edge_cl.learner import Learner


@click.command("export")
@state_argument
@click.argument("target", type=AnyPath())
@click.option("--kind", type=click.Choice(["model"]), default="model", show_default=True)
@backbone_option
@json_option
def command(state: str, target: str, kind: str, backbone: str | None, as_json: bool) -> None:
    """Write the learnt classifier as one ONNX file, TARGET, after onnxruntime gave the same answers with it."""
    with Learner.open(state, read_only=True, backbone=backbone) as learner:
        learner.export(target, kind)
        facts = {
            "path": target,
            "kind": kind,
            "bytes": os.path.getsize(target),
            "classes": len(learner.classes),
            "outputs": len(learner.outputs),
            "version": learner.version,
        }
    if as_json:
        show_json(facts)
    else:
        show_table("", list(facts), [list(facts.values())])
