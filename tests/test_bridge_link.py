"""A head goes into a device whatever the line does to it, and nothing but the spare slot is ever written."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from edge_firmware.delta import common_ranges
from edge_firmware.formats import BLOB, LINK_ANSWER, LINK_TRY, LINK_UNIT
from edge_firmware.frames import FrameReader, encode_frame
from edge_firmware.link import Link
from edge_firmware.plan import Plan
from edge_firmware.push import deliver, push

from edge_cl.errors import BundleError, LinkError

from .link_rigs import device_code, load_tool

FAULTS = {
    "lost": {"lost": 0.2},
    "doubled": {"doubled": 0.2},
    "reordered": {"reordered": 0.2},
    "flipped": {"flipped": 0.2},
    "shifted": {"shifted": 0.2},
    "all": {"lost": 0.2, "doubled": 0.2, "reordered": 0.2, "flipped": 0.2, "shifted": 0.2},
}
SMALL = {"slot_bytes": 8192, "sector_bytes": 1024, "chunk": 256}


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the device's C as a library."""
    return device_code(tmp_path_factory)


@pytest.fixture(scope="module")
def rig() -> Any:
    return load_tool("link_rig")


Start = Callable[..., Any]


@pytest.fixture
def start(rig: Any, code: Any) -> Start:
    """Return a function that gives a device running a blob from slot 0."""

    def give(blob: bytes, **sizes: int) -> Any:
        device = rig.Device(code, **sizes)
        device.expect()
        device.put(0, blob)
        assert device.boot() == 0
        return device

    return give


@pytest.fixture(scope="module")
def old(rig: Any) -> bytes:
    return bytes(rig.make_blob(rig.make_head(10, 256)))


@pytest.fixture(scope="module")
def new(rig: Any) -> bytes:
    return bytes(rig.make_blob(replace(rig.make_head(40, 256, seed=1), version=2, parent=1)))


def runs(device: Any, slot: int, blob: bytes) -> bool:
    return bool(device.running == slot and device.slot(slot)[: len(blob)] == blob)


@pytest.mark.parametrize("kind", FAULTS)
def test_a_head_arrives_byte_for_byte_over_a_faulty_line(
    kind: str, rig: Any, start: Start, old: bytes, new: bytes
) -> None:
    for seed in range(3):
        device = start(old)
        line = rig.Line(device, rig.Faults(**FAULTS[kind]), seed=seed)
        report = push(Link(line), new)
        assert report.state == "confirmed"
        assert runs(device, 1, new)
        assert device.slot(0)[: len(old)] == old
        assert device.broken_rules == 0
        assert report.repeated > 0 or kind == "doubled"  # else the line did nothing


