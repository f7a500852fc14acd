"""The head blob: what a microcontroller runs in place from its flash.

Behind the header of `formats.BLOB` (128 bytes) stand, in this order, each padded with zero bytes to a multiple of 4:

| section  | type                | where |
|----------|---------------------|-------|
| table    | i8 (256)            | flag 8: the input for each int8 feature -128 ... 127 |
| rows     | i8 (R, D) or f32    | int8: each row padded to a multiple of 4 bytes |
| scales   | f32 (R)             | int8: what a unit of a row's sum is worth as a logit |
| bias     | i32 (R) or f32      | int8: in units of the row's sum |
| owners   | u16 (R - K)         | the class of each further look |
| answers  | u16 (n)             | the class that each canary must give |
| canaries | i8 (n, D)           | int8 features, each padded to a multiple of 4 bytes |
| names    | bytes               | K names in UTF-8, a zero byte behind each |
| crc      | u32                 | CRC-32 (IEEE 802.3) of all before it |
| signature| 64 bytes            | Ed25519 of `signed_message` |

So all places follow from the header's numbers, and the sum of the sections is the header's `bytes`.

The logit of an int8 row is `(sum of row * input + bias) * scale`: sums are exact in 32 bits, and then follow one
conversion and one product in float32. There is nothing to round in two ways: it comes out the same, bit for bit, on
every machine.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from edge_kernels.arrays import Floats, Ints
from numpy.typing import NDArray

from edge_cl.errors import BundleError
from edge_firmware.formats import (
    BLOB,
    BLOB_FORMAT,
    BLOB_MAGIC,
    ERRORS,
    HAS_TABLE,
    IS_INT8,
    IS_RAISED,
    IS_UNIT,
    MOST_FEATURES,
    SIGNATURE_BYTES,
    TABLE_BYTES,
)

Int8 = NDArray[np.int8]


SIGNED_TEXT = b"edge_cl blob 1".ljust(16, b"\0")


@dataclass(frozen=True)
class Blob:
    """A head for a microcontroller: R rows, one for each of K classes and then one for each further look.

    Attributes:
        product: id of the product.
        version: of the head.
        parent: the version it was made from.
        counter: security counter.
        backbone: sha256, 32 bytes; zeros where samples are features.
        key_id: 8 bytes, of the key that signs.
        created: seconds since 1970, UTC.
        classes: K names.
        rows: (R, D) int8 or float32.
        scales: (R,) float32, of int8 rows; (0,) else.
        bias: (R,) int32 of int8 rows, float32 else.
        owners: (R - K,) classes of the further looks.
        canaries: (n, D) int8 features.
        answers: (n,) the class that each canary must give.
        feature_scale: what a step of an int8 feature is worth.
        feature_zero: the int8 feature that stands for 0.
        input_scale: what a step of an input is worth.
        input_zero: the input that stands for 0.
        table: (256,) int8, the input for each int8 feature from -128 on; None: inputs are the features.
        is_raised: whether float32 features are raised to 3/4; a table does that for int8.
        is_unit: whether they are brought to unit length; float32 rows only.
    """

    product: str
    version: int
    parent: int
    counter: int
    backbone: bytes
    key_id: bytes
    created: int
    classes: tuple[str, ...]
    rows: NDArray[Any]
    scales: Floats
    bias: NDArray[Any]
    owners: Ints
    canaries: Int8
    answers: Ints
    feature_scale: float
    feature_zero: int = 0
    input_scale: float = 1.0
    input_zero: int = 0
    table: Int8 | None = None
    is_raised: bool = False
    is_unit: bool = False

    @property
    def is_int8(self) -> bool:
        """Whether rows are int8."""
        return self.rows.dtype == np.int8

    @property
    def dim(self) -> int:
        """D."""
        return int(self.rows.shape[1])

    def sections(self) -> list[bytes]:
        """Return the bytes of the sections from the table to the names, padded."""
        table = b"" if self.table is None else self.table.astype("i1").tobytes()
        rows = pad_rows(self.rows).tobytes() if self.is_int8 else self.rows.astype("<f4").tobytes()
        bias = self.bias.astype("<i4" if self.is_int8 else "<f4").tobytes()
        classes = [self.owners.astype("<u2").tobytes(), self.answers.astype("<u2").tobytes()]
        parts = [table, rows, self.scales.astype("<f4").tobytes(), bias, *classes, pad_rows(self.canaries).tobytes()]
        return [part + bytes(-len(part) % 4) for part in (*parts, join_names(self.classes))]

    def header(self, n_bytes: int) -> bytes:
        """Return the header of a blob of so many bytes."""
        flags = IS_INT8 * self.is_int8 | IS_RAISED * self.is_raised | IS_UNIT * self.is_unit
        return BLOB.pack({
            "magic": BLOB_MAGIC,
            "format": BLOB_FORMAT,
            "flags": flags | HAS_TABLE * (self.table is not None),
            "bytes": n_bytes,
            "version": self.version,
            "parent": self.parent,
            "counter": self.counter,
            "dim": self.dim,
            "n_classes": len(self.classes),
            "n_rows": len(self.rows),
            "n_canaries": len(self.canaries),
            "feature_zero": self.feature_zero,
            "input_zero": self.input_zero,
            "feature_scale": self.feature_scale,
            "input_scale": self.input_scale,
            "names_bytes": len(join_names(self.classes)),
            "created": self.created,
            "product": self.product.encode(),
            "backbone": self.backbone,
            "key_id": self.key_id,
        })

    def to_be_signed(self) -> bytes:
        """Return all bytes of the blob but its signature."""
        sections = b"".join(self.sections())
        body = self.header(BLOB.size + len(sections) + 4 + SIGNATURE_BYTES) + sections
        return body + struct.pack("<I", zlib.crc32(body))


def signed_message(unsigned: bytes) -> bytes:
    """Return what the signature of a blob signs: 80 bytes.

    Args:
        unsigned: all bytes of the blob before its signature.
    """
    return SIGNED_TEXT + hashlib.sha512(unsigned).digest()


def read_blob(data: bytes) -> Blob:
    """Return the blob of these bytes; its signature is not looked at.

    Raises:
        BundleError: they are no whole blob; `text` of `formats.ERRORS`, as on the device.
    """
    if len(data) < BLOB.size:
        raise BundleError(text_of("CUT"))
    header: dict[str, Any] = BLOB.unpack(data)
    if header["magic"] != BLOB_MAGIC:
        raise BundleError(text_of("MAGIC"))
    if header["format"] != BLOB_FORMAT:
        raise BundleError(text_of("FORMAT"))
    check_numbers(header)
    sizes = section_sizes(header)
    if header["bytes"] != BLOB.size + sum(sizes) + 4 + SIGNATURE_BYTES:
        raise BundleError(text_of("LENGTH"))
    if header["bytes"] != len(data):
        raise BundleError(text_of("CUT" if len(data) < header["bytes"] else "LENGTH"))
    end = len(data) - SIGNATURE_BYTES - 4
    if zlib.crc32(data[:end]) != struct.unpack_from("<I", data, end)[0]:
        raise BundleError(text_of("CRC"))
    return _from_sections(header, list(_cut(data[BLOB.size : end], sizes)))


def text_of(name: str) -> str:
    """Return the words of an error of `formats.ERRORS`."""
    return f"blob: {dict(ERRORS)[name]}"


def check_numbers(header: dict[str, Any]) -> None:
    """Refuse numbers that no blob may have.

    Raises:
        BundleError: there are some.
    """
    is_int8, has_table = bool(header["flags"] & IS_INT8), bool(header["flags"] & HAS_TABLE)
    is_legal = (
        header["flags"] < 2 * HAS_TABLE
        and not (is_int8 and header["flags"] & (IS_RAISED | IS_UNIT))
        and (is_int8 or not has_table)
        and 1 <= header["dim"] <= MOST_FEATURES
        and 1 <= header["n_classes"] <= header["n_rows"]
        and header["n_canaries"] >= 1
    )
    if not is_legal:
        raise BundleError(text_of("HEADER"))


def section_sizes(header: dict[str, Any]) -> list[int]:
    """Return the bytes of each section from the table to the names, padded, by the header's numbers."""
    is_int8, has_table = bool(header["flags"] & IS_INT8), bool(header["flags"] & HAS_TABLE)
    dim, n_rows, n_canaries = header["dim"], header["n_rows"], header["n_canaries"]
    padded = dim + -dim % 4
    n_bytes = [
        TABLE_BYTES * has_table,
        n_rows * (padded if is_int8 else 4 * dim),
        4 * n_rows * is_int8,
        4 * n_rows,
        2 * (n_rows - header["n_classes"]),
        2 * n_canaries,
        n_canaries * padded,
        header["names_bytes"],
    ]
    return [size + -size % 4 for size in n_bytes]


