"""Fuzzes the C runtime of head blobs under the sanitizers of addresses and of undefined behaviour.

    python tools/fuzz_blobs.py 100000

Each blob is drawn, then broken in one or two of ten ways (`mutated_blobs.py`), mostly with the checksum mended, so that
what lies behind it is reached. C must find the very error that Python finds, and no sanitizer may say a word.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from edge_firmware import INCLUDE, SOURCES
from edge_firmware.formats import BLOB, ERRORS
from mutated_blobs import CHANGES, draw_any, error_in_python

OPTIONS = ("-std=c99", "-O1", "-g", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")
BATCH, N_BASES = 2000, 50


def build(folder: Path) -> Path:
    """Return the program that opens what it reads."""
    units = [Path(__file__).with_suffix(".c"), *(SOURCES / f"{name}.c" for name in ("edge_head", "edge_float"))]
    program = folder / "fuzz_blobs"
    subprocess.run(["cc", *OPTIONS, f"-I{INCLUDE}", *units, "-o", program], check=True)
    return program


def draw(n_blobs: int, rng: np.random.Generator) -> list[bytes]:
    """Return so many broken blobs, and a few whole ones."""
    bases = [draw_any(rng) for _ in range(N_BASES)]
    found = []
    for number in range(n_blobs):
        data = bases[number % N_BASES]
        for _ in range(rng.integers(1, 3) if number % 100 else 0):
            if len(data) >= BLOB.size:
                data = CHANGES[rng.integers(len(CHANGES))](data, rng)
        found.append(data)
    return found


def ask(program: Path, blobs: list[bytes]) -> list[str]:
    """Return the name of the error of each, `OK` or `OK CANARY` of those that open.

    Raises:
        SystemExit: a sanitizer found something.
    """
    lengths = [len(data).to_bytes(4, "little") for data in blobs]
    data = b"".join(length + blob for length, blob in zip(lengths, blobs, strict=True))
    done = subprocess.run([program], input=data, capture_output=True, check=False)
    if done.returncode or done.stderr:
        raise SystemExit(f"blob {len(done.stdout) // 2} of its batch: {done.stderr.decode()[:3000]}")
    names = [name for name, _ in ERRORS]
    pairs = zip(done.stdout[::2], done.stdout[1::2], strict=True)
    return [f"{names[opened]} {names[canary]}" if canary else names[opened] for opened, canary in pairs]


def main() -> None:
    """Fuzz, and print what was found as one JSON object; exit status 1 where C and Python differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("n_blobs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng, counts, differing = np.random.default_rng(asked.seed), Counter[str](), []
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder))
        for start in range(0, asked.n_blobs, BATCH):
            blobs = draw(min(BATCH, asked.n_blobs - start), rng)
            for number, (data, found) in enumerate(zip(blobs, ask(program, blobs), strict=True), start=start):
                counts[found] += 1
                if found.split()[0] != error_in_python(data):
                    differing.append(f"{number}: C {found}, Python {error_in_python(data)}")
    opened = sum(n for name, n in counts.items() if name.startswith("OK"))
    summary = {"blobs": asked.n_blobs, "opened": opened, "differing": differing, "found": dict(sorted(counts.items()))}
    print(json.dumps(summary))
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
