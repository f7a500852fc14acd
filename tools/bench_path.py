"""Measure what the README claims of the whole path, on this machine, with a backbone and photos of yours.

    python tools/bench_path.py --backbone mobilenet_v2.onnx --train photos/train --test photos/test

Ten updates of a tenth of the classes each but for the last class, 20 photos of which are then learnt again and again
from copies of that state; the accuracy on the test photos; import, help and predict as whole processes. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from edge_cl import Learner
from edge_cl.samples import LabelledSamples, read_folder

CLI = [sys.executable, "-c", "from edge_cl.cli import main; main()"]
N_TASKS, N_NEW, N_RUNS = 10, 20, 15


def learn_in_tasks(state: Path, backbone: str, train: Path, test: Path) -> dict[str, Any]:
    """Return accuracies and times of ten updates from photos, and of 20 photos of the last class at K one less."""
    found = read_folder(train)
    classes = sorted(set(found.labels))
    reports = []
    with Learner.create(state, backbone=backbone) as learner:
        for task in np.array_split(np.arange(len(classes) - 1), N_TASKS):
            reports.append(learner.learn(*photos_of(found, {classes[k] for k in task})))
    samples, labels = photos_of(found, {classes[-1]})
    update_ms = learn_again_and_again(state, samples[:N_NEW], labels[:N_NEW])
    with Learner.open(state) as learner:
        reports.append(learner.learn(samples, labels))
        tested = read_folder(test)
        result = learner.evaluate(tested.samples, tested.labels)
        sizes = learner.state_bytes
    return {
        "classes": len(classes),
        "learnt_images": sum(report.n_samples for report in reports),
        "committed": all(report.committed for report in reports),
        "lowest_retention": min(report.retention for report in reports),
        "accuracy": result.accuracy,
        "class_mean_accuracy": result.class_mean_accuracy,
        "lowest_class_accuracy": min(result.per_class.values()),
        "test_images": result.n,
        "ms_per_test_image": result.ms_per_sample,
        "updates_beyond_extraction_s": [round(r.seconds - r.seconds_extracting, 3) for r in reports],
        "update_of_20_beyond_extraction_ms": update_ms,
        "state_bytes": sizes,
    }


def photos_of(found: LabelledSamples, names: set[str]) -> tuple[list[str], list[str]]:
    """Return paths and labels of those classes."""
    rows = [n for n, label in enumerate(found.labels) if label in names]
    return [found.samples[n] for n in rows], [found.labels[n] for n in rows]


def learn_again_and_again(state: Path, samples: list[str], labels: list[str]) -> dict[str, float]:
    """Return the milliseconds beyond decoding and extraction, each time from a fresh copy of the state."""
    times = []
    for run in range(N_RUNS):
        copy = state.with_suffix(f".{run}")
        shutil.copy(state, copy)
        with Learner.open(copy) as learner:
            report = learner.learn(samples, labels)
            assert report.committed
        times.append(1000 * (report.seconds - report.seconds_extracting))
    return {"min": min(times), "median": statistics.median(times), "max": max(times)}


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
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    print(json.dumps({"machine": machine, "path": path, "processes": processes}, indent=1))


if __name__ == "__main__":
    main()
