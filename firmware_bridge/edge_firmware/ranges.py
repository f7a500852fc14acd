"""The range of features: measured on samples, or known of what a state remembers of them, or given by the backbone."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from edge_kernels.arrays import Floats

from edge_cl.backbones import Extraction, Progress, Skipped
from edge_cl.errors import InputError
from edge_cl.export import Learnt
from edge_cl.export.quantise import TINY
from edge_cl.exporting import Source
from edge_cl.inputs import check_samples
from edge_cl.learner import Learner
from edge_cl.samples import list_images, read_features
from edge_firmware.arithmetic import HIGHEST, LOWEST
from edge_firmware.heads import Grid

SPREAD = 4.0  # deviations above the highest mean: on Caltech-101 it is 1.4 times the range that there is
GUESSED = "the range of the features is guessed from class means and their spread; measure it with --samples DIR"
MEANS_ONLY = "the range of the features is that of class means, which is too narrow; measure it with --samples DIR"


def read_asked(path: str | os.PathLike[str]) -> Any:
    """Return what samples at a path are: features (N, D) of an .npz, or images anywhere in a folder.

    Raises:
        InputError: there are none.
    """
    return read_features(path) if os.fspath(path).endswith(".npz") else list_images(path).samples


def given_grid(scale: float | None, zero: int | None) -> Grid | None:
    """Return the grid that an int8 backbone has.

    Raises:
        InputError: it is half given, or out of range.
    """
    if scale is None and zero is None:
        return None
    if scale is None or zero is None:
        raise InputError("feature_scale: needs feature_zero_point too, and that it; see the output of the backbone")
    with np.errstate(over="ignore"):
        rounded = float(np.float32(scale))
    if not TINY <= rounded < np.inf:
        raise InputError(f"feature_scale: expected a number above 0 that float32 holds; found {scale!r}")
    if isinstance(zero, bool) or not isinstance(zero, int) or not LOWEST <= zero <= HIGHEST:
        raise InputError(f"feature_zero_point: expected {LOWEST} to {HIGHEST}; found {zero!r}")
    return Grid(rounded, zero)


def features_of(learner: Learner, samples: Any, on_progress: Progress) -> tuple[Floats, tuple[Skipped, ...]]:
    """Return features (N, D) of samples, as they are before the map, and what could not be read.

    Raises:
        InputError: there is none.
    """
    if isinstance(samples, str | os.PathLike):
        samples = read_asked(samples)
    info = learner.backbone_info
    dim = info.dim if info else learner._source(needs_backbone=False).dim
    checked = check_samples(samples, dim, has_backbone=info is not None)
    if isinstance(checked, np.ndarray) and checked.ndim == 2:
        extraction = Extraction(checked, np.arange(len(checked)), ())
    else:
        assert learner.backbone is not None
        extraction = learner.backbone.extract(checked, on_progress)
    if not len(extraction.features):
        raise InputError("samples: expected at least one that can be read; found none")
    return extraction.features, tuple(extraction.skipped)


def measure(source: Source, learnt: Learnt, asked: Floats | None) -> tuple[Floats, Grid, tuple[str, ...]]:
    """Return features (N, D) to ask, as they are before the map, the grid of features, and what is to be said of it."""
    if asked is not None:
        return asked, Grid.over(float(asked.min()), float(asked.max())), ()
    seen, feature_map = learnt.stored[0], learnt.feature_map
    features = feature_map.invert(seen)
    assert features is not None
    low, high = float(seen.min(initial=0)), float(seen.max(initial=0))
    notes: tuple[str, ...] = ()
    memory = source.current.memory(source.dim)
    if not len(memory.replay.records):
        statistics = memory.statistics
        notes = (MEANS_ONLY,)
        if statistics.scatter is not None and statistics.counts.sum():
            notes = (GUESSED,)
            spread = SPREAD * np.sqrt(np.maximum(np.diag(statistics.scatter), 0) / statistics.counts.sum())
            low, high = float((seen.min(axis=0) - spread).min()), float((seen.max(axis=0) + spread).max())
    if feature_map.is_raised:  # only features that are never below 0 are; a lossy code may give others
        low = 0.0
    ends = feature_map.invert(np.array([[low, high]], np.float32))
    assert ends is not None
    return features, Grid.over(float(ends[0, 0]), float(ends[0, 1])), notes
