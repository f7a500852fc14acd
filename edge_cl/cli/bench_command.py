"""`edge-cl bench`: what the figures in the README were made with."""

from __future__ import annotations

import click

from edge_cl.cli import LazyGroup

BENCHES = {
    "accuracy": "Learn a data set class by class (or domain by domain) with many recipes, and compare them.",
    "speed": "Time decoding, extraction, prediction and learning on this machine.",
    "compare": "Show two saved runs side by side.",
}


@click.group("bench", cls=LazyGroup, summaries=BENCHES, prefix="bench_")
def command() -> None:
    """Measure accuracy against other recipes, and speed on this machine."""
