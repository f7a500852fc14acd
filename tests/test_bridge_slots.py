"""Slots decide the same in C and in Python, for every content of their records, and as the table of states says."""

from __future__ import annotations

import ctypes
import itertools
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from edge_firmware.formats import RECORD, RECORD_MAGIC
from edge_firmware.records import Record, read_record
from edge_firmware.slots import NUMBERS, NUMBERS_AT, Layout, Slots
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_cl.errors import EdgeClError

from .slot_library import N_TEARS, NEVER, CSlots, FlashModel, Verdict, build_library, new_flash, python_slots

SMALL = Layout(sector_bytes=128, slot_address=(0, 128), slot_bytes=128, record_address=256)  # 4 records a sector
TINY = Layout(sector_bytes=32, slot_address=(0, 32), slot_bytes=32, record_address=64)  # one
PLACES = 2 * SMALL.sector_bytes // RECORD.size
Either = Callable[[FlashModel, Layout, Verdict], Any]
BOTH: tuple[Either, Either] = (CSlots, python_slots)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return build_library(tmp_path_factory.mktemp("slots"))


def outcome(do: Callable[[], object]) -> object:
    """What came of it, errors by their text."""
    try:
        return do()
    except EdgeClError as error:
        return str(error)


def take_steps(slots: CSlots | Slots, steps: tuple[str, ...]) -> list[object]:
    """Return the outcomes of calls such as `boot` and `try_out 3`."""
    found: list[object] = [(slots.place, slots.record)]
    for step in steps:
        name, *numbers = step.split()
        found.append((outcome(lambda: getattr(slots, name)(*map(int, numbers))), slots.place, slots.record))  # noqa: B023
    return found


def put_head(flash: FlashModel, layout: Layout, slot: int, counter: int) -> None:
    """Lay down the numbers that the slots read of a head."""
    flash.put(layout.slot_address[slot] + NUMBERS_AT, NUMBERS.pack(10 + slot, 9, counter))


def compare(flash: FlashModel, layout: Layout, check: Verdict, steps: tuple[str, ...]) -> list[object]:
    """Return what C finds, after Python found the same and left the same bytes, by the same operations."""
    answers, flashes = [], []
    for make in BOTH:
        flashes.append(flash.copy())
        answers.append(take_steps(make(flashes[-1], layout, check), steps))
    assert answers[0] == answers[1]
    assert bytes(flashes[0]) == bytes(flashes[1])
    assert flashes[0].n_faults == 0
    ctypes.pointer(flash)[0] = flashes[0]
    return answers[0]


def by_counters(counters: tuple[int | None, int | None]) -> Verdict:
    """A check of heads of these counters; None: damaged."""

    def check(slot: int, least: int) -> str:
        counter = counters[slot]
        return "CRC" if counter is None else "COUNTER" if counter < least else "OK"

    return check


def chosen_by_the_table(record: Record, counters: tuple[int | None, int | None]) -> tuple[int, bool] | None:
    """The slot that runs and whether on trial, as the README's table says; None: none."""
    may_run = [counter is not None and counter >= record.counter for counter in counters]
    if record.tries and may_run[record.spare]:
        return record.spare, True
    if record.active is not None and may_run[record.active]:
        return record.active, False
    found = [slot for slot in (0, 1) if may_run[slot]]
    return (max(found, key=lambda slot: (counters[slot], -slot)), False) if found else None


