"""Writes the golden blobs of the tests, an int8 and a float32 one, with features and the logits that they must give.

    python tools/write_golden_blob.py tests

They are never written anew while the format is 1: devices have such blobs. All numbers in them follow from products of
integers, so that no version of numpy draws others.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from edge_firmware.arithmetic import dequantise, logits_float, logits_int8, quantise
from edge_firmware.blob import Blob, signed_message
from edge_kernels.arrays import Floats, Ints

from edge_cl.files import write_whole

DIM, N_CLASSES, N_LOOKS, N_FEATURES, N_CANARIES = 67, 5, 3, 6, 3
KEY = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"golden blob of edge_cl").digest())
NAMES = ("door", "größe 3", "", "\U0001f680", "mailbox")
FILES = ("golden_int8.blob", "golden_float32.blob", "golden_logits.json")


def scattered(seed: int, *shape: int, steps: int = 256) -> Ints:
    """Return whole numbers from -steps / 2 on, scattered by a multiplication (Knuth, TAOCP 6.4)."""
    places = np.arange(np.prod(shape), dtype=np.uint64) + np.uint64(1000 * seed + 1)
    found = (places * np.uint64(2654435761) % np.uint64(1 << 32)) * np.uint64(steps) >> np.uint64(32)
    return np.asarray(found.astype(np.int64).reshape(shape) - steps // 2)


def golden_features() -> Floats:
    """Return features (N, D) float32, what is no number and infinities among them in the last."""
    features = (scattered(1, N_FEATURES, DIM, steps=2048) / 512).astype(np.float32)
    features[-1, :5] = [np.nan, np.inf, -np.inf, 1e30, -0.0]
    return features


def golden_blobs() -> dict[str, Blob]:
    """Return the blobs, by the type of their rows."""
    n_rows = N_CLASSES + N_LOOKS
    public = KEY.public_key().public_bytes_raw()
    answers = np.zeros(N_CANARIES, np.int64)
    common: dict[str, Any] = {
        "product": "golden",
        "version": 7,
        "parent": 6,
        "counter": 3,
        "backbone": hashlib.sha256(b"backbone").digest(),
        "key_id": hashlib.sha256(public).digest()[:8],
        "created": 1_700_000_000,
        "classes": NAMES,
        "owners": np.array([4, 0, 4]),
        "canaries": scattered(2, N_CANARIES, DIM).astype(np.int8),
        "answers": answers,
        "feature_scale": float(np.float32(0.03)),
        "feature_zero": -11,
    }
    int8 = Blob(
        **common,
        rows=scattered(3, n_rows, DIM).astype(np.int8),
        scales=(np.arange(1, n_rows + 1) / 1000).astype(np.float32),
        bias=scattered(4, n_rows, steps=20000).astype(np.int32),
        input_scale=0.125,
        input_zero=-5,
        table=scattered(5, 256).astype(np.int8),
    )
    rows = (scattered(6, n_rows, DIM, steps=4096) / 2048).astype(np.float32)
    bias = (scattered(7, n_rows) / 64).astype(np.float32)
    scales = np.zeros(0, np.float32)
    float32 = Blob(**common, rows=rows, scales=scales, bias=bias, is_raised=True, is_unit=True)
    asked = dequantise(float32, float32.canaries)
    return {
        "int8": replace(int8, answers=logits_int8(int8, int8.canaries).argmax(axis=1)),
        "float32": replace(float32, answers=logits_float(float32, asked).argmax(axis=1)),
    }


def signed(blob: Blob) -> bytes:
    """Return the bytes of a blob, signed by the golden key."""
    unsigned = blob.to_be_signed()
    return unsigned + KEY.sign(signed_message(unsigned))


def golden_logits() -> dict[str, list[str]]:
    """Return what the blobs make of the features, as bytes in hex, a text a sample."""
    blobs, features = golden_blobs(), golden_features()
    quantised = quantise(blobs["int8"], features)
    parts = {
        "features": features.astype("<f4"),
        "quantised": quantised,
        "int8": logits_int8(blobs["int8"], quantised).astype("<f4"),
        "float32": logits_float(blobs["float32"], features).astype("<f4"),
    }
    return {name: [row.tobytes().hex() for row in rows] for name, rows in parts.items()}


def main() -> None:
    """Write the three files into a folder."""
    folder = Path(sys.argv[1])
    blobs = golden_blobs()
    write_whole(folder / FILES[0], signed(blobs["int8"]))
    write_whole(folder / FILES[1], signed(blobs["float32"]))
    write_whole(folder / FILES[2], (json.dumps(golden_logits(), indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
