"""The reference `joint-cv`: one softmax head trained on all samples at once, its weight decay cross-validated.

It is what retraining with all data reaches with a linear head, and shares nothing with the recipes but the minimiser.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from edge_kernels.arrays import Bools, Floats, Ints

from edge_cl.bench.course import NONE, Course
from edge_cl.bench.streams import Stream
from edge_cl.head import softmax
from edge_cl.refine import Objective, cross_entropy, minimise

NAME = "joint-cv"
DECAYS = tuple(math.pow(10.0, -step / 2) for step in range(13))  # of each sample, from the firmest on: 1 to 10^-6
N_FOLDS = 5
FOLD_STEPS = 15  # of L-BFGS for a decay and fold: the losses of left-out samples then differ by less than 1 %
ROUNDS = 20  # of L-BFGS, at most a hundred steps each: it forgets the curvature between them
GAIN = 1e-5  # a round that gains less than this share of the loss is the last


@dataclass(frozen=True)
class JointHead:
    """A softmax head on features.

    Attributes:
        centre: (D,) mean of the samples, subtracted from features.
        weights: (K, D).
        bias: (K,).
        decay: the weight decay of each sample that was chosen.
    """

    centre: Floats
    weights: Floats
    bias: Floats
    decay: float

    def logits(self, features: Floats) -> Floats:
        """Return (N, K) for features (N, D)."""
        logits: Floats = (features - self.centre) @ self.weights.T + self.bias
        return logits


@dataclass(frozen=True)
class _Problem:
    """Samples in their principal axes, where the loss is about equally steep in every direction once it is scaled.

    Attributes:
        inputs: (N, R) along the axes, in units in which the mean square of a feature is 1.
        variances: (R,) of them.
        labels: (N,) classes.
        n_classes: K.
    """

    inputs: Floats
    variances: Floats
    labels: Ints
    n_classes: int

    def fit(self, decay: float, start: Floats, train: Bools, *, thorough: bool = False) -> Floats:
        """Return the rows (K, R + 1) at which the mean cross-entropy plus half of `decay |weights|^2` is least.

        The bias, which is last, is not held down.

        Args:
            decay: of each sample.
            start: (K, R + 1) rows.
            train: (N,) samples to train on.
            thorough: until a whole round gains nothing.
        """
        n_train = int(train.sum())
        steep = np.append((self.variances / self.n_classes + decay) ** 0.5, self.n_classes**-0.5).astype(np.float32)
        inputs = np.concatenate([self.inputs[train], np.ones((n_train, 1), np.float32)], axis=1) / steep
        held = np.append(np.full(len(self.variances), decay * n_train, np.float32), 0) / steep**2
        pull = np.tile(held.astype(np.float32), (self.n_classes, 1))
        offsets = np.zeros((n_train, self.n_classes), np.float32)
        problem = Objective(inputs, offsets, self.labels[train], np.ones(n_train, np.float32), pull)
        rows, loss = start * steep, np.inf
        for _ in range(ROUNDS if thorough else 1):
            rows = minimise(problem, rows, max_steps=100 if thorough else FOLD_STEPS)
            before, loss = loss, problem.value(rows)[0]
            if before - loss <= GAIN * loss:
                break
        found: Floats = rows / steep
        return found

    def logits(self, rows: Floats) -> Floats:
        """Return (N, K) of all samples."""
        logits: Floats = self.inputs @ rows[:, :-1].T + rows[:, -1]
        return logits


def fit_joint(features: Floats, labels: Ints, n_classes: int, decay: float | None = None) -> JointHead:
    """Return the joint head of samples.

    Features are centred, and decay counts in units in which their mean square is 1.

    Args:
        features: (N, D).
        labels: (N,) classes.
        n_classes: K.
        decay: of each sample; None: cross-validated.
    """
    centre = features.mean(axis=0)
    inputs = features - centre
    scale = float(np.square(inputs, dtype=np.float64).mean() ** 0.5) or 1.0
    inputs /= scale
    axes, variances = _principal_axes(inputs)
    problem = _Problem(inputs @ axes, variances, labels, n_classes)
    rows = np.zeros((n_classes, len(variances) + 1), np.float32)
    chosen, start = _choose_decay(problem, rows) if decay is None else (decay, rows)
    rows = problem.fit(chosen, start, np.ones(len(labels), bool), thorough=True)
    return JointHead(centre, rows[:, :-1] @ axes.T / scale, rows[:, -1], chosen)


class JointReference:
    """The joint head of streams over the same data.

    Attributes:
        decay: chosen on the first stream and used for the others; None before.
    """

    def __init__(self) -> None:
        self.decay: float | None = None
        self._learnt = b""  # rows that the head was fitted to
        self._head: JointHead | None = None

    def follow(self, stream: Stream) -> Course:
        """Return the course of the joint head, which answers after the last task only.

        Kept from one training to the next are all samples, as float32. A class order that changes nothing in what is
        learnt in all needs no other head.
        """
        data, start = stream.data, time.perf_counter()
        rows = np.sort(np.concatenate(stream.train))
        if self._head is None or self._learnt != rows.tobytes():
            self._head = fit_joint(data.features[rows], data.labels[rows], len(data.classes), self.decay)
            self.decay, self._learnt = self._head.decay, rows.tobytes()
        seconds = np.zeros(stream.n_tasks)
        seconds[-1] = time.perf_counter() - start
        probabilities = softmax(self._head.logits(data.features[stream.asked(stream.n_tasks - 1)]))
        answers = np.full((stream.n_tasks, len(probabilities)), NONE, np.int64)
        answers[-1] = probabilities.argmax(axis=1)
        n_bytes = {"head": self._head.weights.nbytes + self._head.bias.nbytes}
        n_bytes["samples"] = data.features[rows].nbytes + data.labels[rows].nbytes
        return Course(answers, probabilities.max(axis=1), seconds, n_bytes, only_end=True)


def _choose_decay(problem: _Problem, start: Floats) -> tuple[float, Floats]:
    """Return the decay whose heads have the least cross-entropy on left-out samples, and the mean of their rows.

    In five folds of each class. Accuracy would choose more by chance: it hardly differs over two decades. Samples that
    are alone in their class have nothing to be learnt from when they are left out, and are not asked.
    """
    folds = folds_of(problem.labels)
    asked = np.bincount(problem.labels, minlength=problem.n_classes)[problem.labels] > 1
    rows = [start] * N_FOLDS
    best, chosen = math.inf, (DECAYS[len(DECAYS) // 2], start)
    for decay in DECAYS if asked.any() else ():
        loss = 0.0
        for fold in range(N_FOLDS):
            rows[fold] = problem.fit(decay, rows[fold], folds != fold)  # starts where the firmer one has ended
            held = asked & (folds == fold)
            loss += float(cross_entropy(problem.logits(rows[fold])[held], problem.labels[held]).sum())
        if loss >= best:
            break  # looser ones fit the samples closer still, and take the longest
        best, chosen = loss, (decay, np.mean(rows, axis=0))
    return chosen


def folds_of(labels: Ints) -> Ints:
    """Return (N,) folds, 0 to 4: those of a class are dealt out in a drawn order, from where the class before ended."""
    rng = np.random.default_rng(0)
    dealt = np.lexsort((rng.random(len(labels)), labels))
    folds = np.empty(len(labels), np.int64)
    folds[dealt] = np.arange(len(labels)) % N_FOLDS
    return folds


def _principal_axes(inputs: Floats) -> tuple[Floats, Floats]:
    """Return the axes (D, R) in which centred samples (N, D) vary, and the variances (R,) along them."""
    n_samples, dim = inputs.shape
    wide = inputs.astype(np.float64)
    if n_samples > dim:
        variances, axes = np.linalg.eigh(wide.T @ wide / n_samples)
        kept = variances > 1e-12 * variances[-1]
        return axes[:, kept].astype(np.float32), variances[kept]
    variances, places = np.linalg.eigh(wide @ wide.T / n_samples)
    kept = variances > 1e-12 * variances[-1]
    axes = wide.T @ (places[:, kept] / (n_samples * variances[kept]) ** 0.5)
    return axes.astype(np.float32), variances[kept]
