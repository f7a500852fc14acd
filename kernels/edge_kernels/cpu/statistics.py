"""Statistics of the classes: rows seen from a pivot of their class, and symmetric rank-N updates by BLAS.

With s the sum of the distances d of n samples from the mean of c others, Chan 1983, eq. 2.1 adds
`sum d d^T - s s^T / (c + n)` to the scatter. That is the sum of squares of `d - share s`, where
`share = (1 - sqrt(c / (c + n))) / n`, in which nothing cancels. Taking n of c samples out is the same with -n for n
under the root, and the sum subtracted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from edge_kernels.arrays import Floats, HostShapes, Ints, KernelError, check_in_place, check_labels
from edge_kernels.cpu.blas import add_squares, mirror
from edge_kernels.cpu.blocks import row_slices, rows_of

BLOCK_BYTES = 3 << 20  # of a block of distances in float32
RUN_BYTES = 1 << 20  # of rows of a class that are read twice: the second time from the second-level cache
GROUP_BYTES = 1 << 20  # of classes that are merged at a time
SORTED_ROWS = 1 << 16  # by class at a time
COPY_ROWS = 64  # of another type, converted at a time
LOOP_ROWS = 512  # from so many on the compiled loop gains more than a millisecond; numba's import alone takes 300


def add_samples(counts: Ints, means: Floats, scatter: Floats | None, *, features: Floats, labels: Ints) -> None:
    """See reference.add_samples."""
    _check(counts, means, scatter, features, labels)
    for part in row_slices(len(features), SORTED_ROWS):
        _update(counts, means, scatter, features[part], labels[part], is_removal=False)


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
    for part in row_slices(len(features), SORTED_ROWS):
        _update(counts, means, scatter, features[part], labels[part], is_removal=True)


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
    shapes.check("other_counts", other_counts, "K", "i8")
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


def _check_state(counts: Ints, means: Floats, scatter: Floats | None) -> HostShapes:
    shapes = HostShapes()
    shapes.check("counts", counts, "K", "i8")
    shapes.check("means", means, "K D")
    if scatter is not None:
        shapes.check("scatter", scatter, "D D")
    for name, array in (("counts", counts), ("means", means), ("scatter", scatter)):
        if array is not None:
            check_in_place(name, array)
    return shapes


def _update(
    counts: Ints, means: Floats, scatter: Floats | None, features: Floats, labels: Ints, *, is_removal: bool
) -> None:
    """Add or remove a batch: rows of one class after another, as many at a time as the scratch holds."""
    dtype, dim = means.dtype if scatter is None else scatter.dtype, means.shape[1]
    order = np.argsort(labels, kind="stable")
    is_many = len(order) >= LOOP_ROWS
    is_ready = features.dtype == dtype and (features.flags.c_contiguous or not is_many)
    n_block = rows_of(dim * dtype.itemsize // 4 * (1 if is_ready else 2), BLOCK_BYTES)
    distances = np.empty((min(len(order), n_block), dim), dtype)
    copy = np.empty((0 if is_ready else len(distances), dim), dtype)
    scratch = np.empty((2, dim), dtype)
    absorb, mirror_by = _absorb_few, mirror
    if is_many:
        from edge_kernels.cpu.passes import absorb
        from edge_kernels.cpu.passes import mirror as mirror_by
    for rows, edges in _runs(labels, order, max(len(distances), 1), rows_of(dim, RUN_BYTES)):
        x, places = (features, rows) if is_ready else (_copy(features, rows, copy), np.arange(len(rows)))
        classes = labels[order[edges[:-1]]].astype(np.int64)
        part = distances[: len(rows)]
        absorb(x, (places, edges - edges[0], classes), (counts, means), part, scratch, is_removal)
        if scatter is not None:
            add_squares(scatter, part, -1.0 if is_removal else 1.0)
    if scatter is not None:
        mirror_by(scatter)


def _runs(labels: Ints, order: Ints, capacity: int, longest: int) -> Iterator[tuple[Ints, Ints]]:
    """Yield rows of whole runs, at most `capacity` rows together, and the edges of the runs in the order of all rows.

    A run is of one class, and cut where it would be longer than `longest`.
    """
    starts = np.flatnonzero(np.diff(labels[order].astype(np.int64), prepend=-1))
    cuts = np.arange(0, len(order), min(capacity, longest))
    edges = np.unique(np.concatenate([starts, cuts, [len(order)]]))
    first = 0
    while first < len(edges) - 1:
        last = int(np.searchsorted(edges, edges[first] + capacity, side="right")) - 1
        yield order[edges[first] : edges[last]], edges[first : last + 1]
        first = last


def _copy(features: Floats, rows: Ints, copy: Floats) -> Floats:
    for part in row_slices(len(rows), COPY_ROWS):
        copy[: len(rows)][part] = features[rows[part]]
    return copy


def _absorb_few(
    x: Floats,
    runs: tuple[Ints, Ints, Ints],
    state: tuple[Ints, Floats],
    distances: Floats,
    scratch: Floats,
    is_removal: bool,
) -> None:
    """See `passes.absorb`."""
    (rows, edges, classes), (counts, means), sign = runs, state, -1 if is_removal else 1
    for run, k in enumerate(classes.tolist()):
        part, n_rows = distances[edges[run] : edges[run + 1]], int(edges[run + 1] - edges[run])
        np.take(x, rows[edges[run] : edges[run + 1]], axis=0, out=part, mode="clip")  # any other mode makes a copy
        if counts[k] == 0:
            means[k] = part[0]
        part -= means[k]
        part.sum(axis=0, out=scratch[0])
        left = int(counts[k]) + sign * n_rows
        if left > 0:
            part -= ((1 - math.sqrt(int(counts[k]) / left)) / n_rows * scratch[0]).astype(part.dtype)
            means[k] += (sign / left * scratch[0]).astype(means.dtype)
        else:
            means[k] = 0
        counts[k] = left
