"""The one file that says which of two folders of versions runs: the slots of a microcontroller, on Linux.

Which head runs, is on trial or comes back is decided where it is for a microcontroller, in `slots`. Here a slot is the
name of a folder, and a record with those names is a file of JSON, written whole. A file that is lost or damaged is no
record: then the two best folders whose signatures hold are the slots.
"""

from __future__ import annotations

import json
import shlex
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edge_cl.errors import BundleError, EdgeClError, SlotError
from edge_cl.files import write_whole
from edge_firmware.blob import Blob
from edge_firmware.bundle import read_bundle
from edge_firmware.keys import PublicKey
from edge_firmware.records import WORD, Record
from edge_firmware.slots import Slots
from edge_firmware.versions import BUNDLE, NAME, check_version, list_versions

POINTER, VERSIONS = "pointer.json", "versions"
FORMAT = 1
MOST_BYTES = 1 << 16
Names = tuple[str | None, str | None]


@dataclass(frozen=True)
class Pointer:
    """What stands in the file.

    Attributes:
        record: which slot is confirmed, and whether the other is on trial.
        names: of the folders in both slots.
        replaced: the folder that was in the slot on trial, and comes back if the trial fails.
        product: of the confirmed head; before there is one, it and the backbone are empty.
        backbone: likewise, sha256.
    """

    record: Record = field(default_factory=Record)
    names: Names = (None, None)
    replaced: str | None = None
    product: str = ""
    backbone: bytes = b""

    def to_json(self) -> bytes:
        """Return the bytes of the file."""
        record = self.record
        values: dict[str, Any] = {
            "format": FORMAT,
            "sequence": record.sequence,
            "active": record.active,
            "tries": record.tries,
            "version": record.version,
            "parent": record.parent,
            "counter": record.counter,
            "slots": list(self.names),
            "replaced": self.replaced,
            "product": self.product,
            "backbone": self.backbone.hex(),
        }
        return json.dumps({**values, "checksum": _checksum(values)}, indent=1).encode() + b"\n"


