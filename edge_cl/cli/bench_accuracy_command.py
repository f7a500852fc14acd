"""`edge-cl bench accuracy`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from edge_cl.backbones import open_backbone
from edge_cl.bench import joint
from edge_cl.bench.accuracy import run_all, split_plans
from edge_cl.bench.data import DataSet, read_data, take_logarithm
from edge_cl.bench.folders import extract_photos, list_photos
from edge_cl.bench.report import Row, draw_bytes, draw_classes, gather, to_json, to_markdown
from edge_cl.bench.streams import Stream, class_incremental, domain_incremental
from edge_cl.cli.options import AnyPath, json_option
from edge_cl.cli.output import note_skipped, progress, show_json
from edge_cl.errors import InputError
from edge_cl.files import write_whole
from edge_cl.recipes import RECIPES


@click.command("accuracy")
@click.option("--data", required=True, type=AnyPath(), help="An .npz of features, or a folder of photos.")
@click.option("--backbone", help="Of a folder of photos, as in `edge-cl new`.  [default: tiny]")
@click.option(
    "--tasks", "n_tasks", type=click.IntRange(1), help="Parts of the classes.  [default: 10, if there are so many]"
)
@click.option("--orders", "n_orders", type=click.IntRange(1), default=5, show_default=True, help="Seeds 0, 1, ...")
@click.option(
    "--recipes",
    default=",".join([*RECIPES, joint.NAME]),
    help="Between commas; with settings: edge[codec=float32,replay=0].  [default: all of them]",
)
@click.option(
    "--replay",
    "budgets",
    multiple=True,
    default=["1MB"],
    show_default=True,
    help="Bytes of stored samples; several between commas; 1KB/class is times the classes.",
)
@click.option("--per-class", type=click.IntRange(1), help="Learn at most so many samples of a class (and domain).")
@click.option(
    "--online",
    "batch",
    type=click.IntRange(1),
    is_flag=False,
    flag_value=1,
    default=None,
    help="From the second task on, learn so many samples at a time, shuffled.  [alone: 1]",
)
@click.option("--domains", is_flag=True, help="A task for each domain, in the order of time.")
@click.option("--whole-domains", is_flag=True, help="Of a domain, learn the first fifth, and not that of each class.")
@click.option("--log", "logarithmic", is_flag=True, help="Take sign(x) log(1 + |x|) of features, for raw sensors.")
@click.option("--out", type=AnyPath(), help="Folder for table.md, results.json, classes.png and bytes.png.")
@json_option
def command(recipes: str, budgets: Sequence[str], out: str | None, as_json: bool, **protocol: Any) -> None:
    """Learn a data set task by task with many recipes, and compare them on samples that were not learnt.

    The classes are cut into tasks, in a new order for each seed: numpy.random.default_rng(seed).permutation(K). After
    each task, all classes are asked about. The recipe joint-cv is a softmax head trained on all samples at once, its
    weight decay cross-validated: what retraining reaches.

    An .npz holds X (N, D), y (N,) and, where it has them, train (N,), classes (K,) and domain or batch (N,). A folder
    holds train/ and test/ with class folders, or class folders; with --domains, folders of such. Its features are
    extracted once and kept in the cache folder. Without train, a quarter of each class is kept for testing; with
    --domains, all but the first fifth of each class in each domain.
    """
    data = _read(protocol)
    streams = _make_streams(data, protocol)
    texts = [part.strip() for budget in budgets for part in budget.split(",")]
    plans = split_plans(recipes)
    with progress("learning", len(plans) * len(texts) * len(streams) * streams[0].n_tasks) as advance:
        rows = gather(run_all(streams, plans, texts, advance))
    title = _title(streams)
    facts = {"name": data.name, "n": len(data.labels), "dim": data.features.shape[1], "classes": len(data.classes)}
    versions = {name: version(name) for name in ("edge_cl", "numpy", "numba")}
    header = {"title": title, "data": facts, "protocol": protocol, "versions": versions}
    result = to_json(header, rows)
    table = to_markdown(title, rows)
    if out:
        _write(Path(out), title, table, rows, result)
    if as_json:
        show_json(result)
    else:
        click.echo(table, nl=False)
    if any(row.error for row in rows):
        sys.exit(1)


def _read(protocol: dict[str, Any]) -> DataSet:
    """Return the data set.

    Raises:
        InputError: it cannot be read, or there is a backbone for what are features already.
    """
    path, backbone = protocol["data"], protocol["backbone"]
    if Path(path).is_dir():
        photos = list_photos(path, has_domains=protocol["domains"])
        with progress("extracting", len(photos.paths)) as advance:
            data = extract_photos(photos, open_backbone(backbone or "tiny", None, "auto", 32), advance)
        note_skipped(photos.skipped)
    else:
        if backbone:
            raise InputError(f"{path}: holds features already; leave out --backbone")
        data = read_data(path)
    return take_logarithm(data) if protocol["logarithmic"] else data


def _make_streams(data: DataSet, protocol: dict[str, Any]) -> list[Stream]:
    """Return one stream for each seed."""
    seeds, limits = range(protocol["n_orders"]), {"per_class": protocol["per_class"], "batch": protocol["batch"] or 0}
    if protocol["domains"]:
        return [domain_incremental(data, seed, whole_domain=protocol["whole_domains"], **limits) for seed in seeds]
    n_tasks = protocol["n_tasks"] or min(10, len(data.classes))
    return [class_incremental(data, n_tasks, seed, **limits) for seed in seeds]


def _title(streams: Sequence[Stream]) -> str:
    stream = streams[0]
    what = "domains" if stream.has_domains else "tasks"
    n_train, n_test = sum(map(len, stream.train)), sum(map(len, stream.test))
    orders = "1 order" if len(streams) == 1 else f"{len(streams)} orders"
    online = f", {stream.batch} at a time" if stream.batch else ""
    return (
        f"{Path(stream.data.name).name}: {len(stream.data.classes)} classes in {stream.n_tasks} {what}, "
        f"{n_train:,} to learn{online}, {n_test:,} to test, {orders}"
    )


def _write(folder: Path, title: str, table: str, rows: Sequence[Row], result: dict[str, Any]) -> None:
    """Write the four files into a folder, made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "table.md", table.encode())
    write_whole(folder / "results.json", json.dumps(result, allow_nan=False, indent=1).encode())
    write_whole(folder / "classes.png", draw_classes(title, rows))
    write_whole(folder / "bytes.png", draw_bytes(title, rows))
