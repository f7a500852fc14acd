"""Run other libraries beside edge_cl: the same features, class order, samples and bytes, one table.

    pip install "edge_cl[cpu,peers]"
    python tools/peers.py --data features.npz --replay 1MB,1KB/class --out results/
    python tools/peers.py --data gas.npz --log --domains --peers avalanche-ewc,sklearn-joint --ours edge,ewc

Settings of each peer are chosen on a fifth of the training samples of the first order, and used for all orders; no test
sample is looked at. Results are kept in `--out` as they come, and what is there already is not run again. A table goes
to stdout, progress to stderr. What does not run stands in the table with its error.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from peers_course import Kind, follow, hold_out, search

from edge_cl import __version__
from edge_cl.bench.accuracy import parse_budget, run_all, split_plans
from edge_cl.bench.course import measure
from edge_cl.bench.data import DataSet, read_data, take_logarithm
from edge_cl.bench.report import Result, Row, gather, to_json, to_markdown
from edge_cl.bench.streams import Stream, class_incremental, domain_incremental
from edge_cl.errors import EdgeClError, InputError
from edge_cl.files import write_whole

MODULES = {  # where each peer is; its package may be missing
    **dict.fromkeys(
        [
            "avalanche-naive",
            "avalanche-ewc",
            "avalanche-ewc-online",
            "avalanche-lwf",
            "avalanche-replay",
            "avalanche-gem",
            "avalanche-a-gem",
            "avalanche-icarl",
            "avalanche-slda",
            "avalanche-joint",
        ],
        "peers_avalanche",
    ),
    **dict.fromkeys(
        ["sklearn-sgd", "sklearn-perceptron", "sklearn-naive-bayes", "sklearn-joint", "river-softmax"], "peers_online"
    ),
}
PACKAGES = ("avalanche-lib", "torch", "quadprog", "scikit-learn", "river", "numpy")


def load_kind(name: str) -> Kind:
    """Return the peer of that name.

    Raises:
        InputError: its package is not installed.
    """
    try:
        module = import_module(MODULES[name])
    except ImportError as error:
        raise InputError(f"{error}; install it: pip install 'edge_cl[peers]'") from None
    found: Kind = next(kind for kind in module.KINDS if kind.name == name)
    return found


def make_streams(
    data: DataSet, options: argparse.Namespace, per_class: int | None, seeds: Sequence[int]
) -> list[Stream]:
    """Return one stream for each order."""
    if options.domains:
        return [domain_incremental(data, seed, per_class=per_class) for seed in seeds]
    return [class_incremental(data, options.tasks, seed, per_class=per_class) for seed in seeds]


class Log:
    """Results and settings as they come, in a file that a later run goes on from."""

    def __init__(self, folder: str | None, header: dict[str, Any]) -> None:
        """Read what an earlier run with the same header has left.

        Raises:
            InputError: the folder holds results of other options.
        """
        self._folder = Path(folder) if folder else None
        self._header = header
        self.settings: dict[str, Any] = {}
        self.results: dict[tuple[str, str, int], Result] = {}
        path = self._folder / "results.json" if self._folder else None
        if path is None or not path.exists():
            return
        try:
            found = json.loads(path.read_text())
            if found["options"] != header["options"]:
                raise InputError(f"{path}: expected results of the same options; found others; choose another --out")
            self.settings = found["settings"]
            for row in found["rows"]:
                for order in row["orders"]:
                    figures = {k: _numbers(v) for k, v in order.items() if k not in {"seed", "error"}}
                    if not order["error"]:
                        self.add(Result(row["recipe"], row["replay"], order["seed"], figures))
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise InputError(f"{path}: expected results of this tool; found {error!r}; choose another --out") from None

    def add(self, result: Result) -> None:
        """Keep one result."""
        self.results[result.recipe, result.budget, result.seed] = result

    def has(self, name: str, budget: str, seed: int) -> bool:
        """Return whether that was run, without an error."""
        found = self.results.get((name, budget, seed))
        return found is not None and not found.error

    def write(self) -> None:
        """Write everything so far, whole or not at all."""
        if self._folder:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._folder / "results.json", json.dumps(self.to_json(), indent=1).encode())
            write_whole(self._folder / "table.md", self.to_markdown().encode())

    def to_json(self) -> dict[str, Any]:
        """Return one JSON object."""
        rows = gather(list(self.results.values()))
        return to_json({**self._header, "settings": self.settings}, rows)

    def to_markdown(self) -> str:
        """Return tables of the results, of the accuracy after each task, and of the settings; versions are above."""
        rows = gather(list(self.results.values()))
        return "\n".join([to_markdown(_title(self._header), rows), _curves(rows), self._chosen()])

    def _chosen(self) -> str:
        lines = ["| settings chosen | replay | held-out samples right | |", "|---|---|---:|---|"]
        for found in self.settings.values():
            chosen = ", ".join(f"{key} {value}" for key, value in found["chosen"].items())
            share = "-" if found["accuracy"] is None else f"{100 * found['accuracy']:.1f}"
            lines.append(f"| `{found['peer']}` | {found['replay'] or '-'} | {share} | {chosen} |")
        return "\n".join(lines) + "\n"


def run_peer(kind: Kind, budget: str, streams: Sequence[Stream], tuning: Stream, log: Log) -> None:
    """Add the results of one peer with one budget to the log; one that fails is a result with its error."""
    shown = budget if kind.stores else ""
    missing = [stream for stream in streams if not log.has(kind.name, shown, stream.seed)]
    n_bytes = parse_budget(budget, len(tuning.data.classes))
    key = f"{kind.name} {shown}".strip()
    for stream in missing:
        begin = time.perf_counter()
        try:
            if key not in log.settings:
                log.settings[key] = {"peer": kind.name, "replay": shown, **choose(kind, tuning, n_bytes)}
                log.write()
            course = follow(kind, stream, n_bytes, log.settings[key]["chosen"])
            result = Result(kind.name, shown, stream.seed, measure(stream, course))
        except Exception as error:
            result = Result(kind.name, shown, stream.seed, error=one_line(error))
        log.add(result)
        log.write()
        done = result.error or f"{100 * result.figures['final_accuracy']:.2f} %"
        say(f"{key}, order {stream.seed}: {done} in {time.perf_counter() - begin:.0f} s")
        if result.error and not any(log.has(kind.name, shown, stream.seed) for stream in streams):
            break  # what never ran is not tried along every order


def choose(kind: Kind, tuning: Stream, n_bytes: int) -> dict[str, Any]:
    """Return the settings of a peer, the share of held-out samples that they got right, and all that was tried."""
    begin = time.perf_counter()
    if kind.choose is not None:
        rows = np.concatenate([*tuning.train, *tuning.test])
        chosen = kind.choose(tuning.data.features[rows], tuning.data.labels[rows], len(tuning.data.classes))
        return {"chosen": chosen, "accuracy": None, "seconds": time.perf_counter() - begin, "tried": []}
    chosen, tried = search(kind, tuning, n_bytes, say)
    best = max((trial["accuracy"] for trial in tried), default=None)  # without settings, nothing was tried
    return {"chosen": chosen, "accuracy": best, "seconds": time.perf_counter() - begin, "tried": tried}


def run_ours(recipes: str, budgets: Sequence[str], streams: Sequence[Stream], log: Log) -> None:
    """Add the results of our recipes to the log; those are run again each time, since they are what changes."""
    for plan in split_plans(recipes):
        for result in run_all(streams, [plan], budgets):
            log.add(result)
        say(f"{plan}: done")
        log.write()


def one_line(error: Exception) -> str:
    """Return what went wrong."""
    return " ".join(f"{'' if isinstance(error, EdgeClError) else f'{type(error).__name__}: '}{error}".split())


def say(text: str) -> None:
    """Show progress."""
    print(text, file=sys.stderr, flush=True)


def versions_of(names: Sequence[str]) -> dict[str, str]:
    """Return the versions of packages; those that are missing are named."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return {"edge_cl": __version__, **found, "python": platform.python_version()}


