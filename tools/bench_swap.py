"""Measure what swapping heads costs an app that goes on predicting: `python tools/bench_swap.py [--backbone FILE]`.

Four threads predict through one `Predictor`, one sample a call: features of D = 1280, or photos through a backbone.
Heads of K = 1000 classes are moved over the file that is being served. Each says its own version, by its names and
by its answer, so that an answer of two heads would be seen.

    swap        from the call of `refresh` to the new head being in its place: read, checked and taken
    taking      of that, the moment in which the old head gives way
    prediction  p50 of calls while heads are swapped so many times a second, by that of calls in blocks between, in
                which none is; and that of a predictor that watches by that of one that only looks when it is asked
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_cl import Learner, Predictor
from edge_cl.head import Head

N_THREADS, N_HEADS = 4, 3
Array = NDArray[Any]


def head_of(version: int, n_classes: int, dim: int) -> Head:
    """Return a head that answers its version, whatever it is asked, under names that say it too."""
    weights = np.random.default_rng(version).normal(size=(n_classes, dim)).astype(np.float32) * np.float32(1e-4)
    bias = np.zeros(n_classes, np.float32)
    bias[version] = 50
    return Head(tuple(f"{version}-{k}" for k in range(n_classes)), weights, bias)


def write_heads(folder: Path, n_classes: int, dim: int, backbone: str | None) -> list[Path]:
    """Return the folders or files of heads to be served: `head.onnx` of each, and a backbone in the first."""
    rng = np.random.default_rng(0)
    learner = Learner.create(":memory:", backbone=backbone, replay_bytes=0, recipe="ncm")
    samples = rng.integers(0, 256, (2, 64, 64, 3)).astype(np.uint8) if backbone else rng.normal(size=(2, dim))
    learner.learn(samples, ["a", "b"])
    current = learner._current
    memory, paths = current.memory(), []
    for version in range(N_HEADS):
        current._head = head_of(version, n_classes, current.dim)
        current._memory = replace(memory, head=current._head)
        current._version = version + 1
        if backbone and not version:
            learner.export(folder / "app", "split")
        paths.append(folder / f"{version}.onnx")
        learner.export(paths[-1], "head")
    if not backbone:
        (folder / "app").mkdir()
        os.link(paths[0], folder / "app" / "served.onnx")
    return paths


class Asking:
    """Threads that predict, one sample a call, and note how long it took and what was wrong."""

    def __init__(self, predictor: Predictor, samples: Any) -> None:
        self.predictor, self.samples = predictor, samples
        self.errors: list[str] = []
        self.n_calls = 0
        self.milliseconds: list[list[float]] = [[] for _ in range(N_THREADS)]
        self._is_done = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(N_THREADS)]

    def __enter__(self) -> Asking:
        """Return itself, asking."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Ask no more."""
        self._is_done.set()
        for thread in self._threads:
            thread.join()

    def take(self) -> list[float]:
        """Return the milliseconds of all calls since it was last asked for."""
        taken = self.milliseconds
        self.milliseconds = [[] for _ in range(N_THREADS)]
        return [value for values in taken for value in values]

    def _ask(self, place: int) -> None:
        try:
            while not self._is_done.is_set():
                start = time.perf_counter()
                found = self.predictor.predict(self.samples)
                self.milliseconds[place].append(1e3 * (time.perf_counter() - start))
                version = found.version - 1
                wanted = f"{version}-{version}"
                if found.labels != (wanted,) or found.classes[0] != f"{version}-0":
                    self.errors.append(f"version {found.version} answered {found.labels}, {found.classes[0]}")
                self.n_calls += 1
        except Exception as error:  # a thread's exception would be lost
            self.errors.append(repr(error))


