"""What is deployed in a folder, for a person to read."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from edge_cl.errors import EdgeClError
from edge_firmware.deployment import pinned_key
from edge_firmware.pointer import FolderSlots


@dataclass(frozen=True)
class Deployed:
    """A folder of a version.

    Attributes:
        name: of the folder.
        state: `active`, `trial` or `before`.
        tries: starts that a trial has left; None: it is not on trial.
        version: of the head; None where it cannot be read.
        counter: its security counter; likewise.
        product: likewise.
        n_classes: likewise.
        problem: why it may not run; "" where it may.
    """

    name: str
    state: str
    tries: int | None
    version: int | None
    counter: int | None
    product: str | None
    n_classes: int | None
    problem: str


def list_slots(folder: str | os.PathLike[str]) -> list[Deployed]:
    """Return what is deployed in a folder, what is active first; nothing is written.

    Raises:
        SlotError: nothing is deployed there.
    """
    root = Path(folder)
    slots = FolderSlots(root, pinned_key(root), is_writable=False)
    order = sorted((0, 1), key=lambda slot: slot != slots.record.active)
    return [_deployed(slots, slot) for slot in order if slots.name(slot) is not None]


def _deployed(slots: FolderSlots, slot: int) -> Deployed:
    record = slots.record
    is_trial = record.tries is not None and slot == record.spare
    state = "active" if slot == record.active else "trial" if is_trial else "before"
    tries = record.tries if is_trial else None
    line = Deployed(str(slots.name(slot)), state, tries, None, None, None, None, "")
    try:
        head = slots.head(slot)
        line = replace(line, version=head.version, counter=head.counter, product=head.product)
        line = replace(line, n_classes=len(head.classes))
        slots.check(slot, 0)
    except EdgeClError as error:
        line = replace(line, problem=str(error))
    return line