def _title(header: dict[str, Any]) -> str:
    options = header["options"]
    parts = [f"{name} {value}" for name, value in options.items() if name != "data" and value not in {None, False}]
    versions = ", ".join(f"{name} {found}" for name, found in header["versions"].items())
    return f"{Path(options['data']).name}: {', '.join(parts)} ({versions}; {header['machine']})"


def _curves(rows: Sequence[Row]) -> str:
    """Return a table of the accuracy on everything seen so far, after each task."""
    curves = [(row, row.mean_curve("seen_accuracies")) for row in rows if row.n_failed < len(row.results)]
    n_tasks = max((len(curve) for _, curve in curves), default=0)
    heads = ["after task", "replay", *(str(t + 1) for t in range(n_tasks))]
    lines = [f"| {' | '.join(heads)} |", "|---|---|" + "---:|" * n_tasks]
    for row, curve in curves:
        cells = ["-" if math.isnan(share) else f"{100 * share:.1f}" for share in curve]
        lines.append(f"| {' | '.join([f'`{row.recipe}`', row.budget or '-', *cells])} |")
    return "\n".join(lines) + "\n"


def _numbers(value: Any) -> Any:
    """Return a value with NaN where JSON has nothing."""
    if isinstance(value, list):
        return [_numbers(part) for part in value]
    return math.nan if value is None else value


