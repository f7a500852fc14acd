"""How tests build the C of the firmware bridge: every warning is an error."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from edge_firmware import INCLUDE, SOURCES

STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")
HOST = ("cc", "-std=c99")
CPP = ("c++", "-std=c++17", "-x", "c++")
AARCH64 = ("aarch64-linux-gnu-gcc", "-std=c99", "-static")
ARM = ("arm-none-eabi-gcc", "-std=c99", "-mthumb", "-ffreestanding", "-ffunction-sections", "-fdata-sections")
CORES = {
    "M0": ("-mcpu=cortex-m0",),
    "M3": ("-mcpu=cortex-m3",),
    "M4F": ("-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
    "M7": ("-mcpu=cortex-m7", "-mfloat-abi=hard", "-mfpu=fpv5-d16"),
}
PACKAGES = {
    "cc": "gcc libc6-dev",
    "nm": "binutils",
    "c++": "g++",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    "qemu-aarch64": "qemu-user",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
}


def need(*commands: str) -> None:
    """Skip the test where a command is missing, saying what to install."""
    for command in commands:
        if shutil.which(command) is None:
            pytest.skip(f"needs {command}: apt-get install {PACKAGES[command]}")


def sources(*names: str) -> list[Path]:
    """Return the paths of C files of the bridge, such as `edge_head`."""
    return [SOURCES / f"{name}.c" for name in names]


def compile_c(target: Path, units: Sequence[Path], compiler: Sequence[str] = HOST, *options: str) -> Path:
    """Return the target, built of the units by the compiler, or skip the test."""
    need(compiler[0])
    line = [*compiler, *STRICT, f"-I{INCLUDE}", *options, *map(str, units), "-o", str(target)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:3000]
    return target
