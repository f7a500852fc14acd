"""How the loops are compiled: once, and kept on disk where there is a place for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Any:
    """Return the function as numba compiles it at its first call for each set of types.

    The machine code is kept beside the source, or in the user's cache folder where that is read-only; where neither
    can be written it is compiled anew in each process. A damaged cache is thrown away. Division by zero gives infinity,
    or loops would not vectorise; the interpreter's lock is released, so that threads can share the work.
    """
    try:
        made = njit(cache=True, error_model="numpy", nogil=True)(function)
    except RuntimeError:  # numba found no folder for the cache
        return njit(error_model="numpy", nogil=True)(function)
    load = made._cache.load_overload

    def load_sound(*key: Any) -> Any:
        """Return machine code, or None, so that it is compiled, where power failed while it was written."""
        try:
            return load(*key)
        except Exception:  # whatever unpickling trips over
            made._cache.flush()
            return None

    made._cache.load_overload = load_sound
    return made
