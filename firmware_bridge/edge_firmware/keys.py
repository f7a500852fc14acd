"""The keys that sign heads: Ed25519, in PEM files as openssl reads and writes them.

A private key is `name.pem` (PKCS8, mode 0600), and its public half `name.pub.pem` (SubjectPublicKeyInfo). The id of a
key is the first 8 bytes of the sha256 of the 32 bytes of its public half.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from edge_cl.errors import BundleError, MissingPackageError, first_line, reason_of
from edge_cl.files import move_new, sync_folder, write_whole

KEY_ID_BYTES, POINT_BYTES = 8, 32
MOST_BYTES = 1 << 16  # of a PEM file
C_KEY = """\
/* The public key {id}, written by edge-cl keygen: heads signed with it are taken. */
#ifndef {guard}
#define {guard}

#include "edge_sign.h"

static const edge_key {name} = {{
    {{{id_bytes}}},
    {{{point}}},
}};

#endif
"""


@dataclass(frozen=True)
class PublicKey:
    """What signatures are checked with.

    Attributes:
        point: the key itself, 32 bytes.
    """

    point: bytes

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> PublicKey:
        """Return the key of a PEM file; of a private key, its public half.

        Raises:
            BundleError: there is no such key.
        """
        data, parts = _read(path), _serialization()
        if b"PRIVATE KEY-----" in data:
            return cls(_point_of(_load_private(path, data).public_key()))
        try:
            loaded = parts.load_pem_public_key(data)
        except Exception as error:  # ValueError, and those of cryptography's own
            raise BundleError(f"{path}: expected a public key in PEM; found none: {first_line(error)}") from None
        if not isinstance(loaded, _ed25519().Ed25519PublicKey):
            raise BundleError(
                f"{path}: expected an Ed25519 key; found {_kind(loaded)}; make one: edge-cl keygen key.pem"
            )
        return cls(_point_of(loaded))

    @property
    def key_id(self) -> bytes:
        """The first 8 bytes of the sha256 of the key."""
        return hashlib.sha256(self.point).digest()[:KEY_ID_BYTES]

    def verify(self, message: bytes, signature: bytes) -> None:
        """Refuse a signature that is not this key's, of this message.

        Raises:
            BundleError: it is not.
        """
        from cryptography.exceptions import InvalidSignature

        try:
            _ed25519().Ed25519PublicKey.from_public_bytes(self.point).verify(signature, message)
        except (InvalidSignature, ValueError):  # the bytes may be no point
            raise BundleError(
                "the signature does not match: it was changed after it was signed; copy or pack it again"
            ) from None

    def to_pem(self) -> bytes:
        """Return the bytes of a PEM file."""
        parts = _serialization()
        key = _ed25519().Ed25519PublicKey.from_public_bytes(self.point)
        pem: bytes = key.public_bytes(parts.Encoding.PEM, parts.PublicFormat.SubjectPublicKeyInfo)
        return pem

    def to_c(self, name: str) -> str:
        """Return the key as a C header that defines it as `name`."""
        halves = ",\n     ".join(_c_bytes(self.point[start : start + 16]) for start in (0, 16))
        told = {"id": self.key_id.hex(), "id_bytes": _c_bytes(self.key_id), "point": halves}
        return C_KEY.format(name=name, guard=f"{name.upper()}_H", **told)


class SigningKey:
    """What heads are signed with."""

    def __init__(self, private: Any) -> None:
        self._private = private
        self.public = PublicKey(_point_of(private.public_key()))

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> SigningKey:
        """Return the key of a PEM file that nobody else may read.

        Raises:
            BundleError: there is no such key, or others may read it.
        """
        data = _read(path)
        mode = stat.S_IMODE(os.stat(path).st_mode)
        if b"PRIVATE KEY-----" not in data and b"PUBLIC KEY-----" in data:
            raise BundleError(f"{path}: expected a private key to sign with; found a public one; pass key.pem")
        private = _load_private(path, data)
        if os.name == "posix" and mode & 0o077:
            raise BundleError(f"{path}: expected a private key of mode 0600; found {mode:04o}; type: chmod 600 {path}")
        return cls(private)

    @property
    def key_id(self) -> bytes:
        """That of its public half."""
        return self.public.key_id

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message, 64 bytes."""
        signature: bytes = self._private.sign(message)
        return signature


def public_path(path: str | os.PathLike[str]) -> Path:
    """Return where the public half of a private key goes: `key.pub.pem` of `key.pem`."""
    path = Path(path)
    return path.with_name(path.name.removesuffix(".pem") + ".pub.pem")


