"""Statistics of the classes: each row's distance from a pivot of its class, and symmetric rank-N updates by BLAS."""

from __future__ import annotations

import numpy as np

from edge_kernels.arrays import Floats, Ints, KernelError, Shapes, check_labels
from edge_kernels.cpu.blas import add_squares, mirror
from edge_kernels.cpu.blocks import row_slices, rows_of

BLOCK_BYTES = 3 << 20  # of a block of distances in float32
GROUP_BYTES = 1 << 20  # of the sums of a group of classes
LOOP_ROWS = 512  # from so many on the compiled loop gains more than a millisecond; numba's import alone takes 300


def add_samples(counts: Ints, means: Floats, scatter: Floats | None, *, features: Floats, labels: Ints) -> None:
    """See reference.add_samples."""
    _check(counts, means, scatter, features, labels)
    _update(counts, means, scatter, features, labels, is_removal=False)


def remove_samples(counts: Ints, means: Floats, scatter: Floats | None, *, features: Floats, labels: Ints) -> None:
    """See reference.remove_samples.

    Raises:
        KernelError: there are more samples of a class than were ever added.
    """
    _check(counts, means, scatter, features, labels)
    removed = np.bincount(labels, minlength=len(counts))
    if (removed > counts).any():
        k = int((removed > counts).argmax())
        raise KernelError(f"labels: expected at most the {counts[k]} samples of class {k}; found {removed[k]}")
    _update(counts, means, scatter, features, labels, is_removal=True)


def merge_statistics(
    counts: Ints,
    means: Floats,
    scatter: Floats | None,
    *,
    other_counts: Ints,
    other_means: Floats,
    other_scatter: Floats | None,
) -> None:
    """See reference.merge_statistics.

    Raises:
        KernelError: one of the two has a scatter, and the other has none.
    """
    shapes = _check_state(counts, means, scatter)
    shapes.check("other_counts", other_counts, "K", "iu")
    shapes.check("other_means", other_means, "K D")
    if (scatter is None) != (other_scatter is None):
        raise KernelError("other_scatter: expected one where `scatter` is one, and None where it is None")
    if scatter is not None and other_scatter is not None:
        shapes.check("other_scatter", other_scatter, "D D")
        scatter += other_scatter
    for tile in row_slices(len(counts), rows_of(means.shape[1], GROUP_BYTES)):
        seen, added = counts[tile], other_counts[tile]
        share = added / np.maximum(seen + added, 1)
        shift = np.subtract(other_means[tile], means[tile], dtype=means.dtype, casting="same_kind")
        means[tile] += (share[:, None] * shift).astype(means.dtype)
        if scatter is not None:
            shift *= np.sqrt(seen * share)[:, None]  # Chan 1983, eq. 2.1b
            add_squares(scatter, shift.astype(scatter.dtype, copy=False))
    counts += other_counts.astype(counts.dtype)
    if scatter is not None:
        mirror(scatter)


def _check(counts: Ints, means: Floats, scatter: Floats | None, features: Floats, labels: Ints) -> None:
    shapes = _check_state(counts, means, scatter)
    shapes.check("features", features, "N D")
    shapes.check("labels", labels, "N", "iu")
    check_labels(labels, len(counts))


def _check_state(counts: Ints, means: Floats, scatter: Floats | None) -> Shapes:
    shapes = Shapes()
    shapes.check("counts", counts, "K", "iu")
    shapes.check("means", means, "K D")
    if scatter is not None:
        shapes.check("scatter", scatter, "D D")
    for name, array in (("means", means), ("scatter", scatter)):
        if array is not None and (array.dtype.itemsize < 4 or not array.flags.c_contiguous):
            raise KernelError(
                f"{name}: is changed in place, expected contiguous float32 or float64; "
                f"found shape {array.shape} {array.dtype} with strides {array.strides}"
            )
    return shapes


def _update(
    counts: Ints, means: Floats, scatter: Floats | None, features: Floats, labels: Ints, *, is_removal: bool
) -> None:
    """Add or remove a batch, class after class, a block of rows at a time.

    With s the sum of a class's distances from its mean before, adding n samples to c of them gives
    `scatter + distances^T distances - s s^T / (c + n)` and removing them
    `scatter - distances^T distances - s s^T / (c - n)`: Chan 1983, eq. 2.1, seen from the mean that is known before
    the batch is. A class that has none yet takes its first row for a mean.
    """
    dtype, dim = means.dtype if scatter is None else scatter.dtype, means.shape[1]
    order = np.argsort(labels, kind="stable")  # so that a class's mean and sum stay in the first-level cache
    touched, starts = np.unique(labels[order], return_index=True)
    stops = np.append(starts[1:], len(order))
    fresh = counts[touched] == 0
    means[touched[fresh]] = features[order[starts[fresh]]]
    subtract = _subtract_few
    if len(order) >= LOOP_ROWS:
        from edge_kernels.cpu.distances import subtract
    is_ready = features.dtype == dtype and features.flags.c_contiguous
    n_block = min(len(order), rows_of(dim, BLOCK_BYTES * 4 // dtype.itemsize // (1 if is_ready else 3)))
    distances, copy = np.empty((n_block, dim), dtype), np.empty((0 if is_ready else n_block, dim), dtype)
    for group in row_slices(len(touched), rows_of(dim, GROUP_BYTES * 4 // dtype.itemsize)):
        classes = touched[group]
        pivots, sums = means[classes].astype(dtype), np.zeros((len(classes), dim), dtype)
        for part in row_slices(int(stops[group][-1] - starts[group][0]), len(distances)):
            rows = order[starts[group][0] :][part]
            slots = np.searchsorted(classes, labels[rows])
            if is_ready:
                subtract(features, rows, slots, pivots, distances, sums)
            else:
                copy[: len(rows)] = features[rows]
                subtract(copy, np.arange(len(rows)), slots, pivots, distances, sums)
            if scatter is not None:
                add_squares(scatter, distances[: len(rows)], -1.0 if is_removal else 1.0)
        n_rows = stops[group] - starts[group]
        left = counts[classes] + (-n_rows if is_removal else n_rows)
        if scatter is not None:
            add_squares(scatter, sums / np.sqrt(np.maximum(left, 1))[:, None].astype(dtype), -1.0)
        sums /= (-1 if is_removal else 1) * np.maximum(left, 1)[:, None].astype(dtype)
        means[classes] += sums
        means[classes[left == 0]] = 0
        counts[classes] = left
    if scatter is not None:
        mirror(scatter)


def _subtract_few(x: Floats, places: Ints, slots: Ints, pivots: Floats, distances: Floats, sums: Floats) -> None:
    """See `distances.subtract`."""
    filled = np.subtract(x[places], pivots[slots], out=distances[: len(places)])
    first = np.flatnonzero(np.diff(slots, prepend=-1))
    sums[slots[first]] += np.add.reduceat(filled, first, axis=0)
