"""Cut the power of a device at every flash operation of updates of its head, and fuzz its records.

    python tools/slot_power_cuts.py 100                   # updates, each cut everywhere; exit status 1 if one breaks
    python tools/slot_power_cuts.py 100 --fuzz 100000     # and so many devices with any content of their records
    python tools/slot_power_cuts.py 3 --layout 4096,2,16  # bytes of a sector, sectors of records, program unit

`edge_slot.c` and `edge_head.c`, built with sanitizers where there are some, run on flash that enforces its rules
(`flash_model.c`). Updates are confirmed, rejected, or crash while they are on trial; of one in five the confirmed head
rots afterwards. Power is cut at every erase and program in turn, each torn in nine ways: not begun, done, one half, the
other half, bits mixed in two ways, garbage, not readable, and what looks blank and is not. Whatever is left then boots,
and in that boot power is cut at every operation once more, in nine ways. After each the device must boot with the old
head or the new one, byte for byte, stay with it, and take the next update. So it must where operations fail while the
power is on: an error before it was done, or after; no error where nothing was done, or half of it.

Prints one JSON object a line; exit status 2 where nothing can be compiled.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from edge_firmware import INCLUDE, SOURCES
from edge_firmware.blob import Blob
from edge_firmware.formats import SIGNATURE_BYTES

TOOLS = Path(__file__).parent
SANITIZERS = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
LAYOUTS = ("128,2,8", "32,3,4", "64,2,16", "256,2,32", "4096,2,1")


def small_blob() -> bytes:
    """Return a head of two classes that other versions are made of."""
    blob = Blob(
        product="device",
        version=1,
        parent=0,
        counter=0,
        backbone=bytes(32),
        key_id=bytes(8),
        created=0,
        classes=("left", "right"),
        rows=np.array([[50, -20, 3], [-50, 20, 4]], np.int8),
        scales=np.full(2, 0.5, np.float32),
        bias=np.zeros(2, np.int32),
        owners=np.zeros(0, np.int64),
        canaries=np.array([[9, 0, 0], [-9, 0, 0]], np.int8),
        answers=np.array([0, 1]),
        feature_scale=1.0,
    )
    return blob.to_be_signed() + bytes(range(SIGNATURE_BYTES))


def build(folder: Path, options: tuple[str, ...] = SANITIZERS) -> Path:
    """Return the program, without the options where the compiler does not know them."""
    units = [TOOLS / f"{name}.c" for name in ("slot_power_cuts", "slot_device", "flash_model")]
    units += [SOURCES / f"{name}.c" for name in ("edge_slot", "edge_head")]
    program = folder / "slot_power_cuts"
    line = ["cc", "-std=c99", "-O2", *options, f"-I{INCLUDE}", f"-I{TOOLS}", *map(str, units), "-o", str(program)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode != 0 and options:
        return build(folder, ())
    assert done.returncode == 0, done.stderr
    return program


def run(program: Path, what: str, count: int, layout: str, seed: int) -> bool:
    """Print what came of one run; give whether nothing was lost."""
    blob = program.parent / "blob"
    blob.write_bytes(small_blob())
    line = [str(program), str(blob), what, str(count), str(seed), *layout.split(",")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    counts = json.loads(done.stdout) if done.stdout else {"died": done.returncode}
    print(json.dumps({"run": what, "n": count, "layout": layout, **counts}), flush=True)
    print(done.stderr[:2000], end="", file=sys.stderr)
    return done.returncode == 0


def main() -> None:
    """Run all layouts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("updates", type=int)
    parser.add_argument("--fuzz", type=int, default=0, help="devices with any content of their records, per layout")
    parser.add_argument("--layout", action="append", help="SECTOR_BYTES,N_RECORD_SECTORS,UNIT")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if shutil.which("cc") is None:
        print("needs cc: apt-get install gcc libc6-dev", file=sys.stderr)
        sys.exit(2)
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder))
        are_whole = [
            run(program, what, count, layout, options.seed)
            for layout in options.layout or LAYOUTS
            for what, count in (("cuts", options.updates), ("failures", options.updates), ("fuzz", options.fuzz))
            if count
        ]
    sys.exit(not all(are_whole))


if __name__ == "__main__":
    main()
