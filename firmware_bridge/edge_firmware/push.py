"""A head into a device over a line: what cannot go there is refused before anything is sent."""

from __future__ import annotations

import shlex
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edge_cl.errors import BundleError, LinkError
from edge_firmware.blob import read_blob
from edge_firmware.delta import common_ranges
from edge_firmware.device_info import DeviceInfo, error_text
from edge_firmware.formats import (
    BLOB,
    LINK_COPY,
    LINK_MARK,
    LINK_REBOOT,
    LINK_SKIP,
    LINK_TRY,
    LINK_WRITE,
    NUMBERS,
    SIGNATURE_BYTES,
)
from edge_firmware.link import Link
from edge_firmware.plan import Plan
from edge_firmware.ports import Port, PortLostError
from edge_firmware.transfer import Transfer

FRUITLESS_ROUNDS = 8  # in a row, after which a device that starts again and again in the middle is given up
TRY_SECONDS = 60.0  # a signature takes seconds on the smallest cores
BACK_SECONDS = 30.0
PAUSE_SECONDS = 0.2
MOST_REBOOTS = 50
MOST_LOSSES = 8
OK, STATE, REQUEST = (NUMBERS[name] for name in ("OK", "STATE", "REQUEST"))


@dataclass(frozen=True)
class PushReport:
    """What a push did.

    Attributes:
        blob_bytes: of the head.
        sent_bytes: over the line, all frames.
        written_bytes: of the blob that went over the line, each time they did.
        copied_bytes: of the blob that the device took from the head it ran.
        skipped_bytes: of the blob that lay in the slot already.
        repeated: requests that were sent again.
        seconds: it took.
        was_running: whether the device ran it already, and nothing was sent.
        version: of the head that the device runs now; None: none.
        state: of the head that was pushed: `confirmed`, on `trial`, or it `waits` for a restart.
    """

    blob_bytes: int
    sent_bytes: int
    written_bytes: int
    copied_bytes: int
    skipped_bytes: int
    repeated: int
    seconds: float
    was_running: bool
    version: int | None
    state: str


def push(
    link: Link,
    blob: bytes,
    *,
    base: bytes | None = None,
    reboot: bool = True,
    on_progress: Callable[[int], object] = int,
) -> PushReport:
    """Bring a head blob into the spare slot of a device, and have it started from there.

    Args:
        link: to the device.
        blob: the head.
        base: the blob that the device runs: what both have is copied there.
        reboot: whether the device is to restart and try it now.
        on_progress: called with the bytes that lie in the slot.

    Returns:
        What was sent, and what the device runs now.

    Raises:
        LinkError: the device is silent, or refuses.
        BundleError: the blob is damaged, or not for this device.
    """
    start = link.port.clock()
    info = link.hello()
    check_fits(blob, info, link.port.name)
    was_running = is_running(blob, info)
    state = "trial" if info.is_on_trial else "confirmed"
    if was_running and info.has_waiting:
        link.begin(len(blob), zlib.crc32(blob))  # the device ends the trial of what would run instead
    if not was_running:
        common = [] if base is None else common_ranges(blob, check_base(base, info, link.port.name))
        deliver(link, Plan(blob, info, common), on_progress)
        later = restart(link, blob) if reboot else None
        state = "waits" if later is None else "trial" if later.is_on_trial else "confirmed"
        info = later or info
    return PushReport(
        blob_bytes=len(blob),
        sent_bytes=link.sent_bytes,
        written_bytes=link.came_by[LINK_WRITE],
        copied_bytes=link.came_by[LINK_COPY],
        skipped_bytes=link.came_by[LINK_SKIP],
        repeated=link.repeated,
        seconds=link.port.clock() - start,
        was_running=was_running and not any(link.came_by.values()),
        version=info.version,
        state=state,
    )


def keep_pushing(open_port: Callable[[], Port], blob: bytes, **options: Any) -> PushReport:
    """Push, as `push` does; where the port is lost in the middle, open it again and go on from there.

    Raises:
        LinkError: the port cannot be opened, stays lost, is lost again and again, or what `push` raises.
    """
    link = Link(open_port())
    try:
        for _ in range(MOST_LOSSES):
            try:
                return push(link, blob, **options)
            except PortLostError as error:
                link.port.close()
                link.move_to(_reopened(open_port, link.patience, error))
        raise LinkError(f"{link.port.name}: lost {MOST_LOSSES} times; look at the cable and the device's power")
    finally:
        link.port.close()


def _reopened(open_port: Callable[[], Port], patience: float, lost: PortLostError) -> Port:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        time.sleep(PAUSE_SECONDS)
        try:
            return open_port()
        except LinkError:
            continue
    raise lost


