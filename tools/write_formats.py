"""Writes what follows from `edge_firmware.formats`: the C header, and the tables between the marks of a README."""

from __future__ import annotations

import re
from pathlib import Path

from edge_firmware import formats
from edge_firmware.c_format import c_header, table
from edge_firmware.formats import Layout

from edge_cl.files import write_whole

BRIDGE = Path(__file__).resolve().parents[1] / "firmware_bridge"


def with_tables(text: str) -> str:
    """Return the README with its tables anew: between `<!-- NAME -->` and `<!-- end -->`."""
    for layout in vars(formats).values():
        if isinstance(layout, Layout):
            start = f"<!-- {layout.name} -->"
            text = re.sub(rf"{start}.*?<!-- end -->", f"{start}\n{table(layout)}\n<!-- end -->", text, flags=re.DOTALL)
    return text


def main() -> None:
    """Write both."""
    write_whole(BRIDGE / "edge_firmware" / "include" / "edge_format.h", c_header().encode())
    readme = BRIDGE / "README.md"
    write_whole(readme, with_tables(readme.read_text()).encode())


if __name__ == "__main__":
    main()
