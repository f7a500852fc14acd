"""Frames on a serial line: type, sequence, payload and CRC-32, as COBS between zero bytes.

COBS (Cheshire and Baker 1999) takes the zeros out of a frame at the cost of one byte in 254, so that a zero always ends
one: a receiver that lost its place finds it at the next.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from edge_firmware.formats import LINK_FRAME

CRC_BYTES = 4
LONGEST_GROUP = 254
MOST_BYTES = 1 << 16  # no frame is longer; what is comes from a device that speaks something else


class Frame(NamedTuple):
    """A frame that came whole."""

    type: int
    sequence: int
    payload: bytes


def cobs_encode(data: bytes) -> bytes:
    """Return the data without zeros: each group of bytes up to a zero, its length plus one before it."""
    encoded = bytearray()
    groups = data.split(b"\0")
    for n, group in enumerate(groups, start=1):
        rest = group
        while len(rest) >= LONGEST_GROUP:
            encoded += bytes([LONGEST_GROUP + 1]) + rest[:LONGEST_GROUP]
            rest = rest[LONGEST_GROUP:]
        if rest or not group or n < len(groups):  # a longest group stands for no zero: at the end nothing follows it
            encoded += bytes([len(rest) + 1]) + rest
    return bytes(encoded)


def cobs_decode(encoded: bytes) -> bytes | None:
    """Return the data again; None where it is cut short or has a zero."""
    data = bytearray()
    place = 0
    while place < len(encoded):
        code = encoded[place]
        group = encoded[place + 1 : place + code]
        if code == 0 or len(group) != code - 1 or 0 in group:
            return None
        place += code
        data += group
        if code <= LONGEST_GROUP and place < len(encoded):
            data.append(0)
    return bytes(data)


def encode_frame(type_: int, sequence: int, payload: bytes) -> bytes:
    """Return a frame as it goes over the line, with the zero that ends it."""
    body = LINK_FRAME.pack({"type": type_, "sequence": sequence}) + payload
    return cobs_encode(body + struct.pack("<I", zlib.crc32(body))) + b"\0"


def decode_frame(encoded: bytes) -> Frame | None:
    """Return the frame of the bytes between two zeros; None where it is damaged."""
    data = cobs_decode(encoded)
    if data is None or len(data) < LINK_FRAME.size + CRC_BYTES:
        return None
    body, (crc,) = data[:-CRC_BYTES], struct.unpack("<I", data[-CRC_BYTES:])
    if zlib.crc32(body) != crc:
        return None
    return Frame(body[0], body[1], body[LINK_FRAME.size :])


class FrameReader:
    """Frames of the bytes that come in, in pieces of any size; damaged ones are left out."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that end in these bytes."""
        self._rest += data
        *whole, rest = self._rest.split(b"\0")
        self._rest = rest if len(rest) < MOST_BYTES else bytearray()
        for encoded in whole:
            frame = decode_frame(bytes(encoded))
            if frame is not None:
                yield frame
