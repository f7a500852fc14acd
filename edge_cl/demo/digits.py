"""The UCI handwritten digits that ship with the package (NOTICE): 1,797 images of 8 x 8 pixels by 13 writers."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
N_TRAIN = 40  # images of each digit to learn from; the others test


def load_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images (1797, 8, 8, 3) uint8 and digits (1797,)."""
    with files("edge_cl.demo").joinpath("digits.npz").open("rb") as file, np.load(file) as data:
        ink, digits = data["images"], data["labels"]  # ink: 0 to 16
    grey = np.minimum(ink.astype(np.uint16) * 16, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=3), digits.astype(np.int64)


def split(digits: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return (N,), true for the first `N_TRAIN` images of each digit."""
    is_train = np.zeros(len(digits), bool)
    for digit in range(len(NAMES)):
        is_train[np.flatnonzero(digits == digit)[:N_TRAIN]] = True
    return is_train
