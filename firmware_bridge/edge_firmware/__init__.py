"""Heads into firmware: signed bundles, slots, transport, and where the C sources lie."""

from __future__ import annotations

from pathlib import Path

INCLUDE = Path(__file__).parent / "include"
SOURCES = Path(__file__).parent / "src"