def check_fits(blob: bytes, info: DeviceInfo, where: str) -> None:
    """Refuse a blob that the device would refuse.

    Raises:
        BundleError: it is damaged, too large, or for another device.
    """
    head = read_blob(blob)
    if info.product is not None and head.product != info.product:
        raise BundleError(
            f"{where}: takes heads for product {info.product!r}; this one is for {head.product!r}; "
            f"pack it with --product {shlex.quote(info.product)}"
        )
    if info.backbone is not None and head.backbone != info.backbone:
        raise BundleError(
            f"{where}: computes with backbone {info.backbone.hex()[:8]}…; this head was learnt on "
            f"{head.backbone.hex()[:8]}…; pack one that was learnt on the device's"
        )
    if info.dim and head.dim != info.dim:
        raise BundleError(
            f"{where}: computes {info.dim} features; this head takes {head.dim}; pack one learnt from its features"
        )
    if head.counter < info.counter:
        raise BundleError(
            f"{where}: takes security counters from {info.counter} on; this head has {head.counter}; "
            f"pack it with --counter {info.counter}"
        )
    if len(blob) > info.slot_bytes:
        raise BundleError(
            f"{where}: a slot holds {info.slot_bytes:,} bytes; this head of {len(head.classes)} classes has "
            f"{len(blob):,}; leave out classes, or enlarge the slots"
        )
    if info.checks_key and info.head is not None and info.head["key_id"] != head.key_id:
        raise BundleError(
            f"{where}: takes heads signed with key {info.head['key_id'].hex()}; this one is signed with "
            f"{head.key_id.hex()}; pack it with the device's key"
        )


def is_running(blob: bytes, info: DeviceInfo) -> bool:
    """Return whether the device runs this blob."""
    return info.head is not None and info.crc == crc_of(blob) and info.head == BLOB.unpack(blob)


def crc_of(blob: bytes) -> int:
    """Return the CRC-32 that ends a blob, before its signature."""
    return int.from_bytes(blob[-SIGNATURE_BYTES - 4 : -SIGNATURE_BYTES], "little")


def check_base(base: bytes, info: DeviceInfo, where: str) -> bytes:
    """Return the base of a delta, which is the blob that the device runs.

    Raises:
        LinkError: it runs another one.
        BundleError: the base is no whole blob.
    """
    if is_running(base, info):
        return base
    found = "no head" if info.head is None else f"version {info.version} (checksum {info.crc:08x})"
    version = read_blob(base).version
    raise LinkError(
        f"{where}: --from is version {version} (checksum {crc_of(base):08x}), but the device runs {found}; pass the "
        "bundle that it runs, or push without --from"
    )


def deliver(link: Link, plan: Plan, on_progress: Callable[[int], object]) -> None:
    """Bring a plan into the spare slot, and have the device check it.

    Raises:
        LinkError: the device is silent, loses it again and again, or refuses it.
    """
    mark = LINK_MARK.pack({"crc": plan.crc})
    error, reached, n_fruitless = OK, 0, 0
    while n_fruitless < FRUITLESS_ROUNDS:
        info = link.hello()
        transfer = Transfer(link, plan, info.window, on_progress)
        begun = link.begin(plan.n_bytes, plan.crc).next
        transfer.find_same(begun)
        start = link.begin(plan.n_bytes, plan.crc).next
        link.came_by[LINK_SKIP] += start
        is_whole = transfer.run(start)
        n_fruitless = 0 if transfer.reached > reached else n_fruitless + 1
        reached = max(reached, transfer.reached)
        if not is_whole:
            continue
        error = link.order(LINK_TRY, mark, patience=TRY_SECONDS).error
        if error == OK:
            return
        if begun == 0 and transfer.is_same:
            break  # it was compared byte for byte: the device means it
    raise LinkError(
        f"{link.port.name}: the device refused: {error_text(error)}"
        if error
        else f"{link.port.name}: the device restarts in the middle, again and again; look at its power"
    )


def restart(link: Link, blob: bytes) -> DeviceInfo | None:
    """Have the device restart with the blob that it has checked; return what it tells then.

    It is asked until it knows of no transfer: only a restart forgets one. None: its firmware restarts upon no request.

    Raises:
        LinkError: it does not come back, or with another head.
    """
    mark = LINK_MARK.pack({"crc": zlib.crc32(blob)})
    error = OK
    for _ in range(MOST_REBOOTS):
        error = link.order(LINK_REBOOT, mark, patience=BACK_SECONDS).error
        if error != OK:
            break
        link.pause(PAUSE_SECONDS)
    if error == REQUEST:
        return None
    info = link.hello(BACK_SECONDS)
    if error == STATE and is_running(blob, info):
        return info
    running = "no head" if info.head is None else f"version {info.version}"
    why = f": {error_text(info.error)}" if info.error else ""
    raise LinkError(f"{link.port.name}: the device took the head, but after the restart it runs {running}{why}")
