"""Types of the arrays, and the checks that the inputs of every kernel pass."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
Codes = NDArray[np.uint8]

KINDS = {"f": "float16, float32 or float64", "iu": "integers", "i8": "int64", "f4": "float32", "u1": "uint8"}


class KernelError(ValueError):
    """An array cannot be used as it is; the text names it, its shape and its dtype."""


class Shapes:
    """Checks arrays one after another; a letter means the same size in all of them.

    Attributes:
        sizes: what each letter stands for, as far as it is known.
    """

    def __init__(self, **sizes: int) -> None:
        self.sizes = sizes

    def check(self, name: str, array: Any, shape: str, kind: str = "f") -> None:
        """Check one array of numpy, torch, or whatever else has a shape and a dtype.

        Args:
            name: of the argument.
            array: to be checked.
            shape: a letter for each axis, such as `N D`.
            kind: a key of `KINDS`: float16, float32 or float64; integers; or one dtype alone.

        Raises:
            KernelError: it is no array, or has another shape or type.
        """
        letters = shape.split()
        wanted = f"({', '.join(letters)}{',' * (len(letters) == 1)})"
        found = getattr(array, "shape", None)
        if found is None or not hasattr(array, "dtype"):
            raise KernelError(f"{name}: expected an array {wanted}; found {type(array).__name__}")
        dtype = str(array.dtype).removeprefix("torch.")
        known = ", ".join(f"{letter} = {self.sizes[letter]}" for letter in letters if letter in self.sizes)
        if len(found) != len(letters) or any(
            self.sizes.setdefault(letter, int(size)) != int(size) for letter, size in zip(letters, found, strict=True)
        ):
            where = f" with {known}" if known else ""
            raise KernelError(f"{name}: expected {wanted}{where}; found shape {tuple(found)} {dtype}")
        if not _is_kind(dtype, kind):
            raise KernelError(f"{name}: expected {wanted} {KINDS[kind]}; found shape {tuple(found)} {dtype}")

    def need_rows(self, name: str, letter: str = "N") -> None:
        """Check that an axis is not empty, where a mean over none would mean nothing.

        Raises:
            KernelError: it is.
        """
        if self.sizes[letter] == 0:
            raise KernelError(
                f"{name}: expected at least one {'row' if letter == 'N' else 'column'}; found {letter} = 0"
            )


class HostShapes(Shapes):
    """Shapes of arrays that have to be numpy's."""

    def check(self, name: str, array: Any, shape: str, kind: str = "f") -> None:
        """See `Shapes.check`.

        Raises:
            KernelError: it has another shape or type, or belongs to another library.
        """
        super().check(name, array, shape, kind)
        if not isinstance(array, np.ndarray):
            found = f"{type(array).__module__}.{type(array).__name__}"
            raise KernelError(
                f"{name}: expected a numpy array; found {found} of shape {tuple(array.shape)} {array.dtype}; "
                f"pass {name}.numpy()"
            )


def _is_kind(dtype: str, kind: str) -> bool:
    try:
        found = np.dtype(dtype)
    except TypeError:  # bfloat16 and other types that numpy does not have
        return False
    if len(kind) == 2 and kind[1].isdigit():
        return found == np.dtype(kind)
    return found.kind in kind and found.itemsize <= 8


def check_in_place(name: str, array: Any) -> None:
    """Check that a numpy array can be changed where it is, by loops and by BLAS.

    Raises:
        KernelError: it is read-only, or not laid out row after row in numbers of this machine.
    """
    flags = array.flags
    if not (flags.writeable and flags.c_contiguous and array.dtype.isnative) or array.dtype.itemsize < 4:
        found = f"found shape {array.shape} {array.dtype}, strides {array.strides}"
        raise KernelError(
            f"{name}: is changed in place, expected a writeable, contiguous array of 4 or 8 bytes a number; "
            f"{found}{'' if flags.writeable else ', read-only'}"
        )


def check_labels(labels: Any, n_classes: int) -> None:
    """Check that every label is a row of the classes.

    Raises:
        KernelError: one is below 0 or at least `n_classes`.
    """
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < n_classes:
        low, high = int(labels.min()), int(labels.max())
        raise KernelError(
            f"labels: expected 0 to {n_classes - 1}; found {low} to {high} in shape {tuple(labels.shape)}"
        )


def fill(out: Floats | None, values: Floats) -> Floats:
    """Return the values; in `out`, where the caller gave one."""
    if out is None:
        return values
    out[...] = values
    return out
