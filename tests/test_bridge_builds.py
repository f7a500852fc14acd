"""The C runtime compiles without a warning for every core, as C99 and as C++, and needs the compiler's own alone."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from edge_firmware import INCLUDE

from .c_builds import ARM, CORES, CPP, HOST, compile_c, need, sources
from .c_head import UNITS

COMPILERS = {
    "C99": HOST,
    "C++": CPP,
    **{core: (*ARM, *options, "-Os") for core, options in CORES.items()},
    **{f"{core} unoptimised": (*ARM, *options, "-O0") for core, options in CORES.items()},
    "M4F with its DSP": (*ARM, *CORES["M4F"], "-Os", "-DEDGE_DSP"),
    "M7 with its DSP": (*ARM, *CORES["M7"], "-Os", "-DEDGE_DSP"),
}
SUPPORT = {"__gnu_thumb1_case_uqi", "__gnu_thumb1_case_sqi", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"}


@pytest.mark.parametrize("name", COMPILERS)
def test_every_unit_compiles_alone_and_needs_nothing(tmp_path: Path, name: str) -> None:
    compiler: Sequence[str] = COMPILERS[name]
    objects = [compile_c(tmp_path / f"{unit}.o", sources(unit), compiler, "-c", "-fno-builtin") for unit in UNITS]
    need("nm")
    text = subprocess.run(["nm", "-P", *objects], capture_output=True, text=True, check=True).stdout
    symbols = [line.split()[:2] for line in text.splitlines() if len(line.split()) > 1]
    needed = {symbol for symbol, kind in symbols if kind == "U"} - {symbol for symbol, kind in symbols if kind != "U"}
    assert {symbol for symbol in needed if not symbol.startswith("__aeabi_")} <= SUPPORT
    assert {kind for _, kind in symbols} <= set("UTtRr"), symbols  # nothing that changes


def test_two_units_may_include_the_headers(tmp_path: Path) -> None:
    units = []
    for name in ("one", "two"):
        units.append(tmp_path / f"{name}.c")
        units[-1].write_text(
            '#include "edge_head.h"\n#include "edge_head.h"\n#include "edge_format.h"\n'
            f"uint32_t {name}(void);\nuint32_t {name}(void) {{ return edge_crc32(0, 0, 0); }}\n"
        )
    units.append(tmp_path / "main.c")
    units[-1].write_text(
        "#include <stdint.h>\nuint32_t one(void);\nuint32_t two(void);\nint main(void) { return one() != two(); }\n"
    )
    for compiler in (HOST, CPP):
        program = compile_c(tmp_path / "program", [*units, *sources(*UNITS)], compiler)
        assert subprocess.run([program], check=False).returncode == 0


@pytest.mark.parametrize(("n_classes", "fits"), [(126, True), (127, False)])
def test_the_demo_takes_no_more_classes_than_an_answer_holds(tmp_path: Path, n_classes: int, fits: bool) -> None:
    need(HOST[0])
    numbers = {"PRODUCT": '"cam"', "DIM": "64u", "CLASSES": f"{n_classes}u", "TRIES": "3u"}
    text = "".join(f"#define DEVICE_{name} {value}\n" for name, value in numbers.items())
    (tmp_path / "device.h").write_text(text)
    demo = INCLUDE.parents[1] / "demo"
    line = [*HOST, "-fsyntax-only", f"-I{tmp_path}", f"-I{demo}", f"-I{INCLUDE}", str(demo / "main.c")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode == 0, "the logits do not fit an answer" in done.stderr) == (fits, not fits), done.stderr
