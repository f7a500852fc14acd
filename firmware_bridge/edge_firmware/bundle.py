"""The bundle: what a person carries from `edge-cl pack` to a device. See the first table of firmware_bridge/README.md.

One COSE_Sign1 message (RFC 9052, 4.2). Its manifest says nothing that the blob in it does not say: it is there so that
others than a microcontroller can read it, and a bundle in which the two disagree is refused.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from edge_cl.errors import BundleError, reason_of
from edge_cl.files import write_whole
from edge_firmware.blob import Blob, read_blob, signed_message
from edge_firmware.cbor import decode, encode
from edge_firmware.formats import SIGNATURE_BYTES
from edge_firmware.keys import KEY_ID_BYTES, PublicKey, SigningKey

FORMAT = 1
MOST_BYTES = 64 << 20
COSE_SIGN1 = 18  # the tag
ALGORITHM, KEY_ID, EDDSA = 1, 4, -8  # labels of COSE headers, and a value
CONTEXT = "Signature1"
START = b"\xd2\x84"  # the tag, and an array of four


@dataclass(frozen=True)
class Bundle:
    """A head for devices, and what is known of it.

    Attributes:
        blob: as a microcontroller runs it, signed.
    """

    blob: bytes

    @cached_property
    def head(self) -> Blob:
        """What stands in the blob.

        Raises:
            BundleError: it is no whole blob.
        """
        return read_blob(self.blob)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the bundle says of the blob."""
        head = self.head
        canaries = zip(head.canaries, head.answers, strict=True)
        return {
            "format": FORMAT,
            "product": head.product,
            "version": head.version,
            "parent": head.parent,
            "counter": head.counter,
            "backbone": head.backbone,
            "classes": list(head.classes),
            "dim": head.dim,
            "canaries": [[features.tobytes(), int(answer)] for features, answer in canaries],
            "feature_scale": head.feature_scale,
            "feature_zero": head.feature_zero,
            "created": head.created,
            "blob": self.blob,
        }

    @property
    def product(self) -> str:
        """Id of the product."""
        return self.head.product

    @property
    def version(self) -> int:
        """Version of the head."""
        return self.head.version

    @property
    def counter(self) -> int:
        """Security counter."""
        return self.head.counter

    @property
    def key_id(self) -> bytes:
        """Id of the key that signed it, 8 bytes."""
        return self.head.key_id


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Return whether a file begins as a bundle does."""
    try:
        with Path(path).open("rb") as file:
            return file.read(len(START)) == START
    except (OSError, ValueError):
        return False


def sign_blob(blob: Blob, key: SigningKey) -> bytes:
    """Return the bytes of a blob with its signature.

    Raises:
        BundleError: the blob names another key.
    """
    check_key(blob.key_id, key.public)
    unsigned = blob.to_be_signed()
    return unsigned + key.sign(signed_message(unsigned))


def write_bundle(path: str | os.PathLike[str], bundle: Bundle, key: SigningKey) -> None:
    """Write a bundle, signed, whole or not at all.

    Raises:
        BundleError: it cannot be written.
    """
    data = to_bytes(bundle, key)
    try:
        write_whole(Path(path), data)
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        raise BundleError(f"{path}: cannot be written: {reason}; an older file was left as it is") from None


def to_bytes(bundle: Bundle, key: SigningKey) -> bytes:
    """Return the bytes of a bundle, signed.

    Raises:
        BundleError: its blob is signed with another key, or it is too large.
    """
    check_key(bundle.key_id, key.public)
    import cbor2

    protected, payload = encode({ALGORITHM: EDDSA}), encode(bundle.manifest)
    signature = key.sign(encode([CONTEXT, protected, b"", payload]))
    data = encode(cbor2.CBORTag(COSE_SIGN1, [protected, {KEY_ID: key.key_id}, payload, signature]))
    if len(data) > MOST_BYTES:
        raise BundleError(f"expected a bundle of at most {MOST_BYTES} bytes; found {len(data)}; forget some classes")
    return data


def read_bundle(path: str | os.PathLike[str], key: PublicKey | None = None) -> Bundle:
    """Return the bundle at a path, verified before anything in it is used.

    Args:
        path: of the file.
        key: that must have signed it; None: the signatures are not looked at.

    Raises:
        BundleError: there is none, it is damaged, or signed with another key.
    """
    data = read_bytes(path)
    try:
        return from_bytes(data, key)
    except BundleError as error:
        raise BundleError(at_path(path, error)) from None


def at_path(path: str | os.PathLike[str], error: BundleError) -> str:
    """Return what is wrong with a bundle's bytes, the path that they came from, and what to do."""
    what_next = "" if "; " in str(error) else "; copy it again, or pack it anew"
    return f"{path}: {error}{what_next}"


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a file that may be a bundle, no more than one has.

    Raises:
        BundleError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: expected a bundle: {reason_of(error)}; edge-cl pack makes one") from None


