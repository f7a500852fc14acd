"""Which samples stay, on a GPU; see `reference.selection` for the arguments."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edge_kernels.arrays import KernelError, Shapes
from edge_kernels.cuda import target
from edge_kernels.cuda.launch import DeviceArray, Place, settle
from edge_kernels.cuda.target import ROW_THREADS, cuda
from edge_kernels.reference import selection as reference

MAX_CANDIDATES = 256  # blocks that each look for a sample; the best of theirs is chosen


def draw_priority(labels: DeviceArray, sequence: DeviceArray, *, seed: int) -> DeviceArray:
    """See `reference.draw_priority`."""
    place, (labels, sequence) = settle(labels=labels, sequence=sequence)
    shapes = Shapes()
    shapes.check("labels", labels, "N", "iu")
    shapes.check("sequence", sequence, "N", "iu")
    out = place.empty(len(labels), dtype="uint64")
    offset = np.uint64(seed * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
    place.launch(_mix, len(labels), labels, sequence, offset, out)
    return out


def balanced_reservoir(labels: DeviceArray, order: DeviceArray, *, capacity: int) -> DeviceArray:
    """See `reference.balanced_reservoir`; labels and order go to the host, which sorts them, and it waits for that.

    Raises:
        KernelError: the capacity is negative.
    """
    place, (labels, order) = settle(labels=labels, order=order)
    shapes = Shapes()
    shapes.check("labels", labels, "N", "iu")
    shapes.check("order", order, "N", "iu" if "int" in str(order.dtype) else "f")
    if capacity < 0:
        raise KernelError(f"capacity: expected at least 0; found {capacity}")
    host = target.to_host(labels), target.to_host(order)
    return place.send(reference.balanced_reservoir(*host, capacity=capacity))


def herd(features: DeviceArray, *, n_chosen: int, mean: DeviceArray | None = None) -> DeviceArray:
    """See `reference.herd`.

    Raises:
        KernelError: there are not as many samples.
    """
    place, (x, wanted) = settle(features=features, mean=mean)
    shapes = Shapes()
    shapes.check("features", x, "N D")
    if wanted is not None:
        shapes.check("mean", wanted, "D")
    n_samples, dim = x.shape
    if not 0 <= n_chosen <= n_samples:
        raise KernelError(f"n_chosen: expected 0 to {n_samples}, the samples; found {n_chosen}")
    chosen = place.empty(n_chosen, dtype="int64")
    if n_chosen == 0:
        return chosen
    total, goal = place.zeros(dim, dtype="float64"), place.empty(dim, dtype="float64")
    averaged = x if wanted is None else wanted.reshape(1, dim)
    for _, block in place.blocks(averaged):
        place.launch(_sum_rows, dim, block, total)
    place.launch(_start, max(dim, n_chosen), total, averaged.shape[0], goal, chosen)  # the total becomes the mean
    n_candidates = min(n_samples, MAX_CANDIDATES)
    best = place.empty(n_candidates, dtype="float64"), place.empty(n_candidates, dtype="int64")
    for turn in range(n_chosen):
        _choose(place, x, turn, (chosen, total, goal), best)
    return chosen


def _choose(place: Place, x: Any, turn: int, state: tuple[Any, Any, Any], best: tuple[Any, Any]) -> None:
    """Choose the sample nearest to the goal: to what all chosen lack of being their number times the mean."""
    chosen, mean, goal = state
    for rows, block in place.blocks(x):
        place.launch_rows(_find_nearest, len(best[0]), block, goal, chosen, rows.start, *best)
    place.start(_take_nearest, 1, 1, *best, turn, chosen)
    for rows, block in place.blocks(x):
        place.launch(_move_goal, x.shape[1], block, mean, chosen[turn : turn + 1], rows.start, goal)


@cuda.jit
def _mix(labels, sequence, offset, out):  # type: ignore[no-untyped-def]
    for n in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        mixed = ((np.uint64(labels[n]) << np.uint64(32)) ^ np.uint64(sequence[n])) + offset
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)  # Steele 2014, splitmix64
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out[n] = mixed ^ (mixed >> np.uint64(31))


@cuda.jit
def _sum_rows(features, out):  # type: ignore[no-untyped-def]
    for d in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        for n in range(features.shape[0]):
            out[d] += features[n, d]


@cuda.jit
def _start(mean, n_samples, goal, chosen):  # type: ignore[no-untyped-def]
    for d in range(cuda.grid(1), mean.size, cuda.gridsize(1)):
        mean[d] /= n_samples
        goal[d] = mean[d]
    for m in range(cuda.grid(1), chosen.size, cuda.gridsize(1)):
        chosen[m] = -1


@cuda.jit
def _find_nearest(features, goal, chosen, first, distances, samples):  # type: ignore[no-untyped-def]
    """Find the nearest of each block's samples that is not chosen yet; of equally near ones the first."""
    shared = cuda.shared.array(ROW_THREADS, np.float64)
    block, t = cuda.blockIdx.x, cuda.threadIdx.x
    if t == 0 and first == 0:
        distances[block], samples[block] = math.inf, -1
    for n in range(block, features.shape[0], cuda.gridDim.x):
        total = 0.0
        for d in range(t, goal.size, ROW_THREADS):
            way = goal[d] - features[n, d]
            total += way * way
        shared[t] = total
        cuda.syncthreads()
        if t == 0:
            total = 0.0
            for s in range(ROW_THREADS):
                total += shared[s]
            is_open = total < distances[block] or samples[block] < 0
            for m in range(chosen.size):
                is_open = is_open and chosen[m] != first + n
            if is_open:
                distances[block], samples[block] = total, first + n
        cuda.syncthreads()


@cuda.jit
def _take_nearest(distances, samples, turn, chosen):  # type: ignore[no-untyped-def]
    nearest, best = samples[0], distances[0]
    for block in range(1, samples.size):
        if samples[block] >= 0 and (
            nearest < 0 or distances[block] < best or (distances[block] == best and samples[block] < nearest)
        ):
            nearest, best = samples[block], distances[block]
    chosen[turn] = nearest


@cuda.jit
def _move_goal(features, mean, chosen, first, goal):  # type: ignore[no-untyped-def]
    n = chosen[0] - first
    for d in range(cuda.grid(1), goal.size, cuda.gridsize(1)):
        if 0 <= n < features.shape[0]:
            goal[d] += mean[d] - features[n, d]
