"""The diagonal Fisher: squares of a block of rows, then one matrix product with the squared deltas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edge_kernels.arrays import Floats, HostShapes, Ints, check_labels
from edge_kernels.cpu.blocks import row_slices, rows_of
from edge_kernels.cpu.compiled import compiled
from edge_kernels.reference.fisher import HiddenFisher

TILE_BYTES = 3 << 20  # of the float64 sums of a tile of classes
TERM_BYTES = 1 << 20  # of what a tile of hidden units needs of the output layer
CALL_BYTES = 7 << 20  # of all scratch

Fill = Callable[[slice, slice, Floats], object]  # rows, columns, (n, k) to be filled with squared deltas


def softmax(logits: Floats) -> Floats:
    """See reference.softmax."""
    HostShapes().check("logits", logits, "N K")
    probabilities = np.empty(logits.shape, np.float32)
    wide = np.result_type(logits.dtype, np.float32)  # float64 is not rounded before the peak is taken off
    for block in row_slices(len(logits), rows_of(logits.shape[1])):
        x = logits[block]
        peak = x.max(axis=1, keepdims=True, initial=-np.inf)
        p = np.subtract(x, peak, out=probabilities[block], dtype=wide, casting="same_kind")
        np.exp(p, out=p)
        p /= p.sum(axis=1, keepdims=True)
    return probabilities


def fisher_true(features: Floats, probabilities: Floats, *, has_bias: bool = False) -> Floats:
    """See reference.fisher_true."""
    _check(features, probabilities)

    def fill(rows: slice, columns: slice, deltas: Floats) -> None:
        _true_deltas(_native(probabilities[rows, columns]), deltas)

    return _layer(features, probabilities.shape[1], has_bias, fill)


def fisher_empirical(features: Floats, probabilities: Floats, labels: Ints, *, has_bias: bool = False) -> Floats:
    """See reference.fisher_empirical."""
    _check(features, probabilities).check("labels", labels, "N", "iu")
    check_labels(labels, probabilities.shape[1])

    def fill(rows: slice, columns: slice, deltas: Floats) -> None:
        p = _native(probabilities[rows, columns])
        _empirical_deltas(p, labels[rows].astype(np.int64) - columns.start, deltas)

    return _layer(features, probabilities.shape[1], has_bias, fill)


def fisher_sampled(features: Floats, probabilities: Floats, uniforms: Floats, *, has_bias: bool = False) -> Floats:
    """See reference.fisher_sampled."""
    _check(features, probabilities).check("uniforms", uniforms, "N")

    def fill(rows: slice, columns: slice, deltas: Floats) -> None:
        p, labels = _native(probabilities[rows]), np.empty(len(deltas), np.int64)
        _pick(p, uniforms[rows].astype(np.float64), labels)
        _empirical_deltas(_native(p[:, columns]), labels - columns.start, deltas)

    n_classes = probabilities.shape[1]
    return _layer(features, n_classes, has_bias, fill, n_terms=n_classes)


def fisher_mse(features: Floats, *, has_bias: bool = False) -> Floats:
    """See reference.fisher_mse."""
    shapes = HostShapes()
    shapes.check("features", features, "N D")
    shapes.need_rows("features")
    total = np.zeros(features.shape[1] + has_bias)
    squares = np.empty((min(len(features), rows_of(features.shape[1])), features.shape[1]), np.float32)
    for block in row_slices(len(features), len(squares)):
        rows = _square(features[block], squares)
        total[: features.shape[1]] += rows.sum(axis=0, dtype=np.float64)
    total /= len(features)
    total[features.shape[1] :] = 1
    return total.astype(np.float32)


def fisher_hidden_true(
    features: Floats, hidden: Floats, *, slopes: Floats, probabilities: Floats, weights: Floats
) -> HiddenFisher:
    """See reference.fisher_hidden_true."""
    _check_hidden(features, hidden, slopes, probabilities, weights)

    def fill_in(rows: slice, columns: slice, deltas: Floats) -> None:
        p, w = _native(probabilities[rows]), _native(weights[:, columns])
        _spread(p, w, p @ w, deltas)
        deltas *= np.square(slopes[rows, columns], dtype=np.float32, casting="same_kind")

    first = _layer(features, hidden.shape[1], True, fill_in, n_terms=len(weights))
    return _join(first, fisher_true(hidden, probabilities, has_bias=True))


def fisher_hidden_empirical(
    features: Floats, hidden: Floats, *, slopes: Floats, probabilities: Floats, weights: Floats, labels: Ints
) -> HiddenFisher:
    """See reference.fisher_hidden_empirical."""
    _check_hidden(features, hidden, slopes, probabilities, weights).check("labels", labels, "N", "iu")
    check_labels(labels, len(weights))

    def fill_in(rows: slice, columns: slice, deltas: Floats) -> None:
        p = probabilities[rows].astype(np.float32)
        p[np.arange(len(p)), labels[rows]] -= 1
        np.matmul(p, _native(weights[:, columns]), out=deltas)
        deltas *= slopes[rows, columns]
        np.square(deltas, out=deltas)

    first = _layer(features, hidden.shape[1], True, fill_in, n_terms=len(weights))
    return _join(first, fisher_empirical(hidden, probabilities, labels, has_bias=True))


def _check(features: Floats, probabilities: Floats) -> HostShapes:
    shapes = HostShapes()
    shapes.check("features", features, "N D")
    shapes.check("probabilities", probabilities, "N K")
    shapes.need_rows("features")
    shapes.need_rows("probabilities", "K")
    return shapes


def _check_hidden(
    features: Floats, hidden: Floats, slopes: Floats, probabilities: Floats, weights: Floats
) -> HostShapes:
    shapes = _check(features, probabilities)
    shapes.check("hidden", hidden, "N H")
    shapes.check("slopes", slopes, "N H")
    shapes.check("weights", weights, "K H")
    shapes.need_rows("hidden", "H")
    return shapes


def _join(first: Floats, second: Floats) -> HiddenFisher:
    return HiddenFisher(first[:, :-1], first[:, -1], second[:, :-1], second[:, -1])


def _layer(inputs: Floats, n_outputs: int, has_bias: bool, fill: Fill, *, n_terms: int = 0) -> Floats:
    """Return the mean of squared deltas times squared inputs, (K, D) or (K, D + 1).

    Args:
        inputs: (N, D).
        n_outputs: K.
        has_bias: whether a last column for an input of 1 is wanted.
        fill: of squared deltas.
        n_terms: values that it needs for each row and for each column, beside three for each delta.
    """
    n_rows, dim = inputs.shape
    width = dim + has_bias
    fisher = np.empty((n_outputs, width), np.float32)
    n_tile = min(n_outputs, rows_of(width, TILE_BYTES // 2), rows_of(n_terms, TERM_BYTES))
    left = CALL_BYTES - 12 * n_tile * width - 4 * n_tile * n_terms
    n_block = min(n_rows, rows_of(width + 4 * n_tile + n_terms + 4, left))
    squares, deltas = np.ones((n_block, width), np.float32), np.empty(n_block * n_tile, np.float32)
    totals, products = np.empty((n_tile, width)), np.empty((n_tile, width), np.float32)
    for tile in row_slices(n_outputs, n_tile):
        n_taken = tile.stop - tile.start
        total, product = totals[:n_taken], products[:n_taken]
        total[...] = 0
        for rows in row_slices(n_rows, n_block):
            filled = deltas[: (rows.stop - rows.start) * n_taken].reshape(-1, n_taken)
            fill(rows, tile, filled)
            _square(inputs[rows], squares[:, :dim])
            total += np.matmul(filled.T, squares[: len(filled)], out=product)
        np.divide(total, n_rows, out=fisher[tile], casting="same_kind")
    return fisher


def _native(block: Floats) -> Floats:
    return np.ascontiguousarray(block, np.float32)


def _square(rows: Floats, squares: Floats) -> Floats:
    return np.square(rows, out=squares[: len(rows)], dtype=np.float32, casting="same_kind")


@compiled
def _true_deltas(p, deltas):  # type: ignore[no-untyped-def]
    """Fill (n, K) with p (1 - p)."""
    for n in range(p.shape[0]):
        for k in range(p.shape[1]):
            deltas[n, k] = p[n, k] * (1 - p[n, k])


@compiled
def _empirical_deltas(p, labels, deltas):  # type: ignore[no-untyped-def]
    """Fill (n, K) with (p - y)^2."""
    for n in range(p.shape[0]):
        for k in range(p.shape[1]):
            deltas[n, k] = p[n, k] * p[n, k]
        if 0 <= labels[n] < p.shape[1]:
            deltas[n, labels[n]] = (1 - p[n, labels[n]]) ** 2


@compiled
def _pick(p, uniforms, labels):  # type: ignore[no-untyped-def]
    """Fill (N,) with the first class at which the summed probabilities pass the uniform."""
    for n in range(p.shape[0]):
        total, k = np.float64(0), 0
        while k < p.shape[1] - 1:
            total += p[n, k]
            if total > uniforms[n]:
                break
            k += 1
        labels[n] = k


@compiled
def _spread(p, w, mean, deltas):  # type: ignore[no-untyped-def]
    """Fill (n, H) with the variance of a class's weight (K, H) under p (n, K), about its mean (n, H)."""
    for n in range(p.shape[0]):
        deltas[n] = 0
        for k in range(p.shape[1]):
            for h in range(w.shape[1]):
                apart = w[k, h] - mean[n, h]
                deltas[n, h] += p[n, k] * apart * apart
