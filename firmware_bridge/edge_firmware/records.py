"""The records that say which slot runs, and how one follows from another: decisions, without a flash."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

from edge_firmware.formats import NO_SLOT, NO_TRIAL, RECORD, RECORD_MAGIC

WORD = 1 << 32  # numbers of 32 bits wrap here


@dataclass(frozen=True)
class Record:
    """Which slot is confirmed, and whether the other one is on trial.

    Attributes:
        sequence: the newest record has the highest; it may wrap.
        active: the confirmed slot; None: none.
        tries: boots that the trial of the spare slot has left; None: it is not on trial.
        version: of the head in the active slot.
        parent: of that head.
        counter: the lowest security counter that is taken.
    """

    sequence: int = 0
    active: int | None = None
    tries: int | None = None
    version: int = 0
    parent: int = 0
    counter: int = 0

    @property
    def spare(self) -> int:
        """The slot that the next head is for, and that is on trial where there is a trial."""
        return 1 if self.active == 0 else 0

    def tried(self, tries: int) -> Record:
        """Return it with the spare slot on trial for so many boots."""
        return replace(self, tries=tries)

    def counted(self) -> Record:
        """Return it with one try less."""
        assert self.tries
        return replace(self, tries=self.tries - 1)

    def ended(self) -> Record:
        """Return it without a trial."""
        return replace(self, tries=None)

    def confirmed(self, slot: int, numbers: tuple[int, int, int]) -> Record:
        """Return it with this slot as the active one, whose head has this version, parent and counter."""
        version, parent, counter = numbers
        return Record(self.sequence, slot, None, version, parent, max(self.counter, counter))

    def is_older(self, other: Record) -> bool:
        """Whether the other one, found at a later place, is the newer: less than half of all numbers ahead."""
        return (other.sequence - self.sequence) % WORD < WORD // 2

    def pack(self) -> bytes:
        """Return its 32 bytes."""
        data = RECORD.pack({
            "magic": RECORD_MAGIC,
            "sequence": self.sequence,
            "active": NO_SLOT if self.active is None else self.active,
            "tries": NO_TRIAL if self.tries is None else self.tries,
            "version": self.version,
            "parent": self.parent,
            "counter": self.counter,
        })[:-4]
        return data + zlib.crc32(data).to_bytes(4, "little")


def read_record(data: bytes) -> Record | None:
    """Return the record of 32 bytes; None where they are none."""
    _, sequence, active, tries, version, parent, counter, _ = RECORD.struct.unpack(data)
    if active not in {0, 1, NO_SLOT}:
        return None
    found = Record(
        sequence,
        None if active == NO_SLOT else active,
        None if tries == NO_TRIAL else tries,
        version,
        parent,
        counter,
    )
    return found if found.pack() == data else None
