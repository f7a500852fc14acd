"""Measure what `learn` costs against training the head anew from all photos at each update, on this machine.

    python tools/bench_retraining.py --backbone mobilenet_v2.onnx --train photos/train --test photos/test

The classes come in ten updates (`--tasks`), in the order of `numpy.random.default_rng(seed).permutation(K)`. At each
of them `learn` gets the new photos and a state file. Retraining decodes and extracts all photos so far, and trains a
softmax head on them from zero: by one run of L-BFGS at a fixed weight decay, so that it pays for no search; the decay
is cross-validated once, beforehand, and not counted. In between stands who keeps the features of all photos instead of
the photos: extraction of the new ones, as measured within `learn`, and the same training. After each update all answer
the test photos of the classes so far, whose features are extracted once and not counted. Energy is the whole board's,
where it can be read. Prints a table, or with `--json` one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from edge_kernels.arrays import Floats, Ints

from edge_cl import Learner
from edge_cl.backbones import Backbone
from edge_cl.bench.board import describe_machine
from edge_cl.bench.energy import PowerLog, Span, find_rail
from edge_cl.bench.joint import JointHead, fit_joint
from edge_cl.bench.speed_report import table
from edge_cl.errors import EdgeClError, InputError
from edge_cl.inputs import clean_labels
from edge_cl.refine import Objective, minimise
from edge_cl.samples import LabelledSamples, read_folder

WAYS = ("learn", "retrain", "retrain_from_features")
MAX_STEPS = 200  # of L-BFGS, which on Caltech-101 is done after fewer than a hundred


@dataclass(frozen=True)
class Cost:
    """What one way needed for one update.

    Attributes:
        seconds: in all.
        seconds_extracting: of them, decoding and extraction.
        joules: None where they cannot be read.
        accuracy: on the test photos of the classes so far.
        kept_bytes: for the next update.
    """

    seconds: float
    seconds_extracting: float
    joules: float | None
    accuracy: float
    kept_bytes: int


@dataclass(frozen=True)
class Photos:
    """Labelled photos.

    Attributes:
        paths: N files.
        labels: (N,) rows of `classes`.
        classes: K names.
    """

    paths: list[str]
    labels: Ints
    classes: list[str]

    def of(self, classes: Ints) -> tuple[list[str], Ints]:
        """Return paths and labels of some classes."""
        rows = np.flatnonzero(np.isin(self.labels, classes))
        return [self.paths[n] for n in rows], self.labels[rows]

    def names(self, labels: Ints) -> list[str]:
        """Return the names of labels."""
        return [self.classes[k] for k in labels]


def read_photos(folder: Path, classes: list[str] | None = None) -> Photos:
    """Return the photos of a folder of class folders; given classes, only theirs."""
    found: LabelledSamples = read_folder(folder)
    names = clean_labels(found.labels, len(found.labels))
    known = classes or sorted(set(names))
    rows = [n for n, name in enumerate(names) if name in known]
    labels = np.array([known.index(names[n]) for n in rows], np.int64)
    return Photos([found.samples[n] for n in rows], labels, known)


def train_head(features: Floats, labels: Ints, n_classes: int, decay: float) -> JointHead:
    """Return the softmax head trained from zero on features (N, D), centred, in units of their mean square."""
    centre = features.mean(axis=0)
    inputs = features - centre
    scale = float(np.square(inputs, dtype=np.float64).mean() ** 0.5) or 1.0
    inputs = np.concatenate([inputs / scale, np.ones((len(inputs), 1), np.float32)], axis=1)
    pull = np.full((n_classes, inputs.shape[1]), decay * len(labels), np.float32)
    pull[:, -1] = 0  # the bias is free
    offsets, weights = np.zeros((len(labels), n_classes), np.float32), np.ones(len(labels), np.float32)
    start = np.zeros((n_classes, inputs.shape[1]), np.float32)
    rows = minimise(Objective(inputs, offsets, labels, weights, pull), start, MAX_STEPS)
    return JointHead(centre, rows[:, :-1] / scale, rows[:, -1], decay)


def learn(learner: Learner, photos: tuple[list[str], list[str]], test: tuple[Floats, list[str]]) -> Cost:
    """Return what learning new photos into the state cost."""
    with PowerLog(find_rail()) as log:
        start = time.perf_counter()
        report = learner.learn(*photos, min_retention=0)
        span: Span = (start, time.perf_counter())
    answers = np.array(learner.predict(test[0]).labels)
    kept = sum(size for part, size in learner.state_bytes.items() if part != "versions")
    accuracy = float((answers == np.array(test[1])).mean())
    return Cost(span[1] - span[0], report.seconds_extracting, log.joules([span]), accuracy, kept)


def retrain(backbone: Backbone, photos: tuple[list[str], Ints], test: tuple[Floats, Ints], decay: float) -> Cost:
    """Return what training the head anew from all photos so far cost."""
    paths, labels = photos
    seen = np.unique(labels)
    with PowerLog(find_rail()) as log:
        start = time.perf_counter()
        extraction = backbone.extract(paths)
        extracted = time.perf_counter()
        head = train_head(extraction.features, np.searchsorted(seen, labels[extraction.rows]), len(seen), decay)
        span: Span = (start, time.perf_counter())
    accuracy = float((seen[head.logits(test[0]).argmax(axis=1)] == test[1]).mean())
    kept = sum(Path(path).stat().st_size for path in paths) + head.weights.nbytes + head.bias.nbytes
    return Cost(span[1] - span[0], extracted - start, log.joules([span]), accuracy, kept)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Return the costs of the ways at each update, and their sums and ratios.

    Raises:
        InputError: there are no photos, or fewer classes than tasks.
    """
    train = read_photos(args.train)
    test = read_photos(args.test, train.classes)
    if not 1 <= args.tasks <= len(train.classes):
        raise InputError(f"--tasks: expected 1 to {len(train.classes)}, a class for each at least; found {args.tasks}")
    parts = np.array_split(np.random.default_rng(args.seed).permutation(len(train.classes)), args.tasks)
    updates: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "cam.ecl"
        with Learner.create(state, backbone=args.backbone, device="cpu", replay_bytes=args.replay) as learner:
            backbone = learner.backbone
            assert backbone is not None
            say("test photos")
            asked = backbone.extract(test.paths)
            tested = asked.features, test.labels[asked.rows]
            decay = args.decay or choose_decay(backbone, train)
            for number in range(args.tasks):
                updates.append(update(learner, backbone, train, tested, parts[: number + 1], decay))
                say(
                    f"update {number + 1} of {args.tasks}: "
                    + ", ".join(f"{updates[-1][w]['seconds']:.1f} s" for w in WAYS)
                )
            file_bytes = sum(entry.stat().st_size for entry in Path(folder).iterdir())
    facts = {"decay": decay, "dim": backbone.info.dim, "machine": describe_machine(), "state_file_bytes": file_bytes}
    return {**facts, "updates": updates, "summary": summarise(updates)}


