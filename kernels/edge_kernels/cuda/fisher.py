"""The diagonal Fisher of softmax and regression heads on a GPU; see `reference.fisher` for the arguments."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edge_kernels.arrays import Shapes
from edge_kernels.cuda.launch import DeviceArray, Place, settle
from edge_kernels.cuda.matrices import Left, add_products, divide
from edge_kernels.cuda.target import ROW_THREADS, cuda

ONE = np.float32(1)  # not 1, which would make float64 of float32: 64 times slower on small GPUs


def softmax(logits: DeviceArray) -> DeviceArray:
    """See `reference.softmax`."""
    place, (logits,) = settle(logits=logits)
    Shapes().check("logits", logits, "N K")
    out = place.empty(*logits.shape)
    for rows, block in place.blocks(logits):
        place.launch_rows(_softmax, len(block) * min(block.shape[1], 1), block, out[rows])
    return out


def fisher_true(features: DeviceArray, probabilities: DeviceArray, *, has_bias: bool = False) -> DeviceArray:
    """See `reference.fisher_true`."""
    place, (x, p) = settle(features=features, probabilities=probabilities)
    _check(x, p)
    return layer(place, x, p.shape[1], has_bias=has_bias, deltas=true_deltas(place, p))


def fisher_empirical(
    features: DeviceArray, probabilities: DeviceArray, labels: DeviceArray, *, has_bias: bool = False
) -> DeviceArray:
    """See `reference.fisher_empirical`; a label that is no class is the label of none."""
    place, (x, p, labels) = settle(features=features, probabilities=probabilities, labels=labels)
    _check(x, p).check("labels", labels, "N", "iu")
    return layer(place, x, p.shape[1], has_bias=has_bias, deltas=empirical_deltas(place, p, labels))


def fisher_sampled(
    features: DeviceArray, probabilities: DeviceArray, uniforms: DeviceArray, *, has_bias: bool = False
) -> DeviceArray:
    """See `reference.fisher_sampled`."""
    place, (x, p, uniforms) = settle(features=features, probabilities=probabilities, uniforms=uniforms)
    _check(x, p).check("uniforms", uniforms, "N")

    def deltas(rows: slice, columns: slice, out: Any) -> Any:
        drawn = place.readable(uniforms[rows])
        for part, block in place.blocks(p[rows]):
            place.launch(_square_sampled, len(block), block, drawn[part], columns.start, out[part])
        return out

    return layer(place, x, p.shape[1], has_bias=has_bias, deltas=deltas)


def fisher_mse(features: DeviceArray, *, has_bias: bool = False) -> DeviceArray:
    """See `reference.fisher_mse`."""
    place, (x,) = settle(features=features)
    shapes = Shapes()
    shapes.check("features", x, "N D")
    shapes.need_rows("features")
    return layer(place, x, 1, has_bias=has_bias, deltas=ones(place))[0]


def layer(place: Place, inputs: Any, n_outputs: int, *, has_bias: bool, deltas: Left) -> Any:
    """Return the mean over samples of squared deltas times squared inputs, (K, D), or (K, D + 1) with a bias.

    Args:
        place: of the inputs.
        inputs: (N, D).
        n_outputs: K.
        has_bias: whether there is an input more that is always 1.
        deltas: makes blocks of the squared deltas (N, K).
    """
    n_samples, dim = inputs.shape

    def squares(rows: slice, out: Any) -> Any:
        for part, block in place.blocks(inputs[rows]):
            place.launch(_square_rows, len(block) * (dim + has_bias), block, out[part])
        return out

    fisher = place.empty(n_outputs, dim + has_bias)
    add_products(place, fisher, n_samples, deltas, squares)
    place.launch(divide, n_outputs * (dim + has_bias), fisher, float(n_samples))
    return fisher


def true_deltas(place: Place, probabilities: Any) -> Left:
    """Return what makes blocks of the expected squared deltas, `p (1 - p)`."""

    def deltas(rows: slice, columns: slice, out: Any) -> Any:
        for part, block in place.blocks(probabilities[rows, columns]):
            place.launch(spread, len(block) * block.shape[1], block, out[part])
        return out

    return deltas


def empirical_deltas(place: Place, probabilities: Any, labels: Any) -> Left:
    """Return what makes blocks of the squared deltas of given labels."""

    def deltas(rows: slice, columns: slice, out: Any) -> Any:
        for part, block in place.blocks(probabilities[rows, columns]):
            size = len(block) * block.shape[1]
            place.launch(_square_empirical, size, block, labels[rows][part], columns.start, out[part])
        return out

    return deltas


def ones(place: Place) -> Left:
    """Return what makes blocks of ones, whose product with a matrix is the sum of its rows."""

    def deltas(_rows: slice, _columns: slice, out: Any) -> Any:
        place.launch(_set_ones, out.shape[0] * out.shape[1], out)
        return out

    return deltas


def _check(features: Any, probabilities: Any) -> Shapes:
    shapes = Shapes()
    shapes.check("features", features, "N D")
    shapes.check("probabilities", probabilities, "N K")
    shapes.need_rows("features")
    return shapes


@cuda.jit(device=True)
def write_exponentials(logits, out, shared):  # type: ignore[no-untyped-def]
    """Write `exp(logit - peak)` of the row of a block of threads, and return the peak and the sum."""
    n, t = cuda.blockIdx.x, cuda.threadIdx.x
    peak, total = -math.inf, np.float64(0)
    for k in range(t, logits.shape[1], ROW_THREADS):
        peak = max(peak, logits[n, k])
    shared[0, t] = peak
    cuda.syncthreads()
    for s in range(ROW_THREADS):
        peak = max(peak, shared[0, s])
    for k in range(t, logits.shape[1], ROW_THREADS):
        out[n, k] = math.exp(np.float32(logits[n, k] - peak))
        total += out[n, k]
    shared[1, t] = total
    cuda.syncthreads()
    total = np.float64(0)
    for s in range(ROW_THREADS):
        total += shared[1, s]
    return peak, total


@cuda.jit
def _softmax(logits, out):  # type: ignore[no-untyped-def]
    _, total = write_exponentials(logits, out, cuda.shared.array((2, ROW_THREADS), np.float64))
    for k in range(cuda.threadIdx.x, logits.shape[1], ROW_THREADS):
        out[cuda.blockIdx.x, k] /= total


@cuda.jit
def _square_rows(inputs, out):  # type: ignore[no-untyped-def]
    for t in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        n, d = divmod(t, out.shape[1])
        value = inputs[n, d] if d < inputs.shape[1] else ONE
        out[n, d] = value * value


@cuda.jit
def spread(p, out):  # type: ignore[no-untyped-def]
    """Write `p (1 - p)`."""
    for t in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        n, k = divmod(t, out.shape[1])
        out[n, k] = p[n, k] * (ONE - p[n, k])  # Martens 2020, sec. 9.2: no label is sampled


@cuda.jit
def _square_empirical(p, labels, first, out):  # type: ignore[no-untyped-def]
    for t in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        n, k = divmod(t, out.shape[1])
        delta = p[n, k] - ONE if labels[n] == first + k else p[n, k]
        out[n, k] = delta * delta  # Kunstner 2019, eq. 3


@cuda.jit
def _square_sampled(p, uniforms, first, out):  # type: ignore[no-untyped-def]
    for n in range(cuda.grid(1), out.shape[0], cuda.gridsize(1)):
        total, label = np.float64(0), 0  # summed in the order of the classes: the labels are the reference's
        for k in range(p.shape[1]):
            total += p[n, k]
            if total <= uniforms[n]:
                label += 1
        label = min(label, p.shape[1] - 1)
        for k in range(out.shape[1]):
            delta = p[n, first + k] - ONE if label == first + k else p[n, first + k]
            out[n, k] = delta * delta


@cuda.jit
def _set_ones(out):  # type: ignore[no-untyped-def]
    for t in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        n, k = divmod(t, out.shape[1])
        out[n, k] = ONE
