"""Opening a blob in C: every fault has its own error, the one that Python finds, and nothing is read beyond the end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from edge_firmware.blob import read_blob, section_sizes
from edge_firmware.formats import BLOB, ERRORS, SIGNATURE_BYTES

from edge_cl.errors import BundleError

from .c_builds import need
from .c_head import NAMES, NONE, TOOLS, VERIFY, Expected, Runtime, draw_blob, mended, whole


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    """Return the runtime, built as users would."""
    return Runtime(tmp_path_factory.mktemp("runtime"), "-Os")


def test_names_come_out_byte_by_byte(runtime: Runtime) -> None:
    names = ("größe 3", "", "\U0001f680" * 300, 'a "quoted" \\name', "", "日本語")
    blob = draw_blob(0, dim=2, n_classes=6, classes=names)
    opened = runtime.open(whole(blob), at=1)
    assert [opened.name_of(k).decode() for k in range(6)] == list(names)
    assert [opened.name_of(k) for k in (6, 7, NONE)] == [b"", b"", b""]


def test_version_and_counter_and_every_text(runtime: Runtime) -> None:
    opened = runtime.open(whole(draw_blob(0, dim=2, n_classes=2, version=0xFFFFFFFE, counter=77)))
    assert runtime.library.edge_head_version(opened.pointer) == 0xFFFFFFFE
    assert runtime.library.edge_head_counter(opened.pointer) == 77
    for code, (_, text) in enumerate(ERRORS):
        assert runtime.library.edge_error_text(code) == text.encode()
    assert runtime.library.edge_error_text(len(ERRORS)) == b"an error that is not known"


def test_a_device_takes_what_is_for_it(runtime: Runtime) -> None:
    blob = draw_blob(0, dim=3, n_classes=2, product="camera", counter=5)
    longest = replace(blob, product="x" * 32)
    other = bytes([*blob.backbone[:-1], blob.backbone[-1] ^ 1])
    backbones = {name: np.frombuffer(value, np.uint8).ctypes for name, value in (("own", blob.backbone), ("no", other))}
    pointers = {name: value.data for name, value in backbones.items()}
    for head, wanted, error in (
        (blob, Expected(), "OK"),
        (blob, Expected(product=b"camera"), "OK"),
        (blob, Expected(product=b"camer"), "PRODUCT"),
        (blob, Expected(product=b"camera2"), "PRODUCT"),
        (blob, Expected(product=b""), "PRODUCT"),
        (longest, Expected(product=b"x" * 32), "OK"),
        (longest, Expected(product=b"x" * 31), "PRODUCT"),
        (longest, Expected(product=b"x" * 33), "PRODUCT"),
        (blob, Expected(backbone=pointers["own"]), "OK"),
        (blob, Expected(backbone=pointers["no"]), "BACKBONE"),
        (blob, Expected(dim=3), "OK"),
        (blob, Expected(dim=4), "DIM"),
        (blob, Expected(n_classes=2), "OK"),
        (blob, Expected(n_classes=1), "MANY"),
        (blob, Expected(n_classes=1, dim=4), "DIM"),
        (blob, Expected(n_classes=1, counter=6), "MANY"),
        (blob, Expected(counter=5), "OK"),
        (blob, Expected(counter=6), "COUNTER"),
        (blob, Expected(product=b"x", backbone=pointers["no"], dim=4, counter=6), "PRODUCT"),
        (blob, Expected(backbone=pointers["no"], dim=4, counter=6), "BACKBONE"),
        (blob, Expected(dim=4, counter=6), "DIM"),
    ):
        assert runtime.open(whole(head), wanted).error == error


def test_the_signature_is_asked_last_and_over_all_bytes_before_it(runtime: Runtime) -> None:
    data, asked = whole(draw_blob(0, dim=3, n_classes=2)), []

    def verify(key: int | None, _blob: int, n_bytes: int) -> int:
        asked.append((key, n_bytes))
        return NAMES.index("SIGNATURE")

    seal = VERIFY(verify)
    assert runtime.open(data, Expected(verify=seal, key=1234)).error == "SIGNATURE"
    assert runtime.open(data, Expected(verify=seal, counter=9)).error == "COUNTER"
    assert runtime.open(data[:-65] + bytes([data[-65] ^ 1]) + data[-64:], Expected(verify=seal)).error == "CRC"
    assert asked == [(1234, len(data) - SIGNATURE_BYTES)]


Change = Callable[[bytes], bytes]


def put(name: str, value: int) -> Change:
    """Return what changes a number of the header and mends the checksum."""
    return lambda data: mended(BLOB.pack(dict(BLOB.unpack(data)) | {name: value}) + data[BLOB.size :])


def section(number: int, new: bytes) -> Change:
    """Return what overwrites the beginning of a section and mends the checksum."""

    def change(data: bytes) -> bytes:
        start = BLOB.size + sum(section_sizes(dict(BLOB.unpack(data)))[:number])
        changed: bytes = mended(data[:start] + new + data[start + len(new) :])
        return changed

    return change


def goes_round(data: bytes) -> bytes:
    """Return a blob of 17 GB, whose words of 4 bytes add up to its length if they are counted in 32 bits."""
    values: dict[str, Any] = dict(BLOB.unpack(data)) | {"flags": 0, "dim": 65536, "n_rows": 65535, "n_canaries": 1}
    n_words = (sum(section_sizes(values)) + BLOB.size + 4 + SIGNATURE_BYTES) // 4
    values["bytes"] = 4 * (n_words - (1 << 32))
    return mended((BLOB.pack(values) + data[BLOB.size :]).ljust(values["bytes"], b"\0"))


def without_names(data: bytes) -> bytes:
    """Return the blob without names."""
    n_bytes = len(data) - section_sizes(dict(BLOB.unpack(data)))[7]
    return put("bytes", n_bytes)(put("names_bytes", 0)(data)[:n_bytes])


BROKEN: dict[str, tuple[str, Change]] = {
    "nothing": ("CUT", lambda _: b""),
    "half a header": ("CUT", lambda data: data[:127]),
    "the header alone": ("CUT", lambda data: data[:128]),
    "a byte too few": ("CUT", lambda data: data[:-1]),
    "magic": ("MAGIC", put("magic", 0x48474446)),
    "zeros": ("MAGIC", lambda data: bytes(len(data))),
    "erased flash": ("MAGIC", lambda data: b"\xff" * len(data)),
    "format": ("FORMAT", put("format", 2)),
    "unknown flag": ("HEADER", put("flags", 17)),
    "int8 of unit length": ("HEADER", put("flags", 5)),
    "a table for floats": ("HEADER", put("flags", 8)),
    "no features": ("HEADER", put("dim", 0)),
    "too many features": ("HEADER", put("dim", 65537)),
    "no classes": ("HEADER", put("n_classes", 0)),
    "fewer rows than classes": ("HEADER", put("n_rows", 3)),
    "no canaries": ("HEADER", put("n_canaries", 0)),
    "a byte too many said": ("LENGTH", lambda data: put("bytes", len(data) + 1)(data)),
    "a word too many said": ("LENGTH", lambda data: put("bytes", len(data) + 4)(data)),
    "no bytes said": ("LENGTH", put("bytes", 0)),
    "all bytes said": ("LENGTH", put("bytes", 0xFFFFFFFC)),
    "longer names": ("LENGTH", put("names_bytes", 0xFFFFFFFF)),
    "more rows": ("LENGTH", put("n_rows", 65535)),
    "a length that went round": ("LENGTH", goes_round),
    "a byte of the rows": ("CRC", lambda data: data[:140] + bytes([data[140] ^ 1]) + data[141:]),
    "a byte of the checksum": ("CRC", lambda data: data[:-65] + bytes([data[-65] ^ 128]) + data[-64:]),
    "a name without its end": ("NAMES", section(7, b"class 0x")),
    "a name too many": ("NAMES", section(7, b"cl\0ss 0")),
    "names that go on": ("NAMES", put("names_bytes", 30)),
    "no names": ("NAMES", without_names),
    "a look of no class": ("CLASS", section(4, b"\x04\0")),
    "a canary of no class": ("CLASS", section(5, b"\0\0\0\0\xff\xff")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_every_broken_blob_has_its_error_in_c_and_in_python(runtime: Runtime, name: str) -> None:
    wanted, change = BROKEN[name]
    data = change(whole(draw_blob(0, dim=5, n_classes=4, n_looks=1, owners=np.zeros(1, np.int64))))
    assert runtime.open(data).error == wanted
    with pytest.raises(BundleError, match=f"^blob: {re.escape(dict(ERRORS)[wanted])}$"):
        read_blob(data)


def test_what_lies_behind_a_blob_in_its_slot_is_not_its_own(runtime: Runtime) -> None:
    data = whole(draw_blob(0, dim=5, n_classes=4))
    assert runtime.open(data + b"\xff" * 1000).error == "OK"
    assert runtime.open(data, n_bytes=len(data) - 4).error == "CUT"


def test_no_broken_blob_is_seen_otherwise_than_in_python_nor_read_beyond_its_end() -> None:
    need("cc")
    for seed in (0, 7):
        line = [sys.executable, str(TOOLS / "fuzz_blobs.py"), "3000", "--seed", str(seed)]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(done.stdout)
        assert found["opened"] > 300
        reached = {"CUT", "MAGIC", "FORMAT", "HEADER", "LENGTH", "CRC", "NAMES", "CLASS", "OK", "OK CANARY"}
        assert found["found"].keys() == reached
        assert found["differing"] == []
