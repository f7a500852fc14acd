"""Measure what the README claims of the state file, on this machine, with features drawn here.

    python tools/bench_state.py --check

D = 1280, K = 100, a replay store that is full. Inserting 1,000 samples into it beyond encoding them (the store's own
work and the transaction's, against the same update without a replay); opening a state of 10 MB, and what stays
resident beyond the arrays; bytes written for an update of 20 samples, by the process that stays and by a process for
each update, against what changed and the head; the file's size after 100 and after 10,000 updates. Prints JSON;
`--check` ends with status 1 where a bound of the design is passed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from edge_kernels.arrays import Floats

from edge_cl import Learner
from edge_cl.state.parts import to_parts

DIM, N_CLASSES = 1280, 100
RESIDENT = """
import gc, sys
import numpy as np
from edge_cl import Learner
from edge_cl.state.check import check_file  # what a process that does other work has imported anyway
def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * 4096
import time
with Learner.open(sys.argv[2], read_only=True) as warm:  # SQLite's own pages and numpy's
    warm._current.memory()
before = resident()
start = time.perf_counter()
learner = Learner.open(sys.argv[1], read_only=True)
learner.head
opened = time.perf_counter() - start
memory = learner._current.memory()
loaded = time.perf_counter() - start
arrays = [memory.head.weights, memory.head.bias, memory.statistics.means, memory.statistics.scatter, memory.fisher,
          memory.replay.records, memory.replay.hits]
print(1000 * opened, 1000 * loaded, resident() - before - sum(a.nbytes for a in arrays))
"""
LEARN = """
import sys
import numpy as np
from edge_cl import Learner
x = np.load(sys.argv[2])
with Learner.open(sys.argv[1]) as learner:
    learner.learn(x, ["new"] * len(x), min_retention=0)
print(next(line for line in open("/proc/self/io") if line.startswith("wchar")).split()[1])
"""


def features(n_samples: int, seed: int, dim: int = DIM) -> Floats:
    """Return features (n, D) as a ReLU leaves them, of low rank and some noise."""
    rng = np.random.default_rng(seed)
    basis = np.random.default_rng(0).normal(size=(100, dim)) / 10
    drawn: Floats = np.maximum(rng.normal(size=(n_samples, 100)) @ basis + 0.3 * rng.normal(size=(n_samples, dim)), 0)
    return drawn.astype(np.float32)


def labels(n_samples: int, n_classes: int = N_CLASSES) -> list[str]:
    """Return names that go round the classes."""
    return [f"c{n % n_classes}" for n in range(n_samples)]


def written() -> int:
    """Return the bytes that this process has handed to the file system."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("wchar")).split()[1])


def insert(folder: Path) -> dict[str, Any]:
    """Return the milliseconds that 1,000 samples take in a full store beyond encoding, and without a store at all."""
    states = {name: folder / f"{name}.ecl" for name in ("full", "none")}
    for name, path in states.items():
        with Learner.create(path, replay_bytes=1_000_000 if name == "full" else 0) as learner:
            learner.learn(features(6500, 1), labels(6500), min_retention=0)
    x, names = features(1000, 2), labels(1000)
    times: list[float] = []
    with Learner.open(states["full"]) as learner:
        memory = learner._current.memory()
        statistics, rows = memory.statistics, {name: row for row, name in enumerate(memory.head.classes)}
        places = np.array([rows[name] for name in names])
        sequence = statistics.counts[places] + np.arange(1000) // N_CLASSES
        for _ in range(7):
            start = time.perf_counter()
            memory.replay.codec.encode(x)
            encoded = time.perf_counter()
            store, _ = memory.replay.offer(x, places, sequence, statistics)
            offered = time.perf_counter()
            with learner._state.writing():
                changed = learner._current.next_version("learn", memory)
                parts = {**to_parts(memory), "records": store.records.tobytes(), "hits": store.hits.tobytes()}
                write_parts(learner, changed.version, parts)
            learner._current.forget_cache()
            times.append(1000 * (time.perf_counter() - offered + (offered - encoded) - (encoded - start)))
        usage = memory.replay.usage()
    return {"insert_1000_beyond_encoding_ms": round(median(times), 1), "replay": usage}


def write_parts(learner: Learner, version: int, parts: dict[str, bytes]) -> None:
    """Put a version of these parts into the open transaction."""
    from edge_cl.state.store import add_version

    add_version(learner._state._connection, version, DIM, parts, learner.history_bytes)


