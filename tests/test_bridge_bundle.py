"""Bundles: what stands in them, and that no byte of one can be another one."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from edge_firmware import bundle as bundles
from edge_firmware.blob import Blob, read_blob, signed_message
from edge_firmware.bundle import Bundle, from_bytes, read_bundle, sign_blob, to_bytes, write_bundle
from edge_firmware.cbor import decode, encode
from hypothesis import given
from hypothesis import strategies as st

from edge_cl.errors import BundleError

from .packed import key_of, small_blob

KEY, OTHER = key_of(1), key_of(2)
BLOB = small_blob(KEY)
BUNDLE = Bundle(sign_blob(BLOB, KEY))
DATA = to_bytes(BUNDLE, KEY)


def message(payload: bytes, **changes: Any) -> bytes:
    """Return a signed message, made without `bundle`."""
    protected = changes.get("protected", b"\xa1\x01\x27")
    key = changes.get("key", KEY)
    signature = key.sign(cbor2.dumps(["Signature1", protected, b"", payload]))
    parts = [protected, changes.get("unprotected", {4: key.key_id}), payload, changes.get("signature", signature)]
    return cbor2.dumps(cbor2.CBORTag(changes.get("tag", 18), parts))


def test_a_bundle_is_a_cose_message_that_others_can_verify() -> None:
    found = cbor2.loads(DATA)
    assert isinstance(found, cbor2.CBORTag)
    protected, unprotected, payload, signature = found.value
    assert (found.tag, cbor2.loads(protected), dict(unprotected)) == (18, {1: -8}, {4: KEY.key_id})
    signed = b"\x84\x6aSignature1\x43\xa1\x01\x27\x40" + b"\x59" + len(payload).to_bytes(2, "big") + payload
    Ed25519PublicKey.from_public_bytes(KEY.public.point).verify(signature, signed)
    manifest = cbor2.loads(payload)
    blob = manifest.pop("blob")
    assert dict(manifest) == {
        "format": 1,
        "product": "door cam",
        "version": 7,
        "parent": 6,
        "counter": 2,
        "backbone": bytes(range(32)),
        "classes": ["door", "größe", "日"],
        "dim": 5,
        "canaries": [[bytes([50, 0, 0, 0, 0]), 0], [bytes([0, 0, 50, 0, 0]), 2]],
        "feature_scale": 0.5,
        "feature_zero": 0,
        "created": 1_700_000_000,
    }
    assert read_blob(blob).classes == ("door", "größe", "日")
    assert message(payload) == DATA


def test_its_bytes_stay_what_they_are() -> None:
    assert len(DATA) == 594
    assert hashlib.sha256(DATA).hexdigest() == "a8c72e0ac1764b499075252a774ba216f1d42cdbd94a9ff1b8a22e0913c238bd"


def test_it_is_written_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "out.edgehead"
    write_bundle(path, BUNDLE, KEY)
    assert path.read_bytes() == DATA
    found = read_bundle(path, KEY.public)
    assert found == BUNDLE == read_bundle(path)
    assert (found.product, found.version, found.counter, found.key_id) == ("door cam", 7, 2, KEY.key_id)
    assert found.head.to_be_signed() == BLOB.to_be_signed()


def test_a_changed_byte_is_refused_wherever_it_is() -> None:
    for place in range(len(DATA)):
        for mask in (1, 0x80, 0xFF):
            changed = bytearray(DATA)
            changed[place] ^= mask
            with pytest.raises(BundleError):
                from_bytes(bytes(changed), KEY.public)
    changed = bytearray(DATA)
    changed[len(DATA) // 2] ^= 1
    with pytest.raises(BundleError, match="the signature does not match"):
        from_bytes(bytes(changed), KEY.public)


def test_a_bundle_that_is_cut_or_followed_is_refused() -> None:
    for n_bytes in range(len(DATA)):
        for key in (KEY.public, None):
            with pytest.raises(BundleError, match="the file is cut short"):
                from_bytes(DATA[:n_bytes], key)
    for more in (b"\0", DATA):
        with pytest.raises(BundleError, match=f"there are {len(more)} bytes behind the end"):
            from_bytes(DATA + more, KEY.public)


def test_another_key_is_named_with_the_one_that_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "out.edgehead"
    write_bundle(path, BUNDLE, KEY)
    ids = f"expected {OTHER.key_id.hex()}; found {KEY.key_id.hex()}"
    with pytest.raises(BundleError, match=f"out.edgehead: signed with another key: {ids}"):
        read_bundle(path, OTHER.public)
    with pytest.raises(BundleError, match="signed with another key"):
        sign_blob(BLOB, OTHER)
    with pytest.raises(BundleError, match="signed with another key"):
        write_bundle(path, BUNDLE, OTHER)
    pretended = message(cbor2.loads(DATA).value[2], key=OTHER, unprotected={4: KEY.key_id})
    with pytest.raises(BundleError, match="the signature does not match"):
        from_bytes(pretended, KEY.public)


def test_a_blob_with_a_signature_of_its_own_is_needed() -> None:
    unsigned = BLOB.to_be_signed()
    for signature in (bytes(64), OTHER.sign(signed_message(unsigned)), KEY.sign(unsigned)):
        data = to_bytes(Bundle(unsigned + signature), KEY)
        with pytest.raises(BundleError, match="the signature does not match"):
            from_bytes(data, KEY.public)
    theirs = sign_blob(replace(BLOB, key_id=OTHER.key_id), OTHER)
    with pytest.raises(BundleError, match=f"manifest and blob disagree: of key {KEY.key_id.hex()}"):
        from_bytes(message(encode({**Bundle(theirs).manifest})), KEY.public)


CHANGES: dict[str, Any] = {
    "product": "another",
    "version": 8,
    "parent": 7,
    "counter": 3,
    "backbone": bytes(32),
    "classes": ["door", "größe", "moon"],
    "dim": 6,
    "canaries": [],
    "feature_scale": 0.25,
    "feature_zero": -1,
    "created": 0,
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_the_manifest_says_is_what_the_blob_says(name: str) -> None:
    said = f"manifest and blob disagree: {name} is not that of the blob"
    with pytest.raises(BundleError, match=said):
        from_bytes(message(encode({**BUNDLE.manifest, name: CHANGES[name]})), KEY.public)
    less = {key: value for key, value in BUNDLE.manifest.items() if key != name}
    with pytest.raises(BundleError, match=said):
        from_bytes(message(encode(less)), KEY.public)


def same(value: object) -> Callable[[], bytes]:
    return lambda: message(encode(value))


SHAPES: dict[str, tuple[Callable[[], bytes], str]] = {
    "a newer format": (
        same({**BUNDLE.manifest, "format": 2}),
        "expected a bundle of format 1; found 2; update edge_cl",
    ),
    "a format that is true": (same({**BUNDLE.manifest, "format": 1.0}), "this is no bundle: expected a manifest"),
    "more than there should be": (same({**BUNDLE.manifest, "more": 1}), "manifest and blob disagree: more is not"),
    "no blob": (same({"format": 1}), "there is no blob in it"),
    "a blob that is none": (same({**BUNDLE.manifest, "blob": bytes(300)}), "blob: this is no head blob"),
    "a list": (same([1]), "this is no bundle: expected a manifest"),
    "a whole number for a float": (
        same({**BUNDLE.manifest, "feature_zero": 0.0}),
        "manifest and blob disagree: feature_zero",
    ),
    "an empty payload": (lambda: message(b""), "the file is cut short"),
    "numbers longer than needed": (
        lambda: message(encode(BUNDLE.manifest).replace(b"\x63dim\x05", b"\x63dim\x18\x05")),
        "its CBOR is not deterministic",
    ),
    "another order": (
        lambda: message(cbor2.dumps(dict(sorted(BUNDLE.manifest.items(), reverse=True)))),
        "its CBOR is not deterministic",
    ),
    "another algorithm": (lambda: message(b"", protected=b"\xa1\x01\x26"), "found that of another algorithm"),
    "another tag": (lambda: message(b"", tag=98), "this is no bundle"),
    "no key id": (lambda: message(b"", unprotected={}), "this is no bundle: expected a COSE_Sign1"),
    "a key id of text": (lambda: message(b"", unprotected={4: "12345678"}), "this is no bundle: expected a COSE_Sign1"),
    "two headers": (lambda: message(b"", unprotected={4: bytes(8), 5: 1}), "this is no bundle: expected a COSE_Sign1"),
    "a short signature": (lambda: message(b"", signature=bytes(63)), "this is no bundle: expected a COSE_Sign1"),
    "no list": (lambda: cbor2.dumps(cbor2.CBORTag(18, 5)), "this is no bundle: expected a COSE_Sign1"),
    "an ONNX file": (lambda: b"\x08\x08\x12\x07edge_cl", "this is no bundle"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_no_bundle_is_told_apart(name: str) -> None:
    make, text = SHAPES[name]
    with pytest.raises(BundleError, match=text):
        from_bytes(make(), KEY.public)


HOSTILE = {
    "depth": b"\xd2" + b"\x81" * 100_000 + b"\x00",
    "a list of 2^60": b"\xd2\x9b" + b"\x10" + bytes(7),
    "bytes of 2^62": b"\xd2\x5b\x40" + bytes(7),
    "text of 4 GB": b"\xd2\x84\x7a\xff\xff\xff\xff",
    "a map of 2^63": b"\xd2\xbb\x80" + bytes(7),
    "many items": b"\xd2\x9a\x00\x10\x00\x00" + b"\x00" * (1 << 20),
    "lists of empty lists": b"\xd2\x9a\x00\x08\x00\x00" + b"\x80" * (1 << 19),
    "no end": b"\xd2\x9f" + b"\x00" * 100,
    "a large power": b"\xd2\xc5\x82\x1b\x7f" + bytes(7) + b"\x01",
    "a regular expression": b"\xd2\xd8\x23\x66(a+)+$",
    "itself": b"\xd2\xd8\x1c\x81\xd8\x1d\x00",
    "undefined": b"\xd2\x84\xf7\xf7\xf7\xf7",
    "a reserved length": b"\xd2\x84\x1c\x00\x00\x00",
    "a text that is none": b"\xd2\x61\xff",
    "a key twice": b"\xd2\xa2\x00\x00\x00\x00",
    "a list as a key": b"\xd2\xa1\x81\x00\x00",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_few_hostile_bytes_cost_no_memory(name: str) -> None:
    from_hostile = HOSTILE[name]
    tracemalloc.start()
    try:
        with pytest.raises(BundleError):
            from_bytes(from_hostile)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


@given(st.binary(max_size=60), st.sampled_from([b"", b"\xd2", b"\xd2\x84", b"\xd2\x84\x43\xa1\x01\x27\xa1\x04\x48"]))
def test_random_bytes_are_refused_and_nothing_else_happens(data: bytes, start: bytes) -> None:
    with pytest.raises(BundleError):
        from_bytes(start + data, KEY.public)


values = st.recursive(
    st.integers(-(1 << 63), (1 << 64) - 1) | st.binary(max_size=40) | st.text(max_size=10) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=30), inner, max_size=4),
    max_leaves=8,
)


@given(values.filter(lambda value: depth(value) <= 4))
def test_what_was_encoded_is_decoded(value: Any) -> None:
    found = decode(encode(value))
    assert encode(found) == encode(value)


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max((depth(part) for part in inner), default=0) if isinstance(value, dict | list) else 0


def test_large_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(bundles.MOST_BYTES + 1)
    with pytest.raises(BundleError, match="large: expected a bundle of at most 67108864 bytes; found more"):
        read_bundle(path)
    with pytest.raises(BundleError, match="none: expected a bundle: No such file"):
        read_bundle(tmp_path / "none")
    with pytest.raises(BundleError, match="expected a bundle: Is a directory"):
        read_bundle(tmp_path)


def test_an_older_bundle_stays_where_a_new_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.edgehead"
    path.write_bytes(b"older")
    monkeypatch.setattr(bundles, "MOST_BYTES", 100)
    with pytest.raises(BundleError, match=r"expected a bundle of at most 100 bytes; found \d+; forget some classes"):
        write_bundle(path, BUNDLE, KEY)
    monkeypatch.undo()
    with pytest.raises(BundleError, match="cannot be written: No such file"):
        write_bundle(tmp_path / "none" / "out.edgehead", BUNDLE, KEY)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.edgehead"]
    assert path.read_bytes() == b"older"


def test_float32_rows_are_carried_too() -> None:
    import numpy as np

    rows = np.eye(3, 5, dtype=np.float32)
    nothing: Any = np.zeros(0, np.float32)
    blob: Blob = small_blob(
        KEY, rows=rows, scales=nothing, bias=np.zeros(3, np.float32), owners=np.zeros(0, np.int64), is_raised=True
    )
    found = from_bytes(to_bytes(Bundle(sign_blob(blob, KEY)), KEY), KEY.public).head
    np.testing.assert_array_equal(found.rows, rows)
    assert (found.is_int8, found.is_raised) == (False, True)