def test_over_a_good_line_no_byte_of_the_head_goes_twice(rig: Any, start: Start, old: bytes, new: bytes) -> None:
    device = start(old)
    line = rig.Line(device)
    report = push(Link(line), new)
    assert (report.repeated, report.skipped_bytes, report.copied_bytes) == (0, 0, 0)
    assert report.written_bytes == len(new) + -len(new) % LINK_UNIT
    assert line.up_bytes == report.sent_bytes <= 1.1 * len(new)
    assert device.erased == -(-len(new) // 4096) + 1  # and a sector of records


def test_a_head_that_runs_is_not_sent_again(rig: Any, start: Start, old: bytes) -> None:
    line = rig.Line(start(old))
    report = push(Link(line), old)
    assert report.was_running
    assert line.up_bytes < 20


def test_a_killed_host_goes_on_where_it_stopped(rig: Any, start: Start, old: bytes, new: bytes) -> None:
    device = start(old)
    line = rig.Line(device)
    line.kill_after = 7_000
    with pytest.raises(rig.HostKilledError):
        push(Link(line), new)
    again = rig.Line(device)
    push(Link(again), new)
    assert runs(device, 1, new)
    assert again.up_bytes < 1.1 * (len(new) - 7_000) + 1_024 + 300  # what was under way is sent again


def test_a_device_that_restarts_in_the_middle_gets_no_sector_twice(
    rig: Any, start: Start, old: bytes, new: bytes
) -> None:
    device = start(old, **SMALL | {"slot_bytes": 16384})
    device.cut_after(40)
    line = rig.Line(device)
    report = push(Link(line), new)
    assert line.n_boots == 2  # of the cut, and to run the new head
    assert runs(device, 1, new)
    assert device.broken_rules == 0
    assert report.written_bytes < len(new) + 2 * 1024  # the sector of the cut, and what was under way


def test_host_and_device_may_both_stop(rig: Any, start: Start, old: bytes, new: bytes) -> None:
    device = start(old, **SMALL | {"slot_bytes": 16384})
    line = rig.Line(device)
    line.kill_after = 7_000
    with pytest.raises(rig.HostKilledError):
        push(Link(line), new)
    device.boot()
    again = rig.Line(device)
    report = push(Link(again), new)
    assert runs(device, 1, new)
    assert report.skipped_bytes >= 5 * 1024
    assert report.skipped_bytes + report.written_bytes == len(new) + -len(new) % LINK_UNIT


def test_power_may_fail_at_every_flash_operation_of_an_update(rig: Any, start: Start) -> None:
    small_old = rig.make_blob(rig.make_head(8, 64))
    small_new = rig.make_blob(replace(rig.make_head(20, 64, seed=1), version=2))
    n_cuts = 0
    for n_operations in range(100):
        device = start(small_old, **SMALL)
        device.cut_after(n_operations)
        line = rig.Line(device)
        push(Link(line), small_new)
        assert runs(device, 1, small_new), n_operations
        assert device.broken_rules == 0
        assert device.slot(0)[: len(small_old)] == small_old
        if line.n_boots == 1:
            break
        n_cuts += 1
    assert 10 < n_cuts < 99


def test_of_a_delta_only_what_changed_travels(rig: Any, start: Start) -> None:
    head = rig.make_head(40, 256)
    before = rig.make_blob(head)
    rows = head.rows.copy()
    rows[7] = -rows[7]
    after = rig.make_blob(replace(head, rows=rows, version=2, parent=1))
    n_units = sum(after[at : at + LINK_UNIT] != before[at : at + LINK_UNIT] for at in range(0, len(after), LINK_UNIT))
    device = start(before)
    line = rig.Line(device)
    report = push(Link(line), after, base=before)
    assert runs(device, 1, after)
    assert report.written_bytes <= LINK_UNIT * (n_units + 2)
    assert report.written_bytes + report.copied_bytes == len(after) + -len(after) % LINK_UNIT
    assert line.up_bytes < 256 + 0.1 * len(after)


def test_a_delta_follows_rows_that_moved(rig: Any) -> None:
    head = rig.make_head(40, 256)
    wider = rig.make_head(41, 256)
    rows = np.concatenate([head.rows[:20], wider.rows[40:], head.rows[20:]])
    before = rig.make_blob(head)
    after = rig.make_blob(replace(wider, rows=rows, version=2, answers=np.zeros(2, np.int64)))
    parts = common_ranges(after, before)
    assert all(after[p.start : p.end] == before[p.source : p.source + p.end - p.start] for p in parts)
    rows_at = BLOB.size
    known = {at for p in parts for at in range(p.start, p.end)}
    moved = range(rows_at + 21 * 256, rows_at + 41 * 256)
    assert sum(at in known for at in moved) >= len(moved) - 2 * LINK_UNIT


def test_a_delta_from_another_head_than_the_one_that_runs_is_refused(
    rig: Any, start: Start, old: bytes, new: bytes
) -> None:
    other = rig.make_blob(rig.make_head(10, 256, seed=5))
    device = start(old)
    flash = device.memory.raw
    line = rig.Line(device)
    with pytest.raises(LinkError, match=r"--from is version 1 .*the device runs version 1 .*without --from"):
        push(Link(line), new, base=other)
    assert device.memory.raw == flash


def test_sectors_that_have_their_bytes_are_passed_over_without_a_base(rig: Any, start: Start) -> None:
    head = rig.make_head(40, 256)
    before, small = rig.make_blob(head), rig.make_blob(rig.make_head(4, 256))
    device = start(small, **SMALL | {"slot_bytes": 16384})
    device.put(1, before)  # of two updates ago
    names = tuple(f"other {k}" for k in range(40))
    after = rig.make_blob(replace(head, version=3, classes=names, rows=head.rows))
    report = push(Link(rig.Line(device)), after)
    assert runs(device, 1, after)
    assert report.skipped_bytes >= (len(after) // 1024 - 3) * 1024


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"product": "pump"}, "takes heads for product 'cam'; this one is for 'pump'"),
        ({"backbone": bytes(32)}, "computes with backbone 00010203…; this head was learnt on 00000000…"),
        ({"counter": 0}, "takes security counters from 1 on; this head has 0"),
        ({"classes": 400}, "a slot holds 65,536 bytes; this head of 400 classes has"),
        ({"dim": 128}, "computes 256 features; this head takes 128"),
        ({"key": 7}, "takes heads signed with key [0-9a-f]{16}; this one is signed with"),
        ({"cut": 5}, "the blob is cut short"),
        ({"flip": 300}, "the checksum does not match"),
    ],
)
def test_what_cannot_go_there_is_refused_before_anything_is_sent(
    change: dict[str, Any], message: str, rig: Any, code: Any
) -> None:
    device = rig.Device(code, slot_bytes=1 << 16)
    device.expect(dim=256)
    device.put(1, rig.make_blob(replace(rig.make_head(10, 256))))
    assert device.boot() == 1
    key = rig.signing_key(change.pop("key", 0))
    cut, flip = change.pop("cut", 0), change.pop("flip", None)
    made = rig.make_head(change.pop("classes", 10), change.pop("dim", 256), key=key)
    blob = bytearray(rig.make_blob(replace(made, version=2, **change), key))
    blob = blob[: len(blob) - cut]
    if flip is not None:
        blob[flip] ^= 1
    flash, n_erased = device.memory.raw, device.erased
    line = rig.Line(device)
    with pytest.raises(BundleError, match=message):
        push(Link(line), bytes(blob))
    assert device.memory.raw == flash
    assert device.erased == n_erased
    assert line.up_bytes < 20  # it was asked what it is


