"""A task of an update, for tests of what learns from it: batches learnt before, and a batch to learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from edge_cl import ewc
from edge_cl.companion import Companion
from edge_cl.devices import HOST
from edge_cl.learning import Task
from edge_cl.statistics import Statistics


def make_task(
    old: tuple[np.ndarray, np.ndarray], batch: tuple[np.ndarray, np.ndarray], *, n_stored: int = 0, **parts: Any
) -> Task:
    """Return the task of a batch, after old samples of which the first `n_stored` are stored.

    Args:
        old: features and labels of samples learnt before.
        batch: those of the samples to learn.
        n_stored: S.
        parts: attributes of the task that are not zero.
    """
    n_old = int(old[1].max(initial=-1)) + 1
    n_classes = max(n_old, int(batch[1].max(initial=-1)) + 1)
    features = np.concatenate([old[0][:n_stored], batch[0]]).astype(np.float32)
    before = Statistics.empty(features.shape[1], has_scatter=True).learn(old[0].astype(np.float32), old[1], n_classes)
    zeros = np.zeros((n_classes, features.shape[1]), np.float32)
    task = Task(
        features=features,
        labels=np.concatenate([old[1][:n_stored], batch[1]]),
        held=np.zeros(len(features), bool),
        exact=np.ones(len(features), bool),
        n_stored=n_stored,
        statistics=before.learn(batch[0].astype(np.float32), batch[1], n_classes),
        weights=zeros,
        bias=zeros[:, 0],
        fisher=ewc.grow(np.zeros((0, 0), np.float32), n_classes, features.shape[1] + 1),
        groups=np.zeros(n_classes, np.int64),
        device=HOST,
        companion=Companion.empty(features.shape[1]).grow(n_classes),
        coded=features,
        n_old=n_old,
        before=before,
    )
    return replace(task, **parts)


def blobs(n_samples: int, dim: int, classes: range, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features and labels of classes that overlap a little, about a mean that is not zero."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.resize(np.array(classes), n_samples))
    centres = np.random.default_rng(7).normal(size=(100, dim)) * 2
    return (centres[labels] + rng.normal(size=(n_samples, dim)) + 1).astype(np.float32), labels
