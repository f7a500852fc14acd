"""Signatures that a device checks: those of the key that it knows, over the very bytes that it has."""

from __future__ import annotations

import ctypes
import hashlib
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from edge_firmware import SOURCES
from edge_firmware.blob import signed_message
from edge_firmware.formats import BLOB, ERRORS, SIGNATURE_BYTES

from .c_builds import CPP, HOST, compile_c, need, sources

VENDOR = SOURCES.parent / "vendor" / "monocypher"
UNITS = [VENDOR / "monocypher.c", VENDOR / "sha512.c"]
ORDER = 2**252 + 27742317777372353535851937790883648493  # of the group: RFC 8032, 5.1
NAMES = [name for name, _ in ERRORS]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Return the signature check and its SHA-512, built for this machine under the sanitizer of undefined behaviour."""
    folder = tmp_path_factory.mktemp("sign")
    compiler = (HOST[0], "-std=c99", "-w", "-fPIC", "-shared", "-O1", "-fsanitize=undefined", "-fno-sanitize-recover")
    need(HOST[0])
    checked = compile_c(folder / "sign.o", sources("edge_sign"), HOST, "-fPIC", "-c")
    subprocess.run([*compiler, checked, *UNITS, "-o", folder / "sign.so"], check=True)
    return ctypes.CDLL(str(folder / "sign.so"))


class Signer:
    """A key, as the device knows it, and blobs signed with it."""

    def __init__(self, seed: int) -> None:
        self.private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(bytes([seed])).digest())
        self.point = self.private.public_key().public_bytes_raw()
        self.id = hashlib.sha256(self.point).digest()[:8]

    def sign(self, size: int, *, seed: int = 0) -> bytes:
        """Return that many random bytes, the key's id among them, and their signature."""
        body = bytearray(np.random.default_rng(seed).bytes(size))
        body[120:128] = self.id
        return bytes(body) + self.private.sign(signed_message(bytes(body)))

    def check(self, library: ctypes.CDLL, blob: bytes) -> str:
        """Return the name of what the device finds."""
        found: int = library.edge_verify_ed25519(self.id + self.point, blob, len(blob) - SIGNATURE_BYTES)
        return NAMES[found]


def test_what_was_signed_is_taken(library: ctypes.CDLL) -> None:
    for seed in range(40):
        signer = Signer(seed)
        assert signer.check(library, signer.sign(BLOB.size + 37 * seed, seed=seed)) == "OK"


def test_every_changed_bit_is_seen(library: ctypes.CDLL) -> None:
    signer = Signer(1)
    blob = signer.sign(200)
    for bit in range(len(blob) * 8):
        changed = bytearray(blob)
        changed[bit // 8] ^= 1 << bit % 8
        wanted = "KEY" if 120 <= bit // 8 < 128 else "SIGNATURE"
        assert signer.check(library, bytes(changed)) == wanted, bit


def test_another_key_is_told_apart_from_a_changed_byte(library: ctypes.CDLL) -> None:
    first, second = Signer(1), Signer(2)
    assert second.check(library, first.sign(300)) == "KEY"
    second.id = first.id  # whoever claims to be another still has to sign
    assert second.check(library, first.sign(300)) == "SIGNATURE"


def test_a_signature_has_one_form(library: ctypes.CDLL) -> None:
    signer = Signer(3)
    blob = signer.sign(300)
    scalar = int.from_bytes(blob[-32:], "little") + ORDER
    assert signer.check(library, blob[:-32] + scalar.to_bytes(32, "little")) == "SIGNATURE"


def test_the_hash_is_sha512(library: ctypes.CDLL) -> None:
    found = ctypes.create_string_buffer(64)
    library.crypto_sha512.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]
    for size in (*range(300), 4095, 100_000):
        data = np.random.default_rng(size).bytes(size)
        library.crypto_sha512(found, data, size)
        assert found.raw == hashlib.sha512(data).digest(), size


def test_the_library_is_the_one_that_is_named() -> None:
    named = dict(re.findall(r"\| (\S+\.[ch]) \|.*`([0-9a-f]{64})`", (VENDOR / "README.md").read_text()))
    assert named == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in VENDOR.glob("*.[ch]")}


def test_it_compiles_as_cpp_too(tmp_path: Path) -> None:
    compile_c(tmp_path / "sign.o", sources("edge_sign"), CPP, "-c")
