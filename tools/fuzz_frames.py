"""Fuzzes the device's side of a transfer under the sanitizers of addresses and of undefined behaviour.

    python tools/fuzz_frames.py 100000

What comes over the line is a mixture of whole requests with any numbers, a transfer that goes on, requests damaged in
every way, and noise. The device's flash allows no more than a real one, and its running head must not change.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from edge_firmware.formats import (
    LINK_BEGIN,
    LINK_BLOB,
    LINK_COPY,
    LINK_DATA,
    LINK_MARK,
    LINK_RANGE,
    LINK_REBOOT,
    LINK_SECTOR,
    LINK_SKIP,
    LINK_TRY,
    LINK_UNIT,
    LINK_WRITE,
    Layout,
)
from edge_firmware.frames import cobs_encode, encode_frame
from link_rig import build, make_blob, make_head

SLOT_BYTES, SECTOR_BYTES, CHUNK = 8192, 1024, 256
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DLINK_FUZZED")
NUMBERS = {LINK_BEGIN: LINK_BLOB, LINK_SKIP: LINK_SECTOR, LINK_WRITE: LINK_DATA, LINK_COPY: LINK_RANGE}


class Host:
    """Someone at the line who means it well, or does not."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.blob = make_blob(replace(make_head(12, 128, seed=1), version=2))
        self.data = self.blob + b"\xff" * (-len(self.blob) % LINK_UNIT)
        self.mark = {"bytes": len(self.blob), "crc": zlib.crc32(self.blob)}
        self.place = 0

    def parts(self, n_parts: int) -> Iterator[bytes]:
        """Yield what comes over the line."""
        kinds = (self.good, self.odd, self.damaged, self.shaped_noise, self.noise)
        for _ in range(n_parts):
            yield kinds[self.rng.choice(5, p=(0.45, 0.2, 0.2, 0.1, 0.05))]()

    def good(self) -> bytes:
        """Return the next request of a transfer, or sometimes another one of it."""
        choice = self.rng.random()
        if self.place >= len(self.data):
            self.place = 0
            return self.frame(LINK_TRY, LINK_MARK.pack({"crc": self.mark["crc"]}))
        if self.place == 0 or choice < 0.02:
            self.mark["bytes"] = len(self.blob) - (LINK_UNIT if choice < 0.005 else 0)
            begin = self.frame(LINK_BEGIN, LINK_BLOB.pack(dict(self.mark)))
            return begin + self.write()
        return self.frame(LINK_REBOOT, LINK_MARK.pack({"crc": self.mark["crc"]})) if choice < 0.03 else self.write()

    def write(self) -> bytes:
        """Return the WRITE or COPY of the next chunk."""
        start, end = self.place, min(self.place + CHUNK, len(self.data))
        self.place = end
        if self.rng.random() < 0.1:
            source = int(self.rng.integers(SLOT_BYTES))
            return self.frame(LINK_COPY, LINK_RANGE.pack({"offset": start, "source": source, "bytes": end - start}))
        return self.frame(LINK_WRITE, LINK_DATA.pack({"offset": start}) + self.data[start:end])

    def odd(self) -> bytes:
        """Return a whole request of any type, its numbers at the edges or anywhere."""
        kind = int(self.rng.integers(256)) if self.rng.random() < 0.2 else int(self.rng.integers(1, 8))
        layout: Layout = NUMBERS.get(kind, LINK_MARK)
        numbers = [self.number() for _ in layout.fields]
        payload = layout.struct.pack(*numbers)
        if kind == LINK_WRITE or self.rng.random() < 0.1:
            payload += self.rng.bytes(int(self.rng.integers(0, CHUNK + 40)))
        return self.frame(kind, payload)

    def number(self) -> int:
        """Return a number that is near to something, or is not."""
        near = int(self.rng.choice([0, self.place, SECTOR_BYTES, SLOT_BYTES, len(self.blob), 1 << 31, (1 << 32) - 1]))
        step = int(self.rng.choice([0, 0, 1, -1, LINK_UNIT, -LINK_UNIT, SECTOR_BYTES]))
        return (near + step) % (1 << 32) if self.rng.random() < 0.9 else int(self.rng.integers(1 << 32))

    def damaged(self) -> bytes:
        """Return a request with bits, bytes or a piece of it changed."""
        frame = bytearray(self.good() if self.rng.random() < 0.5 else self.odd())
        for _ in range(self.rng.integers(1, 4)):
            place = int(self.rng.integers(len(frame)))
            match int(self.rng.integers(4)):
                case 0:
                    frame[place] ^= 1 << int(self.rng.integers(8))
                case 1:
                    frame.insert(place, int(self.rng.integers(256)))
                case 2:
                    del frame[place : place + int(self.rng.integers(1, 20))]
                case _:
                    frame[place:place] = frame[: int(self.rng.integers(len(frame) + 1))]
            frame = frame or bytearray(1)
        return bytes(frame)

    def shaped_noise(self) -> bytes:
        """Return a whole frame of noise, or one that is too long."""
        return self.frame(int(self.rng.integers(256)), self.rng.bytes(int(self.rng.integers(0, 2 * CHUNK))))

    def noise(self) -> bytes:
        """Return bytes of no shape, or COBS of no frame."""
        data = self.rng.bytes(int(self.rng.integers(1, 700)))
        return data if self.rng.random() < 0.5 else cobs_encode(data) + b"\0"

    def frame(self, kind: int, payload: bytes) -> bytes:
        """Return a frame."""
        return encode_frame(kind, int(self.rng.integers(256)), payload)


def fuzz(n_parts: int, seed: int, folder: Path) -> dict[str, int]:
    """Return what a device took and did.

    Raises:
        RuntimeError: a sanitizer found something, or the device touched what it must not.
    """
    program, flash = build(folder / "fuzzed", *SANITIZERS), folder / "flash"
    memory = bytearray(b"\xff" * (2 * SLOT_BYTES + 2 * SECTOR_BYTES))
    runs = make_blob(make_head(10, 128))
    memory[: len(runs)] = runs
    flash.write_bytes(memory)
    line = b"".join(len(part).to_bytes(2, "little") + part for part in Host(seed).parts(n_parts))
    words = [str(program), str(flash), str(SLOT_BYTES), str(SECTOR_BYTES), str(CHUNK)]
    done = subprocess.run(words, input=line, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.decode(errors="replace")[:4000])
    found: dict[str, int] = json.loads(done.stdout)
    return found


def main() -> None:
    """Print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edge_cl.") as folder:
        try:
            print(json.dumps(fuzz(options.parts, options.seed, Path(folder))))
        except RuntimeError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
