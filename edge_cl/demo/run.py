"""Five digits first, then one update for each of the other five; the recipe `edge` beside `finetune`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from edge_kernels.arrays import Floats, Ints
from numpy.typing import NDArray

from edge_cl.demo.digits import NAMES, load_digits, split
from edge_cl.errors import InputError
from edge_cl.learner import Learner

N_KNOWN = 5


@dataclass(frozen=True)
class Stage:
    """One update of one recipe, measured on images that were never learnt.

    Attributes:
        recipe: its name.
        learnt: the names that were new.
        n_classes: K after it.
        old_accuracy: on the classes known before; NaN at the first.
        new_accuracy: on the new ones.
        retention: old_accuracy over the same before the update.
        ms: of the update beyond decoding and extraction.
        state_bytes: of the state after it.
    """

    recipe: str
    learnt: str
    n_classes: int
    old_accuracy: float
    new_accuracy: float
    retention: float
    ms: float
    state_bytes: int


@dataclass(frozen=True)
class Result:
    """What the demo found: all stages, and how the exported file did."""

    stages: tuple[Stage, ...]
    accuracy: float
    onnx_accuracy: float
    onnx_difference: float


def run_demo(folder: Path, say: Callable[[str], None]) -> Result:
    """Write demo.ecl and demo.onnx into a folder and return the measures.

    Args:
        folder: must exist; what an earlier demo left there is replaced.
        say: called with each step's name.

    Raises:
        InputError: there is no such folder, or its demo.ecl is not the demo's.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder that exists; type: mkdir {folder}")
    images, digits = load_digits()
    is_train = split(digits)
    state, model = folder / "demo.ecl", folder / "demo.onnx"
    _remove_own(state)
    with Learner.create(state, backbone="tiny", replay_bytes=200_000) as learner:
        backbone = learner.backbone
        assert backbone is not None
        say("extracting test images")
        test, answers = backbone.extract(list(images[~is_train])).features, digits[~is_train]
        say("learning with edge")
        stages = _learn_all(learner, images[is_train], digits[is_train], test, answers)
        say("learning with finetune")
        with Learner.create(":memory:", backbone="tiny", recipe="finetune", replay_bytes=0) as other:
            stages += _learn_all(other, images[is_train], digits[is_train], test, answers)
        say("exporting")
        learner.export(model)
        probabilities = learner.predict(test).probabilities
        say("checking the ONNX in onnxruntime")
        pixels = backbone.info.preprocessing.normalise(
            np.stack([_resize(image, backbone.info.preprocessing.input_size) for image in images[~is_train]])
        )
        names = np.array(learner.classes)
    found = _run_onnx(model, pixels)
    wanted = np.array(NAMES)[answers]
    return Result(
        tuple(stages),
        float((names[probabilities.argmax(axis=1)] == wanted).mean()),
        float((names[found.argmax(axis=1)] == wanted).mean()),
        float(np.abs(found - probabilities).max()),
    )


def _remove_own(state: Path) -> None:
    """Remove the state of an earlier demo.

    Raises:
        InputError: it is somebody's own.
    """
    if state.exists():
        with Learner.open(state, read_only=True, check=False) as learner:
            if not set(learner.classes) <= set(NAMES):
                raise InputError(f"{state}: is no state of the demo; use another folder: edge-cl demo --out DIR")
    for suffix in ("", "-wal", "-shm"):
        Path(f"{state}{suffix}").unlink(missing_ok=True)


def _learn_all(learner: Learner, images: NDArray[np.uint8], digits: Ints, test: Floats, answers: Ints) -> list[Stage]:
    """Return the stages of one learner: the first five digits at once, then one at a time."""
    stages: list[Stage] = []
    for news in [range(N_KNOWN), *([digit] for digit in range(N_KNOWN, len(NAMES)))]:
        old = range(news[0])
        rows = np.isin(digits, list(news))
        before = _accuracy(learner, test, answers, old)
        report = learner.learn(images[rows], [NAMES[digit] for digit in digits[rows]], min_retention=0)
        after = _accuracy(learner, test, answers, old)
        stages.append(
            Stage(
                learner.recipe,
                ", ".join(NAMES[digit] for digit in news),
                len(learner.classes),
                after,
                _accuracy(learner, test, answers, news),
                after / before if before else float("nan"),
                1000 * (report.seconds - report.seconds_extracting),
                sum(learner.state_bytes.values()),
            )
        )
    return stages


def _accuracy(learner: Learner, features: Floats, digits: Ints, chosen: Sequence[int]) -> float:
    """Return the accuracy on the test samples of the chosen digits; NaN if there are none."""
    rows = np.isin(digits, list(chosen))
    if not rows.any():
        return float("nan")
    labels = learner.predict(features[rows]).labels
    return float(np.mean([label == NAMES[digit] for label, digit in zip(labels, digits[rows], strict=True)]))


def _resize(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) uint8 at another size, as an app would do it."""
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def _run_onnx(model: Path, pixels: Floats) -> Floats:
    """Return the probabilities (N, K) that the exported file gives in onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(os.fspath(model), providers=["CPUExecutionProvider"])
    blocks = [session.run(["probabilities"], {"pixels": pixels[n : n + 64]})[0] for n in range(0, len(pixels), 64)]
    return np.concatenate(blocks)
