"""What tests of the link share: the device and the line of `tools/link_rig.py`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .c_builds import need

TOOLS = Path(__file__).resolve().parents[1] / "tools"


def load_tool(name: str) -> Any:
    """Return a module of the folder `tools`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(TOOLS), *sys.path])
        return __import__(name)


BUILT: list[Any] = []


def device_code(folders: pytest.TempPathFactory) -> Any:
    """Return the device's C as a library, built once; or skip the test where C cannot be compiled."""
    need("cc")
    if not BUILT:
        BUILT.append(load_tool("link_rig").library(folders.mktemp("link")))
    return BUILT[0]


@contextmanager
def empty_device(folder: Path) -> Iterator[tuple[str, Path]]:
    """Give the address of a device that takes any head, a process of its own, and the file that is its flash."""
    need("cc")
    program, flash = load_tool("link_rig").build(folder / "device", "-DLINK_PROCESS"), folder / "flash"
    flash.write_bytes(b"\xff" * (2 * 65536 + 2 * 4096))
    line = [program, flash, "65536", "4096", "256", "1024", "0"]  # slots, sectors, chunks, window, any port
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as device:
        assert device.stdout is not None
        try:
            yield f"127.0.0.1:{device.stdout.readline().strip()}", flash
        finally:
            device.kill()