def resident() -> float:
    """Return resident MiB."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def put(served: Path, path: Path) -> None:
    """Move another head over the one that is served, as an export does."""
    os.link(path, served.with_name("next"))
    os.replace(served.with_name("next"), served)
    served.with_name("next").unlink(missing_ok=True)  # a rename over another name of the same file does nothing


def swap_many(predictor: Predictor, served: Path, paths: list[Path], n_swaps: int) -> tuple[list[float], list[float]]:
    """Return the milliseconds of swaps, and of the moments in which they were taken.

    Raises:
        SystemExit: a new head was not seen.
    """
    swaps, takes, take = [], [], predictor._take

    def timed(new: Any) -> bool:
        start = time.perf_counter()
        is_other = take(new)
        takes.append(1e3 * (time.perf_counter() - start))
        return is_other

    predictor._take = timed  # type: ignore[method-assign]
    for n in range(n_swaps):
        put(served, paths[(n + 1) % N_HEADS])
        start = time.perf_counter()
        if not predictor.refresh():
            raise SystemExit("a head was not seen")
        swaps.append(1e3 * (time.perf_counter() - start))
    del predictor._take
    return swaps, takes


def compare(served: Path, app: Path, paths: list[Path], samples: Any, pace: tuple[float, float, int]) -> dict[str, Any]:
    """Return p50 of predictions while heads are swapped and while none is, in blocks that alternate.

    Args:
        served: the file that heads are moved over.
        app: what a predictor opens.
        paths: of the heads.
        samples: of a call.
        pace: swaps a second, seconds of a block, pairs of blocks.

    Raises:
        SystemExit: an answer was wrong.
    """
    per_second, seconds, n_pairs = pace
    medians: dict[str, list[float]] = {"swapping": [], "still": [], "unwatched": []}
    with Predictor(app, poll_seconds=0.02) as watching, Predictor(app, poll_seconds=0) as unwatched:
        n_swaps = 0
        for _ in range(n_pairs):
            for what, predictor in (("still", watching), ("swapping", watching), ("unwatched", unwatched)):
                with Asking(predictor, samples) as asking:
                    time.sleep(seconds / 5)
                    asking.take()
                    limit = time.monotonic() + seconds
                    while time.monotonic() < limit:
                        if what == "swapping":
                            n_swaps += 1
                            put(served, paths[n_swaps % N_HEADS])
                        time.sleep(1 / per_second)
                    medians[what].append(float(np.median(asking.take())))
                if asking.errors:
                    raise SystemExit(asking.errors[0])
    ratios = {
        what: float(np.median(np.array(medians[what]) / np.array(medians[other])))
        for what, other in (("swapping", "still"), ("still", "unwatched"))
    }
    return {"p50 swapping, ms": np.median(medians["swapping"]), "p50 still, ms": np.median(medians["still"])} | {
        f"p50 swapping {per_second:g} times a second / still": ratios["swapping"],
        "p50 watching / not watching": ratios["still"],
    }


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--backbone", help="an .onnx classifier; without it, samples are features")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--swaps", type=int, default=10_000)
    parser.add_argument("--per-second", type=float, default=2)
    parser.add_argument("--seconds", type=float, default=5, help="of each block")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--check", action="store_true", help="fail beyond the limits that are promised")
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    samples: Any = rng.normal(size=(1, 1280)).astype(np.float32)
    if options.backbone:
        samples = rng.integers(0, 256, (1, 224, 224, 3)).astype(np.uint8)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_heads(folder, options.classes, 1280, options.backbone)
        app = folder / "app" if options.backbone else folder / "app" / "served.onnx"
        served = folder / "app" / "head.onnx" if options.backbone else app
        facts: dict[str, Any] = {"head, bytes": paths[0].stat().st_size}
        with Predictor(app, poll_seconds=0) as predictor:
            alone, _ = swap_many(predictor, served, paths, 200)
            with Asking(predictor, samples) as asking:
                swap_many(predictor, served, paths, 300)
                before = resident()
                swaps, takes = swap_many(predictor, served, paths, options.swaps)
                facts["resident growth, MiB"] = resident() - before
        facts |= {"swaps": len(swaps), "calls meanwhile": asking.n_calls, "wrong answers": len(asking.errors)}
        for what, values in (("swap while none predicts", alone), ("swap", swaps), ("taking", takes)):
            for share in (50, 99):
                facts[f"{what} p{share}, ms"] = float(np.percentile(values, share))
        facts |= compare(served, app, paths, samples, (options.per_second, options.seconds, options.pairs))
    for name, value in facts.items():
        print(f"{name:58} {value:,.4g}" if isinstance(value, float) else f"{name:58} {value:,}")
    for error in asking.errors[:3]:
        print(error)
    limits = {"wrong answers": 0, "resident growth, MiB": 5, "swap p99, ms": 5}
    over = [name for name, limit in limits.items() if facts[name] > limit]
    print("beyond the limits: " + ", ".join(over) if over else "within the limits")
    return int(bool(over) and options.check)


if __name__ == "__main__":
    sys.exit(main())
