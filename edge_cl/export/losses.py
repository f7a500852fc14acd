"""What int8 and float16 cost: measured on the samples that are at hand, and refused above a limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from edge_kernels.arrays import Floats, Ints

from edge_cl.backbones.backbone import BATCH
from edge_cl.backbones.cut import FEATURES, PIXELS
from edge_cl.errors import ExportError
from edge_cl.export.base import open_base
from edge_cl.export.learnt import Learnt
from edge_cl.export.options import Options
from edge_cl.export.tensors import round_rows
from edge_cl.head import Head

SHARE_CALIBRATED = 2  # every second image calibrates, the others are asked
MAX_CALIBRATED = 128


@dataclass(frozen=True)
class Loss:
    """What a smaller format costs.

    Attributes:
        before: accuracy in float32; a sample of an unknown class counts as right.
        after: accuracy in the smaller format; of an unknown class, the answer of before is right.
        n_samples: that were asked.
    """

    before: float
    after: float
    n_samples: int

    @property
    def lost(self) -> float:
        """What is lost, as a share of the answers."""
        return self.before - self.after

    def checked(self, what: str, max_loss: float) -> Loss:
        """Return itself.

        Raises:
            ExportError: more is lost than is allowed.
        """
        if self.lost > max_loss:
            raise ExportError(
                f"{what} loses {100 * self.lost:.2f} of {100 * self.before:.2f} % on {self.n_samples} samples, more "
                f"than max_loss {100 * max_loss:g} %; leave it out"
                + (f", or allow more: --max-loss {self.lost + 5e-5:.4f}" if self.lost < 0.9999 else "")
            )
        return self

    def to_json(self) -> dict[str, Any]:
        """Return what the metadata says."""
        return {"before": round(self.before, 6), "after": round(self.after, 6), "samples": self.n_samples}


def head_loss(learnt: Learnt) -> Loss:
    """Return what int8 rows cost, asked of the stored samples, or of class means where none are stored."""
    features, labels = learnt.stored
    return _compare(learnt.head, round_rows(learnt.head), (features, features), labels)


def split_images(learnt: Learnt) -> tuple[list[str], list[int]]:
    """Return the images that calibrate, and the places of those that are asked; all do both if there are few."""
    n_images = len(learnt.images)
    if n_images < 2 * SHARE_CALIBRATED:
        return list(learnt.images), list(range(n_images))
    order = np.random.default_rng(0).permutation(n_images)
    n_calibrated = min(MAX_CALIBRATED, n_images // SHARE_CALIBRATED)
    return [learnt.images[n] for n in sorted(order[:n_calibrated])], sorted(order[n_calibrated:].tolist())


def backbone_loss(learnt: Learnt, base: onnx.ModelProto, places: list[int], options: Options) -> Loss:
    """Return what a backbone of a smaller format costs the learner's answers.

    Args:
        learnt: what is exported.
        base: the smaller one, from pixels to features.
        places: of the images that are asked; none: generated ones are.
        options: of the export.
    """
    backbone = learnt.backbone
    assert backbone is not None
    sources: list[Any] = [learnt.images[place] for place in places] or learnt.probe_images()
    labels = np.array([learnt.labels[place] for place in places] if learnt.labels else [], np.int64)
    session = open_base(base, options)
    plain, small = [], []
    for start in range(0, len(sources), BATCH):
        inputs = {PIXELS: backbone.pixels(sources[start : start + BATCH])}  # decoded once, for both
        plain.append(backbone.session.run([FEATURES], inputs)[0])
        small.append(session.run([FEATURES], inputs)[0])
    both = (learnt.feature_map.apply(np.concatenate(plain)), learnt.feature_map.apply(np.concatenate(small)))
    return _compare(learnt.head, learnt.head, both, labels)


def _compare(plain: Head, small: Head, features: tuple[Floats, Floats], labels: Ints) -> Loss:
    """Return the accuracy of a head before, and of one after, each on its features; agreement without labels."""
    before, after = plain.logits(features[0]), small.logits(features[1])
    if plain.kind == "regression":  # the share of the values' variance that is kept, as R2 counts; of one, of its size
        spread = np.square(before - before.mean(axis=0) * (len(before) > 1)).sum(axis=0)
        lost = np.square(before - after).sum(axis=0) / np.maximum(spread, np.finfo(np.float32).tiny)
        return Loss(1.0, float(1 - lost.mean()), len(before))
    answers, wanted = (before.argmax(axis=1), after.argmax(axis=1)), before.argmax(axis=1)
    if len(labels):
        wanted = np.where(labels < 0, wanted, labels)  # of a class that is not known: the answer that was given
    return Loss(float((answers[0] == wanted).mean()), float((answers[1] == wanted).mean()), len(before))
