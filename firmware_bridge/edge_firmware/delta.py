"""What a new blob has in common with the one that a device runs: it is copied there, and only the rest travels."""

from __future__ import annotations

from typing import NamedTuple

from edge_firmware.formats import LINK_UNIT

STEP = 4  # every section of a blob begins at a multiple of it, and so does every row
LEAST_BYTES = 2 * LINK_UNIT  # a COPY in the middle of WRITEs costs more than a unit


class Common(NamedTuple):
    """Bytes that both have.

    Attributes:
        start: in the new blob, a multiple of the unit.
        end: of them, too.
        source: where they begin in the old one.
    """

    start: int
    end: int
    source: int


def common_ranges(new: bytes, old: bytes) -> list[Common]:
    """Return the ranges of a new blob, in its order, that stand somewhere in an old one."""
    places = {old[at : at + LINK_UNIT]: at for at in reversed(range(0, len(old) - LINK_UNIT + 1, STEP))}
    found: list[Common] = []
    start = 0
    while start < len(new):
        source = places.get(new[start : start + LINK_UNIT])
        if source is None:
            start += LINK_UNIT
            continue
        end = start + LINK_UNIT
        while end < len(new) and new[end : end + LINK_UNIT] == _unit(old, source + end - start):
            end += LINK_UNIT
        if end - start >= LEAST_BYTES:
            found.append(Common(start, end, source))
        start = end
    return found


def _unit(data: bytes, start: int) -> bytes | None:
    unit = data[start : start + LINK_UNIT]
    return unit if len(unit) == LINK_UNIT else None
