"""Frames: COBS and CRC-32 by their definitions, in Python and in C, and a receiver that nothing confuses."""

from __future__ import annotations

import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest
from edge_firmware.device_info import unpack_info
from edge_firmware.formats import LINK_ANSWER, LINK_HELLO, LINK_INFO, LINK_PROTOCOL, LINK_WRITE
from edge_firmware.frames import Frame, FrameReader, cobs_decode, cobs_encode, decode_frame, encode_frame
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_cl.errors import LinkError

from .c_builds import ARM, CORES, CPP, compile_c, need, sources
from .link_rigs import device_code, load_tool

ALL = bytes(range(1, 256))
VECTORS = [  # Cheshire and Baker 1999, and what follows from their rules at the length of the longest group
    ("45 00 00 2c 4c 79 00 00 40 06 4f 37", "02 45 01 04 2c 4c 79 01 05 40 06 4f 37"),
    ("", "01"),
    ("00", "01 01"),
    ("00 00", "01 01 01"),
    ("00 11 00", "01 02 11 01"),
    ("11 22 00 33", "03 11 22 02 33"),
    ("11 00 00 00", "02 11 01 01 01"),
    (ALL[:254].hex(), "ff" + ALL[:254].hex()),
    ("00" + ALL[:254].hex(), "01 ff" + ALL[:254].hex()),
    (ALL.hex(), "ff" + ALL[:254].hex() + "02 ff"),
    (ALL[1:].hex() + "00", "ff" + ALL[1:].hex() + "01 01"),
    (ALL[2:].hex() + "00 01", "fe" + ALL[2:].hex() + "02 01"),
]


@pytest.mark.parametrize(("data", "encoded"), VECTORS)
def test_cobs_is_that_of_its_paper(data: str, encoded: str) -> None:
    assert cobs_encode(bytes.fromhex(data)) == bytes.fromhex(encoded)
    assert cobs_decode(bytes.fromhex(encoded)) == bytes.fromhex(data)


def by_the_rules(data: bytes) -> bytes:
    """Return COBS one byte at a time, as a state machine: nothing of ours but the paper's words."""
    done, group = bytearray(), bytearray()
    is_open = True  # whether a group has to be written at the end
    for byte in data:
        is_open = True
        if byte:
            group.append(byte)
        if byte == 0 or len(group) == 254:
            done += bytes([len(group) + 1]) + group
            is_open = byte == 0
            group = bytearray()
    return bytes(done + bytes([len(group) + 1]) + group if is_open else done)


@given(st.lists(st.sampled_from([b"\0", b"a", b"bc" * 100, ALL, ALL[:254], bytes(300)]), max_size=6).map(b"".join))
def test_cobs_follows_the_rules_and_comes_back(data: bytes) -> None:
    encoded = cobs_encode(data)
    assert encoded == by_the_rules(data)
    assert 0 not in encoded
    assert len(encoded) <= len(data) + 1 + len(data) // 254
    assert cobs_decode(encoded) == data


@given(st.binary(max_size=300))
def test_no_bytes_break_the_decoder(noise: bytes) -> None:
    data = cobs_decode(noise)
    assert data is None or len(data) <= len(noise)
    assert decode_frame(noise) is None


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=300)), max_size=5), st.data())
def test_frames_come_out_however_the_bytes_are_cut(frames: list[tuple[int, int, bytes]], data: st.DataObject) -> None:
    line = b"".join(encode_frame(*frame) for frame in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(line)), max_size=5)))
    reader = FrameReader()
    found: list[Frame] = []
    for start, end in zip([0, *cuts], [*cuts, len(line)], strict=True):
        found += reader.feed(line[start:end])
    assert found == [Frame(*frame) for frame in frames]


@given(st.binary(min_size=1, max_size=100), st.data())
def test_a_frame_with_a_changed_bit_is_none(payload: bytes, data: st.DataObject) -> None:
    frame = bytearray(encode_frame(LINK_WRITE, 1, payload))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert list(FrameReader().feed(bytes(frame) + b"\0")) == []


def test_a_golden_frame() -> None:
    body = bytes.fromhex("01 07")
    crc = zlib.crc32(body).to_bytes(4, "little")
    assert encode_frame(LINK_HELLO, 7, b"") == b"\x07" + body + crc + b"\0"
    assert encode_frame(LINK_HELLO, 7, b"").hex() == "0701071db6a6c600"


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a device that runs a head."""
    rig = load_tool("link_rig")
    made = rig.Device(device_code(tmp_path_factory))
    made.put(0, rig.make_blob(rig.make_head()))
    assert made.boot() == 0
    return made


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600), st.integers(0, 255))
def test_a_receiver_finds_its_place_again_after_any_bytes(device: Any, noise: bytes, sequence: int) -> None:
    flash = device.memory.raw
    device.take(noise)
    (*_, answer) = FrameReader().feed(device.take(b"\0" + encode_frame(LINK_HELLO, sequence, b"")))
    assert (answer.type, answer.sequence, len(answer.payload)) == (LINK_HELLO | LINK_ANSWER, sequence, LINK_INFO.size)
    assert device.memory.raw == flash


def test_the_device_answers_in_the_cobs_of_python(device: Any) -> None:
    line = device.take(encode_frame(LINK_HELLO, 9, b""))
    (answer,) = FrameReader().feed(line)
    assert line == encode_frame(*answer)


def test_the_receiver_compiles_everywhere_and_stays_small(tmp_path: Path) -> None:
    compile_c(tmp_path / "cpp.o", sources("edge_link"), CPP, "-c")
    for core, options in CORES.items():
        target = compile_c(tmp_path / f"{core}.o", sources("edge_link"), ARM, *options, "-Os", "-c")
        n_bytes = text_bytes(target)
        assert n_bytes <= 1_664 if core == "M0" else n_bytes <= 1_536, (core, n_bytes)


def text_bytes(target: Path) -> int:
    """Return the bytes of code in an object file."""
    words = ["arm-none-eabi-size", str(target)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[1].split()[0])


def test_fuzzed_frames_find_nothing(tmp_path: Path) -> None:
    need("cc")
    found = load_tool("fuzz_frames").fuzz(2_000, 1, tmp_path)
    assert found["parts"] == 2_000
    assert found["erased"] > 20  # else the frames went nowhere
    assert found["answers"] > 500


@pytest.mark.parametrize(("chunk", "sector"), [(0, 4096), (33, 4096), (256, 0), (256, 1), (256, 48)])
def test_a_device_whose_sizes_cannot_be_is_told(chunk: int, sector: int) -> None:
    told = LINK_INFO.pack({"protocol": LINK_PROTOCOL, "chunk": chunk, "sector_bytes": sector})
    with pytest.raises(LinkError, match="line: the device tells chunks or sectors that cannot be; update its firmware"):
        unpack_info(told, "line")
