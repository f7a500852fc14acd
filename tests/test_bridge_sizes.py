"""The C of the bridge is as small and as fast as its page says."""

from __future__ import annotations

import re

import pytest
from edge_firmware import INCLUDE

from .c_builds import need
from .c_head import TOOLS  # noqa: F401 - makes the tools importable

PAGE = INCLUDE.parents[2] / "README.md"
Cells = dict[str, dict[str, float]]


@pytest.fixture(scope="module")
def tables() -> dict[str, str]:
    """Return the tables, by the marks that they stand between."""
    need("arm-none-eabi-gcc", "qemu-system-arm")
    from firmware_instructions import instruction_table
    from firmware_sizes import size_table

    return {"SIZES": size_table(), "INSTRUCTIONS": instruction_table()}


def cells_of(table: str) -> Cells:
    """Return the numbers of a table by row and core."""
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {
        what: {core: float(re.sub(r"[+, ]", "", text)) for core, text in zip(head[1:], texts, strict=True) if text}
        for what, *texts in rows
    }


def test_a_head_with_its_slots_takes_2048_bytes_and_256_of_ram(tables: dict[str, str]) -> None:
    cells = cells_of(tables["SIZES"])
    both = cells["**head and slots**"]["M4F"]
    assert cells["**head**: open, checksum, int8 logits, argmax, top"]["M4F"] < both
    assert both + cells["and canaries of int8 rows"]["M4F"] <= 2048
    for n_bytes in cells["RAM of head and slots, stack included"].values():
        assert 100 < n_bytes <= 256


def test_a_product_takes_four_instructions_at_most(tables: dict[str, str]) -> None:
    cells = cells_of(tables["INSTRUCTIONS"])
    for core in ("M3", "M4F", "M7"):
        assert 3 <= cells["int8, plain C"][core] <= 4  # two loads, a product
    assert 2 <= cells["int8, `EDGE_DSP`"]["M4F"] <= 3


@pytest.mark.parametrize("name", ["SIZES", "INSTRUCTIONS"])
def test_the_page_has_the_tables_of_its_compiler(tables: dict[str, str], name: str) -> None:
    from firmware_sizes import compiler_version

    page = PAGE.read_text()
    again = "write them: python tools/firmware_sizes.py --write README.md"
    told = re.search(r"arm-none-eabi-gcc [\d.]+", page)
    assert told, again
    if told[0] != compiler_version():
        pytest.skip(f"needs {told[0]}, which made the tables; found {compiler_version()}")
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- end -->", page, re.DOTALL)
    assert found, again
    assert found[1] == tables[name], again
