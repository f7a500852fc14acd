"""Numbers of bytes as people write them."""

from __future__ import annotations

import re

from edge_cl.errors import InputError

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_bytes(text: str) -> int:
    """Return the number of bytes of a text such as 500kB or 2MiB.

    Raises:
        InputError: it is none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([A-Za-z]*)\s*", text)
    if not match or match[2].upper() not in UNITS:
        raise InputError(f"expected bytes such as 1000000, 500kB or 2MiB; found {text!r}")
    return int(float(match[1]) * UNITS[match[2].upper()])
