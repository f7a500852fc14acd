"""Ways in which the bytes of a state file and of its write-ahead log come to harm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

PAGE_BYTES = 8_192
WAL_HEADER, FRAME_BYTES = 32, 24 + PAGE_BYTES


@dataclass(frozen=True)
class Sample:
    """A whole state file.

    Attributes:
        name: of its kind.
        data: the bytes of the file.
        log: those of its write-ahead log; empty where it was closed.
        earlier: the bytes of the file some changes ago.
        contents: what it can hold: one, or one for each transaction of the log, since a log that is cut short is
            one whose last transactions never were.
    """

    name: str
    data: bytes
    log: bytes
    earlier: bytes
    contents: frozenset[str]


def commits_of(log: bytes) -> Iterator[int]:
    """Yield the length of a log after each of its transactions, and first that of none."""
    yield 0
    for start in range(WAL_HEADER, len(log) - FRAME_BYTES + 1, FRAME_BYTES):
        if log[start + 8 : start + 16] == log[16:24] and any(log[start + 4 : start + 8]):
            yield start + FRAME_BYTES


def flip_bits(data: bytearray, rng: np.random.Generator) -> None:
    for place in rng.integers(0, len(data), rng.integers(1, 9)):
        data[place] ^= 1 << int(rng.integers(8))


def flip_one_bit_in_use(data: bytearray, rng: np.random.Generator) -> None:
    """Choose a page, then one of its bytes that is not zero, so that pages of few bytes are hit as often as others."""
    start = page(data, rng)
    used = np.flatnonzero(np.frombuffer(data[start : start + PAGE_BYTES], np.uint8))
    data[start + int(rng.choice(used)) if len(used) else start] ^= 1 << int(rng.integers(8))


def change_a_letter(data: bytearray, rng: np.random.Generator) -> None:
    """Put another letter or digit for one that stands between others, as in names, numbers and JSON."""
    values = np.frombuffer(bytes(data), np.uint8)
    is_word = ((values >= 48) & (values <= 57)) | ((values >= 97) & (values <= 122))
    places = 1 + np.flatnonzero(is_word[:-2] & is_word[1:-1] & is_word[2:])
    page_of = places // PAGE_BYTES
    data[int(rng.choice(places[page_of == rng.choice(page_of)]))] = int(rng.choice([*b"0123456789aeinz"]))


def flip_in_header(data: bytearray, rng: np.random.Generator) -> None:
    data[int(rng.integers(16, min(100, len(data))))] ^= 1 << int(rng.integers(8))


def flip_in_page_header(data: bytearray, rng: np.random.Generator) -> None:
    start = page(data, rng)
    data[start + (100 if start == 0 else 0) + int(rng.integers(40))] ^= 1 << int(rng.integers(8))


def cut(data: bytearray, rng: np.random.Generator) -> None:
    del data[int(rng.integers(len(data))) :]


def cut_at_a_page(data: bytearray, rng: np.random.Generator) -> None:
    del data[page(data, rng) :]


def scribble(data: bytearray, rng: np.random.Generator) -> None:
    start, length = int(rng.integers(len(data))), int(rng.choice([1, 4, 64, 512, 4_096, 20_000]))
    data[start : start + length] = rng.bytes(len(data[start : start + length]))


def wipe(data: bytearray, rng: np.random.Generator) -> None:
    start, length = 512 * int(rng.integers(-(-len(data) // 512))), int(rng.choice([512, 4_096, PAGE_BYTES, 65_536]))
    data[start : start + length] = bytes(len(data[start : start + length]))


def copy_a_page(data: bytearray, rng: np.random.Generator) -> None:
    first, second = page(data, rng), page(data, rng)
    data[second : second + PAGE_BYTES] = data[first : first + PAGE_BYTES]


def swap_pages(data: bytearray, rng: np.random.Generator) -> None:
    first, second = page(data, rng), page(data, rng)
    one, two = (data[start : start + PAGE_BYTES] for start in (first, second))
    data[first : first + PAGE_BYTES], data[second : second + PAGE_BYTES] = two, one


def drop_a_page(data: bytearray, rng: np.random.Generator) -> None:
    start = page(data, rng)
    del data[start : start + PAGE_BYTES]


def insert_bytes(data: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(len(data)))
    data[start:start] = rng.bytes(int(rng.choice([1, 100, PAGE_BYTES])))


def append_bytes(data: bytearray, rng: np.random.Generator) -> None:
    data += rng.bytes(int(rng.choice([1, 5_000, PAGE_BYTES, 5 * PAGE_BYTES])))


def page(data: bytearray, rng: np.random.Generator) -> int:
    """Return where a page begins."""
    return PAGE_BYTES * int(rng.integers(max(1, len(data) // PAGE_BYTES)))


Way = Callable[[bytearray, np.random.Generator], None]
WAYS: tuple[Way, ...] = (
    flip_bits,
    flip_one_bit_in_use,
    flip_one_bit_in_use,
    flip_one_bit_in_use,
    change_a_letter,
    flip_in_header,
    flip_in_page_header,
    cut,
    cut_at_a_page,
    scribble,
    scribble,
    wipe,
    copy_a_page,
    swap_pages,
    drop_a_page,
    insert_bytes,
    append_bytes,
)
WAYS_OF_LOGS: tuple[Way, ...] = (
    flip_bits,
    flip_one_bit_in_use,
    flip_in_header,
    cut,
    scribble,
    wipe,
    insert_bytes,
    append_bytes,
)


def splice(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Return the first pages of one file and the others of another one."""
    start = page(bytearray(data), rng)
    return data[:start] + other[start:]


def put_pages(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Return a file with some pages of another one, such as those of writes that were lost."""
    mixed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        start = page(mixed, rng)
        mixed[start : start + PAGE_BYTES] = other[start : start + PAGE_BYTES] or bytes(PAGE_BYTES)
    return bytes(mixed)


def damaged(samples: list[Sample], rng: np.random.Generator) -> tuple[str, Sample, bytes, bytes]:
    """Return what was done, to which sample, and what is left of its file and its log."""
    sample = samples[int(rng.integers(len(samples)))]
    other = samples[int(rng.integers(len(samples)))]
    choice = int(rng.integers(10))
    if choice == 0:  # of which the other's content is left whole where nearly all pages are its own
        both = replace(sample, contents=sample.contents | other.contents)
        return f"spliced with {other.name}", both, splice(sample.data, other.data, rng), sample.log
    if choice == 1:
        return f"pages of {other.name}", sample, put_pages(sample.data, other.data, rng), sample.log
    if choice == 2:
        return "pages of an earlier copy", sample, put_pages(sample.data, sample.earlier, rng), sample.log
    if choice == 3 and other.log:  # restored from a copy, the log of what was there before left beside it
        return f"log of {other.name}", sample, sample.data, other.log
    if choice == 3 and sample.log:
        return "an earlier copy below the log", sample, sample.earlier, sample.log
    if choice in {4, 5, 6} and sample.log:
        log = bytearray(sample.log)
        way: Way = WAYS_OF_LOGS[int(rng.integers(len(WAYS_OF_LOGS)))]
        way(log, rng)
        return f"{name_of(way)} in the log", sample, sample.data, bytes(log)
    data = bytearray(sample.data)
    way = WAYS[int(rng.integers(len(WAYS)))]
    way(data, rng)
    return name_of(way), sample, bytes(data), sample.log


def name_of(way: Way) -> str:
    return str(getattr(way, "__name__", way))