def test_a_device_refuses_by_itself_what_its_host_did_not(rig: Any, start: Start, old: bytes, new: bytes) -> None:
    forged = new[:-1] + bytes([new[-1] ^ 1])
    device = start(old)
    link = Link(rig.Line(device))
    with pytest.raises(LinkError, match="the device refused: the signature does not match"):
        push(link, forged)
    assert link.hello().error > 0
    assert device.boot() == 0
    push(link, new)  # and is not confused by what lies there
    assert runs(device, 1, new)


def test_a_sector_that_changes_under_way_is_written_again(rig: Any, start: Start, old: bytes, new: bytes) -> None:
    device = start(old)
    link = Link(rig.Line(device))
    push(link, new, reboot=False)
    harmed = bytearray(new)
    harmed[5000] ^= 0xFF
    device.boot()  # where its check fails, so that the old head runs
    device.put(1, bytes(harmed))
    assert device.boot() == 0 or runs(device, 0, old)
    report = push(Link(rig.Line(device)), new)
    assert runs(device, 1, new)
    assert report.written_bytes <= 4096


def test_while_a_head_is_on_trial_none_is_taken(rig: Any, start: Start, old: bytes, new: bytes) -> None:
    device = start(old)
    device.confirms(False)
    link = Link(rig.Line(device))
    report = push(link, new)
    assert report.state == "trial"
    later = rig.make_blob(replace(rig.make_head(5, 256, seed=3), version=3))
    with pytest.raises(LinkError, match="the head that runs is not confirmed yet"):
        push(link, later)
    assert runs(device, 1, new)
    assert device.slot(0)[: len(old)] == old


def test_the_head_that_runs_can_be_asked_for_again_before_the_restart(
    rig: Any, start: Start, old: bytes, new: bytes
) -> None:
    device = start(old)
    assert push(Link(rig.Line(device)), new, reboot=False).state == "waits"
    report = push(Link(rig.Line(device)), old)
    assert (report.was_running, report.state) == (True, "confirmed")
    assert device.boot() == 0
    assert runs(device, 0, old)


def test_a_head_that_waits_for_a_restart_is_not_sent_again(rig: Any, start: Start, old: bytes, new: bytes) -> None:
    device = start(old)
    assert push(Link(rig.Line(device)), new, reboot=False).state == "waits"
    line = rig.Line(device)
    assert push(Link(line), new, reboot=False).state == "waits"
    assert line.up_bytes < 200
    assert device.boot() == 1


