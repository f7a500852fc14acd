"""A whole device, on four emulated boards: it runs its head from flash, takes a new one over its UART and restarts into
it, and goes back to the one before from a bad one, or when its power is cut."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from edge_firmware import SOURCES
from edge_firmware.arithmetic import logits_int8
from edge_firmware.blob import Blob, Int8
from edge_firmware.bundle import sign_blob
from edge_firmware.device_info import DeviceInfo
from edge_firmware.formats import ERRORS, LINK_OWN
from edge_firmware.keys import SigningKey, keygen, write_c_key
from edge_firmware.link import Link
from edge_firmware.ports import TcpPort
from edge_firmware.push import PushReport, deliver, push
from edge_firmware.transfer import Plan
from edge_kernels.arrays import Floats

from edge_cl.errors import LinkError

from . import qemu
from .c_builds import ARM, CORES, need, sources
from .c_head import draw_blob

DIM, N_CLASSES, MOST_CLASSES, TRIES = 1280, 10, 12, 2
BACKBONE = bytes(range(32))
FEATURES, CLASSIFY, STATE = range(LINK_OWN, LINK_OWN + 3)
ONE_BOARD = "mps2-an385"
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

    def __init__(self, folder: Path) -> None:
        keygen(folder / "key.pem")
        self.key = SigningKey.open(folder / "key.pem")

    def head(self, version: int, **options: object) -> Blob:
        """Return a head for the device, its rows drawn."""
        ours = {"version": version, "parent": version - 1, "backbone": BACKBONE, "key_id": self.key.key_id}
        return draw_blob(version, **({"dim": DIM, "n_classes": N_CLASSES} | ours | options))  # type: ignore[arg-type]

    def sign(self, blob: Blob) -> bytes:
        """Return the bytes of a head."""
        return sign_blob(blob, self.key)


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

    def refusal(self, blob: bytes) -> str:
        """Return what the device says to a blob that is brought into its spare slot whatever the host thinks of it."""
        with pytest.raises(LinkError) as refused:
            deliver(self.link, Plan(blob, self.link.hello(), []), dict.fromkeys(range(128), 0), int)
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


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer(tmp_path_factory.mktemp("key"))


Build = Callable[[str, Path], Product]


@pytest.fixture(scope="module")
def build(signer: Signer, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return a function that builds the demo for a board, once."""
    need("arm-none-eabi-gcc", "qemu-system-arm")
    built: dict[str, Path] = {}

    def make(board: str, folder: Path) -> Product:
        if board not in built:
            place = tmp_path_factory.mktemp(board)
            (place / "device.h").write_text(DEVICE)
            write_c_key(place / "key.h", signer.key.public)
            built[board] = build_demo(board, place)
        return Product(board, built[board], folder)

    return make


def build_demo(board: str, folder: Path) -> Path:
    """Return the demo, built with the `device.h` and the `key.h` of a folder."""
    vendored = []
    for name in ("monocypher", "sha512"):
        unit = [str(MONOCYPHER / f"{name}.c"), "-o", str(folder / f"{name}.o")]
        subprocess.run([*ARM, *CORES[qemu.BOARDS[board]], "-Os", "-w", "-c", *unit], check=True)
        vendored.append(folder / f"{name}.o")
    units = [qemu.DEMO / "main.c", *sources(*OURS), *vendored]
    return qemu.build(board, folder / "demo.elf", units, f"-I{folder}", "-DDEVICE_SIGNED")


@pytest.fixture(params=qemu.BOARDS)
def each(request: pytest.FixtureRequest, build: Build, tmp_path: Path) -> Product:
    return build(request.param, tmp_path)


@pytest.fixture
def one(build: Build, tmp_path: Path) -> Product:
    return build(ONE_BOARD, tmp_path)


def check_answers(device: Device, blob: Blob, n_samples: int = 3) -> None:
    """Check that the device answers as Python does, to the bit."""
    samples = np.random.default_rng(blob.version).integers(-128, 128, (n_samples, blob.dim)).astype(np.int8)
    for sample, expected in zip(samples, logits_int8(blob, samples), strict=True):
        answer, logits = device.classify(sample)
        assert logits.tobytes() == expected.astype("<f4").tobytes()
        assert answer == expected.argmax()


def test_a_board_runs_its_head_takes_a_new_one_and_restarts_into_it(each: Product, signer: Signer) -> None:
    old, new = signer.head(1), signer.head(2, n_looks=3, table=np.arange(-128, 128).astype(np.int8)[::-1])
    each.make(signer.sign(old))
    with each.boot() as device:
        check_answers(device, old)
        report = device.push(signer.sign(new))
        assert (report.version, report.state) == (2, "confirmed")
        check_answers(device, new)
        assert device.state()[:2] == (1, 1)
        assert device.state().stack_bytes < 8192
    with each.boot() as device:
        check_answers(device, new)


