"""What the C runtime computes, in numpy: int8 bit for bit, float32 to its rounding."""

from __future__ import annotations

import numpy as np
from edge_kernels.arrays import Floats

from edge_cl.feature_map import FeatureMap
from edge_firmware.blob import Blob, Int8

LOWEST, HIGHEST = -128, 127


def quantise(blob: Blob, features: Floats) -> Int8:
    """Return int8 features (N, D) of float32 ones, as `edge_head_quantise` does: to the nearest, halves outwards.

    What is no number becomes the zero.
    """
    half = np.float32(blob.feature_scale) * np.float32(0.5)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        halves = np.nan_to_num(features.astype(np.float32) / half, nan=0.0, posinf=1e9, neginf=-1e9)
    steps = np.trunc(halves.clip(-1024, 1024)).astype(np.int64)
    nearest = np.sign(steps) * ((np.abs(steps) + 1) // 2)
    return np.asarray((nearest + blob.feature_zero).clip(LOWEST, HIGHEST), np.int8)


def dequantise(blob: Blob, quantised: Int8) -> Floats:
    """Return float32 features (N, D) of int8 ones."""
    steps = (quantised.astype(np.int64) - blob.feature_zero).astype(np.float32)
    return np.asarray(steps * np.float32(blob.feature_scale))


def logits_int8(blob: Blob, quantised: Int8) -> Floats:
    """Return logits (N, K) of int8 features (N, D), as `edge_head_logits_i8` gives them."""
    inputs = quantised if blob.table is None else blob.table[quantised.astype(np.int64) + 128]
    sums = inputs.astype(np.int64) @ blob.rows.astype(np.int64).T + blob.bias
    return _highest(blob, sums.astype(np.int32).astype(np.float32) * blob.scales)


def logits_float(blob: Blob, features: Floats) -> Floats:
    """Return logits (N, K) of float32 features (N, D), as `edge_head_logits_f32` gives them."""
    feature_map = FeatureMap(blob.dim, is_raised=blob.is_raised, is_unit=blob.is_unit)
    return _highest(blob, feature_map.apply(features.astype(np.float32)) @ blob.rows.T + blob.bias)


def _highest(blob: Blob, logits: Floats) -> Floats:
    """Return (N, K): the highest of each class's rows (N, R)."""
    n_classes = len(blob.classes)
    best: Floats = logits[:, :n_classes].copy()
    for row, owner in enumerate(blob.owners, start=n_classes):
        best[:, owner] = np.maximum(best[:, owner], logits[:, row])
    return best
