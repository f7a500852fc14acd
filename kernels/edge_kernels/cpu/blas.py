"""Symmetric rank-N updates in place, by the BLAS that numpy itself runs on.

numpy offers no product that adds to what is there, and `total += rows.T @ rows` writes and reads all of it twice more.
scipy offers one, but brings a second BLAS whose waiting threads take the processors from numpy's: 1.5 to 3 times the
time where both are used in turn. So the routine is looked up in the library that numpy has loaded; where it is not
found (numpy may be built on anything), the products go through numpy, a strip at a time.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

from edge_kernels.arrays import Floats

ROW_MAJOR, LOWER, TRANSPOSED = 101, 122, 112  # of CBLAS
MIRROR_ROWS = 32
STRIP_BYTES = 1 << 20  # of a product that goes through numpy


def add_squares(total: Floats, rows: Floats, factor: float = 1.0) -> None:
    """Add `factor * rows^T rows` to the lower triangle of the total, in place; `mirror` fills the upper one.

    Args:
        total: (D, D) float32 or float64, contiguous.
        rows: (n, D) of the same type, contiguous.
        factor: may be negative.
    """
    assert rows.dtype == total.dtype
    assert rows.flags.c_contiguous
    assert total.flags.c_contiguous
    (n_rows, dim), routine = rows.shape, _routines().get(total.dtype.char)
    if not n_rows or not dim:
        return
    if routine is None:
        _add_strips(total, rows, factor)
    else:
        pointers = rows.ctypes.data, total.ctypes.data
        routine(ROW_MAJOR, LOWER, TRANSPOSED, dim, n_rows, factor, pointers[0], dim, 1.0, pointers[1], dim)


def _add_strips(total: Floats, rows: Floats, factor: float) -> None:
    size = max(1, STRIP_BYTES // (total.itemsize * len(total)))
    for top in range(0, len(total), size):
        below = min(top + size, len(total))
        product = rows[:, top:below].T @ rows[:, :below]
        total[top:below, :below] += product if factor == 1 else total.dtype.type(factor) * product


@cache
def _routines() -> dict[str, Any]:
    """Return numpy's own `syrk` for `f` and `d`, as far as they are found."""
    module = sys.modules.get("numpy._core._multiarray_umath") or sys.modules.get("numpy.core._multiarray_umath")
    try:
        library = ctypes.CDLL(str(getattr(module, "__file__", None)))  # looks in what it is linked to as well
    except OSError:
        return {}
    found = {}
    for code, letter, real in (("f", "s", ctypes.c_float), ("d", "d", ctypes.c_double)):
        names = f"scipy_cblas_{letter}syrk64_", f"cblas_{letter}syrk64_", f"cblas_{letter}syrk"
        name = next((name for name in names if hasattr(library, name)), None)
        if name is not None:
            size = ctypes.c_int64 if name.endswith("64_") else ctypes.c_int
            found[code] = library[name]
            found[code].restype = None
            enums = (ctypes.c_int,) * 3
            found[code].argtypes = (*enums, size, size, real, ctypes.c_void_p, size, real, ctypes.c_void_p, size)
    return found


def mirror(total: Floats) -> None:
    """Copy the lower triangle (D, D) to the upper one, by blocks: the whole would miss the cache at every value."""
    for top in range(0, len(total), MIRROR_ROWS):
        below = min(top + MIRROR_ROWS, len(total))
        total[:top, top:below] = total[top:below, :top].T
        for d in range(top, below):
            total[top:d, d] = total[d, top:d]
