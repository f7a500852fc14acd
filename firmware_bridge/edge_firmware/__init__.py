"""Heads into firmware: signed bundles, slots, transport, and where the C sources lie."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_firmware.deployment import confirm, current, deploy, reject
    from edge_firmware.packing import pack

__all__ = ["INCLUDE", "SOURCES", "confirm", "current", "deploy", "pack", "reject"]

INCLUDE = Path(__file__).parent / "include"
SOURCES = Path(__file__).parent / "src"
_HOMES = {**dict.fromkeys(__all__[2:], "edge_firmware.deployment"), "pack": "edge_firmware.packing"}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use.

    Raises:
        AttributeError: there is no such name.
    """
    if name not in _HOMES:
        raise AttributeError(f"module 'edge_firmware' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
