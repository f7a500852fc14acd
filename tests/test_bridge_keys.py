"""Keys: files that only their owner reads, one message for each that is none, and signatures as RFC 8032 has them."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from edge_firmware import keys
from edge_firmware.bundle import from_bytes
from edge_firmware.keys import PublicKey, SigningKey, c_name, keygen, public_path, write_c_key

from edge_cl.errors import BundleError, MissingPackageError

from .c_builds import CPP, HOST, compile_c
from .packed import key_of

# RFC 8032, section 7.1, test 2
SEED = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
POINT = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
SIGNATURE = (
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def test_a_signature_is_that_of_the_standard() -> None:
    key = SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(SEED)))
    assert key.public.point.hex() == POINT
    assert key.sign(b"\x72").hex() == SIGNATURE
    assert key.key_id == hashlib.sha256(bytes.fromhex(POINT)).digest()[:8]
    key.public.verify(b"\x72", bytes.fromhex(SIGNATURE))


def test_no_other_message_signature_or_key_will_do() -> None:
    key, good = key_of(1), key_of(1).sign(b"message")
    changed = bytes([good[0] ^ 1]) + good[1:]
    for public, message, signature in (
        (key.public, b"messagf", good),
        (key.public, b"message", changed),
        (key.public, b"message", good[:-1]),
        (key.public, b"message", b""),
        (key_of(2).public, b"message", good),
        (PublicKey(b"\xff" * 32), b"message", good),
    ):
        with pytest.raises(BundleError, match="the signature does not match"):
            public.verify(message, signature)


def test_a_new_key_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    path, before = tmp_path / "key.pem", os.umask(0)
    try:
        public = keygen(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["key.pem", "key.pub.pem"]
    private = s.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(private, ed25519.Ed25519PrivateKey)
    assert b"BEGIN PRIVATE KEY" in path.read_bytes()
    assert b"BEGIN PUBLIC KEY" in public_path(path).read_bytes()
    assert private.public_key().public_bytes_raw() == public.point
    assert PublicKey.open(path) == PublicKey.open(public_path(path)) == SigningKey.open(path).public == public
    assert keygen(tmp_path / "other").point != public.point
    assert (tmp_path / "other.pub.pem").exists()


@pytest.mark.parametrize("there", ["key.pem", "key.pub.pem"])
def test_no_key_is_ever_replaced(tmp_path: Path, there: str) -> None:
    (tmp_path / there).symlink_to(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=rf"{there}: is there already; choose another name"):
        keygen(tmp_path / "key.pem")
    assert [entry.name for entry in tmp_path.iterdir()] == [there]


def test_a_key_whose_public_half_cannot_be_written_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, data: bytes) -> None:  # noqa: ARG001
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keys, "write_whole", fail)
    with pytest.raises(BundleError, match=r"key\.pem: cannot be written: No space left on device"):
        keygen(tmp_path / "key.pem")
    with pytest.raises(BundleError, match="cannot be written: No such file"):
        keygen(tmp_path / "none" / "key.pem")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_key_that_others_may_read_does_not_sign(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key.pem"
    keygen(path)
    path.chmod(mode)
    with pytest.raises(BundleError, match=rf"mode 0600; found 0{mode:o}; type: chmod 600"):
        SigningKey.open(path)
    assert PublicKey.open(path) == PublicKey.open(public_path(path))
    path.chmod(0o400)
    SigningKey.open(path)


def pem(private: object, passphrase: bytes = b"") -> bytes:
    lock = s.BestAvailableEncryption(passphrase) if passphrase else s.NoEncryption()
    return private.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, lock)  # type: ignore[attr-defined,no-any-return]


def public_pem(private: object) -> bytes:
    public = private.public_key()  # type: ignore[attr-defined]
    return public.public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)  # type: ignore[no-any-return]


ED = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
EC = ec.derive_private_key(5, ec.SECP256R1())
X = x25519.X25519PrivateKey.from_private_bytes(bytes(32))
BAD = {
    "nothing": (b"", r"expected a key in PEM; found none; make one: edge-cl keygen"),
    "text": (b"ssh-ed25519 AAAA", r"expected a key in PEM; found none"),
    "too long": (b"-----BEGIN PRIVATE KEY-----" + bytes(1 << 17), r"expected a key in PEM; found none"),
    "cut": (pem(ED)[:-40], r"expected a private key in PEM; found none: "),
    "damaged": (pem(ED).replace(b"MC4C", b"MC4D"), r"expected a private key in PEM; found none: "),
    "encrypted": (pem(ED, b"secret"), r"without a passphrase; found an encrypted one; type: openssl pkey"),
    "ec": (pem(EC), r"expected an Ed25519 key; found EC ?.* key"),
    "x25519": (pem(X), r"expected an Ed25519 key; found X25519 key"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("kind", [SigningKey, PublicKey])
def test_each_file_that_is_no_key_has_its_own_message(
    tmp_path: Path, name: str, kind: type[SigningKey] | type[PublicKey]
) -> None:
    data, text = BAD[name]
    path = tmp_path / "a.pem"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(BundleError, match=text) as caught:
        kind.open(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_public_keys_of_other_kinds_and_missing_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.pub.pem"
    for private, kind in ((EC, "EC"), (X, "X25519"), (rsa.generate_private_key(65537, 1024), "RSA")):
        path.write_bytes(public_pem(private))
        with pytest.raises(BundleError, match=f"expected an Ed25519 key; found {kind}"):
            PublicKey.open(path)
    path.write_bytes(public_pem(ED))
    with pytest.raises(BundleError, match="expected a private key to sign with; found a public one"):
        SigningKey.open(path)
    path.write_bytes(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    with pytest.raises(BundleError, match="expected a public key in PEM; found none: "):
        PublicKey.open(path)
    opens: tuple[Callable[[Path], object], ...] = (PublicKey.open, SigningKey.open)
    for opened in opens:
        with pytest.raises(BundleError, match="expected a key in PEM: No such file"):
            opened(tmp_path / "none.pem")
        with pytest.raises(BundleError, match="expected a key in PEM: Is a directory"):
            opened(tmp_path)


def test_firmware_gets_the_same_key_as_c(tmp_path: Path) -> None:
    public = key_of(3).public
    write_c_key(tmp_path / "edge_key.h", public)
    unit = tmp_path / "main.c"
    unit.write_text(
        '#include "edge_key.h"\n#include "edge_key.h"\n#include <stdio.h>\nint main(void) {\n'
        "    fwrite(edge_key_public.id, 1, sizeof edge_key_public.id, stdout);\n"
        "    fwrite(edge_key_public.point, 1, sizeof edge_key_public.point, stdout);\n    return 0;\n}\n"
    )
    for compiler in (HOST, CPP):
        program = compile_c(tmp_path / "program", [unit], compiler)
        found = subprocess.run([program], capture_output=True, check=True).stdout
        assert found == public.key_id + public.point
    assert [c_name(Path(name)) for name in ("key.h", "my key.pub.h", "7.h", "int.h")] == [
        "key_public",
        "my_key_public",
        "edge_7_public",
        "int_public",
    ]


MISSING: dict[str, Callable[[Path], object]] = {
    "cryptography": lambda folder: keygen(folder / "key.pem"),
    "cbor2": lambda folder: from_bytes(bytes(len(folder.name))),
}


@pytest.mark.parametrize("package", MISSING)
def test_without_a_package_it_says_what_to_install(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    text = rf"{package} is not installed; type: pip install 'edge_cl\[bridge\]'"
    with pytest.raises(MissingPackageError, match=text):
        MISSING[package](tmp_path)
    assert not list(tmp_path.iterdir())
