"""The transfer of a blob: what is to be sent from each place on, and a window of it under way."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

from edge_cl.errors import LinkError
from edge_firmware.delta import Common
from edge_firmware.device_info import DeviceInfo, error_text
from edge_firmware.formats import (
    ERRORS,
    LINK_ANSWER,
    LINK_COPY,
    LINK_DATA,
    LINK_RANGE,
    LINK_SECTOR,
    LINK_SKIP,
    LINK_UNIT,
    LINK_WRITE,
)
from edge_firmware.link import Ack, Link, unpack_ack

NO_TRANSFER = [name for name, _ in ERRORS].index("STATE")
MOST_QUERIES = 16  # under way at once: sequences are told apart by 8 bits
MOST_FRAMES = 64
SILENCES = 3  # in a row, after which the device is asked where it is


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


class UnderWay(NamedTuple):
    """A request that was sent and is not answered."""

    request: Request
    at: float
    n_bytes: int


class Transfer:
    """The sending of a plan."""

    def __init__(self, link: Link, plan: Plan, window: int, on_progress: Callable[[int], object]) -> None:
        """Take a link and a plan.

        Args:
            link: to the device.
            plan: of the blob.
            window: bytes that may be under way at once.
            on_progress: called with the bytes that lie in the spare slot.
        """
        self.link, self.plan, self.window, self.on_progress = link, plan, window, on_progress
        self.sent = {LINK_SKIP: 0, LINK_WRITE: 0, LINK_COPY: 0}  # bytes of the blob, by the way they went
        self._under_way: dict[int, UnderWay] = {}
        self._next = 0  # all before it is acknowledged
        self._place = 0  # all before it was sent
        self._progress_at = 0.0

    def find_same(self, start: int) -> None:
        """Ask which sectors from a place on have their bytes already, several at a time, until each is answered."""
        first = -(-start // self.plan.sector) * self.plan.sector
        wanted = [self.plan.sector_request(at) for at in range(first, self.plan.n_bytes, self.plan.sector)]
        clock, waiting = self.link.port.clock, self.link.waiting
        heard = clock()
        while wanted:
            asked: dict[int, UnderWay] = {}
            for request in wanted[:MOST_QUERIES]:
                sequence, n_bytes = self.link.send(request.type, request.payload, is_start=not asked)
                asked[sequence] = UnderWay(request, clock(), n_bytes)
            until = clock() + waiting.seconds
            while asked and (left := until - clock()) > 0:
                for frame in self.link.receive(left):
                    if frame.type == LINK_SKIP | LINK_ANSWER and frame.sequence in asked:
                        request, at, _ = asked.pop(frame.sequence)
                        ack = unpack_ack(frame.payload, self.link.port.name)
                        wanted.remove(request)
                        heard = clock()
                        waiting.took(heard - at)
                        until = heard + waiting.seconds
                        if (
                            not ack.error
                            and LINK_SECTOR.pack({"offset": request.start, "crc": ack.crc}) == request.payload
                        ):
                            self.plan.same.add(request.start)
            if asked:
                self.link.repeated += len(asked)
                waiting.silent()
                self._check_patience(heard)

    def run(self, start: int) -> bool:
        """Send everything from a place on; return whether all of it lies there, or False where the device lost it.

        Raises:
            LinkError: the device refuses, or is silent.
        """
        clock = self.link.port.clock
        self._next = self._place = start
        self._under_way.clear()
        self._progress_at = clock()
        silences = 0
        while self._next < len(self.plan.data):
            self._fill_window()
            until = max(item.at for item in self._under_way.values()) + self.link.waiting.seconds
            n_heard = 0
            for frame in self.link.receive(max(until - clock(), 0)):
                item = self._under_way.get(frame.sequence)
                if item is None or frame.type != item.request.type | LINK_ANSWER:
                    continue
                n_heard += 1
                self.link.waiting.took(clock() - item.at)
                ack = unpack_ack(frame.payload, self.link.port.name)
                if ack.error == NO_TRANSFER:
                    return False
                if ack.error:
                    raise LinkError(f"{self.link.port.name}: the device refused: {error_text(ack.error)}")
                self._take(ack, item.request)
            if n_heard:
                silences = 0
            elif clock() >= until:
                self.link.waiting.silent()
                self._go_back()
                silences += 1
            self._check_patience(self._progress_at)
            if silences >= SILENCES:
                return False
        return True

    def _fill_window(self) -> None:
        """Send what the window has room for, at least one request."""
        n_bytes = sum(item.n_bytes for item in self._under_way.values())
        while self._place < len(self.plan.data) and len(self._under_way) < MOST_FRAMES:
            request = self.plan.request_at(self._place)
            if self._under_way and n_bytes + len(request.payload) + 16 > self.window:
                break
            sequence, n_sent = self.link.send(request.type, request.payload, is_start=self._place == self._next)
            self._under_way[sequence] = UnderWay(request, self.link.port.clock(), n_sent)
            self.sent[request.type] += request.end - request.start
            self._place = request.end
            n_bytes += n_sent

    def _take(self, ack: Ack, request: Request) -> None:
        """Go on by an answer to a request that is under way."""
        if self._next < ack.next <= self._place:
            self._next = ack.next
            self._progress_at = self.link.port.clock()
            self._under_way = {n: item for n, item in self._under_way.items() if item.request.end > ack.next}
            self.on_progress(min(ack.next, self.plan.n_bytes))
        elif ack.next == self._next:
            if request.type == LINK_SKIP and request.start == self._next:
                self.plan.same.discard(request.start)  # it has other bytes than it had
            self._go_back()  # the device did not get what comes next

    def _go_back(self) -> None:
        self._place = self._next
        self.link.repeated += len(self._under_way)
        self._under_way.clear()

    def _check_patience(self, heard: float) -> None:
        if self.link.port.clock() - heard > self.link.patience:
            raise LinkError(
                f"{self.link.port.name}: the device stopped answering; push again to go on where it stopped"
            )
