"""The diagonal Fisher of heads with one hidden layer on a GPU; see `reference.fisher` for the arguments."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_kernels.arrays import Shapes
from edge_kernels.cuda.fisher import empirical_deltas, layer, true_deltas
from edge_kernels.cuda.launch import DeviceArray, Place, settle
from edge_kernels.cuda.matrices import Left
from edge_kernels.cuda.target import cuda
from edge_kernels.reference.fisher import HiddenFisher

ZERO = np.float32(0)  # not 0.0, which would make float64 of float32: 64 times slower on small GPUs


def fisher_hidden_true(
    features: DeviceArray,
    hidden: DeviceArray,
    *,
    slopes: DeviceArray,
    probabilities: DeviceArray,
    weights: DeviceArray,
) -> HiddenFisher:
    """See `reference.fisher_hidden_true`."""
    place, given = settle(features=features, hidden=hidden, slopes=slopes, probabilities=probabilities, weights=weights)
    _check(given)
    x, h, slopes, p, weights = given

    def squares(rows: slice, columns: slice, out: Any) -> Any:
        w, s = place.readable(weights[:, columns]), place.readable(slopes[rows, columns], into=out)
        for part, block in place.blocks(p[rows]):
            place.launch(_square_true, len(block) * out.shape[1], block, _excess(place, block), w, s[part], out[part])
        return out

    return _both_layers(place, x, h, n_classes=len(weights), squares=squares, deltas=true_deltas(place, p))


def fisher_hidden_empirical(
    features: DeviceArray,
    hidden: DeviceArray,
    *,
    slopes: DeviceArray,
    probabilities: DeviceArray,
    weights: DeviceArray,
    labels: DeviceArray,
) -> HiddenFisher:
    """See `reference.fisher_hidden_empirical`; a label that is no class is the label of none."""
    place, given = settle(
        features=features, hidden=hidden, slopes=slopes, probabilities=probabilities, weights=weights, labels=labels
    )
    _check(given[:5]).check("labels", given[5], "N", "iu")
    x, h, slopes, p, weights, labels = given

    def squares(rows: slice, columns: slice, out: Any) -> Any:
        w, s = place.readable(weights[:, columns]), place.readable(slopes[rows, columns], into=out)
        for part, block in place.blocks(p[rows]):
            size, y, e = len(block) * out.shape[1], labels[rows][part], _excess(place, block)
            place.launch(_square_empirical, size, block, y, e, w, s[part], out[part])
        return out

    return _both_layers(place, x, h, n_classes=len(weights), squares=squares, deltas=empirical_deltas(place, p, labels))


def _check(given: list[Any]) -> Shapes:
    shapes = Shapes()
    names = (("features", "N D"), ("hidden", "N H"), ("slopes", "N H"), ("probabilities", "N K"), ("weights", "K H"))
    for (name, shape), array in zip(names, given, strict=True):
        shapes.check(name, array, shape)
    shapes.need_rows("features")
    return shapes


def _both_layers(
    place: Place, features: Any, hidden: Any, *, n_classes: int, squares: Left, deltas: Left
) -> HiddenFisher:
    dim, n_units = features.shape[1], hidden.shape[1]
    first = layer(place, features, n_units, has_bias=True, deltas=squares)
    second = layer(place, hidden, n_classes, has_bias=True, deltas=deltas)
    return HiddenFisher(first[:, :dim], first[:, dim], second[:, :n_units], second[:, n_units])


def _excess(place: Place, probabilities: Any) -> Any:
    """Return by how much the probabilities of each sample, (N,), exceed 1: float16 rounds them so that they do."""
    excess = place.empty(len(probabilities))
    place.launch(_sum_less_one, len(probabilities), probabilities, excess)
    return excess


@cuda.jit
def _sum_less_one(p, out):  # type: ignore[no-untyped-def]
    for n in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        total = np.float64(-1)
        for k in range(p.shape[1]):
            total += p[n, k]
        out[n] = total


@cuda.jit
def _square_true(p, excess, weights, slopes, out):  # type: ignore[no-untyped-def]
    for t in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        n, h = divmod(t, out.shape[1])
        mean, rest, square = ZERO, ZERO, ZERO
        for k in range(p.shape[1]):
            mean += p[n, k] * weights[k, h]
        for k in range(p.shape[1]):
            shift = weights[k, h] - mean
            rest += p[n, k] * shift
            square += p[n, k] * shift * shift
        error = rest + mean * excess[n]  # of the mean; what it does to the squares is put right: Chan 1983, eq. 1.7
        square += error * (error - rest - rest + error * excess[n])
        out[n, h] = slopes[n, h] * slopes[n, h] * square


@cuda.jit
def _square_empirical(p, labels, excess, weights, slopes, out):  # type: ignore[no-untyped-def]
    for t in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        n, h = divmod(t, out.shape[1])
        own, delta = ZERO, ZERO
        if 0 <= labels[n] < p.shape[1]:
            own = weights[labels[n], h]
        for k in range(p.shape[1]):
            delta += p[n, k] * (weights[k, h] - own)  # what all weights share does not take part in the rounding
        delta = (delta + own * excess[n]) * slopes[n, h]
        out[n, h] = delta * delta