def update(
    learner: Learner, backbone: Backbone, train: Photos, test: tuple[Floats, Ints], parts: Sequence[Ints], decay: float
) -> dict[str, Any]:
    """Return the costs of the ways for one update, learnt first and retrained at once after it.

    Args:
        learner: that knows the classes of all parts but the last.
        backbone: its backbone.
        train: all photos.
        test: features (M, D) and labels (M,) of all classes.
        parts: classes of each update so far.
        decay: of retraining.
    """
    seen = np.concatenate(parts)
    here = np.isin(test[1], seen)
    features, answers = test[0][here], test[1][here]
    paths, labels = train.of(parts[-1])
    every = train.of(seen)
    learnt = learn(learner, (paths, train.names(labels)), (features, train.names(answers)))
    retrained = retrain(backbone, every, (features, answers), decay)
    kept = from_features(learnt, retrained, len(every[0]), backbone.info.dim, len(seen))
    counts = {"classes": len(seen), "new_photos": len(paths), "photos": len(every[0])}
    return counts | dict(zip(WAYS, map(asdict, (learnt, retrained, kept)), strict=True))


def from_features(learnt: Cost, retrained: Cost, n_photos: int, dim: int, n_classes: int) -> Cost:
    """Return what training anew costs who keeps the features of all photos as float32, from what was measured."""
    training = retrained.seconds - retrained.seconds_extracting
    kept = 4 * (n_photos * dim + n_classes * (dim + 1))
    extracting = learnt.seconds_extracting
    return Cost(extracting + training, extracting, None, retrained.accuracy, kept)


