"""CBOR of bundles: one item in deterministic encoding, of a few types, looked over before it is decoded.

A decoder for all of CBOR makes of a few hostile bytes numbers of a gigabyte, regular expressions and loops. So a walk
over the bytes comes first: whole numbers, floats, bytes, texts, lists and maps, none deeper than `DEEPEST`, none
longer than the bytes that are there.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from edge_cl.errors import BundleError, MissingPackageError, first_line

DEEPEST = 4
MOST_ITEMS = 1 << 17  # the names of 65,535 classes, and canaries
_BYTES, _TEXT, _LIST, _MAP, _TAG, _OTHER = 2, 3, 4, 5, 6, 7
_FLOATS = (25, 26, 27)  # the lower bits of the first byte of one


def encode(value: Any) -> bytes:
    """Return the deterministic encoding of a value (RFC 8949, 4.2)."""
    data: bytes = _cbor2().dumps(value, canonical=True)
    return data


def decode(data: bytes, tag: int | None = None) -> Any:
    """Return the value of one item; tagged, what is in the tag.

    Args:
        data: of the item, and of nothing else.
        tag: that the item must have; None: it must have none.

    Raises:
        BundleError: there is no such item, or it is encoded in another way than `encode` does.
    """
    cbor2 = _cbor2()
    start = 0
    if tag is not None:
        head = encode(cbor2.CBORTag(tag, 0))[:-1]
        if data[: len(head)] != head:
            raise BundleError("this is no bundle" if len(data) >= len(head) else "the file is cut short")
        start = len(head)
    end = _walk(data, start)
    if end < len(data):
        raise BundleError(f"there are {len(data) - end} bytes behind the end")
    try:
        value = cbor2.loads(data[start:])
        again = encode(value)
    except Exception as error:  # texts that are no UTF-8, maps in maps as keys: whatever cbor2 raises
        raise BundleError(f"damaged: {first_line(error)}") from None
    if again != data[start:]:
        raise BundleError("damaged: its CBOR is not deterministic")
    return value


def _walk(data: bytes, start: int) -> int:
    """Return where the item that begins there ends.

    Raises:
        BundleError: it does not, or something is in it that no bundle has.
    """
    left, place, n_items = [1], start, 0  # items to come, at each depth
    while left:
        if not left[-1]:
            left.pop()
            continue
        left[-1] -= 1
        kind, number, place = _first(data, place)
        n_items += 1
        if kind in {_BYTES, _TEXT}:
            place += number
        elif kind in {_LIST, _MAP}:
            left.append(number * (2 if kind == _MAP else 1))
        if place > len(data) or sum(left) > len(data) - place:  # each item is a byte at least
            raise BundleError("the file is cut short")
        if len(left) > DEEPEST + 1 or n_items > MOST_ITEMS:
            raise BundleError("damaged: lists are too deep or too long")
    return place


def _first(data: bytes, place: int) -> tuple[int, int, int]:
    """Return kind and number of an item, and where its content begins.

    Raises:
        BundleError: no bundle has such an item.
    """
    if place >= len(data):
        raise BundleError("the file is cut short")
    kind, low = data[place] >> 5, data[place] & 31
    place += 1
    n_bytes = 0 if low < 24 else 1 << (low - 24) if low < 28 else -1
    if n_bytes < 0 or kind == _TAG or (kind == _OTHER and low not in _FLOATS):
        raise BundleError("damaged: there is something in it that no bundle has")
    if place + n_bytes > len(data):
        raise BundleError("the file is cut short")
    number = int.from_bytes(data[place : place + n_bytes], "big") if n_bytes else low
    return kind, number, place + n_bytes


def _cbor2() -> ModuleType:
    """Return the package.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        import cbor2
    except ImportError:
        raise MissingPackageError("cbor2 is not installed; type: pip install 'edge_cl[bridge]'") from None
    return cbor2