def amplification(folder: Path, dim: int, n_classes: int) -> dict[str, Any]:
    """Return bytes written for an update of 20 samples, by what changed and the head."""
    path = folder / f"amplification{dim}.ecl"
    with Learner.create(path) as learner:
        n_samples = 1_100_000 // learner_bytes(dim) + n_classes
        learner.learn(features(n_samples, 1, dim), labels(n_samples, n_classes - 1), min_retention=0)
        learner.learn(features(20, 2, dim), ["new"] * 20, min_retention=0)
        changed, start = [], written()
        for seed in range(10, 34):
            before = to_parts(learner._current.memory())
            learner.learn(features(20, seed, dim), ["new"] * 20, min_retention=0)
            after = to_parts(learner._current.memory())
            changed.append(changed_bytes(before, after, record_bytes=learner.replay_usage()["bytes_per_sample"]))
    staying = (written() - start) / 24
    np.save(folder / "x.npy", features(20, 99, dim))
    each = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", LEARN, path, folder / "x.npy"], capture_output=True, text=True, check=True
        )
        each.append(int(done.stdout))
    return {
        "dim": dim,
        "classes": n_classes,
        "changed_bytes": int(median(changed)),
        "written_bytes": int(staying),
        "written_by_own_process_bytes": int(median(each)),
        "amplification": round(staying / median(changed), 2),
        "amplification_own_process": round(median(each) / median(changed), 2),
    }


def learner_bytes(dim: int) -> int:
    """Return the bytes of a stored sample."""
    with Learner.create(":memory:") as learner:
        learner.learn(features(4, 0, dim), ["a", "a", "b", "b"])
        return learner.replay_usage()["bytes_per_sample"]


def changed_bytes(before: dict[str, bytes], after: dict[str, bytes], record_bytes: int) -> int:
    """Return the bytes that changed: values of four bytes, records as a whole, and the head whether it did or not."""
    total = 0
    for name, data in after.items():
        if name in {"weights", "bias", "classes"}:
            total += len(data)
            continue
        size = {"records": record_bytes - 1, "hits": 1, "counts": 8}.get(name, 4)
        old, new = (np.frombuffer(part[: len(part) // size * size], np.uint8) for part in (before[name], data))
        n_same = min(len(old), len(new))
        rows = (old[:n_same] != new[:n_same]).reshape(-1, size).any(axis=1)
        total += int(rows.sum()) * size + len(new) - n_same
    return total


def opening(folder: Path) -> dict[str, Any]:
    """Return milliseconds to open a state of at least 10 MB, and what stays resident beyond its arrays."""
    path, small = folder / "ten.ecl", folder / "small.ecl"
    with Learner.create(small) as learner:
        learner.learn(features(20, 0, 8), labels(20, 2))
    with Learner.create(path, replay_bytes=6_000_000) as learner:
        learner.learn(features(36_000, 1), labels(36_000), min_retention=0)
    command = [sys.executable, "-c", RESIDENT, str(path), str(small)]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(5)]
    opened, loaded, beyond = (median(float(run[n]) for run in runs) for n in range(3))
    return {
        "file_bytes": os.path.getsize(path),
        "open_ms": round(opened, 1),
        "open_and_load_all_ms": round(loaded, 1),
        "resident_beyond_arrays_mib": round(beyond / (1 << 20), 1),
    }


def growth(folder: Path, n_updates: int) -> dict[str, Any]:
    """Return the file's bytes after 100 updates, when the replay is full, and after many more; six samples each."""
    path, rng = folder / "growth.ecl", np.random.default_rng(0)
    Learner.create(path, replay_bytes=20_000, recipe="slda").close()
    sizes = []
    for n in (100, n_updates - 100):
        with Learner.open(path) as learner:
            for _ in range(n):
                learner.learn(rng.normal(size=(6, 64)).astype(np.float32), list("ababab"), min_retention=0)
        sizes.append(os.path.getsize(path))
    return {"updates": n_updates, "bytes_after_100": sizes[0], "bytes_after_all": sizes[1]}


def main() -> None:
    """Measure, print, and compare with the bounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="status 1 where a bound is passed")
    parser.add_argument("--updates", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        found: dict[str, Any] = {
            "insert": insert(folder),
            "opening": opening(folder),
            "writing": [amplification(folder, DIM, N_CLASSES), amplification(folder, 256, 20)],
            "growth": growth(folder, options.updates),
        }
    print(json.dumps(found, indent=1))
    bounds = {
        "insert": found["insert"]["insert_1000_beyond_encoding_ms"] <= 50,
        "open": found["opening"]["open_ms"] <= 50,
        "resident": found["opening"]["resident_beyond_arrays_mib"] <= 20,
        "amplification": all(case["amplification"] < 4 for case in found["writing"]),
        "growth": found["growth"]["bytes_after_all"] <= 1.1 * found["growth"]["bytes_after_100"],
    }
    print(json.dumps(bounds))
    if options.check and not all(bounds.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
