"""Measure what the README claims of the whole path, on this machine, with a backbone and photos of yours.

    python tools/bench_path.py --backbone mobilenet_v2.onnx --train photos/train --test photos/test

Ten updates of a tenth of the classes each, then the accuracy on the test photos; 20 new images of one class beyond
decoding and extraction, at 100 classes; import, help and predict as whole processes. One JSON object, medians.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from edge_cl import Learner
from edge_cl.samples import read_folder

CLI = [sys.executable, "-c", "from edge_cl.cli import main; main()"]
N_TASKS, N_CLASSES, N_NEW, N_RUNS = 10, 100, 20, 15


def learn_in_tasks(state: Path, backbone: str, train: Path, test: Path) -> dict[str, Any]:
    """Return accuracies and times of ten updates from photos and one evaluation."""
    found = read_folder(train)
    classes = sorted(set(found.labels))
    reports = []
    with Learner.create(state, backbone=backbone) as learner:
        for task in np.array_split(np.arange(len(classes)), N_TASKS):
            names = {classes[k] for k in task}
            rows = [n for n, label in enumerate(found.labels) if label in names]
            samples, labels = [found.samples[n] for n in rows], [found.labels[n] for n in rows]
            reports.append(learner.learn(samples, labels))
        tested = read_folder(test)
        result = learner.evaluate(tested.samples, tested.labels)
        sizes = learner.state_bytes
    return {
        "classes": len(classes),
        "learnt_images": sum(report.n_samples for report in reports),
        "committed": [report.committed for report in reports],
        "lowest_retention": min(report.retention for report in reports),
        "accuracy": result.accuracy,
        "class_mean_accuracy": result.class_mean_accuracy,
        "lowest_class_accuracy": min(result.per_class.values()),
        "test_images": result.n,
        "ms_per_test_image": result.ms_per_sample,
        "seconds_of_updates_beyond_extraction": [round(r.seconds - r.seconds_extracting, 3) for r in reports],
        "state_bytes": sizes,
    }


def learn_20_more(dim: int) -> dict[str, Any]:
    """Return the milliseconds of learning 20 samples of one new class at K = 100, replay full, state on disk."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(dim // 8, dim)).astype(np.float32)

    def draw(k: int, n: int) -> Any:
        centre = np.random.default_rng(k).normal(size=dim // 8)
        x = (centre + 0.7 * rng.normal(size=(n, dim // 8))).astype(np.float32) @ mixing
        return np.maximum(x, 0)

    times = []
    with tempfile.TemporaryDirectory() as folder, Learner.create(Path(folder) / "k.ecl") as learner:
        for start in range(0, N_CLASSES, 20):
            x = np.concatenate([draw(k, 30) for k in range(start, start + 20)])
            learner.learn(x, [f"c{k}" for k in range(start, start + 20) for _ in range(30)])
        for run in range(N_RUNS):
            x = draw(N_CLASSES + run, N_NEW)
            begin = time.perf_counter()
            report = learner.learn(x, [f"new{run}"] * N_NEW)
            times.append(1000 * (time.perf_counter() - begin))
            assert report.committed
    return {"dim": dim, "first": times[0], "median": statistics.median(times), "max": max(times)}


def whole_processes(state: Path, photo: str) -> dict[str, Any]:
    """Return medians of whole processes: import, help, predict; and predict's resident peak."""

    def seconds(command: list[str]) -> float:
        times = []
        for _ in range(7):
            begin = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - begin)
        return statistics.median(times)

    script = "import time; t = time.perf_counter(); import edge_cl; edge_cl.Learner; print(time.perf_counter() - t)"
    imports = [float(subprocess.check_output([sys.executable, "-c", script])) for _ in range(7)]
    predict = [*CLI, "predict", str(state), photo, "--json"]
    taken = seconds(predict)
    peak = subprocess.check_output([sys.executable, __file__, "--peak", *predict])
    return {
        "import_edge_cl_and_learner_ms": 1000 * statistics.median(imports),
        "help_ms": 1000 * seconds([*CLI, "--help"]),
        "predict_ms": 1000 * taken,
        "predict_peak_resident_mib": float(peak),
    }


def peak_of(command: list[str]) -> float:
    """Return the peak resident MiB of a command, alone of all this process's children."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main() -> None:
    """Print the measures as one JSON object."""
    if sys.argv[1:2] == ["--peak"]:
        print(peak_of(sys.argv[2:]))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--train", type=Path, required=True, help="a folder of class folders")
    parser.add_argument("--test", type=Path, required=True, help="another one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "cam.ecl"
        path = learn_in_tasks(state, args.backbone, args.train, args.test)
        processes = whole_processes(state, read_folder(args.test).samples[0])
        with Learner.open(state, read_only=True) as learner:
            dim = learner.head.weights.shape[1]
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    print(
        json.dumps(
            {"machine": machine, "path": path, "learn_20_ms": learn_20_more(dim), "processes": processes}, indent=1
        )
    )


if __name__ == "__main__":
    main()
