"""`edge-cl new`."""

from __future__ import annotations

from typing import Any

import click

from edge_cl.cli.options import Bytes, Number, Numbers, Strength, json_option, state_argument, told
from edge_cl.cli.output import show_json, show_table
from edge_cl.codecs import AUTO, CODECS, DEFAULT_CODEC
from edge_cl.head import HEADS, HIDDEN_UNITS
from edge_cl.learner import Learner
from edge_cl.recipes import BALANCES, RECIPES
from edge_cl.replay import SELECTIONS
from edge_cl.state import DEVICES, MEMORY, PRECISIONS


@click.command("new")
@state_argument
@click.option(
    "--backbone",
    default="tiny",
    show_default=True,
    help="'tiny', an .onnx classifier (file.onnx#tensor cuts there), a torchvision name, or 'none' for features.",
)
@click.option(
    "--replay", "replay_bytes", type=Bytes(), default="1MB", show_default=True, help="Bytes of stored samples."
)
@click.option(
    "--codec", type=click.Choice([AUTO, *CODECS]), default=DEFAULT_CODEC, show_default=True, help="Of stored samples."
)
@click.option(
    "--selection", type=click.Choice(SELECTIONS), help="Who stays.  [default: the recipe's, mostly reservoir]"
)
@click.option(
    "--history",
    "history_bytes",
    type=Bytes(),
    default="32MB",
    show_default=True,
    help="Bytes of earlier versions, to roll back to.",
)
@click.option("--recipe", type=click.Choice(list(RECIPES)), default="edge", show_default=True)
@click.option(
    "--balance",
    type=click.Choice(BALANCES),
    help="What a sample counts in training: 1, as many as were seen, all classes alike, or 1 and a prior for training. "
    " [default: the recipe's]",
)
@click.option(
    "--shrinkage",
    type=Strength(),
    default=AUTO,
    show_default=True,
    callback=lambda _context, _option, value: told(value),
    help="Of the covariance, 0 to 1, of recipes that have one.",
)
@click.option(
    "--penalty",
    type=Strength(),
    default=AUTO,
    show_default=True,
    callback=lambda _context, _option, value: told(value),
    help="Weight decay of edge, ridge and joint; of other recipes a factor on what EWC or L2 holds (auto: 1).",
)
@click.option(
    "--head",
    type=click.Choice(HEADS),
    default="linear",
    show_default=True,
    help="'cosine': unit features and rows; 'mlp': a hidden layer beside the linear one; 'regression': numbers.",
)
@click.option(
    "--hidden-units", type=int, default=HIDDEN_UNITS, show_default=True, help="Of an mlp head of ten classes."
)
@click.option(
    "--random-features",
    type=int,
    default=0,
    show_default=True,
    help="That a sample becomes first; 0: it stays as it is.",
)
@click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True)
@click.option(
    "--precision",
    type=click.Choice(list(map(str, PRECISIONS))),
    default="32",
    show_default=True,
    callback=lambda _context, _option, value: int(value),
    help="Bits of the backbone's arithmetic on a GPU.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--input-size", type=Numbers(2), help="Side of the backbone's input in pixels, or H,W.")
@click.option("--scale", type=Number(), help="RGB values 0 to 255 are multiplied by it.  [default: 1/127.5]")
@click.option("--mean", type=Numbers(3), help="Then this is subtracted.  [default: 1,1,1]")
@click.option("--std", type=Numbers(3), help="Then divided by this.  [default: 1,1,1]")
@click.option(
    "--crop", type=float, help="0: squeeze the whole image; 0.875: the middle, as torchvision does.  [default: 0]"
)
@json_option
def command(state: str, backbone: str, as_json: bool, **options: Any) -> None:
    """Make a state file."""  # noqa: DOC501 - the text is the help
    keys = ("input_size", "scale", "mean", "std", "crop")
    given = {key: value for key in keys if (value := options.pop(key)) is not None}
    if state == MEMORY:
        raise click.UsageError(f"{MEMORY} keeps nothing once this command has ended; name a file")
    name = None if backbone == "none" else backbone
    with Learner.create(state, backbone=name, preprocessing=given, **options) as learner:
        info, codec = learner.backbone_info, learner.codec
    facts = {
        "state": state,
        "backbone": info.name if info else None,
        "dim": info.dim if info else None,
        "recipe": options["recipe"],
        "head": options["head"],
        "replay_bytes": options["replay_bytes"],
        "codec": codec,
        "history_bytes": options["history_bytes"],
    }
    if as_json:
        show_json(facts)
    else:
        show_table("", list(facts), [list(facts.values())])