def parse_options(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, help="an .npz with X, y and, where it has them, train, classes, batch")
    parser.add_argument("--tasks", type=int, default=10, help="parts of the classes")
    parser.add_argument("--orders", type=int, default=5, help="seeds 0, 1, ...")
    parser.add_argument("--replay", default="1MB", help="budgets of stored samples, as 1MB,1KB/class")
    parser.add_argument("--per-class", type=int, help="learn at most so many samples of each class")
    parser.add_argument("--domains", action="store_true", help="a task for each domain")
    parser.add_argument("--log", action="store_true", help="take sign(x) log(1 + |x|) of the features")
    parser.add_argument("--scaling", choices=("one", "each"), help="scale features so, instead of as is found best")
    parser.add_argument("--peers", default=",".join(MODULES), help="between commas; empty for none")
    parser.add_argument("--ours", default="edge", help="recipes of edge_cl, and joint-cv; empty for none")
    parser.add_argument("--out", help="folder for results.json and table.md")
    return parser.parse_args(words)


def run(options: argparse.Namespace) -> Log:
    """Return the log of everything that was asked for.

    Raises:
        InputError: an option is wrong; nothing was run.
    """
    names = split_plans(options.peers)
    unknown = [name for name in names if name not in MODULES]
    if unknown:
        raise InputError(f"peers: expected some of {', '.join(MODULES)}; found {unknown[0]!r}")
    data = read_data(options.data)
    if options.log:
        data = take_logarithm(data)
    budgets = split_plans(options.replay)
    for budget in budgets:
        parse_budget(budget, len(data.classes))
    streams = make_streams(data, options, options.per_class, range(options.orders))
    what = ("data", "tasks", "per_class", "domains", "log", *(["scaling"] if options.scaling else []))
    log = Log(
        options.out,
        {
            "options": {name: getattr(options, name) for name in what},
            "versions": versions_of(PACKAGES),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        },
    )
    run_ours(options.ours, budgets, streams, log)
    for name in names:
        try:
            kind = load_kind(name)
        except InputError as error:
            log.add(Result(name, "", 0, error=str(error)))
            continue
        if options.scaling and "scaling" in kind.axes:
            kind = replace(kind, axes={**kind.axes, "scaling": (options.scaling,)})
        # a sample that is alone in its class cannot be held out: a second one of each is lent to choose settings on
        few = [n for n in (options.per_class, kind.tuned_per_class) if n is not None]
        tuning = hold_out(make_streams(data, options, max(2, min(few)) if few else None, range(1))[0])
        for budget in budgets if kind.stores else budgets[:1]:
            run_peer(kind, budget, streams, tuning, log)
    return log


def main() -> None:
    """Print the table."""
    try:
        log = run(parse_options())
    except EdgeClError as error:
        sys.exit(f"peers: {error}")
    log.write()
    print(log.to_markdown())


if __name__ == "__main__":
    main()
