"""`edge-cl tune`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from edge_cl.bench.data import DataSet, read_data
from edge_cl.bench.folders import Photos, extract_photos
from edge_cl.bench.streams import Stream
from edge_cl.bench.tuning import Choice, Tuning, count_tasks, make_grid, make_streams, tune, usual_budgets
from edge_cl.bench.tuning_report import command_of, draw_all, to_json, to_markdown
from edge_cl.cli.options import (
    AnyPath,
    Bytes,
    Several,
    Strength,
    backbone_option,
    device_option,
    json_option,
    state_argument,
    timeout_option,
    told,
)
from edge_cl.cli.output import note, note_skipped, progress, show_json
from edge_cl.errors import InputError
from edge_cl.files import write_whole
from edge_cl.inputs import check_features
from edge_cl.learner import Learner
from edge_cl.samples import read_samples
from edge_cl.state import Settings


@click.command("tune")
@state_argument
@click.argument("samples", type=AnyPath())
@click.option("--replay", "budgets", type=Several(Bytes()), help="To try.  [default: the state's, half, none]")
@click.option("--shrinkage", "shrinkages", type=Several(Strength()), help="To try.  [default: auto and a few]")
@click.option("--penalty", "penalties", type=Several(Strength()), help="To try.  [default: auto and a few]")
@click.option(
    "--tasks",
    "n_tasks",
    type=click.IntRange(1),
    help="Updates that the classes come in.  [default: 10, if there are so many]",
)
@click.option("--orders", "n_orders", type=click.IntRange(1), default=1, show_default=True, help="Of the classes.")
@click.option("--apply", type=click.Choice(["best", "cheapest"]), help="Give it to the state, from now on.")
@click.option("--out", type=AnyPath(), help="Folder for table.md, tune.json and curves as .png.")
@backbone_option
@device_option
@timeout_option
@json_option
def command(
    state: str, samples: str, *, apply: str | None, out: str | None, as_json: bool, timeout: float, **given: Any
) -> None:
    """Try replay budgets, shrinkages and penalties on SAMPLES: a folder of class folders, a .csv or an .npz.

    Learners of the state's settings learn the classes from nothing, a tenth of them in each update, and are asked about
    a quarter of each class that they never learn. All choices do so with a tenth of the samples (at least 5 of each
    class), then the better third of each budget, and the state's own, with all. Of an .npz with `train`, only what
    that marks is used. The state stays as it is, unless --apply says otherwise.
    """
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
    where = {"backbone": given["backbone"], "device": given["device"]}
    with Learner.open(state, read_only=True, timeout=timeout, check=False, **where) as learner:
        device = given["device"] or learner.settings.device
        settings = replace(learner.settings, device=device, precision=32)  # features are extracted already
        _grid(settings, given, given["budgets"] or ())  # what is wrong with them is said before anything is extracted
        data = _read(learner, samples)
    streams = make_streams(data, n_tasks=given["n_tasks"], n_orders=given["n_orders"], seed=settings.seed)
    choices = _grid(settings, given, given["budgets"] or usual_budgets(settings, streams[0]))
    with progress("tuning", count_tasks(streams, settings, choices)) as advance:
        found = tune(streams, settings, choices, advance)
    title = _title(samples, streams, settings.recipe)
    lines = {name: command_of(state, getattr(found, name).choice, settings) for name in ("best", "cheapest")}
    result = to_json({"state": state, "title": title, **_facts(streams[0]), "commands": lines}, found)
    result["applied"] = None
    table = f"{to_markdown(title, found)}\n{_advice(found, lines)}"
    if out:
        _write(Path(out), Path(samples).name, table, found, result)
    if not as_json:
        click.echo(table, nl=False)
    try:
        if apply:
            _apply(state, getattr(found, apply).choice, timeout)
            result["applied"] = apply
    finally:
        if as_json:
            show_json(result)


def _grid(settings: Settings, given: dict[str, Any], budgets: Sequence[int]) -> list[Choice]:
    strengths = {name: given[name] and [told(value) for value in given[name]] for name in ("shrinkages", "penalties")}
    return make_grid(settings, budgets=budgets, **strengths)


def _read(learner: Learner, path: str) -> DataSet:
    """Return the samples as features, extracted once.

    Raises:
        InputError: they cannot be read, or are none that the state could learn.
    """
    info = learner.backbone_info
    if not Path(path).is_dir() and Path(path).suffix.lower() == ".npz":
        data = read_data(path)
        dim = info.dim if info else learner.settings.input_dim
        if not dim and learner.classes and not learner.settings.random_features:
            dim = learner.head.weights.shape[1]
        try:
            check_features(data.features, dim)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        return data
    found = read_samples(path)
    if learner.backbone is None:
        raise InputError(f"{path}: expected an .npz of features, since the state has no backbone; found photos")
    photos = Photos(path, list(found.samples), list(found.labels), skipped=list(found.skipped))
    with progress("extracting", len(photos.paths)) as advance:
        data = extract_photos(photos, learner.backbone, advance)
    note_skipped(photos.skipped)
    return data


def _title(samples: str, streams: Sequence[Stream], recipe: str) -> str:
    facts = _facts(streams[0])
    orders = "1 order" if len(streams) == 1 else f"{len(streams)} orders"
    return (
        f"{Path(samples).name}: recipe {recipe}, {facts['n_classes']} classes in {facts['n_tasks']} tasks, "
        f"{facts['n_learnt']:,} samples to learn, {facts['n_asked']:,} to ask about, {orders}"
    )


def _facts(stream: Stream) -> dict[str, int]:
    n_learnt, n_asked = sum(map(len, stream.train)), sum(map(len, stream.test))
    return {
        "n_classes": len(stream.data.classes),
        "n_tasks": stream.n_tasks,
        "n_learnt": n_learnt,
        "n_asked": n_asked,
    }


def _advice(found: Tuning, lines: dict[str, str]) -> str:
    """Return what to type next."""
    own, best = found.as_it_is, found.best
    if own.accuracy >= best.accuracy - best.error:
        text = "As it is, the state lies within one standard error of the best: these samples show nothing to gain.\n"
    else:
        text = "The best was chosen on these samples, so others will like it less; ask some that had no part in it.\n"
    return text + "".join(f"{name}: {line or 'as it is'}\n" for name, line in lines.items())


def _apply(state: str, choice: Choice, timeout: float) -> None:
    """Give a state what was chosen, where that differs."""
    with Learner.open(state, timeout=timeout, check=False) as learner:
        changes = {name: value for name, value in vars(choice).items() if value != getattr(learner.settings, name)}
        if changes:
            learner.change(**changes)
            note(f"{state}: {', '.join(f'{name} is now {value}' for name, value in changes.items())}")


def _write(folder: Path, name: str, table: str, found: Tuning, result: dict[str, Any]) -> None:
    """Write the table, the JSON and the pictures into a folder."""
    write_whole(folder / "table.md", table.encode())
    write_whole(folder / "tune.json", json.dumps(result, allow_nan=False, indent=1).encode())
    for file, picture in draw_all(name, found).items():
        write_whole(folder / file, picture)