def summarise(updates: list[dict[str, Any]]) -> dict[str, Any]:
    """Return seconds, joules, bytes and accuracy of each way, and of `learn` as shares of the other two."""
    found: dict[str, Any] = {}
    for way in WAYS:
        costs = [update[way] for update in updates]
        joules = [cost["joules"] for cost in costs]
        found[way] = {
            "seconds": sum(cost["seconds"] for cost in costs),
            "seconds_last": costs[-1]["seconds"],
            "joules": "unavailable" if None in joules else sum(joules),
            "kept_bytes": costs[-1]["kept_bytes"],
            "accuracy": costs[-1]["accuracy"],
            "mean_accuracy": sum(cost["accuracy"] for cost in costs) / len(costs),
        }
    for way in WAYS[1:]:
        for key in ("seconds", "seconds_last", "joules", "kept_bytes"):
            ours, theirs = found["learn"][key], found[way][key]
            found[f"learn_of_{way}_{key}"] = "unavailable" if "unavailable" in (ours, theirs) else ours / theirs
    return found


def show(result: dict[str, Any]) -> None:
    """Print the tables."""
    rows = []
    for update in result["updates"]:
        costs = [update[way] for way in WAYS]
        numbers = [f"{cost['seconds']:.2f}" for cost in costs]
        numbers += [f"{100 * cost['accuracy']:.1f}" for cost in costs[:2]]
        numbers += [f"{cost['kept_bytes'] / 1e6:.2f}" for cost in costs]
        rows.append([str(update["classes"]), str(update["new_photos"]), str(update["photos"]), *numbers])
    seconds, kept = ([f"{way.replace('_', ' ')} {unit}" for way in WAYS] for unit in ("s", "MB"))
    accuracies = [f"{way} %" for way in WAYS[:2]]
    print("\n".join(table(["classes", "new photos", "photos", *seconds, *accuracies, *kept], rows)), end="\n\n")
    for key, value in result["summary"].items():
        if not isinstance(value, dict):
            print(f"- {key.replace('_', ' ')}: {value if isinstance(value, str) else f'{value:.3f}'}")
    print(f"- state file with its earlier versions: {result['state_file_bytes'] / 1e6:.2f} MB")


def choose_decay(backbone: Backbone, train: Photos) -> float:
    """Return the weight decay that does best on left-out training photos of all classes."""
    say("weight decay")
    extraction = backbone.extract(train.paths)
    return fit_joint(extraction.features, train.labels[extraction.rows], len(train.classes)).decay


def say(text: str) -> None:
    """Print a line on stderr."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Print the measures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--train", type=Path, required=True, help="a folder of class folders")
    parser.add_argument("--test", type=Path, required=True, help="another one")
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--replay", type=int, default=1_000_000, help="bytes")
    parser.add_argument("--decay", type=float, help="weight decay of retraining; left out: cross-validated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    args = parser.parse_args()
    try:
        result = run(args)
    except EdgeClError as error:
        sys.exit(f"{error}")
    if args.json:
        print(json.dumps(result))
    else:
        show(result)


if __name__ == "__main__":
    main()