def from_bytes(data: bytes, key: PublicKey | None = None) -> Bundle:
    """Return the bundle of these bytes; see `read_bundle`.

    Raises:
        BundleError: they are none, or it is signed with another key.
    """
    if len(data) > MOST_BYTES:
        raise BundleError(f"expected a bundle of at most {MOST_BYTES} bytes; found more")
    protected, key_id, payload, signature = _open_message(decode(data, COSE_SIGN1))
    if protected != encode({ALGORITHM: EDDSA}):
        raise BundleError("expected an Ed25519 signature; found that of another algorithm")
    if key is not None:
        check_key(key_id, key)
        key.verify(encode([CONTEXT, protected, b"", payload]), signature)
    bundle = _open_manifest(payload)
    if bundle.key_id != key_id:
        raise BundleError(f"manifest and blob disagree: of key {key_id.hex()}, the blob of {bundle.key_id.hex()}")
    if key is not None:
        unsigned = bundle.blob[:-SIGNATURE_BYTES]
        key.verify(signed_message(unsigned), bundle.blob[-SIGNATURE_BYTES:])
    return bundle


def check_key(found: bytes, key: PublicKey) -> None:
    """Refuse what is signed with another key.

    Args:
        found: id of the key that signed.
        key: that should have.

    Raises:
        BundleError: it is another.
    """
    if found != key.key_id:
        ids = f"expected {key.key_id.hex()}; found {found.hex()}"
        raise BundleError(f"signed with another key: {ids}; pack it with the key that is expected")


def _open_message(message: Any) -> tuple[bytes, bytes, bytes, bytes]:
    """Return protected header, key id, payload and signature of a COSE_Sign1 message.

    Raises:
        BundleError: it is none.
    """
    if isinstance(message, list | tuple) and len(message) == 4:
        protected, unprotected, payload, signature = message
        is_map = hasattr(unprotected, "keys") and list(unprotected.keys()) == [KEY_ID]
        key_id: Any = unprotected[KEY_ID] if is_map else None
        sizes = ((protected, None), (key_id, KEY_ID_BYTES), (payload, None), (signature, SIGNATURE_BYTES))
        if all(isinstance(part, bytes) and len(part) == (size or len(part)) for part, size in sizes):
            return protected, key_id, payload, signature
    raise BundleError("this is no bundle: expected a COSE_Sign1 message of a manifest, key id and signature")


def _open_manifest(payload: bytes) -> Bundle:
    """Return the bundle of a manifest.

    Raises:
        BundleError: it is none, or disagrees with its blob.
    """
    found = decode(payload)
    if not hasattr(found, "keys") or not isinstance(found.get("format"), int) or isinstance(found["format"], bool):
        raise BundleError("this is no bundle: expected a manifest; found something else")
    if found["format"] != FORMAT:
        raise BundleError(f"expected a bundle of format {FORMAT}; found {found['format']}; update edge_cl")
    if not isinstance(found.get("blob"), bytes):
        raise BundleError("damaged: there is no blob in it")
    bundle = Bundle(found["blob"])
    manifest = bundle.manifest
    for name in sorted(manifest.keys() | {str(key) for key in found}):
        if name not in manifest or name not in found or encode(manifest[name]) != encode(found[name]):
            raise BundleError(f"manifest and blob disagree: {name} is not that of the blob; pack it again")
    if encode(manifest) != payload:
        raise BundleError("damaged: there is more in the manifest than it should have")
    return bundle
