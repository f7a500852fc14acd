"""The loops of `edge_kernels.cpu.projection`: levels of 1 to 8 bits, one after another in the bytes of a code."""

from __future__ import annotations

import numpy as np

from edge_kernels.cpu.compiled import compiled


@compiled
def pack(places, bits, codes):  # type: ignore[no-untyped-def]
    """Set the bits (n, bytes) of the levels in which the places (n, R), in steps from the centre, lie."""
    for n in range(places.shape[0]):
        at = 0
        for r in range(places.shape[1]):
            half = 1 << (bits[r] - 1)
            place = min(max(np.floor(places[n, r]), -half), half - 1)
            level = np.int64(place) + half
            codes[n, at >> 3] |= (level << (at & 7)) & 255
            if (at & 7) + bits[r] > 8:
                codes[n, (at >> 3) + 1] |= level >> (8 - (at & 7))
            at += bits[r]


@compiled
def unpack(codes, rows, bits, steps, places):  # type: ignore[no-untyped-def]
    """Fill (n, R) with the middles of the levels."""
    for n in range(rows.shape[0]):
        at = 0
        for r in range(places.shape[1]):
            level = np.int64(codes[rows[n], at >> 3]) >> (at & 7)
            if (at & 7) + bits[r] > 8:
                level |= np.int64(codes[rows[n], (at >> 3) + 1]) << (8 - (at & 7))
            level &= (1 << bits[r]) - 1
            places[n, r] = (level + 0.5 - (1 << (bits[r] - 1))) * steps[r]
            at += bits[r]
