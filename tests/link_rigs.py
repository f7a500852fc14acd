"""What tests of the link share: the device and the line of `tools/link_rig.py`."""

from __future__ import annotations

import sys
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
