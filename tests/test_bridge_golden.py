"""Golden blobs: the format stays what it was, and every machine makes the same logits of them."""

from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_firmware.arithmetic import logits_float, logits_int8, quantise
from edge_firmware.blob import read_blob, signed_message
from edge_firmware.formats import SIGNATURE_BYTES
from edge_kernels.arrays import Floats

from . import qemu
from .c_builds import AARCH64, HOST, compile_c, need, sources
from .c_head import TOOLS  # noqa: F401 - makes the tools importable

FOLDER = Path(__file__).parent
UNITS = [FOLDER / "golden.c", *sources("edge_head", "edge_float")]
BLOBS = {name: (FOLDER / f"golden_{name}.blob").read_bytes() for name in ("int8", "float32")}
LOGITS: dict[str, list[str]] = json.loads((FOLDER / "golden_logits.json").read_text())
HOST_C = """
#include "host.h"
#include <stdio.h>
#include <stdlib.h>
void host_text(const char *text) { fputs(text, stderr); }
void host_exit(uint32_t status) { exit((int)status); }
"""


def test_the_format_is_frozen() -> None:
    """Devices have blobs of format 1: another layout needs another number."""
    from write_golden_blob import KEY, golden_blobs, golden_logits, signed

    blobs, logits = golden_blobs(), golden_logits()
    for name, data in BLOBS.items():
        assert signed(blobs[name]) == data
        assert read_blob(data).to_be_signed() == data[:-SIGNATURE_BYTES]
        KEY.public_key().verify(data[-SIGNATURE_BYTES:], signed_message(data[:-SIGNATURE_BYTES]))
    for name in ("features", "quantised", "int8"):
        assert logits[name] == LOGITS[name]


def test_they_hold_what_is_odd_in_a_blob() -> None:
    int8, float32 = read_blob(BLOBS["int8"]), read_blob(BLOBS["float32"])
    assert int8.dim % 4
    assert len(int8.owners)
    assert int8.table is not None
    assert float32.is_raised
    assert float32.is_unit
    features = numbers("features")
    np.testing.assert_array_equal(quantise(int8, features), of_hex(LOGITS["quantised"], "i1"))
    np.testing.assert_array_equal(logits_int8(int8, quantise(int8, features)), numbers("int8"))
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(logits_float(float32, features), numbers("float32"), rtol=1e-5, atol=1e-5)
    assert sum(len(data) for data in BLOBS.values()) + len(json.dumps(LOGITS)) < 20_000


def of_hex(texts: list[str], code: str) -> Any:
    return np.array([np.frombuffer(bytes.fromhex(text), code) for text in texts])


def numbers(name: str) -> Floats:
    return np.asarray(of_hex(LOGITS[name], "<f4"))


def golden_header() -> str:
    """Return the blobs and the features as C."""
    features = of_hex(LOGITS["features"], "<u4")
    int8 = read_blob(BLOBS["int8"])
    lines = [
        "#include <stdint.h>",
        f"enum {{ GOLDEN_SAMPLES = {len(features)}, GOLDEN_DIM = {int8.dim}, GOLDEN_CLASSES = {len(int8.classes)} }};",
    ]
    for name, data in BLOBS.items():
        numbers_ = ", ".join(map(str, b"\0" + data))
        lines.append(f"__attribute__((aligned(4))) static const uint8_t GOLDEN_{name.upper()}[] = {{{numbers_}}};")
    rows = ", ".join("{" + ", ".join(f"{bits:#x}u" for bits in row) + "}" for row in features)
    return "\n".join([*lines, f"static const uint32_t GOLDEN_FEATURES[][GOLDEN_DIM] = {{{rows}}};\n"])


MACHINES = [
    *((machine, (level, "-ffp-contract=fast")) for machine in ("host", "aarch64") for level in ("-Os", "-O3")),
    *((board, ()) for board in qemu.BOARDS),
    ("mps2-an386", ("-O3", "-ffp-contract=fast")),
    ("mps2-an386", ("-DEDGE_DSP",)),
    ("mps2-an500", ("-DEDGE_DSP", "-O2")),
]


def run_on(machine: str, options: tuple[str, ...], folder: Path) -> tuple[int, str]:
    """Return the exit status of the program on a machine and what it said."""
    (folder / "golden.h").write_text(golden_header())
    if machine in qemu.BOARDS:
        program = qemu.build(machine, folder / "golden.elf", UNITS, f"-I{folder}", *options)
        return qemu.run(machine, program)
    (folder / "host.c").write_text(HOST_C)
    units = [*UNITS, folder / "host.c"]
    if machine == "host":
        line = [str(compile_c(folder / "golden", units, HOST, f"-I{folder}", f"-I{qemu.DEMO}", *options))]
    else:
        program = compile_c(folder / "golden", units, AARCH64, f"-I{folder}", f"-I{qemu.DEMO}", *options)
        line = [str(program)]
        if platform.machine() != "aarch64":
            need("qemu-aarch64")
            line = ["qemu-aarch64", *line]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(("machine", "options"), MACHINES, ids=str)
def test_every_machine_makes_the_same_logits(tmp_path: Path, machine: str, options: tuple[str, ...]) -> None:
    status, text = run_on(machine, options, tmp_path)
    assert status == 0, text
    *lines, name = text.split("\n")
    assert name == "mailbox"
    assert lines[::3] == LOGITS["quantised"]
    assert lines[1::3] == LOGITS["int8"]
    found = np.asarray(of_hex(lines[2::3], "<f4"))
    # sums of 67 products of float32 in another order, and roots to three units of the last place
    np.testing.assert_allclose(found, numbers("float32"), rtol=1e-5, atol=1e-5)
