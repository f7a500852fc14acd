"""Two slots for heads on a flash, and the records that say which one runs: what `edge_slot.c` does, byte by byte.

After a reset: `Slots(...)`, then `boot`. An update: `spare`, erase and program that slot, `try_out`, reset; then `boot`
gives the new head on trial, and `confirm` or `reject` ends the trial.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from edge_cl.errors import BundleError, SlotError
from edge_firmware.formats import BLOB, ERRORS, NO_TRIAL, RECORD
from edge_firmware.records import WORD, Record, read_record

BLANK = b"\xff" * RECORD.size
NUMBERS = struct.Struct("<III")  # version, parent, counter: as they lie in a blob, and in a record
NUMBERS_AT = BLOB.offsets[[field.name for field in BLOB.fields].index("version")]


class Flash(Protocol):
    """What holds slots and records; `OSError` where it does not do what it should."""

    def read(self, address: int, n_bytes: int) -> bytes:
        """Return what lies there."""

    def erase(self, address: int) -> None:
        """Set all bits of a sector."""

    def program(self, address: int, data: bytes) -> None:
        """Clear bits."""


@dataclass(frozen=True)
class Layout:
    """Where things lie.

    Attributes:
        sector_bytes: a power of two, at least 32.
        slot_address: of both slots.
        slot_bytes: a multiple of the sector.
        record_address: of the first sector of records.
        n_record_sectors: at least 2.
    """

    sector_bytes: int
    slot_address: tuple[int, int]
    slot_bytes: int
    record_address: int
    n_record_sectors: int = 2


Check = Callable[[int, int], None]  # of a slot and the lowest counter that is taken; BundleError where it may not run


class Slots:
    """The slots of a flash.

    Attributes:
        record: the newest one.
        place: where it lies, in bytes from the start of the first sector.
        chosen: the slot that `boot` chose; where none may run the confirmed one; -1 before.
    """

    def __init__(self, flash: Flash, layout: Layout, check: Check) -> None:
        self.flash, self.layout, self.check = flash, layout, check
        self.chosen: int | None = -1
        self._find()

    def boot(self) -> tuple[int, bool]:
        """Return the slot to run, and whether it is on trial.

        Raises:
            SlotError: none may run.
        """
        if self.record.tries is not None:
            # Counted before the check: a head that stops the device in it must not be tried for ever.
            is_counted = self.record.tries > 0 and self._is_saved(self.record.counted())
            if is_counted and self._passes(self.record.spare, self.record.counter):
                self.chosen = self.record.spare
                return self.chosen, True
            with suppress(SlotError):  # then the next boot ends the trial
                self.reject()
        self.chosen = active = self.record.active
        if active is not None and self._passes(active, self.record.counter):
            return active, False
        record, least = self.record, self.record.counter
        for slot in (0, 1):
            if slot == active or least == WORD or not self._passes(slot, least):
                continue
            numbers = self._numbers(slot)
            if numbers is not None:
                record = record.confirmed(slot, numbers)
                self.chosen, least = slot, record.counter + 1  # a second one must have a higher counter
        if self.chosen is None or self.chosen == active:
            raise SlotError(text_of("EMPTY"))
        self._is_saved(record)  # if not, the next boot chooses again; no slot is spare till then
        return self.chosen, False

    def confirm(self) -> None:
        """Make the slot that runs on trial the confirmed one; from now on no lower counter is taken than its head's.

        Raises:
            SlotError: none runs on trial, or the flash failed.
        """
        trial = self.record.spare
        if self.record.tries is None or self.chosen != trial:
            raise SlotError(text_of("STATE"))
        numbers = self._numbers(trial)
        if numbers is None:
            raise SlotError(text_of("FLASH"))
        self._save(self.record.confirmed(trial, numbers))

    def reject(self) -> None:
        """End a trial: the confirmed slot runs from the next boot on.

        Raises:
            SlotError: there is no trial, or the flash failed.
        """
        if self.record.tries is None:
            raise SlotError(text_of("STATE"))
        self._save(self.record.ended())

    def spare(self) -> int:
        """Return the slot to write a new head into; a trial of it that waits for a boot ends before.

        Raises:
            SlotError: a slot runs that is not the confirmed one, or the flash failed.
        """
        if self.chosen != self.record.active:
            raise SlotError(text_of("STATE"))
        if self.record.tries is not None:
            self.reject()
        return self.record.spare

    def try_out(self, tries: int) -> None:
        """Put the spare slot on trial for so many boots, if its check passes.

        Args:
            tries: at least 1.

        Raises:
            SlotError: a slot runs that is not the confirmed one, or the flash failed.
            BundleError: what the check says.
        """
        if self.chosen != self.record.active or tries in {0, NO_TRIAL}:
            raise SlotError(text_of("STATE"))
        self.check(self.record.spare, self.record.counter)
        self._save(self.record.tried(tries))

    def _passes(self, slot: int, counter: int) -> bool:
        try:
            self.check(slot, counter)
        except BundleError:
            return False
        return True

    def _numbers(self, slot: int) -> tuple[int, int, int] | None:
        """Version, parent and counter of the blob in a slot."""
        try:
            data = self.flash.read(self.layout.slot_address[slot] + NUMBERS_AT, NUMBERS.size)
        except OSError:
            return None
        version, parent, counter = NUMBERS.unpack(data)
        return version, parent, counter

    def _find(self) -> None:
        """Find the newest record; without one none is confirmed, and the first will go to the start of all sectors."""
        n_bytes = self.layout.n_record_sectors * self.layout.sector_bytes
        self.place, self.record = n_bytes - RECORD.size, Record()
        is_first = True
        for place in range(0, n_bytes, RECORD.size):
            record = read_record(self._read(place))
            if record is not None and (is_first or self.record.is_older(record)):
                self.place, self.record, is_first = place, record, False

    def _read(self, place: int) -> bytes:
        """The 32 bytes of a place; zeros, which are neither a record nor blank, where they cannot be read."""
        try:
            return self.flash.read(self.layout.record_address + place, RECORD.size)
        except OSError:
            return bytes(RECORD.size)

    def _is_saved(self, record: Record) -> bool:
        try:
            self._save(record)
        except SlotError:
            return False
        return True

    def _save(self, record: Record) -> None:
        """Write it into the next free place behind the newest one; what does not take it is left behind.

        The sector of the newest record is never erased, so that there is one at every moment.

        Raises:
            SlotError: the flash failed.
        """
        for sequence, place in enumerate(self._free_places(), start=record.sequence + 1):
            # Each attempt has a sequence of its own: one that failed and is there after all must be the older.
            record = replace(record, sequence=sequence % WORD)
            if self._is_programmed(place, record.pack()):
                self.place, self.record = place, record
                return
        self._find()  # nothing was written, or it seemed so: what is there counts
        raise SlotError(text_of("FLASH"))

    def _free_places(self) -> Iterator[int]:
        """The blank places behind the newest record, and then those of the other sectors, each erased when entered.

        That is done even where one looks blank: so may what a cut has left of an erase.
        """
        sector_bytes, n_sectors = self.layout.sector_bytes, self.layout.n_record_sectors
        newest, start = divmod(self.place, sector_bytes)
        yield from self._blank_places(newest * sector_bytes, start + RECORD.size)
        for step in range(1, n_sectors):
            sector = (newest + step) % n_sectors * sector_bytes
            try:
                self.flash.erase(self.layout.record_address + sector)
            except OSError:
                continue
            yield from self._blank_places(sector, 0)

    def _blank_places(self, sector: int, start: int) -> Iterator[int]:
        for place in range(sector + start, sector + self.layout.sector_bytes, RECORD.size):
            if self._read(place) == BLANK:
                yield place

    def _is_programmed(self, place: int, data: bytes) -> bool:
        try:
            self.flash.program(self.layout.record_address + place, data)
        except OSError:
            return False
        return self._read(place) == data


def text_of(name: str) -> str:
    """Return the words of an error of `formats.ERRORS`."""
    return f"slots: {dict(ERRORS)[name]}"
