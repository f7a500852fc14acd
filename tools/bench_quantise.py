"""Measure what fewer bits cost, and what they gain on this machine, with a backbone and photos of yours.

    python tools/bench_quantise.py --backbone mobilenet_v2.onnx --train photos/train --test photos/test

A head learns the training photos with the float32 backbone; int8 ranges come from a fixed draw of these. Then that head
answers the test photos with the features of each backbone, and once more as int8 rows. Sessions are timed in turn, one
call each, so that what else the machine does hits all alike. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
from edge_kernels.arrays import Floats

from edge_cl import Learner
from edge_cl.backbones import Backbone
from edge_cl.backbones.images import read_image
from edge_cl.backbones.session import open_session
from edge_cl.export.quantise import halve_backbone, quantise_backbone, quantise_rows
from edge_cl.head import Head
from edge_cl.samples import read_folder

BATCH, BATCHES = 8, (1, 8)
WARM_UP = 3


def pixels_of(backbone: Backbone, photos: list[str]) -> Iterator[Floats]:
    """Give the pixels of photos, (n, 3, H, W) float32 each."""
    preprocessing = backbone.info.preprocessing
    for start in range(0, len(photos), BATCH):
        images = [read_image(photo, preprocessing) for photo in photos[start : start + BATCH]]
        yield preprocessing.normalise(np.stack(images))


def in_bytes(head: Head) -> Head:
    """Return the head that its int8 rows stand for."""

    def rounded(weights: Floats) -> Floats:
        rows, scales = quantise_rows(weights)
        return np.asarray(rows * scales[:, None], dtype=np.float32)

    looks = head.looks and replace(head.looks, weights=rounded(head.looks.weights))
    return replace(head, weights=rounded(head.weights), looks=looks)


def milliseconds(models: dict[str, bytes], pixels: Floats, rounds: int) -> dict[str, float]:
    """Return the median time of one call of each model, called in turn."""
    sessions = {name: open_session(model, "cpu") for name, model in models.items()}
    taken: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + WARM_UP):
        for name, session in sessions.items():
            begin = time.perf_counter()
            session.run(None, {"pixels": pixels})
            if turn >= WARM_UP:
                taken[name].append(1000 * (time.perf_counter() - begin))
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--train", type=Path, required=True, help="a folder of class folders")
    parser.add_argument("--test", type=Path, required=True, help="another one")
    parser.add_argument("--photos", type=int, default=128, help="training photos that int8 ranges come from")
    parser.add_argument("--rounds", type=int, default=40, help="timed calls of each backbone")
    args = parser.parse_args()
    train, test = read_folder(args.train), read_folder(args.test)
    drawn = np.sort(np.random.default_rng(0).permutation(len(train.samples))[: args.photos])
    with tempfile.TemporaryDirectory() as folder:
        learner = Learner.create(Path(folder) / "cam.ecl", backbone=args.backbone, device="cpu")
        learner.learn(train.samples, train.labels)
        backbone, head = learner.backbone, learner.head
        assert backbone is not None
        feature_map = learner.settings.feature_map(backbone.info.dim)
        learner.close()
    source = backbone.model if isinstance(backbone.model, bytes) else backbone.model.read_bytes()
    begin = time.perf_counter()
    models = {"float32": source}
    models["int8"] = quantise_backbone(source, pixels_of(backbone, [train.samples[n] for n in drawn]))
    seconds = time.perf_counter() - begin
    models["float16"] = halve_backbone(source)
    pixels = next(pixels_of(backbone, test.samples[:BATCH]))
    times = {n: milliseconds(models, pixels[:n], args.rounds) for n in BATCHES}

    print(f"{platform.machine()}, {os.cpu_count()} processors, onnxruntime {onnxruntime.__version__}; ", end="")
    print(f"{len(test.samples)} test photos; {len(drawn)} photos in int8 in {seconds:.1f} s\n")
    print("| backbone | head | its MB | accuracy | loss in points | ms at batch 1 | ratio | ms at batch 8 | ratio |")
    print("|---|---|---|---|---|---|---|---|---|")
    exact = 0.0
    for name, model in models.items():
        extraction = Backbone(backbone.info, model, "cpu").extract(test.samples)
        features = feature_map.apply(extraction.features)
        wanted = [test.labels[n] for n in extraction.rows]
        for kind, used in (("float32", head), ("int8", in_bytes(head))):
            found = [head.classes[k] for k in used.logits(features).argmax(axis=1)]
            accuracy = 100 * float(np.mean([a == b for a, b in zip(found, wanted, strict=True)]))
            exact = exact or accuracy
            speed = " | ".join(f"{times[n][name]:.1f} | {times[n][name] / times[n]['float32']:.2f}" for n in BATCHES)
            size = len(model) / 1e6
            print(f"| {name} | {kind} | {size:.2f} | {accuracy:.2f} | {exact - accuracy:+.2f} | {speed} |", flush=True)


if __name__ == "__main__":
    main()