def test_a_device_that_comes_back_with_its_old_head_is_told(
    rig: Any, start: Start, old: bytes, new: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = start(old)
    boot = device.boot

    def boot_after_damage() -> int:
        device.memory[device.slot_bytes + 300] = bytes([device.memory[device.slot_bytes + 300][0] ^ 1])
        return int(boot())

    monkeypatch.setattr(device, "boot", boot_after_damage)
    with pytest.raises(LinkError, match="took the head, but after the restart it runs version 1"):
        push(Link(rig.Line(device)), new)


def test_what_comes_late_changes_nothing(rig: Any, start: Start, old: bytes, new: bytes) -> None:
    device = start(old)
    line = rig.Line(device)
    frames: list[bytes] = []
    write = line.write

    def record(data: bytes) -> None:
        frames.append(data)
        write(data)

    line.write = record
    push(Link(line), new, reboot=False)
    flash = device.memory.raw
    rng = np.random.default_rng(0)
    for n in rng.permutation(np.repeat(np.arange(len(frames)), 3)):
        device.take(frames[n])
    assert device.memory.raw == flash
    assert device.boot() == 1


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_silent_device_is_given_up(is_restarted: bool, rig: Any, start: Start, old: bytes, new: bytes) -> None:
    line = rig.Line(start(old))
    link = Link(line)
    if is_restarted:
        deliver(link, Plan(new, link.hello(), []), int)
    line.faults = rig.Faults(lost=1.0)
    before = line.clock()
    with pytest.raises(LinkError, match="no answer in 10 s; is the device on"):
        push(link, new)
    assert 10 <= line.clock() - before < 11


def test_a_device_that_falls_silent_in_the_middle_is_given_up(rig: Any, start: Start, old: bytes, new: bytes) -> None:
    line = rig.Line(start(old))

    def fall_silent(n_bytes: int) -> None:
        if n_bytes > len(new) / 2:
            line.faults = rig.Faults(lost=1.0)

    with pytest.raises(LinkError, match=r"no answer|stopped answering"):
        push(Link(line), new, on_progress=fall_silent)


def test_answers_of_a_device_that_is_none_are_one_line(rig: Any, start: Start, old: bytes) -> None:
    line = rig.Line(start(old))
    line.device.take = lambda _: b"login: \r\n"
    with pytest.raises(LinkError, match="what comes is no frame of edge_link; is the baud rate"):
        Link(line).hello()

    def answer(data: bytes) -> bytes:
        frames = [*FrameReader().feed(data)]
        return b"".join(encode_frame(frame.type | LINK_ANSWER, frame.sequence, b"\x09") for frame in frames)

    line.device.take = answer
    with pytest.raises(LinkError, match="expected protocol 1; found protocol 9; use the edge_cl of its firmware"):
        Link(line).hello()


def test_many_small_sectors_over_a_slow_line_are_no_silence(
    rig: Any, start: Start, old: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rig, "BAUD_BYTES", 960.0)
    device = start(old, sector_bytes=128, slot_bytes=1 << 17)
    line = rig.Line(device, rig.Faults(lost=0.05), seed=3)
    line.bytes_per_second = 960.0
    large = rig.make_blob(rig.make_head(60, 1280))
    assert push(Link(line), large).version == 1
    assert line.clock() > 4 * 10  # longer than a device that answers nothing is borne with


def test_a_try_of_another_transfer_is_refused(rig: Any, start: Start, old: bytes, new: bytes) -> None:
    device = start(old)
    link = Link(rig.Line(device))
    push(link, new, reboot=False)
    assert link.order(LINK_TRY, zlib.crc32(old).to_bytes(4, "little")).error != 0
    assert link.order(LINK_TRY, zlib.crc32(new).to_bytes(4, "little")).error == 0


def test_the_tools_deliver_and_a_head_takes_little_more_than_the_lines_own_time(rig: Any) -> None:
    first, *_ = load_tool("link_speed").rows()
    assert first["line_times"] <= 1.2  # of the line's own clock: no machine is too slow for it
    assert rig.BAUD_BYTES == 115_200 / 10
    found = list(load_tool("link_faults").rows(1, n_classes=12, dim=64))
    assert {row["delivered"] for row in found} == {"1/1"}
    assert len(found) == 19
