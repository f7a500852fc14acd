"""A device with the bridge's C link in this process, and a line to it in time of its own: slow, late and faulty.

Nothing sleeps: the line has a clock that goes on by what is sent and waited for, so that minutes of a serial line take
milliseconds, and every run with a seed is the same one.
"""

from __future__ import annotations

import ctypes
import heapq
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from edge_firmware import INCLUDE, SOURCES
from edge_firmware.arithmetic import logits_int8
from edge_firmware.blob import Blob
from edge_firmware.bundle import sign_blob
from edge_firmware.keys import SigningKey

TOOLS = Path(__file__).resolve().parent
VENDOR = SOURCES.parent / "vendor" / "monocypher"
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")
OURS = (TOOLS / "link_device.c", *(SOURCES / f"edge_{name}.c" for name in ("link", "slot", "head", "sign")))
BAUD_BYTES = 11_520.0  # a second, at 115,200 baud: eight bits, a start and a stop bit
BOOT_SECONDS = 0.3
NONE = 0xFFFFFFFF  # EDGE_NONE: no slot


def build(target: Path, *options: str) -> Path:
    """Return the target: link, slots, head and signature check, and the device around them, for this machine."""
    compiler = os.environ.get("CC", "cc")
    objects = []
    for unit in (*OURS, VENDOR / "monocypher.c", VENDOR / "sha512.c"):
        words = (*STRICT, *options) if unit in OURS else ("-std=c99", "-w", "-O2")
        objects.append(target.with_name(f"{target.name}.{unit.stem}.o"))
        line = [compiler, "-O1", "-g", "-fPIC", f"-I{INCLUDE}", *words, "-c", str(unit), "-o", str(objects[-1])]
        subprocess.run(line, check=True)
    subprocess.run([compiler, *options, *map(str, objects), "-o", str(target)], check=True)
    return target


def library(folder: Path) -> ctypes.CDLL:
    """Return the device as a library."""
    found = ctypes.CDLL(str(build(folder / "link_device.so", "-shared")))
    found.device_new.restype = ctypes.c_void_p
    found.device_out.restype = ctypes.POINTER(ctypes.c_uint8)
    for name in ("take", "boot", "is_off", "is_rebooting", "erased", "programmed", "broken_rules"):
        getattr(found, f"device_{name}").restype = ctypes.c_uint32
    return found


def signing_key(seed: int = 0) -> SigningKey:
    """Return a key that is the same each time."""
    return SigningKey(Ed25519PrivateKey.from_private_bytes(np.random.default_rng(seed).bytes(32)))


def make_head(n_classes: int = 10, dim: int = 128, *, seed: int = 0, key: SigningKey | None = None) -> Blob:
    """Return a head of random int8 rows whose canaries get their answers; version 1, counter 1."""
    rng = np.random.default_rng(seed)
    head = Blob(
        product="cam",
        version=1,
        parent=0,
        counter=1,
        backbone=bytes(range(32)),
        key_id=(key or signing_key()).key_id,
        created=0,
        classes=tuple(f"class {k}" for k in range(n_classes)),
        rows=rng.integers(-127, 128, (n_classes, dim)).astype(np.int8),
        scales=np.full(n_classes, 2.0**-10, np.float32),
        bias=rng.integers(-1000, 1000, n_classes).astype(np.int32),
        owners=np.zeros(0, np.int64),
        canaries=rng.integers(-128, 128, (2, dim)).astype(np.int8),
        answers=np.zeros(2, np.int64),
        feature_scale=0.125,
    )
    return replace(head, answers=logits_int8(head, head.canaries).argmax(1))


def make_blob(head: Blob, key: SigningKey | None = None) -> bytes:
    """Return the bytes of a head, signed."""
    return sign_blob(head, key or signing_key())


class Device:
    """A device whose flash outlives its restarts."""

    def __init__(
        self,
        code: ctypes.CDLL,
        *,
        slot_bytes: int = 1 << 17,
        sector_bytes: int = 4096,
        chunk: int = 256,
        queue: int = 1024,
    ) -> None:
        self.code, self.queue, self.slot_bytes = code, queue, slot_bytes
        self.sector_bytes = sector_bytes
        self.memory = ctypes.create_string_buffer(b"\xff" * (2 * slot_bytes + 2 * sector_bytes))
        made = code.device_new(self.memory, slot_bytes, sector_bytes, chunk)
        self._self = ctypes.c_void_p(made)
        self.running = NONE

    def expect(self, *, product: str = "cam", backbone: bytes = bytes(range(32)), dim: int = 0) -> None:
        """Take heads of one product, backbone and key alone."""
        key = signing_key().public
        self.code.device_expect(self._self, product.encode(), backbone, key.key_id + key.point, dim)

    def put(self, slot: int, blob: bytes) -> None:
        """Lay a blob into a slot, as the factory does."""
        ctypes.memmove(ctypes.byref(self.memory, slot * self.slot_bytes), blob, len(blob))

    def slot(self, slot: int) -> bytes:
        """Return what lies in a slot."""
        return self.memory.raw[slot * self.slot_bytes : (slot + 1) * self.slot_bytes]

    def boot(self) -> int:
        """Start it; return the slot that runs."""
        self.running = self.code.device_boot(self._self, self.queue)
        return self.running

    def take(self, data: bytes) -> bytes:
        """Return what it sends upon these bytes."""
        n_bytes = self.code.device_take(self._self, data, len(data))
        return ctypes.string_at(self.code.device_out(self._self), n_bytes)

    def cut_after(self, n_operations: int) -> None:
        """Have its power fail in the flash operation after so many."""
        self.code.device_cut_after(self._self, n_operations)

    def confirms(self, does: bool) -> None:
        """Say whether a head on trial is confirmed at its first boot."""
        self.code.device_confirms(self._self, does)

    def __getattr__(self, name: str) -> int:
        """Return one of its numbers: is_off, is_rebooting, erased, programmed, broken_rules.

        Raises:
            AttributeError: it has no such.
        """
        if name.startswith("_"):
            raise AttributeError(name)
        number: int = getattr(self.code, f"device_{name}")(self._self)
        return number

    def __del__(self) -> None:
        """Give its memory back."""
        self.code.device_free(self._self)


