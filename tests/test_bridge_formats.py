"""The formats are written once: C's offsets, the README's tables and Python's structs are the same."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from edge_firmware import INCLUDE, formats
from edge_firmware.c_format import c_header
from edge_firmware.formats import BLOB, ERRORS, Layout

from .c_builds import CPP, HOST, compile_c

BRIDGE = Path(__file__).resolve().parents[1] / "firmware_bridge"
LAYOUTS = [value for value in vars(formats).values() if isinstance(value, Layout)]


def test_the_header_in_c_is_what_the_formats_say() -> None:
    assert (INCLUDE / "edge_format.h").read_text() == c_header()


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_the_readme_shows_the_layout(layout: Layout) -> None:
    text = (BRIDGE / "README.md").read_text()
    shown = text.split(f"<!-- {layout.name} -->", 1)[1].split("<!-- end -->", 1)[0].strip().splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in shown]
    assert [(int(cell[0]), cell[1], cell[2]) for cell in cells] == [
        (offset, field.type, field.name) for field, offset in zip(layout.fields, layout.offsets, strict=True)
    ]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_layout_has_no_gaps_and_gives_back_what_it_took(layout: Layout) -> None:
    data = bytes(range(1, layout.size + 1))
    assert layout.pack(layout.unpack(data)) == data
    ends = [offset + field.n_bytes for field, offset in zip(layout.fields, layout.offsets, strict=True)]
    assert [*layout.offsets[1:], layout.size] == ends


def test_numbers_of_a_blob_are_aligned_to_their_size() -> None:
    for field, offset in zip(BLOB.fields, BLOB.offsets, strict=True):
        if not field.type.startswith("u8["):
            assert offset % struct.calcsize(field.code) == 0, field.name


@pytest.mark.parametrize("compiler", [HOST, CPP], ids=["C99", "C++"])
def test_errors_have_the_same_numbers_in_c(tmp_path: Path, compiler: tuple[str, ...]) -> None:
    names = ["OK" if name == "OK" else f"E_{name}" for name, _ in ERRORS]
    checks = [f"typedef char check_{name}[EDGE_{name} == {number} ? 1 : -1];" for number, name in enumerate(names)]
    (tmp_path / "unit.c").write_text("\n".join(['#include "edge_format.h"', *checks]))
    compile_c(tmp_path / "unit.o", [tmp_path / "unit.c"], compiler, "-c")
