"""`edge-cl bench speed`: decoding, extraction, prediction, learning, Fisher, export and head swap on this machine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_cl.bench.board import ROOT
from edge_cl.bench.measures import MEASURES, Job, to_json
from edge_cl.bench.workload import make_workload
from edge_cl.files import write_whole

FORMAT = 1
CHILD = "import sys; sys.path[:] = sys.argv[2:]; from edge_cl.bench.measures import main; main(sys.argv[1])"


@dataclass(frozen=True)
class Setup:
    """What is measured, and how often.

    Attributes:
        backbone: as `Learner.create` takes it.
        device: `auto`, `cpu` or `cuda`.
        images: a folder of photos; None generates some.
        classes: that the state knows before.
        repeats: see `Effort`.
        seconds: see `Effort`.
        root: the folder that holds proc, sys, etc and var.
    """

    backbone: str = "tiny"
    device: str = "auto"
    images: str | None = None
    classes: int = 100
    repeats: int = 100
    seconds: float = 20.0
    root: Path = ROOT


def run_speed(
    setup: Setup, measures: Sequence[str] = tuple(MEASURES), on_done: Callable[[int], object] = int
) -> dict[str, Any]:
    """Return kind, format, settings and rows; a measure that failed has rows with its error.

    Args:
        setup: what is measured.
        measures: keys of `MEASURES`.
        on_done: called with 1 after each measure.

    Raises:
        InputError: no image can be read.
        BackboneError: the backbone cannot be used.
        DeviceError: `cuda` was asked for, and cannot be used.
    """
    with tempfile.TemporaryDirectory(prefix="edge-cl-speed-") as name:
        folder = Path(name)
        images = Path(setup.images) if setup.images is not None else None
        workload = make_workload(folder, setup.backbone, setup.device, n_classes=setup.classes, images=images)
        job = Job(
            measure="",
            photos=workload.photos,
            preprocessing=workload.preprocessing,
            state=str(workload.state),
            model=str(workload.model),
            head=str(workload.head),
            device=setup.device,
            repeats=setup.repeats,
            seconds=setup.seconds,
            root=str(setup.root),
            result=str(folder / "result.json"),
        )
        rows: list[dict[str, Any]] = []
        for measure in measures:
            rows += run_alone(replace(job, measure=measure))
            on_done(1)
    settings = {**workload.settings, "repeats": setup.repeats, "seconds": setup.seconds}
    return {"kind": "speed", "format": FORMAT, "settings": settings, "rows": rows}


def run_alone(job: Job) -> list[dict[str, Any]]:
    """Return the rows of a job that is done by a process of its own, or one row with the error."""
    result, order = Path(job.result), Path(job.result).with_name("job.json")
    result.unlink(missing_ok=True)
    write_whole(order, to_json(job))
    # isolated, with this process's path: a folder that happens to be the working one has no say in what is imported
    command = [sys.executable, "-I", "-c", CHILD, str(order), *sys.path]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)  # noqa: S603 - ours
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(result.read_bytes())
        if "rows" in found:
            rows: list[dict[str, Any]] = found["rows"]
            return rows
        error = found["error"]
    elif done.returncode < 0:
        error = f"ended by {signal.Signals(-done.returncode).name}"  # SIGKILL: most likely out of memory
    else:
        error = (done.stderr.decode(errors="replace").strip().splitlines() or ["failed"])[-1]
    return [{"measure": name, "error": error} for name in MEASURES[job.measure][1]]
