"""Blobs drawn from a seed, and broken ones made of them, so that every check of a runtime is reached."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from edge_firmware.arithmetic import dequantise, logits_float, logits_int8
from edge_firmware.blob import Blob, read_blob, section_sizes
from edge_firmware.formats import BLOB, ERRORS, SIGNATURE_BYTES

from edge_cl.errors import BundleError

ODD = (0, 1, 2, 3, 4, 9, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x10001, 0x40000000, 0x7FFFFFFF, 0xFFFFFFFF)
INTEGERS = ("flags", "bytes", "dim", "n_classes", "n_rows", "n_canaries", "names_bytes", "format", "magic")
BITS = {"u8": 8, "i8": 7, "u16": 16, "u32": 32}
END = 4 + SIGNATURE_BYTES


def draw_blob(seed: int, *, dim: int, n_classes: int, n_looks: int = 0, is_int8: bool = True, **options: Any) -> Blob:
    """Return a blob of such a size, the rest of it drawn; its canaries have the answers that it gives."""
    rng = np.random.default_rng(seed)
    n_rows = n_classes + n_looks
    values: dict[str, Any] = {
        "product": "camera",
        "version": 7,
        "parent": 6,
        "counter": 5,
        "backbone": rng.bytes(32),
        "key_id": rng.bytes(8),
        "created": 1_700_000_000,
        "classes": tuple(f"class {k}" for k in range(n_classes)),
        "rows": rng.integers(-128, 128, (n_rows, dim)).astype(np.int8),
        "scales": rng.uniform(1e-5, 1e-3, n_rows).astype(np.float32),
        "bias": rng.integers(-(1 << 16), 1 << 16, n_rows).astype(np.int32),
        "owners": rng.integers(0, n_classes, n_looks),
        "canaries": rng.integers(-128, 128, (3, dim)).astype(np.int8),
        "answers": np.zeros(3, np.int64),
        "feature_scale": float(np.float32(rng.uniform(0.01, 0.1))),
        "feature_zero": int(rng.integers(-128, 128)),
        "input_scale": 0.5,
        "input_zero": int(rng.integers(-128, 128)),
    }
    if not is_int8:
        values["rows"] = rng.normal(size=(n_rows, dim)).astype(np.float32)
        values |= {"scales": np.zeros(0, np.float32), "bias": rng.normal(size=n_rows).astype(np.float32)}
    blob = Blob(**(values | options))
    logits = logits_int8(blob, blob.canaries) if is_int8 else logits_float(blob, dequantise(blob, blob.canaries))
    return Blob(**(vars(blob) | {"answers": np.asarray(logits.argmax(axis=1), np.int64)}))


def whole(blob: Blob) -> bytes:
    """Return the bytes of a blob, its signature zeros."""
    return blob.to_be_signed() + bytes(SIGNATURE_BYTES)


def draw_any(rng: np.random.Generator) -> bytes:
    """Return the bytes of a small blob of any kind."""
    is_int8 = bool(rng.integers(2))
    size = {"dim": int(rng.integers(1, 40)), "n_classes": int(rng.integers(1, 9)), "n_looks": int(rng.integers(0, 4))}
    options: dict[str, Any] = {}
    if not is_int8:
        options = {"is_raised": bool(rng.integers(2)), "is_unit": bool(rng.integers(2))}
    elif rng.integers(2):
        options = {"table": rng.integers(-128, 128, 256).astype(np.int8)}
    return whole(draw_blob(int(rng.integers(1 << 30)), is_int8=is_int8, **size, **options))


def mended(data: bytes) -> bytes:
    """Return the bytes with the checksum that they should have, where the header says that it is."""
    n_bytes = int(BLOB.unpack(data)["bytes"]) if len(data) >= BLOB.size else 0
    end: int = n_bytes - END
    if not BLOB.size <= end <= len(data) - END:
        return data
    return data[:end] + zlib.crc32(data[:end]).to_bytes(4, "little") + data[end + 4 :]


def flip_bits(data: bytes, rng: np.random.Generator) -> bytes:
    """Return the bytes with up to 8 bits changed."""
    found = np.frombuffer(data, np.uint8).copy()
    places = rng.integers(0, 8 * len(data), rng.integers(1, 9))
    np.bitwise_xor.at(found, places // 8, (1 << places % 8).astype(np.uint8))
    return bytes(found)


def flip_and_mend(data: bytes, rng: np.random.Generator) -> bytes:
    """Return the bytes with up to 8 bits changed, and a checksum that says nothing of it."""
    return mended(flip_bits(data, rng))


def cut_short(data: bytes, rng: np.random.Generator) -> bytes:
    """Return the beginning of the bytes."""
    return data[: rng.integers(len(data))]


def grow(data: bytes, rng: np.random.Generator) -> bytes:
    """Return the bytes with others behind, as they lie in a slot."""
    return data + rng.bytes(int(rng.integers(1, 300)))


def change_numbers(data: bytes, rng: np.random.Generator) -> bytes:
    """Return the bytes with up to 3 numbers of the header changed, the checksum mended."""
    values: dict[str, Any] = dict(BLOB.unpack(data))
    for name in rng.choice(INTEGERS, rng.integers(1, 4)):
        bits = BITS[next(field.type for field in BLOB.fields if field.name == name)]
        near = values[name] + int(rng.integers(-2, 3))
        values[name] = (near if rng.integers(2) else int(rng.choice(ODD))) & ((1 << bits) - 1)
    return mended(BLOB.pack(values) + data[BLOB.size :])


def fit_sections(data: bytes, rng: np.random.Generator) -> bytes:
    """Return a blob of changed numbers whose length fits them, its sections in part random, the checksum right."""
    values: dict[str, Any] = dict(BLOB.unpack(data))
    values |= {"flags": int(rng.choice([0, 1, 1, 2, 4, 6, 9, 9])), "dim": int(rng.integers(1, 60))}
    values["n_classes"] = int(rng.integers(1, 12))
    values["n_rows"] = int(values["n_classes"] + rng.integers(0, 5))
    values["n_canaries"] = int(rng.integers(1, 5))
    values |= {"feature_zero": int(rng.integers(-128, 128)), "names_bytes": int(rng.integers(0, 90))}
    scale = np.frombuffer(rng.bytes(4), np.float32)[0] if rng.integers(2) else np.float32(rng.choice([0, -1, np.nan]))
    values["feature_scale"] = float(scale)
    sizes = section_sizes(values)
    values["bytes"] = BLOB.size + sum(sizes) + END
    parts = [rng.bytes(size) for size in sizes]
    most = values["n_classes"] + int(rng.integers(2))
    for place in (4, 5):
        parts[place] = rng.integers(0, most, sizes[place] // 2).astype("<u2").tobytes()
    if rng.integers(4):
        cuts = [values["n_classes"] - 1, 1] if values["names_bytes"] > values["n_classes"] else [0, 0]
        letters = [b"x" * (values["names_bytes"] - sum(cuts)), b"\0" * cuts[0]]
        parts[7] = (b"".join(letters) + b"\0" * cuts[1]).ljust(sizes[7], b"\0")
    return mended(BLOB.pack(values) + b"".join(parts) + rng.bytes(END))


def scramble(data: bytes, rng: np.random.Generator) -> bytes:
    """Return the header with random bytes behind it, the checksum mended."""
    return mended(data[: BLOB.size] + rng.bytes(len(data) - BLOB.size))


def noise(data: bytes, rng: np.random.Generator) -> bytes:
    """Return random bytes, some of them behind a right magic."""
    return data[: int(rng.choice([0, 4, 6, 8]))] + rng.bytes(int(rng.integers(0, 400)))


Change = Callable[[bytes, np.random.Generator], bytes]
CHANGES: tuple[Change, ...] = (
    flip_bits,
    flip_and_mend,
    cut_short,
    grow,
    change_numbers,
    change_numbers,
    fit_sections,
    fit_sections,
    scramble,
    noise,
)


def error_in_python(data: bytes) -> str:
    """Return the name of the error that a device should find, by `read_blob`.

    What stands behind a blob in its slot is not the blob's: it is left out. A device looks at names as bytes, so that
    text which is no UTF-8 is no error there.
    """
    if len(data) >= BLOB.size:
        data = data[: max(BLOB.size, int(BLOB.unpack(data)["bytes"]))]
    try:
        read_blob(data)
    except BundleError as error:
        if isinstance(error.__context__, UnicodeDecodeError):
            return "OK"
        return next(name for name, text in ERRORS if str(error) == f"blob: {text}")
    return "OK"
