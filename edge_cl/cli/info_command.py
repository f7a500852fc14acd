"""`edge-cl info`."""

from __future__ import annotations

import click

from edge_cl.cli.options import json_option, state_argument
from edge_cl.cli.output import show_json, show_table
from edge_cl.learner import Learner
from edge_cl.state import STRENGTHS


@click.command("info")
@state_argument
@json_option
def command(state: str, as_json: bool) -> None:
    """Show classes, backbone and bytes of a state."""
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
