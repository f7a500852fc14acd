"""Counts and means of the classes, and the scatter within them, on a GPU; see `reference.statistics` for the arguments.

A block of samples takes part as two kinds of rows, whose squares are what it adds to the scatter: each sample less the
mean of its class in the block, and for each class the way of its mean (Chan 1983, eq. 2.1b).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edge_kernels.arrays import KernelError, Shapes
from edge_kernels.cuda.launch import DeviceArray, Place, check_writable, settle, spans
from edge_kernels.cuda.matrices import add_part, add_square, mirror
from edge_kernels.cuda.target import cuda

BLOCK_BYTES = 4 << 20  # of the rows of a block, of which float16 needs four: its own decoded, the one before, two made
BLOCK_ROWS = 256  # each thread compares its label with those of its block: their number must stay small
TILE_BYTES = 2 << 20  # of a product that is added to the scatter


def add_samples(
    counts: DeviceArray, means: DeviceArray, scatter: DeviceArray | None, *, features: DeviceArray, labels: DeviceArray
) -> None:
    """See `reference.add_samples`; a sample whose label is no class is left out."""
    _change(counts, means, scatter, features=features, labels=labels, sign=1)


def remove_samples(
    counts: DeviceArray, means: DeviceArray, scatter: DeviceArray | None, *, features: DeviceArray, labels: DeviceArray
) -> None:
    """See `reference.remove_samples`; a sample whose label is no class is left out.

    That no more go than were added is for the caller to see to: counts end at 0, but the scatter means nothing then.
    """
    _change(counts, means, scatter, features=features, labels=labels, sign=-1)


def merge_statistics(
    counts: DeviceArray,
    means: DeviceArray,
    scatter: DeviceArray | None,
    *,
    other_counts: DeviceArray,
    other_means: DeviceArray,
    other_scatter: DeviceArray | None,
) -> None:
    """See `reference.merge_statistics`.

    Raises:
        KernelError: one of the two has a scatter, and the other has none.
    """
    place, (counts, means, scatter, *others) = settle(
        counts=counts,
        means=means,
        scatter=scatter,
        other_counts=other_counts,
        other_means=other_means,
        other_scatter=other_scatter,
    )
    shapes = _check(counts, means, scatter)
    for (name, shape, kind), array in zip(
        (("other_counts", "K", "iu"), ("other_means", "K D", "f"), ("other_scatter", "D D", "f")), others, strict=True
    ):
        if array is not None:
            shapes.check(name, array, shape, kind)
    if (scatter is None) != (others[2] is None):
        raise KernelError("other_scatter: expected one where `scatter` is one, and None where it is None")
    _merge(place, (counts, means, scatter), others)


def _merge(place: Place, own: tuple[Any, Any, Any], others: list[Any]) -> None:
    (counts, means, scatter), (other_counts, other_means, other_scatter) = own, others
    part = _tile(place, scatter)
    step = max(1, BLOCK_BYTES // (16 * max(means.shape[1], 1)))
    for rows in spans(len(means), step):
        ways, theirs = place.empty(rows.stop - rows.start, means.shape[1]), place.readable(other_means[rows])
        size = ways.shape[0] * ways.shape[1]
        place.launch(_merge_means, size, counts[rows], means[rows], other_counts[rows], theirs, ways)
        if scatter is not None:
            add_square(place, scatter, ways, 1, part)
        place.launch(_add_counts, len(ways), counts[rows], other_counts[rows])
    if scatter is not None:
        for rows, block in place.blocks(other_scatter):
            place.launch(add_part, len(block) * block.shape[1], block, scatter[rows], np.float32(1))
        mirror(place, scatter)


def _change(counts: Any, means: Any, scatter: Any, *, features: Any, labels: Any, sign: int) -> None:
    place, (counts, means, scatter, features, labels) = settle(
        counts=counts, means=means, scatter=scatter, features=features, labels=labels
    )
    shapes = _check(counts, means, scatter)
    shapes.check("features", features, "N D")
    shapes.check("labels", labels, "N", "iu")
    dim, part = means.shape[1], _tile(place, scatter)
    step = max(1, min(len(features), BLOCK_ROWS, BLOCK_BYTES // (16 * max(dim, 1))))
    both = place.empty(2 * step, dim)
    for rows in spans(len(features), step):
        size, y, x = rows.stop - rows.start, labels[rows], place.readable(features[rows])
        place.launch(_centre, size * dim, x, y, counts, means, sign, both[: 2 * size])
        if scatter is not None:
            add_square(place, scatter, both[: 2 * size], sign, part)
        place.launch(_change_counts, size, y, counts, sign)
    if scatter is not None:
        mirror(place, scatter)


def _check(counts: Any, means: Any, scatter: Any) -> Shapes:
    shapes = Shapes()
    shapes.check("counts", counts, "K", "iu")
    shapes.check("means", means, "K D")
    if scatter is not None:
        shapes.check("scatter", scatter, "D D")
    check_writable(means=means, scatter=scatter)
    return shapes


def _tile(place: Place, scatter: Any) -> Any:
    if scatter is None:
        return None
    dim = scatter.shape[0]
    return place.empty(max(1, min(dim, TILE_BYTES // (4 * max(dim, 1)))), dim)


@cuda.jit(device=True)
def _is_first(labels, n, n_classes):  # type: ignore[no-untyped-def]
    """Return whether a sample has a class, and is the first of its class in the block."""
    is_first = 0 <= labels[n] < n_classes
    for other in range(n):
        is_first = is_first and labels[other] != labels[n]
    return is_first


@cuda.jit
def _centre(features, labels, counts, means, sign, out):  # type: ignore[no-untyped-def]
    """Write the rows of a block and change the means; the first sample of a class does it for all of its class."""
    size = features.shape[0]
    for t in range(cuda.grid(1), features.size, cuda.gridsize(1)):
        n, d = divmod(t, features.shape[1])
        k = labels[n]
        out[size + n, d] = 0
        if k < 0 or k >= counts.size:
            out[n, d] = 0
        if not _is_first(labels, n, counts.size):
            continue
        count, total = 0, np.float64(0)
        for other in range(n, size):
            if labels[other] == k:
                count, total = count + 1, total + features[other, d]
        mean = total / count
        for other in range(n, size):
            if labels[other] == k:
                out[other, d] = features[other, d] - mean
        left, way = counts[k] + sign * count, mean - means[k, d]
        if left > 0:
            out[size + n, d] = math.sqrt(counts[k] / left * count) * way
            means[k, d] += sign * way * count / left  # Chan 1983, eq. 2.1a
        else:
            means[k, d] = 0


@cuda.jit
def _change_counts(labels, counts, sign):  # type: ignore[no-untyped-def]
    for n in range(cuda.grid(1), labels.size, cuda.gridsize(1)):
        if _is_first(labels, n, counts.size):
            count = 0
            for other in range(n, labels.size):
                if labels[other] == labels[n]:
                    count += 1
            counts[labels[n]] = max(counts[labels[n]] + sign * count, 0)


@cuda.jit
def _merge_means(counts, means, other_counts, other_means, out):  # type: ignore[no-untyped-def]
    for t in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        k, d = divmod(t, out.shape[1])
        total = max(counts[k] + other_counts[k], 1)
        way, share = other_means[k, d] - means[k, d], other_counts[k] / total
        out[k, d] = math.sqrt(counts[k] * share) * way
        means[k, d] += way * share


@cuda.jit
def _add_counts(counts, other_counts):  # type: ignore[no-untyped-def]
    for k in range(cuda.grid(1), counts.size, cuda.gridsize(1)):
        counts[k] += other_counts[k]