@pytest.mark.parametrize("board", [ONE_BOARD, "microbit"])
def test_the_old_head_runs_and_the_push_goes_on_wherever_the_power_is_cut(
    board: str, build: Build, signer: Signer, tmp_path: Path
) -> None:
    product, old, new = build(board, tmp_path), signer.head(1), signer.head(2)
    product.make(signer.sign(old))
    blob = signer.sign(new)
    for cut in (1, 5_000, 10_000, len(blob)):
        with product.boot() as device:
            check_answers(device, old, 1)
            with pytest.raises(LinkError):
                device.push(blob, lambda n_bytes: n_bytes >= cut and device.running.cut_power())
    with product.boot() as device:
        check_answers(device, old, 1)
        report = device.push(blob)
        assert (report.version, report.state) == (2, "confirmed")
        assert report.sent_bytes < len(blob) / 4  # it lay there already
        check_answers(device, new)


def test_a_head_that_is_not_for_the_device_is_refused_and_changes_nothing(one: Product, signer: Signer) -> None:
    old, new = signer.head(1, counter=5), signer.head(2, counter=5)
    one.make(signer.sign(old))
    changed = bytearray(signer.sign(new))
    changed[-1] ^= 1
    refused = {
        "SIGNATURE": bytes(changed),
        "KEY": sign_blob(replace(new, key_id=(other := Signer(one.folder)).key.key_id), other.key),
        "PRODUCT": signer.sign(replace(new, product="kettle")),
        "BACKBONE": signer.sign(replace(new, backbone=bytes(32))),
        "DIM": signer.sign(signer.head(2, dim=DIM - 1)),
        "COUNTER": signer.sign(replace(new, counter=4)),
        "CANARY": signer.sign(replace(new, answers=(new.answers + 1) % N_CLASSES)),
        "CRC": signer.sign(new)[:-100] + b"\0" + signer.sign(new)[-99:],
        "TYPE": signer.sign(signer.head(2, n_classes=1, is_int8=False)),
        "ROOM": signer.sign(signer.head(2, n_classes=MOST_CLASSES + 1)),
    }
    with one.boot() as device:
        before = device.state()
    kept = one.kept()
    with one.boot() as device:
        for name, blob in refused.items():
            assert device.refusal(blob) == dict(ERRORS)[name]
            assert device.state()[:3] == before[:3]
        assert device.refusal(bytes(0x40004)) == dict(ERRORS)["ROOM"]
        check_answers(device, old, 1)
    assert one.kept() == kept
    with one.boot() as device:
        check_answers(device, old, 1)
        assert device.push(signer.sign(new)).version == 2


def test_a_head_that_crashes_the_device_loses_its_tries_and_the_old_one_runs(each: Product, signer: Signer) -> None:
    check_reverts(each, signer, "makes the device crash")


def test_a_head_that_hangs_the_device_loses_its_tries_and_the_old_one_runs(one: Product, signer: Signer) -> None:
    check_reverts(one, signer, "makes the device hang")


def check_reverts(product: Product, signer: Signer, name: str) -> None:
    """Check that a head whose every answer does that to the device is given up."""
    old, bad = signer.head(1), signer.head(2, classes=(name,) * N_CLASSES)
    product.make(signer.sign(old))
    with product.boot() as device:
        with pytest.raises(LinkError, match=dict(ERRORS)["TRIAL"]):
            device.push(signer.sign(bad))
        assert device.state()[:2] == (0, 0)
        check_answers(device, old, 1)
        assert device.push(signer.sign(signer.head(3))).version == 3  # it can still be mended


def test_a_head_that_was_damaged_after_its_check_never_runs(one: Product, signer: Signer) -> None:
    old, new = signer.head(1), signer.head(2)
    one.make(signer.sign(old))
    with one.boot() as device:
        assert push(device.link, signer.sign(new), reboot=False).state == "waits"
        assert device.state().tries == TRIES
    flash = bytearray(one.flash.read_bytes())
    flash[qemu.SLOT_BYTES["mps2"] + 5000] ^= 1
    one.flash.write_bytes(flash)
    with one.boot() as device:
        check_answers(device, old, 1)
        assert ERRORS[device.link.hello().error][0] == "TRIAL"


def test_a_device_without_a_head_takes_one(one: Product, signer: Signer) -> None:
    new = signer.head(1)
    one.make(b"")
    with one.boot() as device:
        assert device.link.hello().head is None
        assert device.link.ask(CLASSIFY)[0] == [name for name, _ in ERRORS].index("EMPTY")
        assert device.push(signer.sign(new)).version == 1
        check_answers(device, new, 1)
