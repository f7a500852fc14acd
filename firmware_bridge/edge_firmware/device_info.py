"""What a device tells of itself, and the words of its errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge_cl.errors import LinkError
from edge_firmware.formats import (
    BLOB,
    ERRORS,
    LINK_CHECKS_BACKBONE,
    LINK_CHECKS_KEY,
    LINK_CHECKS_PRODUCT,
    LINK_INFO,
    LINK_ON_TRIAL,
    LINK_PROTOCOL,
    LINK_RUNS,
    LINK_UNIT,
    LINK_WAITS,
)

NEXT = {
    "TYPE": "pack it with the rows that the firmware computes: with --float32, or without",
    "MANY": "forget some classes, or give the firmware room for more",
    "KEY": "pack it with the device's key",
    "SIGNATURE": "pack it with the device's key",
    "BUSY": "push again when it is",
}


@dataclass(frozen=True)
class DeviceInfo:
    """A device, by what it tells.

    Attributes:
        error: number of the last refusal in `formats.ERRORS`; 0: none.
        chunk: the most bytes of data in a WRITE.
        window: bytes that may be under way at once.
        slot_bytes: of a slot.
        sector_bytes: of a sector.
        counter: the lowest security counter that it takes.
        dim: features that it computes; 0: any.
        product: id that it takes; None: any.
        backbone: sha256 that it takes; None: any.
        crc: the CRC-32 that ends the blob that runs.
        head: header of the blob that runs; None: none does.
        is_on_trial: whether the head that runs is not confirmed yet.
        has_waiting: whether another one runs from the next restart on.
        checks_key: whether it checks signatures.
    """

    error: int
    chunk: int
    window: int
    slot_bytes: int
    sector_bytes: int
    counter: int
    dim: int
    product: str | None
    backbone: bytes | None
    crc: int
    head: dict[str, Any] | None
    is_on_trial: bool
    has_waiting: bool
    checks_key: bool

    @property
    def version(self) -> int | None:
        """Version of the head that runs; None: none does."""
        return None if self.head is None else self.head["version"]


def unpack_info(payload: bytes, where: str) -> DeviceInfo:
    """Return what an INFO tells.

    Args:
        payload: of the frame.
        where: the port, for messages.

    Raises:
        LinkError: it is of another protocol, or its numbers cannot be.
    """
    if not payload or payload[0] != LINK_PROTOCOL or len(payload) != LINK_INFO.size:
        found = f"protocol {payload[0]}" if payload else "an empty answer"
        raise LinkError(f"{where}: expected protocol {LINK_PROTOCOL}; found {found}; use the edge_cl of its firmware")
    told: dict[str, Any] = LINK_INFO.unpack(payload)
    flags = told["flags"]
    sizes = (told["chunk"], told["sector_bytes"])
    if any(size < LINK_UNIT or size % LINK_UNIT for size in sizes):
        raise LinkError(f"{where}: the device tells chunks or sectors that cannot be; update its firmware")
    return DeviceInfo(
        error=told["error"],
        chunk=told["chunk"],
        window=told["window"],
        slot_bytes=told["slot_bytes"],
        sector_bytes=told["sector_bytes"],
        counter=told["counter"],
        dim=told["dim"],
        product=_text(told["product"]) if flags & LINK_CHECKS_PRODUCT else None,
        backbone=told["backbone"] if flags & LINK_CHECKS_BACKBONE else None,
        crc=told["crc"],
        head=BLOB.unpack(told["head"]) if flags & LINK_RUNS else None,
        is_on_trial=bool(flags & LINK_ON_TRIAL),
        has_waiting=bool(flags & LINK_WAITS),
        checks_key=bool(flags & LINK_CHECKS_KEY),
    )


def error_text(number: int) -> str:
    """Return the words of a device's error, and what to do where that is not plain."""
    if number >= len(ERRORS):
        return f"error {number}, which this edge_cl does not know; update it"
    name, text = ERRORS[number]
    return f"{text}; {NEXT[name]}" if name in NEXT else text


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode(errors="replace")