def _cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    start = 0
    for size in sizes:
        yield data[start : start + size]
        start += size


def _from_sections(header: dict[str, Any], sections: list[bytes]) -> Blob:
    is_int8, dim = bool(header["flags"] & IS_INT8), header["dim"]
    n_classes, n_rows, n_canaries = header["n_classes"], header["n_rows"], header["n_canaries"]
    table, rows, scales, bias, owners, answers, canaries, names = sections
    classes = names[: header["names_bytes"]].split(b"\0")
    if len(classes) != n_classes + 1 or classes[-1]:
        raise BundleError(text_of("NAMES"))
    owned = np.frombuffer(owners, "<u2", n_rows - n_classes).astype(np.int64)
    wanted = np.frombuffer(answers, "<u2", n_canaries).astype(np.int64)
    if (np.concatenate([owned, wanted]) >= n_classes).any():
        raise BundleError(text_of("CLASS"))
    try:
        product = header["product"].rstrip(b"\0").decode()
        texts = tuple(name.decode() for name in classes[:-1])
    except UnicodeDecodeError:
        raise BundleError(text_of("NAMES")) from None
    return Blob(
        product=product,
        version=header["version"],
        parent=header["parent"],
        counter=header["counter"],
        backbone=header["backbone"],
        key_id=header["key_id"],
        created=header["created"],
        classes=texts,
        rows=np.frombuffer(rows, "i1" if is_int8 else "<f4").reshape(n_rows, -1)[:, :dim],
        scales=np.frombuffer(scales, "<f4"),
        bias=np.frombuffer(bias, "<i4" if is_int8 else "<f4"),
        owners=owned,
        canaries=np.frombuffer(canaries, "i1").reshape(n_canaries, -1)[:, :dim],
        answers=wanted,
        feature_scale=header["feature_scale"],
        feature_zero=header["feature_zero"],
        input_scale=header["input_scale"],
        input_zero=header["input_zero"],
        table=np.frombuffer(table, "i1") if table else None,
        is_raised=bool(header["flags"] & IS_RAISED),
        is_unit=bool(header["flags"] & IS_UNIT),
    )


def join_names(classes: tuple[str, ...]) -> bytes:
    """Return the names, a zero byte behind each."""
    return b"".join(name.encode() + b"\0" for name in classes)


def pad_rows(rows: Int8) -> Int8:
    """Return rows (R, D') whose length is a multiple of 4, zeros behind."""
    return np.ascontiguousarray(np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4))))
