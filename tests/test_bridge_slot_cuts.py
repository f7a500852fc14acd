"""A device with two slots outlives power cuts at every flash operation; its C is strict and needs next to nothing."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path

import pytest
from edge_firmware.slots import Layout

from .c_builds import AARCH64, ARM, CORES, CPP, HOST, compile_c, need, sources
from .slot_library import NEVER, FlashModel, build_library, new_flash

TOOL = Path(__file__).resolve().parents[1] / "tools" / "slot_power_cuts.py"
LAYOUT = Layout(sector_bytes=64, slot_address=(0, 64), slot_bytes=64, record_address=128)


@pytest.fixture(scope="module")
def flash(tmp_path_factory: pytest.TempPathFactory) -> FlashModel:
    return new_flash(build_library(tmp_path_factory.mktemp("slots")), LAYOUT, 8)


def test_no_power_cut_and_no_failure_loses_a_device() -> None:
    need("cc")
    done = subprocess.run([sys.executable, TOOL, "4", "--fuzz", "1000"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(runs) == 15
    for run in runs:
        assert run["bricks"] == run["faults"] == 0
        if run["run"] == "cuts":
            assert run["operations"] >= 6 * 4  # two erases, two programs, three records and what sectors they need
            assert run["cuts"] > 9 * run["operations"]
            assert run["boots"] > run["cuts"]


@pytest.mark.parametrize(
    ("address", "data"),
    [(4, bytes(8)), (0, bytes(7)), (0, b""), (256, bytes(8)), (NEVER - 7, bytes(8)), (8, bytes(8)), (8, b"\xff" * 8)],
)
def test_the_model_refuses_what_flash_refuses(flash: FlashModel, address: int, data: bytes) -> None:
    model = flash.copy()
    model.program(8, b"\x0f" * 8)  # a unit is programmed once, whatever its bits
    with pytest.raises(OSError, match="failed"):
        model.program(address, data)
    assert model.n_faults == 1
    assert model.read(0, 24) == b"\xff" * 8 + b"\x0f" * 8 + b"\xff" * 8
    model.erase(0)
    assert model.read(0, 256) == b"\xff" * 256


@pytest.mark.parametrize("address", [32, 256, NEVER])
def test_the_model_erases_its_sectors_alone(flash: FlashModel, address: int) -> None:
    model = flash.copy()
    with pytest.raises(OSError, match="failed"):
        model.erase(address)
    with pytest.raises(OSError, match="failed"):
        model.read(address, 256)
    assert model.n_faults == 2


@pytest.mark.parametrize("tear", range(9))
def test_what_a_cut_leaves_of_a_program_is_between_before_and_after(flash: FlashModel, tear: int) -> None:
    torn = flash.copy()
    torn.cut_at, torn.tear = torn.n_operations, tear
    with pytest.raises(OSError, match="failed"):
        torn.program(128, bytes(range(32)))
    with pytest.raises(OSError, match="failed"):
        torn.read(128, 32)  # the power is off
    torn.power_on()
    left = bytes(ctypes.string_at(ctypes.addressof(torn) + 128, 32))
    assert all(byte & wanted == wanted for byte, wanted in zip(left, range(32), strict=True))
    assert tear == 7 or (left == b"\xff" * 32) == (tear in {0, 6})  # 7 cannot be read, whatever is there
    assert tear == 7 or (left == bytes(range(32))) == (tear == 1)


@pytest.mark.parametrize("compiler", [HOST, CPP, AARCH64, *((*ARM, *core) for core in CORES.values())], ids=" ".join)
def test_it_compiles_without_a_warning(tmp_path: Path, compiler: tuple[str, ...]) -> None:
    for level in ("-Os", "-O3"):
        compile_c(tmp_path / "slot.o", sources("edge_slot"), compiler, "-c", level)


@pytest.mark.parametrize("core", CORES)
def test_it_needs_the_checksum_alone_no_memory_of_its_own_and_little_stack(tmp_path: Path, core: str) -> None:
    need("arm-none-eabi-gcc")
    options = ("-c", "-Os", "-Wstack-usage=80")  # of each function; three at most lie on each other
    unit = compile_c(tmp_path / "slot.o", sources("edge_slot"), (*ARM, *CORES[core]), *options)
    lines = subprocess.run(["arm-none-eabi-nm", unit], capture_output=True, text=True, check=True).stdout.splitlines()
    kinds = {line.split()[-1]: line.split()[-2] for line in lines if "$" not in line}
    assert {name for name, kind in kinds.items() if kind == "U"} == {"edge_crc32"}
    assert set(kinds.values()) <= set("UTtr"), kinds
