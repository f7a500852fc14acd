"""The single measures of `edge-cl bench speed`; each runs in a process of its own, whose memory is only its own."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count, cycle
from pathlib import Path
from typing import Any

import numpy as np

from edge_cl.backbones import Backbone
from edge_cl.backbones.images import read_image
from edge_cl.backbones.preprocessing import Preprocessing
from edge_cl.backbones.session import open_session
from edge_cl.bench.board import UNAVAILABLE, describe_machine, load_of, resident_peak_bytes, temperature_of
from edge_cl.bench.energy import PowerLog, Span, find_rail
from edge_cl.bench.timing import Effort, Work, repeat, summarise
from edge_cl.devices import ChosenDevice, Device
from edge_cl.errors import EdgeClError
from edge_cl.files import write_whole
from edge_cl.head import softmax
from edge_cl.learner import Learner
from edge_cl.predictor import Predictor
from edge_cl.reports import UpdateReport

BATCH = 8
PER_NEW_CLASS = 20
FISHER_SAMPLES = 200


@dataclass(frozen=True)
class Job:
    """What a process is told to measure.

    Attributes:
        measure: its key in `MEASURES`.
        photos: paths.
        preprocessing: of the backbone, as JSON.
        state: a state file; it is copied before it is changed.
        model: exported, and `head`: without the backbone.
        head: see model.
        device: `auto`, `cpu` or `cuda`.
        repeats: see `Effort`.
        seconds: see `Effort`.
        root: the folder that holds proc, sys, etc and var.
        result: the file to write the rows into.
    """

    measure: str
    photos: tuple[str, ...]
    preprocessing: str
    state: str
    model: str
    head: str
    device: str
    repeats: int
    seconds: float
    root: str
    result: str

    def open_copy(self) -> Learner:
        """Return the learner of a copy of the state, opened to be changed."""
        copy = Path(self.state).with_name(f"{self.measure}.ecl")
        shutil.copy(self.state, copy)
        return Learner.open(copy, device=self.device)

    def open_backbone(self) -> Backbone:
        """Return the backbone of the state."""
        with Learner.open(self.state, read_only=True, device=self.device) as learner:
            assert learner.backbone is not None
            return learner.backbone


def _decode(job: Job) -> Iterator[Work]:
    geometry = Preprocessing.parse(json.loads(job.preprocessing), "state")
    photos = cycle(job.photos)
    yield Work(lambda: read_image(next(photos), geometry))


def _extract(n_photos: int, job: Job) -> Iterator[Work]:
    backbone = job.open_backbone()
    images = [read_image(path, backbone.info.preprocessing) for path in job.photos[:n_photos]]
    yield Work(lambda: backbone.extract(images), providers=backbone.session.get_providers())


def _predict(job: Job) -> Iterator[Work]:
    photos = cycle(job.photos)
    with Learner.open(job.state, read_only=True, device=job.device) as learner:
        yield Work(lambda: learner.predict([next(photos)]), providers=_providers(learner))


def _learn(n_photos: int, job: Job) -> Iterator[Work]:
    """Give the learning of new classes of 20 photos at most; before each time the state is rolled back."""
    photos = list(job.photos[:n_photos])
    names = [f"new {n // PER_NEW_CLASS}" for n in range(n_photos)]
    with job.open_copy() as learner:
        start = learner.version

        def go_back() -> None:
            nonlocal start
            if learner.version != start:
                start = learner.rollback(start).version  # the older one may be dropped by then

        yield Work(
            lambda: learner.learn(photos, names, min_retention=0),
            go_back,
            _providers(learner),
            lambda span, report: span[1] - _seconds_of_update(report),
        )


def _seconds_of_update(report: UpdateReport) -> float:
    return report.seconds - report.seconds_extracting


def _fisher(job: Job) -> Iterator[Work]:
    with Learner.open(job.state, read_only=True, device=job.device) as learner:
        head = learner.head
    features = np.abs(np.random.default_rng(0).normal(size=(FISHER_SAMPLES, head.weights.shape[1]))).astype(np.float32)
    probabilities = softmax(head.logits(features))
    chosen = ChosenDevice(job.device)

    def compute(device: Device) -> Any:
        with device.here():
            x, p = device.put(features, probabilities)
            return device.get(device.kernels.fisher_true(x, p, has_bias=True))

    yield Work(lambda: chosen.run(compute, features.size))


def _export(kind: str, job: Job) -> Iterator[Work]:
    path = Path(job.model).with_name(f"again-{kind}.onnx")
    with Learner.open(job.state, read_only=True, device=job.device) as learner:
        yield Work(lambda: learner.export(path, kind), providers=_providers(learner) if kind == "model" else [])


def _swap(which: str, job: Job) -> Iterator[Work]:
    """Give what an app does for a new head: a fresh session of the exported file, and its first answer."""
    file = Path(getattr(job, which))
    session = open_session(file, job.device)
    (taken,) = session.get_inputs()
    geometry = Preprocessing.parse(json.loads(job.preprocessing), "state")
    sample = np.zeros((1, taken.shape[1]), np.float32)
    if which == "model":
        sample = geometry.normalise(read_image(job.photos[0], geometry)[None])

    def swap() -> None:
        open_session(file, job.device).run(["probabilities"], {taken.name: sample})

    yield Work(swap, providers=session.get_providers())


def _refresh(job: Job) -> Iterator[Work]:
    """Give what a predictor does for a new head: it reads the file, checks it, takes it, and answers."""
    file, times = Path(job.head), count()
    with Predictor(file, poll_seconds=0) as predictor:
        sample = np.zeros((1, predictor.n_inputs), np.float32)

        def swap() -> None:
            os.utime(file, ns=(next(times),) * 2)  # the clock of files ticks too slowly
            predictor.refresh()
            predictor.predict(sample)

        yield Work(swap)


def _providers(learner: Learner) -> list[str]:
    assert learner.backbone is not None
    found: list[str] = learner.backbone.session.get_providers()
    return found


def _learn_rows(n_photos: int) -> tuple[str, str]:
    return f"learn {n_photos}: decode, extract, update, commit", f"learn {n_photos}: update and commit alone"


Start = Callable[[Job], Iterator[Work]]

# what to do, and the rows that come of it: the whole, and its last part
MEASURES: dict[str, tuple[Start, tuple[str, ...]]] = {
    "decode": (_decode, ("decode one photo",)),
    "extract-1": (partial(_extract, 1), ("extract one decoded photo",)),
    "extract-8": (partial(_extract, BATCH), (f"extract {BATCH} decoded photos",)),
    "predict": (_predict, ("predict one photo: decode, extract, head",)),
    "learn-1": (partial(_learn, 1), _learn_rows(1)),
    "learn-20": (partial(_learn, 20), _learn_rows(20)),
    "learn-200": (partial(_learn, 200), _learn_rows(200)),
    "fisher": (_fisher, (f"Fisher diagonal of the head, {FISHER_SAMPLES} samples",)),
    "export": (partial(_export, "model"), ("export, checked in onnxruntime",)),
    "export-head": (partial(_export, "head"), ("export of the head alone, checked in onnxruntime",)),
    "swap-model": (partial(_swap, "model"), ("head swap: new session of the whole model, first answer",)),
    "swap-head": (partial(_swap, "head"), ("head swap: new session of the head alone, first answer",)),
    "swap-predictor": (_refresh, ("head swap: a predictor reads, checks and takes it, first answer",)),
}


def measure(job: Job) -> list[dict[str, Any]]:
    """Return the rows of a job, and what they were measured on with each.

    Raises:
        EdgeClError: what is measured failed.
    """
    start, names = MEASURES[job.measure]
    root = Path(job.root)
    wholes: list[Span] = []
    parts: list[Span] = []
    for work in start(job):
        with PowerLog(find_rail(root)) as log:
            for span, result in repeat(work, Effort(job.repeats, job.seconds)):
                wholes.append(span)
                if work.part:
                    parts.append((work.part(span, result), span[1]))
        common = {
            "resident_peak_bytes": resident_peak_bytes(root),
            "cuda_peak_bytes": cuda_peak_bytes(),
            "temperature": temperature_of(root),
            "load": load_of(root),
            "providers": list(work.providers),
            **describe_machine(root),
        }
    rows = []
    for name, spans in zip(names, (wholes, parts), strict=False):
        joules = log.joules(spans)
        energy = UNAVAILABLE if joules is None else joules / len(spans)
        rows.append({"measure": name, **summarise(spans), "energy_j": energy, **common})
    return rows


def cuda_peak_bytes() -> int | str:
    """Return the most that torch has held of the GPU's memory in this process; onnxruntime does not tell its share."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return UNAVAILABLE
    peak: int = torch.cuda.max_memory_reserved()
    return peak


def main(path: str) -> None:
    """Do the job of a JSON file, and write its rows, or the error, into its result file."""
    values = json.loads(Path(path).read_text(encoding="utf-8"))
    job = Job(**{**values, "photos": tuple(values["photos"])})
    try:
        found: dict[str, Any] = {"rows": measure(job)}
    except EdgeClError as error:
        found = {"error": str(error)}
    write_whole(job.result, json.dumps(found).encode())


def to_json(job: Job) -> bytes:
    """Return what `main` reads."""
    return json.dumps(asdict(job)).encode()