def keygen(path: str | os.PathLike[str]) -> PublicKey:
    """Write a new private key of mode 0600, and its public half beside it; return the latter.

    Raises:
        BundleError: something is there already, or it cannot be written.
    """
    private_path, parts = Path(path), _serialization()
    for taken in (private_path, public_path(path)):
        if os.path.lexists(taken):
            raise BundleError(
                f"{taken}: is there already; choose another name, or move it away: a key cannot be made again"
            )
    private = _ed25519().Ed25519PrivateKey.generate()
    public = PublicKey(_point_of(private.public_key()))
    pem = private.private_bytes(parts.Encoding.PEM, parts.PrivateFormat.PKCS8, parts.NoEncryption())
    try:
        _write_private(private_path, pem)
        try:
            write_whole(public_path(path), public.to_pem())
        except BaseException:
            private_path.unlink()
            raise
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from None
    return public


def write_c_key(path: str | os.PathLike[str], key: PublicKey) -> None:
    """Write a key as a C header; the name in it is that of the file.

    Raises:
        BundleError: it cannot be written, or something else lies there.
    """
    target = Path(path)
    check_c_target(target)
    try:
        write_whole(target, key.to_c(c_name(target)).encode())
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from None


def check_c_target(path: Path) -> None:
    """Refuse a path at which something other than the C header of a key lies, such as the key itself.

    Raises:
        BundleError: it does.
    """
    start = C_KEY.partition("{")[0].encode()
    try:
        found = b""
        if path.is_file():
            with path.open("rb") as file:
                found = file.read(len(start))
    except OSError as error:
        raise BundleError(f"{path}: cannot be written: {error.strerror}") from None
    if found not in {b"", start}:
        raise BundleError(f"{path}: is no C header of a key, and would be replaced; choose another name, as key.h")


def c_name(path: Path) -> str:
    """Return what a key is called in a C header of this name: `door_public` in door.h."""
    name = re.sub(r"\W", "_", path.name.split(".")[0], flags=re.ASCII)
    return f"edge_{name}_public" if not name or name[0].isdigit() else f"{name}_public"


def _write_private(path: Path, pem: bytes) -> None:
    """Put a private key at a path where nothing is, whole, and never for others to read."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # O_EXCL, and mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        move_new(Path(temporary), path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    sync_folder(path.parent)


def _read(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a PEM file.

    Raises:
        BundleError: there is none.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        raise BundleError(f"{path}: expected a key in PEM: {reason}; make one: edge-cl keygen key.pem") from None
    if b"-----BEGIN " not in data or len(data) > MOST_BYTES:
        raise BundleError(f"{path}: expected a key in PEM; found none; make one: edge-cl keygen key.pem")
    return data


def _load_private(path: str | os.PathLike[str], data: bytes) -> Any:
    """Return the private key of a PEM file.

    Raises:
        BundleError: there is none, or it is of another kind, or encrypted.
    """
    parts = _serialization()
    try:
        loaded = parts.load_pem_private_key(data, password=None)
    except TypeError:
        raise BundleError(
            f"{path}: expected a key without a passphrase; found an encrypted one; type: openssl pkey -in {path} -out "
            "plain.pem"
        ) from None
    except Exception as error:  # ValueError, and those of cryptography's own
        raise BundleError(f"{path}: expected a private key in PEM; found none: {first_line(error)}") from None
    if not isinstance(loaded, _ed25519().Ed25519PrivateKey):
        raise BundleError(f"{path}: expected an Ed25519 key; found {_kind(loaded)}; make one: edge-cl keygen key.pem")
    return loaded


def _point_of(public: Any) -> bytes:
    point: bytes = public.public_bytes_raw()
    return point


def _kind(loaded: Any) -> str:
    return type(loaded).__name__.lstrip("_").replace("PublicKey", "").replace("PrivateKey", "") + " key"


def _c_bytes(data: bytes) -> str:
    return ", ".join(f"0x{byte:02x}" for byte in data)


def _serialization() -> ModuleType:
    _need_cryptography()
    from cryptography.hazmat.primitives import serialization

    return serialization


def _ed25519() -> ModuleType:
    _need_cryptography()
    from cryptography.hazmat.primitives.asymmetric import ed25519

    return ed25519


def _need_cryptography() -> None:
    """Refuse to go on without the package.

    Raises:
        MissingPackageError: cryptography is not installed.
    """
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise MissingPackageError("cryptography is not installed; type: pip install 'edge_cl[bridge]'") from None
