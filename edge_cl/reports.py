"""What the verbs of a learner return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from edge_kernels.arrays import Floats, Ints

from edge_cl.backbones import Extraction, Skipped
from edge_cl.errors import InputError
from edge_cl.head import Head


@dataclass(frozen=True)
class UpdateReport:
    """What a `learn` did.

    Accuracies count samples of the replay and the new ones, each asked as if it had never been learnt. Of a regression
    they are R2, the share of the values' variance that is foretold (-1 stands for all below).

    Attributes:
        committed: False: refused, and the state is what it was.
        version: of the state now.
        new_classes: names that were new.
        n_samples: that were learnt, or would have been.
        accuracy_before: of the head before, on old and new classes together.
        accuracy_after: of the new head, on the same samples.
        retention: what the new head keeps of the old one's accuracy on the classes that it knew (more than 1: it got
            better at them); 1 before there were two classes.
        seconds: of the whole call.
        seconds_extracting: of them, decoding and extraction.
        skipped: samples that could not be read.
    """

    committed: bool
    version: int
    new_classes: tuple[str, ...]
    n_samples: int
    accuracy_before: float
    accuracy_after: float
    retention: float
    seconds: float
    seconds_extracting: float
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class Predictions:
    """Answers for N samples; of a regression the values, and nothing else.

    Attributes:
        labels: N names, the most probable class of each.
        probabilities: (N, K) float32; column k is class k.
        classes: K names.
        top: for each sample its most probable classes with their probabilities, the best first.
        rows: (N,) places of the samples in what was passed; all of them unless some were skipped.
        skipped: samples that could not be read.
        values: (N, M) float32 of a regression; (N, 0) of classes.
        version: of the state whose head answered.
    """

    labels: tuple[str, ...]
    probabilities: Floats
    classes: tuple[str, ...]
    top: tuple[tuple[tuple[str, float], ...], ...]
    rows: Ints
    skipped: tuple[Skipped, ...]
    values: Floats
    version: int = 0

    @classmethod
    def rank(cls, head: Head, extraction: Extraction, top: int) -> Predictions:
        """Return a head's answers to extracted samples, the `top` best of each named; a tie goes to the lower row."""
        nothing = np.zeros((len(extraction.features), 0), np.float32)
        if head.kind == "regression":
            values = head.logits(extraction.features)
            return cls((), nothing, (), (), extraction.rows, extraction.skipped, values)
        probabilities = head.predict(extraction.features)
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        ranked = tuple(
            tuple((head.classes[k], float(p[k])) for k in row) for row, p in zip(order, probabilities, strict=True)
        )
        labels = tuple(row[0][0] for row in ranked)
        return cls(labels, probabilities, head.classes, ranked, extraction.rows, extraction.skipped, nothing)


@dataclass(frozen=True)
class Evaluation:
    """How right a learner is on N samples.

    Attributes:
        accuracy: share of the samples that are right; of a regression, the mean of the outputs' R2.
        class_mean_accuracy: mean of the classes' own shares; of a regression, the same as `accuracy`.
        per_class: share for each class, by name; of a regression, empty.
        n: samples.
        ms_per_sample: decoding, extraction and prediction.
        skipped: samples that could not be read.
        r2: of a regression: share of the variance of each output that is foretold, by name; else empty.
        rmse: likewise the root of the mean square error.
        mae: likewise the mean absolute error.
    """

    accuracy: float
    class_mean_accuracy: float
    per_class: dict[str, float]
    n: int
    ms_per_sample: float
    skipped: tuple[Skipped, ...]
    r2: dict[str, float] = field(default_factory=dict)
    rmse: dict[str, float] = field(default_factory=dict)
    mae: dict[str, float] = field(default_factory=dict)

    @classmethod
    def measure(cls, values: Floats, outputs: Sequence[str], predictions: Predictions, seconds: float) -> Evaluation:
        """Return how far the predictions are from values (N, M) of outputs, which took so many seconds in all."""
        errors = predictions.values.astype(np.float64) - values
        shares, rmse, mae = (
            dict(zip(outputs, figures.tolist(), strict=True))
            for figures in (r2(errors, values), np.sqrt(np.square(errors).mean(axis=0)), np.abs(errors).mean(axis=0))
        )
        mean, n_samples = float(np.mean(list(shares.values()))), len(values)
        return cls(mean, mean, {}, n_samples, 1000 * seconds / n_samples, predictions.skipped, shares, rmse, mae)

    @classmethod
    def score(cls, answers: Sequence[str], predictions: Predictions, seconds: float) -> Evaluation:
        """Return how many of the predictions are the answers (N,), which took so many seconds in all."""
        hits = np.array([answer == label for answer, label in zip(answers, predictions.labels, strict=True)])
        names = np.array(answers)
        per_class = {str(name): float(hits[names == name].mean()) for name in dict.fromkeys(answers)}
        accuracy, class_mean = float(hits.mean()), float(np.mean(list(per_class.values())))
        return cls(accuracy, class_mean, per_class, len(hits), 1000 * seconds / len(hits), predictions.skipped)


def r2(errors: Floats, values: Floats) -> Floats:
    """Return the share (M,) of the variance of values (N, M) that is foretold with errors (N, M).

    Of an output that does not vary it is 1 if it is always met, else 0.
    """
    errors, values = errors.astype(np.float64), values.astype(np.float64)
    missed = np.square(errors).sum(axis=0)
    spread = np.square(values - values.mean(axis=0)).sum(axis=0)
    return np.asarray(np.where(spread > 0, 1 - missed / np.where(spread > 0, spread, 1), missed == 0))


def check_some_read(found: Extraction | Predictions, n_samples: int) -> None:
    """Refuse a list of samples of which none could be read; the error tells why the first could not.

    Raises:
        InputError: none could.
    """
    if not len(found.rows):
        first = f"; the first: {found.skipped[0].path}: {found.skipped[0].reason}" if found.skipped else ""
        raise InputError(f"samples: expected at least one that can be read; found none of {n_samples}{first}")


def check_none_skipped(skipped: Sequence[Skipped], consequence: str = "") -> None:
    """Refuse samples of which one could not be read.

    Raises:
        InputError: one could not; the text ends in the consequence.
    """
    if skipped:
        raise InputError(f"{skipped[0].path}: {skipped[0].reason}{consequence}")
