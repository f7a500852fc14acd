"""Instructions per product of a head's logits on each core, counted by QEMU; `firmware_sizes.py` prints them."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from edge_firmware import SOURCES
from mutated_blobs import draw_blob, whole

sys.path.append(str(Path(__file__).resolve().parents[1]))

from tests import qemu
from tests.c_builds import CORES

DIM, N_CLASSES = 1280, 10
KNOWN_TURNS = 100_000  # of two instructions
UNITS = [Path(__file__).with_suffix(".c"), *(SOURCES / f"{name}.c" for name in ("edge_head", "edge_float"))]
ICOUNT = ("-icount", "shift=4")  # a tick of the slowest clock is less than an instruction's time
HAS_DSP = ("M4F", "M7")


def instructions(board: str, folder: Path, *options: str) -> list[float]:
    """Return instructions per product on a board, of int8 rows and of float32 ones."""
    int8 = draw_blob(0, dim=DIM, n_classes=N_CLASSES)
    blobs = {"INT8": whole(int8)}
    is_large = board != "microbit"  # 16 KB of RAM, and flash enough; float32 rows take no less on its core
    if is_large:
        blobs["FLOAT32_BLOB"] = whole(draw_blob(0, dim=DIM, n_classes=N_CLASSES, is_int8=False))
    numbers = f"enum {{ DIM = {DIM}, N_CLASSES = {N_CLASSES}, KNOWN_TURNS = {KNOWN_TURNS} }};\n"
    arrays = [f"static const uint8_t {name}[] = {{{', '.join(map(str, data))}}};\n" for name, data in blobs.items()]
    (folder / "blobs.h").write_text("#include <stdint.h>\n" + numbers + "".join(arrays))
    defined = ["-DFLOAT32"] if is_large else []
    program = qemu.build(board, folder / "count.elf", UNITS, f"-I{folder}", *options, *defined)
    status, text = qemu.run(board, program, *ICOUNT)
    assert status == 0, text
    known, *found = map(int, text.split())
    return [ticks / known * 2 * KNOWN_TURNS / (DIM * N_CLASSES) for ticks in found]


def instruction_table() -> str:
    """Return instructions per product on each core as a table in Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        boards = {core: board for board, core in qemu.BOARDS.items()}
        plain = {core: instructions(boards[core], Path(folder)) for core in CORES}
        dsp = {core: instructions(boards[core], Path(folder), "-DEDGE_DSP") for core in HAS_DSP}
    rows = {
        "int8, plain C": [f"{plain[core][0]:.2f}" for core in CORES],
        "int8, `EDGE_DSP`": [f"{dsp[core][0]:.2f}" if core in dsp else "" for core in CORES],
        "float32": [f"{plain[core][1]:.2f}" if len(plain[core]) > 1 else "" for core in CORES],
    }
    head = f"| instructions per product, D = {DIM:,}, K = {N_CLASSES} | {' | '.join(CORES)} |\n"
    head += f"|---|{'--:|' * len(CORES)}\n"
    return head + "\n".join(f"| {what} | {' | '.join(cells)} |" for what, cells in rows.items())


if __name__ == "__main__":
    print(instruction_table())
