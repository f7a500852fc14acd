"""The binary formats as tables: Python's structs, the offsets in C and the tables of the README all follow from these.

All numbers are little-endian; bytes that are reserved are zero.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property

LETTERS = {"u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f"}


@dataclass(frozen=True)
class Field:
    """One entry of a format.

    Attributes:
        name: what it is called in Python, and in capitals in C.
        type: a key of `LETTERS`, or `u8[n]`: n bytes.
        text: what stands there.
    """

    name: str
    type: str
    text: str

    @property
    def code(self) -> str:
        """What `struct` calls it."""
        return LETTERS.get(self.type) or f"{self.type[3:-1]}s"

    @property
    def n_bytes(self) -> int:
        """What it takes."""
        return struct.calcsize("<" + self.code)


@dataclass(frozen=True)
class Layout:
    """A format of a fixed size.

    Attributes:
        name: in capitals; what its offsets in C begin with.
        fields: in their order, without gaps.
    """

    name: str
    fields: tuple[Field, ...]

    @cached_property
    def struct(self) -> struct.Struct:
        """What packs it."""
        return struct.Struct("<" + "".join(field.code for field in self.fields))

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.struct.size

    @property
    def offsets(self) -> list[int]:
        """Where each field begins."""
        sizes = [field.n_bytes for field in self.fields]
        return [sum(sizes[:place]) for place in range(len(sizes))]

    def pack(self, values: dict[str, int | float | bytes]) -> bytes:
        """Return its bytes; a field that is not given is zero."""
        assert values.keys() <= {field.name for field in self.fields}
        empty = {field.name: b"" if field.code.endswith("s") else 0 for field in self.fields}
        return self.struct.pack(*(empty | values).values())

    def unpack(self, data: bytes, start: int = 0) -> dict[str, int | float | bytes]:
        """Return the values of its fields, by their names."""
        return dict(zip([field.name for field in self.fields], self.struct.unpack_from(data, start), strict=True))


BLOB_MAGIC = int.from_bytes(b"EDGH", "little")
BLOB_FORMAT = 1
IS_INT8, IS_RAISED, IS_UNIT, HAS_TABLE = 1, 2, 4, 8  # bits of `flags`
PRODUCT_BYTES, SIGNATURE_BYTES, TABLE_BYTES = 32, 64, 256
MOST_FEATURES = 1 << 16  # the sum of so many products of two int8 fits in 31 bits

BLOB = Layout(
    "EDGE_BLOB",
    (
        Field("magic", "u32", "`EDGH`"),
        Field("format", "u16", "1"),
        Field(
            "flags", "u16", "1: int8 rows (else float32); 2: features are raised to 3/4; 4: to unit length; 8: a table"
        ),
        Field("bytes", "u32", "of the whole blob, signature included"),
        Field("version", "u32", "of the head"),
        Field("parent", "u32", "the version it was made from"),
        Field("counter", "u32", "security counter: a device takes no lower one than it had"),
        Field("dim", "u32", "D: features of a sample, 1 to 65,536"),
        Field("n_classes", "u16", "K, at least 1"),
        Field("n_rows", "u16", "R, at least K: rows K and on are further looks of classes"),
        Field("n_canaries", "u16", "at least 1"),
        Field("feature_zero", "i8", "the int8 that stands for a feature of 0"),
        Field("input_zero", "i8", "the int8 that stands for an input of 0, after the table"),
        Field("feature_scale", "f32", "what one step of an int8 feature is worth"),
        Field("input_scale", "f32", "what one step of an input is worth, after the table"),
        Field("names_bytes", "u32", "of the names, each with its final zero byte"),
        Field("created", "u32", "seconds since 1970, UTC"),
        Field("reserved", "u32", ""),
        Field("product", f"u8[{PRODUCT_BYTES}]", "product id, UTF-8, zero bytes behind it"),
        Field("backbone", "u8[32]", "sha256 of the backbone; zeros where samples are features"),
        Field("key_id", "u8[8]", "the first bytes of the sha256 of the public key"),
    ),
)

RECORD_MAGIC = int.from_bytes(b"EDGR", "little")
NO_SLOT = NO_TRIAL = 0xFFFFFFFF

RECORD = Layout(
    "EDGE_RECORD",
    (
        Field("magic", "u32", "`EDGR`"),
        Field("sequence", "u32", "one more than that of the record before; it may wrap"),
        Field("active", "u32", "the slot that is confirmed, 0 or 1; all ones: none"),
        Field(
            "tries",
            "u32",
            "boots that the trial of the other slot (without a confirmed one: 0) has left; all ones: no trial",
        ),
        Field("version", "u32", "of the head in the active slot"),
        Field("parent", "u32", "of that head"),
        Field("counter", "u32", "its security counter: no lower one is taken"),
        Field("crc", "u32", "CRC-32 of the bytes before it"),
    ),
)

LINK_PROTOCOL = 1
LINK_HELLO, LINK_BEGIN, LINK_SKIP, LINK_WRITE, LINK_COPY, LINK_TRY, LINK_REBOOT = range(1, 8)
LINK_OWN = 0x40  # types from here on are the firmware's own
LINK_ANSWER = 0x80  # the type of an answer is that of its request with this bit
LINK_UNIT = 32  # transfers go on in multiples of it: one of every flash's program unit
LINK_RUNS, LINK_ON_TRIAL, LINK_CHECKS_KEY, LINK_CHECKS_PRODUCT, LINK_CHECKS_BACKBONE, LINK_WAITS = 1, 2, 4, 8, 16, 32

LINK_FRAME = Layout(
    "EDGE_LINK_FRAME",
    (
        Field("type", "u8", "of the request; of an answer with 128 added"),
        Field("sequence", "u8", "the host's; an answer has that of its request"),
    ),
)
LINK_BLOB = Layout(
    "EDGE_LINK_BLOB",
    (
        Field("bytes", "u32", "of the blob that is to be sent"),
        Field("crc", "u32", "CRC-32 of all its bytes: what the transfer is known by"),
    ),
)
LINK_SECTOR = Layout(
    "EDGE_LINK_SECTOR",
    (
        Field("offset", "u32", "a multiple of the sector"),
        Field("crc", "u32", "CRC-32 of the blob from there to the end of the sector or of the blob"),
    ),
)
LINK_DATA = Layout(
    "EDGE_LINK_DATA",
    (Field("offset", "u32", "of the data behind it: a multiple of 32 bytes, at most a chunk, 0xFF past the end"),),
)
LINK_RANGE = Layout(
    "EDGE_LINK_RANGE",
    (
        Field("offset", "u32", "in the new blob"),
        Field("source", "u32", "in the blob that runs"),
        Field("bytes", "u32", "a multiple of 32"),
    ),
)
LINK_MARK = Layout("EDGE_LINK_MARK", (Field("crc", "u32", "what the transfer is known by"),))
LINK_ACK = Layout(
    "EDGE_LINK_ACK",
    (
        Field("error", "u8", "an `edge_error`; 0: ok"),
        Field("next", "u32", "everything before it lies in the spare slot"),
        Field("crc", "u32", "SKIP: of what lies in the sector; else 0"),
    ),
)
LINK_INFO = Layout(
    "EDGE_LINK_INFO",
    (
        Field("protocol", "u8", "1"),
        Field(
            "flags",
            "u8",
            "1: a head runs; 2: on trial; 32: another waits for the restart; checked are 4: signature, 8: product, "
            "16: backbone",
        ),
        Field("error", "u8", "`edge_error` of the last TRY, or what the firmware set"),
        Field("reserved", "u8", ""),
        Field("chunk", "u32", "the most bytes of data in a WRITE"),
        Field("window", "u32", "bytes of frames that may be under way at once"),
        Field("slot_bytes", "u32", "of a slot"),
        Field("sector_bytes", "u32", "of a sector"),
        Field("counter", "u32", "the lowest security counter that is taken"),
        Field("dim", "u32", "features that the device computes; 0: any"),
        Field("crc", "u32", "the CRC-32 that ends the blob that runs"),
        Field("product", f"u8[{PRODUCT_BYTES}]", "product id that is taken"),
        Field("backbone", "u8[32]", "sha256 of the backbone that is taken"),
        Field("head", f"u8[{BLOB.size}]", "the header of the blob that runs; zeros: none does"),
    ),
)

ERRORS = (  # names and texts, by their numbers: the same on the device and here
    ("OK", "ok"),
    ("CUT", "the blob is cut short"),
    ("MAGIC", "this is no head blob"),
    ("FORMAT", "the blob is of another format"),
    ("HEADER", "the header's numbers are out of range"),
    ("LENGTH", "the length is not that of the sections"),
    ("CRC", "the checksum does not match"),
    ("NAMES", "the name table is damaged"),
    ("CLASS", "a look or a canary is of a class that is not there"),
    ("PRODUCT", "the head is for another product"),
    ("BACKBONE", "the head is for another backbone"),
    ("DIM", "the head is for features of another length"),
    ("COUNTER", "the security counter is lower than the device's"),
    ("KEY", "the head is signed with another key"),
    ("SIGNATURE", "the signature does not match"),
    ("TYPE", "the rows are of the other type"),
    ("CANARY", "a canary gets another answer"),
    ("ROOM", "the head does not fit the slot"),
    ("FLASH", "the flash did not take or give its bytes"),
    ("EMPTY", "there is no head that may run"),
    ("STATE", "there is nothing to do that for"),
    ("BUSY", "the head that runs is not confirmed yet"),
    ("REQUEST", "the request is not one that the device knows"),
    ("TRIAL", "the new head did not pass its trial"),
    ("MANY", "the head has more classes than there is room for"),
)
NUMBERS = {name: number for number, (name, _) in enumerate(ERRORS)}
