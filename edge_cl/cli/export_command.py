"""`edge-cl export`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from edge_cl.cli.options import AnyPath, backbone_option, json_option, state_argument
from edge_cl.cli.output import note, show_json, show_table
from edge_cl.learner import Learner

KINDS = ("model", "head", "live", "split", "c")  # of `edge_cl.export`, which would import onnx for a help text


@click.command("export")
@state_argument
@click.argument("target", type=AnyPath())
@click.option("--kind", type=click.Choice(KINDS), default="model", show_default=True)
@click.option("--opset", type=int, default=0, help="13 to 20; 17 by itself, 18 with --preprocess.")
@click.option("--preprocess", is_flag=True, help="Resize and normalise inside: uint8 images of any size in.")
@click.option("--top-k", type=int, default=0, metavar="N", help="Also give the N most probable classes.")
@click.option("--features", is_flag=True, help="Also give the backbone's features.")
@click.option("--cam", is_flag=True, help="Also give class activation maps.")
@click.option("--int8", is_flag=True, help="Rows of the head as int8; the backbone too, if there are --images.")
@click.option("--fp16", is_flag=True, help="The backbone in half precision, for GPUs.")
@click.option("--images", type=AnyPath(), metavar="DIR", help="Images to calibrate on and to ask, in class folders.")
@click.option("--max-loss", type=float, default=0.01, show_default=True, help="Accuracy that int8 or fp16 may cost.")
@click.option("--delta-from", type=int, metavar="VERSION", help="Only what changed since then; 0: all tensors.")
@click.option("--card", type=AnyPath(), metavar="FILE", help="Also write a model card in Markdown.")
@backbone_option
@json_option
def command(state: str, target: str, backbone: str | None, as_json: bool, **options: Any) -> None:
    """Write the learnt classifier to TARGET, after onnxruntime gave the same answers with it.

    Kinds: model (one ONNX file, image to answers), head (features to answers), live (a model that takes a later head
    with each call), split (a folder: backbone.onnx, written once, and head.onnx), c (the head as one C99 file).
    """
    with Learner.open(state, read_only=True, backbone=backbone, check=False) as learner:
        report = learner.export(target, **options)
        n_outputs = len(learner.outputs)
    facts = {
        "path": report.path,
        "kind": report.kind,
        "bytes": report.n_bytes,
        "classes": 0 if n_outputs else report.n_classes,
        "outputs": n_outputs,
        "version": report.version,
    }
    if report.n_rows is not None:
        facts["rows"] = report.n_rows
    losses = {"head_loss": report.head_loss, "backbone_loss": report.backbone_loss}
    if as_json:
        show_json(facts | {name: asdict(loss) for name, loss in losses.items() if loss is not None})
        return
    shown = {name: 100 * loss.lost for name, loss in losses.items() if loss is not None}
    show_table("", [*facts, *(f"{name}, %" for name in shown)], [[*facts.values(), *shown.values()]])
    if options["int8"] and options["kind"] in {"model", "live", "split"} and not options["images"]:
        note("the backbone stays float32; to quantise it too, give images to calibrate it on: --images DIR")
