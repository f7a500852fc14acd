"""Requests to a device and its answers over a port that may lose, double, reorder and damage frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from edge_cl.errors import LinkError
from edge_firmware.device_info import DeviceInfo, unpack_info
from edge_firmware.formats import LINK_ACK, LINK_ANSWER, LINK_BEGIN, LINK_BLOB, LINK_HELLO
from edge_firmware.frames import Frame, FrameReader, encode_frame
from edge_firmware.ports import Port

PATIENCE_SECONDS = 10.0
FIRST_SECONDS = 0.3
MOST_SECONDS = 4.0
MOST_FACTOR = 4  # of waiting: where frames are damaged by noise, and not by haste, longer waits only cost time


class Ack(NamedTuple):
    """The answer to everything but HELLO."""

    error: int
    next: int
    crc: int


class Waiting:
    """How long to wait for an answer: what answers took, and what they strayed (Jacobson 1988, appendix A)."""

    def __init__(self) -> None:
        self.mean: float | None = None
        self.stray = 0.0
        self.factor = 1

    @property
    def seconds(self) -> float:
        """Of silence until a request is repeated."""
        longest = FIRST_SECONDS if self.mean is None else 0.05 + self.mean + 4 * self.stray
        return min(longest * self.factor, MOST_SECONDS)

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


class Link:
    """A device at a port."""

    def __init__(self, port: Port, patience: float = PATIENCE_SECONDS) -> None:
        """Take the port.

        Args:
            port: an open one.
            patience: seconds without an answer after which the device is given up.
        """
        self.port = port
        self.patience = patience
        self.waiting = Waiting()
        self.sent_bytes = 0
        self.repeated = 0
        self._reader = FrameReader()
        self._sequence = 0

    def send(self, type_: int, payload: bytes, is_start: bool = False) -> tuple[int, int]:
        """Send a request once; return its sequence and its bytes.

        Args:
            type_: of the request.
            payload: of it.
            is_start: whether a zero goes first, which ends what a damaged frame before may have left open.
        """
        self._sequence = (self._sequence + 1) % 256
        data = b"\0" * is_start + encode_frame(type_, self._sequence, payload)
        self.port.write(data)
        self.sent_bytes += len(data)
        return self._sequence, len(data)

    def receive(self, seconds: float) -> Iterator[Frame]:
        """Yield the answers that have come, waiting so long for the first bytes."""
        for frame in self._reader.feed(self.port.read(seconds)):
            if frame.type & LINK_ANSWER:
                yield frame

    def pause(self, seconds: float) -> None:
        """Wait, and leave out what comes."""
        end = self.port.clock() + seconds
        while (left := end - self.port.clock()) > 0:
            self.port.read(left)

    def ask(self, type_: int, payload: bytes = b"", *, patience: float | None = None) -> bytes:
        """Return the payload of the answer to a request, which is repeated until it comes.

        Raises:
            LinkError: none came in `patience` seconds.
        """
        clock = self.port.clock
        end = clock() + (patience or self.patience)
        asked: dict[int, float] = {}
        while clock() < end:
            self.repeated += bool(asked)
            sequence, _ = self.send(type_, payload, is_start=True)
            asked[sequence] = clock()
            until = min(clock() + self.waiting.seconds, end)
            while (left := until - clock()) > 0:
                for frame in self.receive(left):
                    if frame.type == type_ | LINK_ANSWER and frame.sequence in asked:
                        self.waiting.took(clock() - asked[frame.sequence])
                        return frame.payload
            self.waiting.silent()
        raise LinkError(
            f"{self.port.name}: no answer in {patience or self.patience:g} s; is the device on, its firmware one with "
            "edge_link, and the baud rate right?"
        )

    def hello(self, patience: float | None = None) -> DeviceInfo:
        """Return what the device tells of itself."""
        return unpack_info(self.ask(LINK_HELLO, patience=patience), self.port.name)

    def order(self, type_: int, payload: bytes, *, patience: float | None = None) -> Ack:
        """Return the answer to a request that is not HELLO."""
        return unpack_ack(self.ask(type_, payload, patience=patience), self.port.name)

    def begin(self, blob: bytes, crc: int) -> Ack:
        """Begin the transfer of a blob, or go on with it."""
        return self.order(LINK_BEGIN, LINK_BLOB.pack({"bytes": len(blob), "crc": crc}))


def unpack_ack(payload: bytes, where: str) -> Ack:
    """Return what an answer says.

    Raises:
        LinkError: it is none.
    """
    if len(payload) != LINK_ACK.size:
        raise LinkError(f"{where}: an answer of {len(payload)} bytes; expected {LINK_ACK.size}; update the firmware")
    values: dict[str, Any] = LINK_ACK.unpack(payload)
    return Ack(values["error"], values["next"], values["crc"])
