"""The slots in C and the modelled flash, as Python sees them: both implementations run on the same flash."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_uint8, c_uint32, c_void_p
from pathlib import Path
from typing import Any

from edge_firmware import slots
from edge_firmware.formats import ERRORS, NO_SLOT, NO_TRIAL
from edge_firmware.records import Record
from edge_firmware.slots import Layout, Slots

from edge_cl.errors import BundleError, SlotError

from .c_builds import compile_c, sources

TOOLS = Path(__file__).resolve().parents[1] / "tools"
MODEL_BYTES = 16384
NEVER = 0xFFFFFFFF
N_TEARS = 9
NAMES = [name for name, _ in ERRORS]
Verdict = Callable[[int, int], str]  # of a slot and the lowest counter: the name of an error


class FlashModel(Structure):
    """`flash_model` of flash_model.h, with the methods of `slots.Flash`."""

    _fields_ = (
        ("bytes", c_uint8 * MODEL_BYTES),
        ("units", c_uint8 * MODEL_BYTES),
        *((name, c_uint32) for name in ("n_bytes", "sector_bytes", "unit", "n_operations")),
        *((name, c_uint32) for name in ("cut_at", "tear", "fail_at", "failure", "bad_sector")),
        *((name, c_uint32) for name in ("random", "is_dead", "n_faults")),
    )
    library: ctypes.CDLL

    def read(self, address: int, n_bytes: int) -> bytes:
        found = ctypes.create_string_buffer(n_bytes)
        self._done(self.library.model_read(ctypes.byref(self), address, found, n_bytes))
        return found.raw

    def erase(self, address: int) -> None:
        self._done(self.library.model_erase(ctypes.byref(self), address))

    def program(self, address: int, data: bytes) -> None:
        self._done(self.library.model_program(ctypes.byref(self), address, c_char_p(data), len(data)))

    def copy(self) -> FlashModel:
        same = FlashModel.from_buffer_copy(self)
        same.library = self.library
        return same

    def power_on(self) -> None:
        self.library.model_power_on(ctypes.byref(self))

    def put(self, address: int, data: bytes) -> None:
        """Lay bytes down as if they had been programmed after an erase."""
        ctypes.memmove(ctypes.byref(self.bytes, address), data, len(data))
        for place, byte in enumerate(data, start=address):
            if byte != 0xFF:
                self.units[place // self.unit] = 1

    @staticmethod
    def _done(answer: int) -> None:
        if answer != 0:
            raise OSError("the flash failed")


class CFlash(Structure):
    _fields_ = (
        ("read", c_void_p),
        ("erase", c_void_p),
        ("program", c_void_p),
        ("context", c_void_p),
        ("sector_bytes", c_uint32),
        ("slot_address", c_uint32 * 2),
        ("slot_bytes", c_uint32),
        ("record_address", c_uint32),
        ("n_record_sectors", c_uint32),
    )


class CRecord(Structure):
    _fields_ = tuple(
        (name, c_uint32) for name in ("magic", "sequence", "active", "tries", "version", "parent", "counter", "crc")
    )


CHECK = CFUNCTYPE(c_int, c_void_p, c_uint32, c_uint32)


class CSlotsState(Structure):
    _fields_ = (
        ("flash", POINTER(CFlash)),
        ("check", CHECK),
        ("context", c_void_p),
        ("place", c_uint32),
        ("chosen", c_uint32),
        ("record", CRecord),
    )


class CSlots:
    """`edge_slots`, with the methods and errors of `slots.Slots`."""

    def __init__(self, flash: FlashModel, layout: Layout, check: Verdict) -> None:
        library = flash.library
        self.model = flash  # C has its address
        functions = [ctypes.cast(getattr(library, f"model_{name}"), c_void_p) for name in ("read", "erase", "program")]
        self.flash = CFlash(*functions, ctypes.addressof(flash), layout.sector_bytes, layout.slot_address)
        self.flash.slot_bytes, self.flash.record_address = layout.slot_bytes, layout.record_address
        self.flash.n_record_sectors = layout.n_record_sectors
        self.check = CHECK(lambda _, slot, counter: NAMES.index(check(slot, counter)))
        self.state, self.library = CSlotsState(), library
        library.edge_slots_open(ctypes.byref(self.state), ctypes.byref(self.flash), self.check, None)

    @property
    def place(self) -> int:
        return int(self.state.place)

    @property
    def record(self) -> Record:
        record = self.state.record
        active = None if record.active == NO_SLOT else record.active
        tries = None if record.tries == NO_TRIAL else record.tries
        return Record(record.sequence, active, tries, record.version, record.parent, record.counter)

    def boot(self) -> tuple[int, bool]:
        slot, is_trial = c_uint32(), c_int()
        self._call("boot", ctypes.byref(slot), ctypes.byref(is_trial))
        return slot.value, bool(is_trial.value)

    def confirm(self) -> None:
        self._call("confirm")

    def reject(self) -> None:
        self._call("reject")

    def spare(self) -> int:
        slot = c_uint32()
        self._call("spare", ctypes.byref(slot))
        return slot.value

    def try_out(self, tries: int) -> None:
        self._call("try", c_uint32(tries))

    def _call(self, name: str, *arguments: Any) -> None:
        error = NAMES[getattr(self.library, f"edge_slots_{name}")(ctypes.byref(self.state), *arguments)]
        if error in {"STATE", "FLASH", "EMPTY"}:
            raise SlotError(slots.text_of(error))
        if error != "OK":
            raise BundleError(error)


def python_slots(flash: FlashModel, layout: Layout, check: Verdict) -> Slots:
    """Return the slots of Python with the same kind of check."""

    def refuse(slot: int, counter: int) -> None:
        if (name := check(slot, counter)) != "OK":
            raise BundleError(name)

    return Slots(flash, layout, refuse)


def build_library(folder: Path) -> ctypes.CDLL:
    """Return the slots and the model as a library, or skip the test."""
    units = [*sources("edge_slot", "edge_head"), TOOLS / "flash_model.c"]
    return ctypes.CDLL(str(compile_c(folder / "slots.so", units, ("cc", "-std=c99"), "-O1", "-shared", "-fPIC")))


def new_flash(library: ctypes.CDLL, layout: Layout, unit: int = 8) -> FlashModel:
    """Return blank flash."""
    flash = FlashModel()
    flash.library = library
    n_bytes = layout.record_address + layout.n_record_sectors * layout.sector_bytes
    library.model_start(ctypes.byref(flash), n_bytes, layout.sector_bytes, unit)
    return flash
