"""`edge-cl info`."""

from __future__ import annotations

from datetime import datetime, timezone

import click

from edge_cl.cli.options import AnyPath, json_option
from edge_cl.cli.output import show_json, show_table
from edge_cl.learner import Learner
from edge_cl.state import STRENGTHS


@click.command("info")
@click.argument("state", metavar="FILE", type=AnyPath())
@json_option
def command(state: str, as_json: bool) -> None:
    """Show classes, backbone and bytes of a state, or of a bundle (out.edgehead)."""
    from edge_firmware.bundle import is_bundle

    if is_bundle(state):
        _show_bundle(state, as_json=as_json)
        return
    with Learner.open(state, read_only=True, check=False) as learner:
        info = learner.backbone_info
        facts = {
            "version": learner.version,
            "recipe": learner.recipe,
            "head": learner.head_kind,
            **{name: getattr(learner.settings, name) for name in STRENGTHS},
            "classes": list(learner.classes),
            "tasks": list(learner.tasks),
            "outputs": list(learner.outputs),
            "looks": learner.looks,
            "backbone": {"name": info.name, "sha256": info.sha256, "dim": info.dim} if info else None,
            "state_bytes": learner.state_bytes,
            "replay": learner.replay_usage(),
        }
        if as_json:
            show_json(facts)
            return
        named = [("tasks", learner.tasks)] if learner.tasks else []
        named.append(("outputs", learner.outputs) if learner.outputs else ("classes", learner.classes))
        if learner.looks:
            several = tuple(f"{name} ({n})" for name, n in learner.looks.items())
            named.append(("classes of several looks", several))
        rows = [
            ("version", str(learner.version)),
            ("recipe", learner.recipe),
            ("head", learner.head_kind),
            *((name, f"{value:g}") for name in STRENGTHS if (value := getattr(learner.settings, name)) is not None),
            *((what, f"{len(names)}: {', '.join(names)}") for what, names in named),
            (
                "backbone",
                f"{info.name}, D = {info.dim}, sha256 {info.sha256}" if info else "none: samples are features",
            ),
            *((f"bytes of {part}", f"{size:,}") for part, size in learner.state_bytes.items()),
            *((f"replay {what}", f"{size:,}") for what, size in learner.replay_usage().items()),
        ]
    show_table(state, ("what", "value"), rows)


def _show_bundle(path: str, *, as_json: bool) -> None:
    """Show what a bundle says of itself; its signature is not checked."""
    from edge_firmware.bundle import read_bundle

    bundle = read_bundle(path)
    head = bundle.head
    facts = {
        "product": head.product,
        "version": head.version,
        "parent": head.parent,
        "counter": head.counter,
        "key": head.key_id.hex(),
        "backbone": head.backbone.hex() if any(head.backbone) else None,
        "rows": "int8" if head.is_int8 else "float32",
        "dim": head.dim,
        "looks": len(head.owners),
        "feature_scale": head.feature_scale,
        "feature_zero": head.feature_zero,
        "n_canaries": len(head.canaries),
        "created": head.created,
        "blob_bytes": len(bundle.blob),
        "classes": list(head.classes),
    }
    if as_json:
        show_json(facts)
        return
    shown = facts | {
        "feature_scale": f"{head.feature_scale:g}",
        "created": f"{datetime.fromtimestamp(head.created, timezone.utc):%Y-%m-%d %H:%M:%S} UTC",
        "classes": f"{len(head.classes)}: {', '.join(head.classes)}",
    }
    lines = [(name.replace("n_", "").replace("_", " "), shown[name]) for name in shown]
    show_table(path, ("what", "value"), [(name, "-" if value is None else str(value)) for name, value in lines])
