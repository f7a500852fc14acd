"""A device on an emulated board: the demo with a key and heads of its own, its flash, and the line to it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from edge_firmware import SOURCES
from edge_firmware.arithmetic import logits_int8
from edge_firmware.blob import Blob, Int8
from edge_firmware.bundle import sign_blob
from edge_firmware.formats import ERRORS, LINK_OWN
from edge_firmware.keys import SigningKey, keygen, write_c_key
from edge_firmware.link import Link
from edge_firmware.plan import Plan
from edge_firmware.ports import TcpPort
from edge_firmware.push import PushReport, deliver, push
from edge_kernels.arrays import Floats

from edge_cl.errors import LinkError

from . import qemu
from .c_builds import ARM, CORES, need, sources
from .c_head import draw_blob

DIM, N_CLASSES, MOST_CLASSES, TRIES = 1280, 10, 12, 2
BACKBONE = bytes(range(32))
FEATURES, CLASSIFY, STATE = range(LINK_OWN, LINK_OWN + 3)
MONOCYPHER = SOURCES.parent / "vendor" / "monocypher"
OURS = ("edge_head", "edge_slot", "edge_link", "edge_sign")
DEVICE = f"""
#define DEVICE_PRODUCT "camera"
#define DEVICE_DIM {DIM}u
#define DEVICE_CLASSES {MOST_CLASSES}u
#define DEVICE_TRIES {TRIES}u
#define DEVICE_BACKBONE {{{", ".join(map(str, BACKBONE))}}}
"""


class Signer:
    """A key, and heads signed with it."""

    def __init__(self, key: SigningKey) -> None:
        self.key = key

    def head(self, version: int, **options: Any) -> Blob:
        """Return a head for the device, its rows drawn."""
        ours: dict[str, Any] = {
            "version": version,
            "parent": version - 1,
            "backbone": BACKBONE,
            "key_id": self.key.key_id,
        }
        blob: Blob = draw_blob(version, **({"dim": DIM, "n_classes": N_CLASSES} | ours | options))
        return blob

    def sign(self, blob: Blob) -> bytes:
        """Return the bytes of a head."""
        return sign_blob(blob, self.key)


def new_signer(folder: Path) -> Signer:
    keygen(folder / "key.pem")
    return Signer(SigningKey.open(folder / "key.pem"))


class State(NamedTuple):
    """What the demo tells of itself."""

    running: int
    active: int
    tries: int
    stack_bytes: int


class Device:
    """A board that runs the demo, and the line to it."""

    def __init__(self, running: qemu.Running) -> None:
        self.running = running
        self.link = Link(TcpPort(f"127.0.0.1:{running.port}"))

    def ask(self, type_: int, payload: bytes = b"") -> bytes:
        """Return what the demo answers to a request of its own."""
        answer = self.link.ask(type_, payload)
        assert answer[:4] == bytes(4), ERRORS[answer[0]]
        return answer[4:]

    def state(self) -> State:
        return State(*np.frombuffer(self.ask(STATE), "<u4").tolist())

    def classify(self, features: Int8) -> tuple[int, Floats]:
        """Return the class and the logits (K,) of int8 features (D,)."""
        for offset in range(0, len(features), 256):
            self.ask(FEATURES, offset.to_bytes(4, "little") + features[offset : offset + 256].tobytes())
        answer = self.ask(CLASSIFY)
        return int.from_bytes(answer[:4], "little"), np.frombuffer(answer[4:], "<f4")

    def push(self, blob: bytes, on_progress: Callable[[int], object] = int) -> PushReport:
        return push(self.link, blob, on_progress=on_progress)

    def cut_power_at(self, place: int) -> Callable[[int], None]:
        """Return what cuts the power once so many bytes lie in the slot."""

        def look(n_bytes: int) -> None:
            if n_bytes >= place:
                self.running.cut_power()

        return look

    def refusal(self, blob: bytes) -> str:
        """Return what the device says to a blob that is brought into its spare slot whatever the host thinks of it."""
        with pytest.raises(LinkError) as refused:
            deliver(self.link, Plan(blob, self.link.hello(), []), int)
        return str(refused.value).partition("the device refused: ")[2]


@dataclass
class Product:
    """The demo, built for a board, and its flash.

    Attributes:
        board: that it runs on.
        program: for it.
        folder: of its flash.
    """

    board: str
    program: Path
    folder: Path

    @property
    def flash(self) -> Path:
        return self.folder / qemu.FLASH

    @property
    def sector_bytes(self) -> int:
        return qemu.SECTOR_BYTES[qemu.family(self.board)]

    def kept(self) -> bytes:
        """Return the first slot and all records."""
        flash, slot = self.flash.read_bytes(), qemu.SLOT_BYTES[qemu.family(self.board)]
        return flash[:slot] + flash[2 * slot :]

    def make(self, blob: bytes) -> None:
        """Put a head into the first slot, as the factory does."""
        self.flash.write_bytes(qemu.flash_with(self.board, blob))

    @contextmanager
    def boot(self) -> Iterator[Device]:
        with qemu.boot(self.board, self.program, folder=self.folder) as running:
            device = Device(running)
            try:
                yield device
            finally:
                device.link.port.close()


def build_demo(board: str, folder: Path, signer: Signer) -> Path:
    """Return the demo, built in a folder for a board; it takes heads of the signer."""
    need("arm-none-eabi-gcc", "qemu-system-arm")
    (folder / "device.h").write_text(DEVICE)
    write_c_key(folder / "key.h", signer.key.public)
    vendored = []
    for name in ("monocypher", "sha512"):
        unit = [str(MONOCYPHER / f"{name}.c"), "-o", str(folder / f"{name}.o")]
        subprocess.run([*ARM, *CORES[qemu.BOARDS[board]], "-Os", "-w", f"-I{qemu.DEMO}", "-c", *unit], check=True)
        vendored.append(folder / f"{name}.o")
    units = [qemu.DEMO / "main.c", *sources(*OURS), *vendored]
    return qemu.build(board, folder / "demo.elf", units, f"-I{folder}", "-DDEVICE_SIGNED")


def check_answers(device: Device, blob: Blob, n_samples: int = 3) -> None:
    """Check that the device answers as Python does, to the bit."""
    samples = np.random.default_rng(blob.version).integers(-128, 128, (n_samples, blob.dim)).astype(np.int8)
    for sample, expected in zip(samples, logits_int8(blob, samples), strict=True):
        answer, logits = device.classify(sample)
        assert logits.tobytes() == expected.astype("<f4").tobytes()
        assert answer == expected.argmax()
