"""What is to be sent from each place of a blob on, so that it gets into the spare slot."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from typing import NamedTuple

from edge_firmware.delta import Common
from edge_firmware.device_info import DeviceInfo
from edge_firmware.formats import (
    LINK_COPY,
    LINK_DATA,
    LINK_RANGE,
    LINK_SECTOR,
    LINK_SKIP,
    LINK_UNIT,
    LINK_WRITE,
)


class Request(NamedTuple):
    """What brings the bytes of a blob from one place to another one into the spare slot."""

    type: int
    payload: bytes
    start: int
    end: int


class Plan:
    """How each place of a blob gets into the spare slot: it lies there, is copied from the running one, or sent."""

    def __init__(self, blob: bytes, info: DeviceInfo, common: list[Common]) -> None:
        """Take a blob, and what it has in common with the one that runs."""
        self.data = blob + b"\xff" * (-len(blob) % LINK_UNIT)
        self.n_bytes = len(blob)
        self.crc = zlib.crc32(blob)
        self.chunk, self.sector = info.chunk, info.sector_bytes
        self.same: set[int] = set()  # sectors, by their offsets, that have their bytes
        self.common = common
        self._starts = [part.start for part in common]

    def sector_request(self, offset: int) -> Request:
        """Return the SKIP of a sector."""
        end = offset + self.sector
        crc = zlib.crc32(self.data[offset : min(end, self.n_bytes)])
        return Request(LINK_SKIP, LINK_SECTOR.pack({"offset": offset, "crc": crc}), offset, min(end, len(self.data)))

    def request_at(self, place: int) -> Request:
        """Return what is to be sent for the bytes from a place on, a multiple of the unit."""
        if place in self.same:
            return self.sector_request(place)
        here = bisect_right(self._starts, place) - 1
        if here >= 0 and place < self.common[here].end:
            part = self.common[here]
            end = min(part.end, self._end_of_sector(place))
            values: dict[str, float | bytes] = {
                "offset": place,
                "source": part.source + place - part.start,
                "bytes": end - place,
            }
            return Request(LINK_COPY, LINK_RANGE.pack(values), place, end)
        end = min(place + self.chunk, len(self.data), *self._starts[here + 1 : here + 2])
        if self._end_of_sector(place) in self.same:
            end = min(end, self._end_of_sector(place))
        return Request(LINK_WRITE, LINK_DATA.pack({"offset": place}) + self.data[place:end], place, end)

    def _end_of_sector(self, place: int) -> int:
        return min(place - place % self.sector + self.sector, len(self.data))
