"""The sending of a blob by a plan, with a window of requests under way, so that a late answer costs no time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from edge_cl.errors import LinkError
from edge_firmware.device_info import error_text
from edge_firmware.formats import LINK_ANSWER, LINK_SECTOR, LINK_SKIP, NUMBERS
from edge_firmware.link import NOISE_PATIENCE, Ack, Link, unpack_ack
from edge_firmware.plan import Plan, Request

NO_TRANSFER = NUMBERS["STATE"]
MOST_REQUESTS = 64  # under way at once: sequences are told apart by 8 bits
MOST_QUERIES = 16
SILENCES = 3  # in a row, after which the device is asked where it stands
FIRST_SECONDS, LEAST_SECONDS, MOST_SECONDS = 0.3, 0.05, 2.0
MOST_FACTOR = 2  # of waiting: where frames are damaged by noise, and not by haste, longer waits only cost time
FRAME_BYTES = 16  # at most, around a payload, but for COBS


class UnderWay(NamedTuple):
    """A request that was sent and is not answered."""

    request: Request
    at: float
    n_bytes: int


class Waiting:
    """How long to wait for an answer: what answers took, and what they strayed (Jacobson 1988, appendix A)."""

    def __init__(self, least: float) -> None:
        self.least = least
        self.mean: float | None = None
        self.stray = 0.0
        self.factor = 1

    @property
    def seconds(self) -> float:
        """Of silence until a request is repeated."""
        known = FIRST_SECONDS if self.mean is None else self.mean + 4 * self.stray
        return self.least + min(known * self.factor, MOST_SECONDS)

    def took(self, seconds: float) -> None:
        """Take note of an answer."""
        self.factor = 1
        if self.mean is None:
            self.mean, self.stray = seconds, seconds / 2
        else:
            self.stray += (abs(seconds - self.mean) - self.stray) / 4
            self.mean += (seconds - self.mean) / 8

    def silent(self) -> None:
        """Wait longer the next time: the line may be slower than was thought."""
        self.factor = min(2 * self.factor, MOST_FACTOR)


class Transfer:
    """The way of a plan into the spare slot, from one start of the device to the next one."""

    def __init__(self, link: Link, plan: Plan, window: int, on_progress: Callable[[int], object]) -> None:
        """Take a link and a plan.

        Args:
            link: to the device.
            plan: of the blob.
            window: bytes that may be under way at once.
            on_progress: called with the bytes that lie in the spare slot.
        """
        self.link, self.plan, self.window, self.on_progress = link, plan, window, on_progress
        self.reached = 0  # all before it lies there
        self.is_same = True  # whether all that lies there had been there before
        speed = link.port.bytes_per_second
        self._waiting = Waiting(LEAST_SECONDS + (window + plan.chunk) / speed if speed else LEAST_SECONDS)
        self._n_silences = 0
        self._is_lost = False  # whether the device has forgotten the transfer
        self._place = 0  # all before it was sent
        self._under_way: dict[int, UnderWay] = {}  # by their sequences
        self._progress_at = self._answered_at = link.port.clock()

    def find_same(self, start: int) -> None:
        """Ask which sectors from a place on have their bytes already, until each is answered."""
        sector = self.plan.sector
        places = range(-(-start // sector) * sector, len(self.plan.data), sector)
        wanted = {at: self.plan.sector_request(at) for at in places}
        n_at_once = max(1, min(MOST_QUERIES, self.window // (LINK_SECTOR.size + FRAME_BYTES)))
        while wanted:
            for at in list(wanted)[:n_at_once]:
                self._send(wanted[at])
            while self._under_way:
                n_left = len(self._under_way)
                for request, ack in self._answers():
                    wanted.pop(request.start, None)
                    self._progress_at = self._answered_at
                    if request.payload == LINK_SECTOR.pack({"offset": request.start, "crc": ack.crc}) and not ack.error:
                        self.plan.same.add(request.start)
                if len(self._under_way) == n_left and self._is_silent():
                    self._give_up()

    def run(self, start: int) -> bool:
        """Send everything from a place on; return whether all of it lies there, or False where the device lost it.

        Raises:
            LinkError: the device refuses, or is silent.
        """
        self.reached = self._place = start
        self._progress_at = self.link.port.clock()
        while self.reached < len(self.plan.data):
            self._fill_window()
            answers = list(self._answers())
            for request, ack in answers:
                if ack.error == NO_TRANSFER:
                    return False
                if ack.error:
                    raise LinkError(f"{self.link.port.name}: the device refused: {error_text(ack.error)}")
                self._take(request, ack)
            if not answers and self._is_silent():
                self._give_up()
            if self._is_lost:
                return False
        return True

    def _fill_window(self) -> None:
        """Send what the window has room for, at least one request."""
        n_bytes = sum(item.n_bytes for item in self._under_way.values())
        while self._place < len(self.plan.data) and len(self._under_way) < MOST_REQUESTS:
            request = self.plan.request_at(self._place)
            if self._under_way and n_bytes + len(request.payload) + FRAME_BYTES > self.window:
                return
            n_bytes += self._send(request)
            self._place = request.end

    def _send(self, request: Request) -> int:
        """Send a request and return its bytes."""
        sequence, n_bytes = self.link.send(request.type, request.payload, is_start=not self._under_way)
        self._under_way[sequence] = UnderWay(request, self.link.port.clock(), n_bytes)
        return n_bytes

    def _answers(self) -> Iterator[tuple[Request, Ack]]:
        """Yield the requests that are answered, and the answers, waiting for the first as long as it may take."""
        clock = self.link.port.clock
        for frame in self.link.receive(max(self._silent_at() - clock(), 0)):
            item = self._under_way.get(frame.sequence)
            if item is None or frame.type != item.request.type | LINK_ANSWER:
                continue
            del self._under_way[frame.sequence]
            self._waiting.took(clock() - item.at)
            self._answered_at = clock()
            self._n_silences = 0
            yield item.request, unpack_ack(frame.payload, self.link.port.name)

    def _silent_at(self) -> float:
        """Return when an answer is overdue."""
        sent = [item.at for item in self._under_way.values()]
        return max([self._answered_at, *sent[-1:]]) + self._waiting.seconds

    def _is_silent(self) -> bool:
        return self.link.port.clock() >= self._silent_at()

    def _take(self, request: Request, ack: Ack) -> None:
        """Go on by an answer."""
        if self.reached < ack.next <= len(self.plan.data):  # maybe further than was sent since the last going back
            while self.reached < ack.next:
                part = self.plan.request_at(self.reached)
                end = min(part.end, ack.next)
                self.link.came_by[part.type] += end - self.reached
                self.is_same = self.is_same and part.type == LINK_SKIP
                self.reached = end
            self._place = max(self._place, ack.next)
            self._progress_at = self.link.port.clock()
            self._under_way = {n: item for n, item in self._under_way.items() if item.request.end > ack.next}
            self.on_progress(min(ack.next, self.plan.n_bytes))
        elif ack.next == self.reached:
            if request.type == LINK_SKIP and request.start == self.reached:
                self.plan.same.discard(request.start)  # it has other bytes than it had
            self._go_back()  # the device did not get what comes next

    def _go_back(self) -> None:
        """Send again what is not acknowledged: a device takes nothing out of order."""
        self._place = self.reached
        self.link.repeated += len(self._under_way) + 1
        self._under_way.clear()

    def _give_up(self) -> None:
        """Give up what is under way; after some silences ask the device where it stands.

        Raises:
            LinkError: it does not answer that either, or nothing got further for long.
        """
        self._waiting.silent()
        self._go_back()
        self._n_silences += 1
        if self._n_silences == SILENCES:
            self._n_silences = 0
            self._is_lost = self.link.begin(self.plan.n_bytes, self.plan.crc).next < self.reached
        if self.link.port.clock() - self._progress_at > NOISE_PATIENCE * self.link.patience:
            raise LinkError(f"{self.link.port.name}: hardly a frame arrives whole; look at the line and its baud rate")