def with_record(library: ctypes.CDLL, record: Record | None, place: int) -> FlashModel:
    """Flash with older records up to a place, and there the record."""
    flash = new_flash(library, SMALL)
    for slot in (0, 1):
        put_head(flash, SMALL, slot, 0)
    if record is not None:
        n_older = place % (SMALL.sector_bytes // RECORD.size)
        for step in range(n_older + 1):
            older = replace(
                record, sequence=record.sequence - n_older + step, tries=None if step < n_older else record.tries
            )
            flash.put(SMALL.record_address + (place - n_older + step) * RECORD.size, older.pack())
    return flash


CALLS = (
    ("boot",),
    ("boot", "confirm", "confirm", "spare", "try_out 2"),
    ("boot", "reject", "reject", "confirm", "spare"),
    ("boot", "spare", "try_out 2", "spare"),
    ("boot", "try_out 1", "confirm", "boot", "boot", "boot"),
    ("confirm", "spare", "try_out 1", "reject", "boot"),
)


@pytest.mark.parametrize("steps", CALLS, ids="-".join)
def test_every_state_by_the_table_and_the_same_in_both_languages(library: ctypes.CDLL, steps: tuple[str, ...]) -> None:
    states = [None, *(Record(9, *pair, 7, 6, 5) for pair in itertools.product((None, 0, 1), (None, 0, 1, 2)))]
    heads = (None, 4, 5, 6)
    for record, place, *counters in itertools.product(states, (0, 3, 6), heads, heads):
        flash = with_record(library, record, place)
        for slot, counter in enumerate(counters):
            put_head(flash, SMALL, slot, counter or 0)
        found: Any = compare(flash, SMALL, by_counters((counters[0], counters[1])), steps)
        if steps[0] == "boot":
            wanted = chosen_by_the_table(record or Record(), (counters[0], counters[1]))
            assert found[1][0] == (wanted or "slots: there is no head that may run")


def test_nothing_is_done_out_of_order(library: ctypes.CDLL) -> None:
    no_state = "slots: there is nothing to do that for"
    flash = with_record(library, Record(1, 0), 0)
    check = by_counters((0, 0))
    before = bytes(flash)
    found: Any = compare(flash, SMALL, check, ("spare", "try_out 1", "confirm", "reject"))
    assert [answer[0] for answer in found[1:]] == [no_state] * 4
    found = compare(flash, SMALL, check, ("boot", "confirm", "reject", "try_out 0", f"try_out {NEVER}"))
    assert [answer[0] for answer in found[2:]] == [no_state] * 4
    assert bytes(flash) == before
    found = compare(
        flash, SMALL, check, ("boot", "try_out 2", "confirm", "boot", "spare", "try_out 1", "reject", "spare")
    )
    assert [answer[0] for answer in found[1:]] == [
        (0, False),
        None,
        no_state,
        (1, True),
        no_state,
        no_state,
        None,
        no_state,
    ]


@pytest.mark.parametrize(("counter", "answer"), [(4, "COUNTER"), (5, None), (6, None), (None, "CRC")])
def test_a_trial_takes_no_lower_counter_and_writes_nothing_if_refused(
    library: ctypes.CDLL, counter: int | None, answer: str | None
) -> None:
    flash = with_record(library, Record(1, 0, counter=5), 0)
    put_head(flash, SMALL, 1, counter or 0)
    before = bytes(flash)
    found: Any = compare(flash, SMALL, by_counters((5, counter)), ("boot", "spare", "try_out 1"))
    assert found[2][0] == 1
    assert found[3][0] == answer
    assert (bytes(flash) == before) == (answer is not None)
    if answer is None:
        found = compare(flash, SMALL, by_counters((5, counter)), ("boot", "confirm"))
        assert found[-1][2] == Record(4, 1, None, 11, 9, counter or 0)


def test_the_counter_never_falls_whatever_the_check_lets_pass(library: ctypes.CDLL) -> None:
    flash = with_record(library, Record(1, 0, counter=5), 0)
    put_head(flash, SMALL, 1, 4)
    found: Any = compare(flash, SMALL, by_counters((9, 9)), ("boot", "try_out 1", "boot", "confirm"))
    assert found[-1][2] == Record(4, 1, None, 11, 9, 5)


@pytest.mark.parametrize("make", BOTH, ids=["C", "Python"])
def test_a_try_is_counted_in_flash_before_the_check(library: ctypes.CDLL, make: Either) -> None:
    flash = with_record(library, Record(1, 0, 2), 0)
    seen = []

    def check(slot: int, _: int) -> str:
        seen.append((slot, python_slots(flash, SMALL, by_counters((0, 0))).record.tries))
        return "OK"

    for _ in range(3):
        make(flash, SMALL, check).boot()
    assert seen == [(1, 1), (1, 0), (0, None)]


def newest(library: ctypes.CDLL, *places: bytes) -> Any:
    """Where the newest record lies, and it, of what lies in two sectors of one place."""
    flash = new_flash(library, TINY)
    for place, data in enumerate(places):
        flash.put(TINY.record_address + place * RECORD.size, data)
    return compare(flash, TINY, by_counters((0, 0)), ())[0]


OLD, NEW = Record(7, 0, None, 3, 2, 1), Record(8, 0, 2, 3, 2, 1)


def test_no_flip_of_one_or_two_bits_makes_another_record(library: ctypes.CDLL) -> None:
    whole = int.from_bytes(NEW.pack(), "little")
    assert newest(library, OLD.pack(), NEW.pack()) == (32, NEW)
    for first in range(256):
        data = (whole ^ 1 << first).to_bytes(32, "little")
        assert newest(library, OLD.pack(), data) == (0, OLD)
    for first, second in itertools.combinations(range(256), 2):
        assert read_record((whole ^ 1 << first ^ 1 << second).to_bytes(32, "little")) is None


def test_a_record_counts_once_its_last_byte_is_there(library: ctypes.CDLL) -> None:
    data = NEW.pack()
    for n_bytes in range(33):
        for torn in (data[:n_bytes].ljust(32, b"\xff"), data[32 - n_bytes :].rjust(32, b"\xff")):
            assert newest(library, OLD.pack(), torn)[1] == (NEW if torn == data else OLD)


def test_every_value_of_every_byte_is_a_record_or_none(library: ctypes.CDLL) -> None:
    n_records = 0
    for place, value in itertools.product(range(28), range(256)):
        body = bytearray(NEW.pack()[:28])
        body[place] = value
        data = bytes(body) + zlib.crc32(body).to_bytes(4, "little")
        magic, sequence, active = struct.unpack_from("<III", body)
        is_record = magic == RECORD_MAGIC and active in {0, 1, NEVER}
        assert (read_record(data) is not None) == is_record
        is_newer = is_record and (sequence - OLD.sequence) % 2**32 < 2**31
        assert newest(library, OLD.pack(), data)[0] == 32 * is_newer
        n_records += is_record
    assert n_records == 20 * 256 + 4 + 5  # bytes of sequence, tries and the head's numbers; of magic; of active


@pytest.mark.parametrize("highest", [2**31 - 1, 2**31, 2**32 - 1, 2**32 - 2])
def test_the_sequence_wraps(library: ctypes.CDLL, highest: int) -> None:
    flash = with_record(library, Record(highest, 0), 3)
    check = by_counters((0, 0))
    for n in range(1, 12):
        found: Any = compare(flash, SMALL, check, ("boot", "try_out 1", "reject"))
        assert found[-1][2] == Record((highest + 2 * n) % 2**32, 0)


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """What may lie in a place: nothing, a record, a damaged one, anything."""
    numbers = st.sampled_from([0, 1, 2, 3, 2**31, 2**32 - 2, 2**32 - 1])
    kind = draw(st.sampled_from(["blank", "record", "record", "torn", "anything"]))
    if kind in {"blank", "anything"}:
        return b"\xff" * 32 if kind == "blank" else draw(st.binary(min_size=32, max_size=32))
    body = struct.pack("<7I", RECORD_MAGIC, *(draw(numbers) for _ in range(6)))
    data = body + zlib.crc32(body).to_bytes(4, "little")
    keep = draw(st.integers(0, 2**256 - 1)) if kind == "torn" else 0
    return (int.from_bytes(data, "little") | keep).to_bytes(32, "little")


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_content_of_the_records_in_both_languages(library: ctypes.CDLL, data: st.DataObject) -> None:
    flash = new_flash(library, SMALL, data.draw(st.sampled_from([1, 4, 8, 16])))
    for place in range(PLACES):
        flash.put(SMALL.record_address + place * RECORD.size, data.draw(contents()))
    counters = data.draw(st.tuples(*[st.sampled_from([None, 0, 1, 2**32 - 2, 2**32 - 1])] * 2))
    for slot, counter in enumerate(counters):
        put_head(flash, SMALL, slot, counter or 0)
    flash.cut_at, flash.tear = data.draw(st.integers(0, 12)), data.draw(st.integers(0, N_TEARS - 1))
    flash.fail_at, flash.failure = data.draw(st.integers(0, 12)), data.draw(st.integers(0, 3))
    compare(flash, SMALL, by_counters(counters), data.draw(st.sampled_from(CALLS)))
    flash.power_on()
    compare(flash, SMALL, by_counters(counters), ("boot", "confirm", "spare", "try_out 2", "boot", "confirm"))


def test_records_wear_all_their_sectors_alike(library: ctypes.CDLL) -> None:
    erased = []

    class Counting(FlashModel):
        def erase(self, address: int) -> None:
            erased.append(address)
            super().erase(address)

    layout = replace(SMALL, n_record_sectors=3)
    flash = Counting.from_buffer_copy(with_record(library, None, 0))
    flash.library = library
    flash.n_bytes += SMALL.sector_bytes
    slots = python_slots(flash, layout, by_counters((0, 0)))
    take_steps(slots, ("boot", *("try_out 1", "boot", "confirm") * 100))
    assert slots.record.sequence == 301  # three records an update, and the factory's
    assert erased == [layout.record_address + n % 3 * layout.sector_bytes for n in range(-(-301 // 4))]


def test_a_sector_that_fails_for_ever_is_passed_over_and_none_stops_a_boot(library: ctypes.CDLL) -> None:
    check = by_counters((0, 0))
    for n_sectors, failure in itertools.product((2, 3), range(3)):
        layout = replace(SMALL, n_record_sectors=n_sectors)
        flash = with_record(library, Record(1, 0), 0)
        flash.n_bytes = layout.record_address + n_sectors * layout.sector_bytes
        flash.bad_sector, flash.failure = layout.record_address + layout.sector_bytes, failure
        for _ in range(4):
            found: Any = compare(flash, layout, check, ("boot", "try_out 1", "boot", "confirm", "boot"))
            assert found[1][0] in {(0, False), (1, False)}
        if n_sectors == 3 and failure != 1:  # 1: what fails is there after all
            assert found[-1][0] == (0, False)
            assert found[-1][2].sequence > 12
