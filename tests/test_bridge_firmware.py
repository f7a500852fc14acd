"""A whole device, on four emulated boards: it runs its head from flash, takes a new one over its UART and restarts into
it, and goes back to the one before from a bad one, or when its power is cut."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edge_firmware.bundle import Bundle, sign_blob, write_bundle
from edge_firmware.device_info import error_text
from edge_firmware.formats import ERRORS, NUMBERS
from edge_firmware.keys import SigningKey
from edge_firmware.push import push

from edge_cl.errors import LinkError

from . import qemu
from .c_builds import need
from .firmware_device import (
    CLASSIFY,
    DIM,
    MOST_CLASSES,
    N_CLASSES,
    TRIES,
    Product,
    Signer,
    build_demo,
    check_answers,
    new_signer,
)

ONE_BOARD = "mps2-an385"
Build = Callable[[str, Path], Product]


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return new_signer(tmp_path_factory.mktemp("key"))


@pytest.fixture(scope="module")
def build(signer: Signer, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return a function that builds the demo for a board, once."""
    built: dict[str, Path] = {}

    def make(board: str, folder: Path) -> Product:
        if board not in built:
            built[board] = build_demo(board, tmp_path_factory.mktemp(board), signer)
        return Product(board, built[board], folder)

    return make


@pytest.fixture(params=qemu.BOARDS)
def each(request: pytest.FixtureRequest, build: Build, tmp_path: Path) -> Product:
    return build(request.param, tmp_path)


@pytest.fixture
def one(build: Build, tmp_path: Path) -> Product:
    return build(ONE_BOARD, tmp_path)


def test_a_board_runs_its_head_takes_a_new_one_and_restarts_into_it(each: Product, signer: Signer) -> None:
    old, new = signer.head(1), signer.head(2, n_looks=3, table=np.arange(-128, 128).astype(np.int8)[::-1])
    each.make(signer.sign(old))
    with each.boot() as device:
        check_answers(device, old)
        report = device.push(signer.sign(new))
        assert (report.version, report.state) == (2, "confirmed")
        check_answers(device, new)
        assert device.state()[:2] == (1, 1)
        assert device.state().stack_bytes < 4096
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
                device.push(blob, device.cut_power_at(cut))
    with product.boot() as device:
        check_answers(device, old, 1)
        report = device.push(blob)
        assert (report.version, report.state) == (2, "confirmed")
        assert report.skipped_bytes > len(blob) - product.sector_bytes
        check_answers(device, new)


def test_a_head_that_is_not_for_the_device_is_refused_and_changes_nothing(one: Product, signer: Signer) -> None:
    old, new = signer.head(1, counter=5), signer.head(2, counter=5)
    one.make(signer.sign(old))
    changed = bytearray(signer.sign(new))
    changed[-1] ^= 1
    refused = {
        "SIGNATURE": bytes(changed),
        "KEY": sign_blob(replace(new, key_id=(other := new_signer(one.folder)).key.key_id), other.key),
        "PRODUCT": signer.sign(replace(new, product="kettle")),
        "BACKBONE": signer.sign(replace(new, backbone=bytes(32))),
        "DIM": signer.sign(signer.head(2, dim=DIM - 1)),
        "COUNTER": signer.sign(replace(new, counter=4)),
        "CANARY": signer.sign(replace(new, answers=(new.answers + 1) % N_CLASSES)),
        "CRC": signer.sign(new)[:-100] + b"\0" + signer.sign(new)[-99:],
        "TYPE": signer.sign(signer.head(2, n_classes=1, is_int8=False)),
        "MANY": signer.sign(signer.head(2, n_classes=MOST_CLASSES + 1)),
    }
    with one.boot() as device:
        before = device.state()
    kept = one.kept()
    with one.boot() as device:
        for name, blob in refused.items():
            assert device.refusal(blob) == error_text(NUMBERS[name])
            assert device.state()[:3] == before[:3]
        assert device.refusal(bytes(0x40004)) == error_text(NUMBERS["ROOM"])
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
        assert device.link.ask(CLASSIFY)[0] == NUMBERS["EMPTY"]
        assert device.push(signer.sign(new)).version == 1
        check_answers(device, new, 1)


def test_the_command_pushes_a_bundle_to_it(one: Product, signer: Signer, command: list[str]) -> None:
    new = signer.head(2)
    one.make(signer.sign(signer.head(1)))
    write_bundle(one.folder / "new.edgehead", Bundle(signer.sign(new)), signer.key)
    with one.boot() as device:
        line = [*command, "push", str(one.folder / "new.edgehead"), "--tcp", f"127.0.0.1:{device.running.port}"]
        device.link.port.close()  # one talks to it at a time
        done = subprocess.run([*line, "--json"], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert (told["version"], told["state"]) == (2, "confirmed")
    with one.boot() as device:
        check_answers(device, new, 1)


def test_the_lines_of_the_readme_build_a_device_that_takes_a_head(command: list[str], tmp_path: Path) -> None:
    need("arm-none-eabi-gcc", "qemu-system-arm")
    (tmp_path / "edge-cl").write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    (tmp_path / "edge-cl").chmod(0o755)
    (tmp_path / "firmware_bridge").symlink_to(qemu.DEMO.parent)
    (lines,) = re.findall(r"```sh\n(.*?)```", (qemu.DEMO / "README.md").read_text(), re.DOTALL)
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(["sh", "-e", "-c", lines], cwd=tmp_path, env=os.environ | {"PATH": path}, check=True)
    build = tmp_path / "build"
    signer = Signer(SigningKey.open(build / "key.pem"))
    with Product("microbit", build / "demo.elf", build).boot() as device:
        assert device.push(signer.sign(signer.head(1))).version == 1
