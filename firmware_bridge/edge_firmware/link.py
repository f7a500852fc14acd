"""Requests to a device and its answers over a port that may lose, double, reorder and damage frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from edge_cl.errors import LinkError
from edge_firmware.device_info import DeviceInfo, error_text, unpack_info
from edge_firmware.formats import (
    LINK_ACK,
    LINK_ANSWER,
    LINK_BEGIN,
    LINK_BLOB,
    LINK_COPY,
    LINK_HELLO,
    LINK_INFO,
    LINK_SKIP,
    LINK_TRY,
    LINK_WRITE,
)
from edge_firmware.frames import Frame, FrameReader, encode_frame
from edge_firmware.ports import Port

PATIENCE_SECONDS = 10.0
NOISE_PATIENCE = 4  # times as long while something comes, even if hardly a frame of it is whole
REPEAT_SECONDS = 0.3
SLOW_REPEATS = 5  # times as long at most: a TRY takes as long as a signature does


class Ack(NamedTuple):
    """The answer to everything but HELLO."""

    error: int
    next: int
    crc: int


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
        self.sent_bytes = 0
        self.repeated = 0
        self.came_by = {LINK_SKIP: 0, LINK_WRITE: 0, LINK_COPY: 0}  # bytes of blobs, by the way they got there
        self._reader = FrameReader()
        self._sequence = 0
        line_seconds = 2 * LINK_INFO.size / port.bytes_per_second if port.bytes_per_second else 0.0
        self._repeat = REPEAT_SECONDS + line_seconds  # the longest answer has to come before
        self.heard_at = port.clock()  # when something came, be it a frame or not

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
        data = self.port.read(seconds)
        if data:
            self.heard_at = self.port.clock()
        for frame in self._reader.feed(data):
            if frame.type & LINK_ANSWER:
                yield frame

    def move_to(self, port: Port) -> None:
        """Go on at another port, the one before being lost."""
        self.port = port
        self.heard_at = port.clock()
        self._reader = FrameReader()

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
        start, patience = clock(), patience or self.patience
        self.heard_at = start
        asked: dict[int, float] = {}
        while clock() < min(self.heard_at + patience, start + NOISE_PATIENCE * patience):
            self.repeated += bool(asked)
            sequence, _ = self.send(type_, payload, is_start=True)
            asked[sequence] = clock()
            until = clock() + (self._repeat * (min(len(asked), SLOW_REPEATS) if type_ == LINK_TRY else 1))
            while (left := until - clock()) > 0:
                for frame in self.receive(left):
                    if frame.type == type_ | LINK_ANSWER and frame.sequence in asked:
                        return frame.payload
        if self.heard_at > start:
            raise LinkError(f"{self.port.name}: what comes is no frame of edge_link; is the baud rate the device's?")
        raise LinkError(
            f"{self.port.name}: no answer in {patience:g} s; is the device on, and its firmware one with edge_link?"
        )

    def hello(self, patience: float | None = None) -> DeviceInfo:
        """Return what the device tells of itself."""
        return unpack_info(self.ask(LINK_HELLO, patience=patience), self.port.name)

    def order(self, type_: int, payload: bytes, *, patience: float | None = None) -> Ack:
        """Return the answer to a request that is not HELLO."""
        return unpack_ack(self.ask(type_, payload, patience=patience), self.port.name)

    def begin(self, n_bytes: int, crc: int) -> Ack:
        """Begin the transfer of a blob of so many bytes, or go on with it where it stands.

        Raises:
            LinkError: the device is silent, or refuses it.
        """
        ack = self.order(LINK_BEGIN, LINK_BLOB.pack({"bytes": n_bytes, "crc": crc}))
        if ack.error:
            raise LinkError(f"{self.port.name}: the device refused: {error_text(ack.error)}")
        return ack


def unpack_ack(payload: bytes, where: str) -> Ack:
    """Return what an answer says.

    Raises:
        LinkError: it is none.
    """
    if len(payload) != LINK_ACK.size:
        raise LinkError(f"{where}: an answer of {len(payload)} bytes; expected {LINK_ACK.size}; update the firmware")
    values: dict[str, Any] = LINK_ACK.unpack(payload)
    return Ack(values["error"], values["next"], values["crc"])
