"""Rows taken a block at a time, so that no call needs more than a few MiB beyond its inputs and outputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from edge_kernels.arrays import Floats

SCRATCH_BYTES = 1 << 21  # of one block: it stays in the second-level cache of current processors


def rows_of(dim: int, limit_bytes: int = SCRATCH_BYTES) -> int:
    """Return how many float32 rows of `dim` values fit into the limit, at least one."""
    return max(1, limit_bytes // (4 * max(dim, 1)))


def row_slices(n_rows: int, size: int) -> Iterator[slice]:
    """Yield slices of at most `size` rows that cover all of them."""
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


def float_blocks(rows: Floats, size: int) -> Iterator[tuple[slice, Floats]]:
    """Yield slices and their rows as contiguous float32; what is that already is not copied.

    Args:
        rows: (N, D) of any float type and strides.
        size: rows of one block at most.
    """
    is_ready = rows.dtype == np.float32 and rows.flags.c_contiguous
    scratch = np.empty((0 if is_ready else min(size, len(rows)), rows.shape[1]), np.float32)
    for block in row_slices(len(rows), size):
        if is_ready:
            yield block, rows[block]
        else:
            copy = scratch[: block.stop - block.start]
            copy[...] = rows[block]
            yield block, copy


def count_threads(n_rows: int, least: int) -> int:
    """Return how many threads are worth it: at most one for each processor, each with at least `least` rows."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(processors, n_rows // max(least, 1)))


def on_threads(run: Callable[[slice], object], n_rows: int, n_threads: int) -> None:
    """Call `run` with slices that cover the rows, each on a thread of its own.

    Args:
        run: a loop that lets go of the interpreter's lock; calls must not touch each other's rows.
        n_rows: N.
        n_threads: how many.
    """
    edges = [n_rows * part // n_threads for part in range(n_threads + 1)]
    slices = [slice(start, stop) for start, stop in pairwise(edges)]
    if n_threads == 1:
        run(slices[0])
        return
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in pool.map(run, slices):
            pass
