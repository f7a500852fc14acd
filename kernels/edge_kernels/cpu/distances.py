"""The distances of many rows from their classes' pivots, in one pass over them."""

from __future__ import annotations

from edge_kernels.cpu.compiled import compiled


@compiled
def subtract(x, places, slots, pivots, distances, sums):  # type: ignore[no-untyped-def]
    """Fill (n, D) with the distance of each place's row from the pivot of its slot, and add it to the slot's sum."""
    for n in range(places.shape[0]):
        row, pivot = x[places[n]], pivots[slots[n]]
        distance, total = distances[n], sums[slots[n]]
        for d in range(row.shape[0]):
            distance[d] = row[d] - pivot[d]
        for d in range(row.shape[0]):
            total[d] += distance[d]