def read_pointer(path: Path) -> Pointer | None:
    """Return what stands in a file; None where that is nothing that `Pointer.to_json` gave."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES)
        values = json.loads(data)
        record = Record(*(values[name] for name in ("sequence", "active", "tries", "version", "parent", "counter")))
        first, second = values["slots"]
        backbone = bytes.fromhex(values["backbone"])
        found = Pointer(record, (first, second), values["replaced"], values["product"], backbone)
        is_ours = found.to_json() == data and _is_legal(found)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return found if is_ours else None


def _is_legal(pointer: Pointer) -> bool:
    record = pointer.record
    numbers = (record.sequence, record.version, record.parent, record.counter, record.tries or 0)
    names = [name for name in (*pointer.names, pointer.replaced) if name is not None]
    is_active_there = record.active is None or (
        type(record.active) is int and record.active in {0, 1} and pointer.names[record.active] is not None
    )
    return (
        all(type(number) is int and 0 <= number < WORD for number in numbers)
        and is_active_there
        and all(isinstance(name, str) and NAME.fullmatch(name) for name in names)
        and isinstance(pointer.product, str)
    )


def _checksum(values: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(values, sort_keys=True).encode()):08x}"


class FolderSlots(Slots):
    """The slots of a folder that heads are deployed to.

    Attributes:
        folder: with the pointer and the folders of versions.
        key: that all bundles are signed with.
        pointer: as it stands in the file, or will at the next save.
        is_writable: else nothing is written, and a head on trial, whose tries have to be counted, is not run.
    """

    def __init__(self, folder: Path, key: PublicKey, *, is_writable: bool = True) -> None:
        self.folder, self.key, self.is_writable = folder, key, is_writable
        self.pointer = Pointer()
        self.check = self._check
        self._find()
        self.chosen = self.record.active  # what runs now, before a boot

    def name(self, slot: int) -> str | None:
        """Return the name of the folder in a slot."""
        return self.pointer.names[slot]

    def path(self, slot: int) -> Path:
        """Return the folder in a slot."""
        return self.folder / VERSIONS / str(self.name(slot))

    def head(self, slot: int) -> Blob:
        """Return the head in a slot, its signature checked.

        Raises:
            BundleError: it does not hold.
        """
        return read_bundle(self.path(slot) / BUNDLE, self.key).head

    def passes(self, slot: int) -> bool:
        """Return whether the head in a slot may run."""
        return self._passes(slot, self.record.counter)

    def keep_counter(self) -> None:
        """Take no lower security counter than a signed head in the slots has, even if it may not run."""
        heads = [self._head(name) for name in self.pointer.names]
        counters = [head.counter for head in heads if head is not None]
        self.record = replace(self.record, counter=max(self.record.counter, *counters, 0))

    def begin(self) -> None:
        """Write a pointer where there is none: without one, a folder that was never tried would be taken for a head.

        Raises:
            SlotError: it cannot be written.
        """
        if read_pointer(self.folder / POINTER) is None:
            self._save(self.record)

    def put(self, name: str) -> None:
        """Put a folder into the spare slot; it is written when the trial begins."""
        spare = self.spare()
        self.pointer = replace(self.pointer, names=_with(self.pointer.names, spare, name), replaced=self.name(spare))

    def try_once(self) -> int:
        """Put the spare slot on trial, its only try taken, and return it: whatever happens now, it starts no more.

        Raises:
            BundleError: what the check says.
            SlotError: the pointer cannot be written.
        """
        trial = self.record.spare
        self.check(trial, self.record.counter)
        self._save(self.record.tried(0))
        self.chosen = trial
        return trial

    def check_fits(self, head: Blob) -> None:
        """Refuse a head that is not for what runs here.

        Raises:
            BundleError: it is for another product or backbone, or its security counter is lower.
        """
        pointer = self.pointer
        if pointer.backbone and head.product != pointer.product:
            raise BundleError(
                f"the head is for product {head.product!r}; expected {pointer.product!r}; "
                f"pack it with --product {shlex.quote(pointer.product)}"
            )
        if pointer.backbone and head.backbone != pointer.backbone:
            found, wanted = (sha256.hex()[:16] for sha256 in (head.backbone, pointer.backbone))
            raise BundleError(f"the head is for backbone {found}; expected {wanted}; pack one of a state that has it")
        self._check_counter(head, self.record.counter)

    def _check_counter(self, head: Blob, least: int) -> None:
        if head.counter < least:
            raise BundleError(
                f"the security counter is {head.counter}; expected at least {least}; pack with --counter {least}"
            )

    def _check(self, slot: int, counter: int) -> None:
        name = self.name(slot)
        if name is None:
            raise BundleError(f"{self.folder}: slot {slot} is empty")
        head = check_version(self.folder / VERSIONS / name, self.key)
        self.check_fits(head)
        self._check_counter(head, counter)

    def _numbers(self, slot: int) -> tuple[int, int, int] | None:
        head = self._head(self.name(slot))
        return None if head is None else (head.version, head.parent, head.counter)

    def _head(self, name: str | None) -> Blob | None:
        """Return the head in a folder; None where its signature does not hold."""
        try:
            return None if name is None else read_bundle(self.folder / VERSIONS / name / BUNDLE, self.key).head
        except EdgeClError:
            return None

    def _find(self) -> None:
        found = read_pointer(self.folder / POINTER)
        self.pointer = self._guess() if found is None else found
        self.record = self.pointer.record

    def _guess(self) -> Pointer:
        """Return a pointer without a confirmed head, the best folders in its slots."""
        heads = [(self._head(name), name) for name in list_versions(self.folder / VERSIONS)]
        known = [(head.counter, head.version, name, head) for head, name in heads if head is not None]
        known.sort(key=lambda entry: entry[:3], reverse=True)
        if not known:
            return Pointer()
        names = [name for *_, name, _ in known[:2]] + [None]
        return Pointer(names=(names[0], names[1]), product=known[0][3].product, backbone=known[0][3].backbone)

    def _save(self, record: Record) -> None:
        if not self.is_writable:
            raise SlotError(f"{self.folder}: is only read here, or another process writes it")
        pointer = replace(self.pointer, record=replace(record, sequence=(record.sequence + 1) % WORD))
        if record.active != self.record.active and record.active is not None:
            head = self._head(self.name(record.active))
            assert head is not None, "it was checked"
            pointer = replace(pointer, product=head.product, backbone=head.backbone, replaced=None)
        elif self.record.tries is not None and record.tries is None:
            names = _with(pointer.names, record.spare, pointer.replaced)
            pointer = replace(pointer, names=names, replaced=None)
        try:
            write_whole(self.folder / POINTER, pointer.to_json())
        except OSError as error:
            raise SlotError(f"{self.folder / POINTER}: cannot be written: {error.strerror}") from None
        self.pointer, self.record = pointer, pointer.record


def _with(names: Names, slot: int, name: str | None) -> Names:
    return (names[0], name) if slot else (name, names[1])
