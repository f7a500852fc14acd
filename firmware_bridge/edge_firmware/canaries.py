"""Canaries: features whose answer is known, that a device asks a new head before it trusts it.

One for each of some classes, int8 features all of them, and only such whose answer is clear: the blob's arithmetic,
int8 or float32, its rows as floats, and the head that it was made of give the same one, by a margin that no rounding
reaches.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from edge_kernels.arrays import Floats

from edge_cl.errors import BundleError
from edge_cl.feature_map import FeatureMap
from edge_cl.head import Head
from edge_firmware.arithmetic import dequantise, logits_float, logits_int8, quantise
from edge_firmware.blob import Blob, Int8
from edge_firmware.heads import to_head

CLEAR = 1e-3  # of the largest logit: the least margin, a hundred times what rounding of float32 makes


def with_canaries(blob: Blob, exact: tuple[Head, FeatureMap], features: Floats, n_canaries: int) -> Blob:
    """Return the blob with canaries, those of the clearest answers, of so many classes or of all there are.

    Args:
        blob: without any.
        exact: the head that it was made of, and the feature map before it.
        features: (N, D) to choose from, as they are before the map.
        n_canaries: at most.

    Raises:
        BundleError: no answer is clear.
    """
    quantised = quantise(blob, features)
    found = logits_of(blob, quantised)
    answers, margins = found.argmax(axis=1), _margins(found)
    for head, feature_map in (exact, to_head(blob)):  # the latter is what Linux runs
        wanted = head.logits(feature_map.apply(dequantise(blob, quantised)))
        margins = np.minimum(margins, np.where(answers == wanted.argmax(axis=1), _margins(wanted), 0))
    margins = np.nan_to_num(margins, nan=0.0)
    order = np.argsort(-margins, kind="stable")
    order = order[margins[order] > CLEAR]
    _, first = np.unique(answers[order], return_index=True)  # the clearest of each class
    chosen = order[np.sort(first)[:n_canaries]]
    if not len(chosen):
        raise BundleError(f"canaries: none of {len(features)} samples has a clear answer; pass some with --samples DIR")
    return replace(blob, canaries=quantised[chosen], answers=answers[chosen].astype(np.int64))


def logits_of(blob: Blob, quantised: Int8) -> Floats:
    """Return the logits (N, K) of int8 features (N, D), as a device computes them."""
    return logits_int8(blob, quantised) if blob.is_int8 else logits_float(blob, dequantise(blob, quantised))


def check_canaries(blob: Blob, answers: Floats, by: str) -> None:
    """Refuse a head by which a canary gets another answer than it must.

    Args:
        blob: that has canaries.
        answers: (n, K) logits or probabilities of them.
        by: what gave them, for the error.

    Raises:
        BundleError: one does.
    """
    found = answers.argmax(axis=1)
    odd = np.flatnonzero((found != blob.answers) | ~np.isfinite(answers).all(axis=1))
    if len(odd):
        got, want = (blob.classes[int(rows[odd[0]])] for rows in (found, blob.answers))
        raise BundleError(f"canary {odd[0]}: expected {want!r}; {by} says {got!r}")


def _margins(logits: Floats) -> Floats:
    """Return by how much the best logit of each row (N,) is above the next, in units of the largest."""
    if logits.shape[1] == 1:
        return np.isfinite(logits[:, 0]).astype(np.float32)
    best = np.sort(logits, axis=1)[:, -2:]
    with np.errstate(all="ignore"):
        return np.asarray((best[:, 1] - best[:, 0]) / np.maximum(np.abs(logits).max(axis=1), 1e-30))