@dataclass(frozen=True)
class Faults:
    """What happens to frames, by its probability, each way."""

    lost: float = 0.0
    doubled: float = 0.0
    reordered: float = 0.0
    flipped: float = 0.0  # a bit
    shifted: float = 0.0  # a byte more, or one less


NO_FAULTS = Faults()


class HostKilledError(Exception):
    """The host stopped here."""


class Line:
    """A serial line to a device: a `Port` whose clock is its own."""

    name = "line"

    def __init__(
        self,
        device: Device,
        faults: Faults = NO_FAULTS,
        *,
        seed: int = 0,
        latency: float = 0.002,
        erase_seconds: float = 0.04,
    ) -> None:
        self.device, self.faults, self.latency, self.erase_seconds = device, faults, latency, erase_seconds
        self.bytes_per_second: float | None = BAUD_BYTES
        self.up_bytes = self.down_bytes = 0
        self.kill_after: int | None = None  # bytes up, after which the host is no more
        self.n_boots = 0
        self._rng = np.random.default_rng(seed)
        self._now = 0.0
        self._free = {"up": 0.0, "down": 0.0}  # when the line has sent all that was written
        self._device_free = 0.0
        self._events: list[tuple[float, int, str, bytes]] = []
        self._waiting: list[tuple[float, int]] = []  # when the device comes to bytes that it has, and how many
        self._number = count()

    def clock(self) -> float:
        """Return the line's seconds."""
        return self._now

    def close(self) -> None:
        """Nothing is to be given back."""

    def write(self, data: bytes) -> None:
        """Send bytes to the device.

        Raises:
            HostKilledError: the host ends here.
        """
        self.up_bytes += len(data)
        if self.kill_after is not None and self.up_bytes > self.kill_after:
            raise HostKilledError
        self._send("up", data, self._now)

    def read(self, seconds: float) -> bytes:
        """Return what comes from the device within so many seconds."""
        end = self._now + seconds
        while self._events and self._events[0][0] <= end:
            at, _, way, data = heapq.heappop(self._events)
            self._now = max(self._now, at)
            if way == "down":
                return data
            if way == "up":
                self._arrive(data)
            elif way == "boot":
                self.device.boot()
                self.n_boots += 1
            else:
                self._obey(data)
        self._now = end
        return b""

    def _send(self, way: str, data: bytes, now: float) -> None:
        """Put bytes on the line, frame by frame, each with what happens to it."""
        *pieces, rest = data.split(b"\0")
        for frame in (*(piece + b"\0" for piece in pieces), *([rest] if rest else [])):
            start = max(now, self._free[way])
            self._free[way] = start + len(frame) / BAUD_BYTES
            for harmed, late in self._harm(frame):
                heapq.heappush(self._events, (self._free[way] + self.latency + late, next(self._number), way, harmed))

    def _harm(self, frame: bytes) -> Iterator[tuple[bytes, float]]:
        """Yield what arrives of a frame, and how late."""
        faults, rng = self.faults, self._rng
        if rng.random() < faults.lost:
            return
        late = rng.random() * 0.2 if rng.random() < faults.reordered else 0.0
        harmed = bytearray(frame)
        if rng.random() < faults.flipped:
            harmed[rng.integers(len(harmed))] ^= 1 << int(rng.integers(8))
        if rng.random() < faults.shifted:
            place = int(rng.integers(len(harmed)))
            if rng.random() < 0.5:
                harmed.insert(place, int(rng.integers(256)))
            else:
                del harmed[place]
        yield bytes(harmed), late
        if rng.random() < faults.doubled:
            yield bytes(harmed), late + rng.random() * 0.1

    def _arrive(self, data: bytes) -> None:
        """Let the device have bytes; what finds no room while the flash is busy is lost."""
        self._waiting = [(at, n_bytes) for at, n_bytes in self._waiting if at > self._now]
        if sum(n_bytes for _, n_bytes in self._waiting) + len(data) > self.device.queue and self._waiting:
            return
        at = max(self._now, self._device_free)
        self._waiting.append((at, len(data)))
        heapq.heappush(self._events, (at, next(self._number), "obey", data))

    def _obey(self, data: bytes) -> None:
        if self._now < self._device_free:  # it is still busy with what came before
            heapq.heappush(self._events, (self._device_free, next(self._number), "obey", data))
            return
        erased = self.device.erased
        answer = self.device.take(data)
        self._device_free = self._now + (self.device.erased - erased) * self.erase_seconds
        if answer:
            self._send("down", answer, self._device_free)
        if self.device.is_off or self.device.is_rebooting:
            heapq.heappush(self._events, (self._now + BOOT_SECONDS, next(self._number), "boot", b""))
            self._device_free = self._now + BOOT_SECONDS
