"""What a caller passes, checked before anything is touched: samples of three kinds, and class names."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from edge_kernels.arrays import Floats
from numpy.typing import NDArray

from edge_cl.errors import InputError

Samples = Floats | NDArray[np.uint8] | Sequence[str | os.PathLike[str]]
Labels = Sequence[Any] | NDArray[Any]

MAX_VALUE = 1e12  # its square, summed over 10^7 samples, is still a float32
MAX_DIM = 16_384  # the second moment is then 1 GiB in memory, and half of it in the file
MAX_LENGTH = 1000  # characters of a class name
MAX_VALUES = 1000  # outputs of a regression


def sized(samples: Any) -> Any:
    """Return the samples as they are, or a list of them where they cannot be counted.

    Raises:
        InputError: they are one path, or cannot be iterated over.
    """
    if isinstance(samples, str | bytes | os.PathLike):
        raise InputError(f"samples: expected a list of paths; found one; pass [{os.fspath(samples)!r}]")
    if hasattr(samples, "__len__") and getattr(samples, "shape", None) != ():
        return samples
    try:
        return [*samples]
    except TypeError:
        raise InputError(f"samples: expected features, images or paths; found {type(samples).__name__}") from None


def check_samples(samples: Any, dim: int, *, has_backbone: bool) -> Any:
    """Return features (N, D) float32, images (N, H, W, 3) uint8, or a list of paths.

    Args:
        samples: what the caller passed.
        dim: the D that is expected of features; 0 takes any.
        has_backbone: whether there is one for images and paths.

    Raises:
        InputError: it is none of the three, or not of the right shape, type or range.
    """
    samples = sized(samples)
    if not isinstance(samples, np.ndarray):
        if not len(samples):
            raise InputError("samples: expected at least one; found none")
        if all(isinstance(sample, str | os.PathLike) for sample in samples):
            if not has_backbone:
                raise InputError(
                    f"{samples[0]}: expected features (N, {dim or 'D'}), since the state has no backbone; "
                    "make one that has: edge-cl new NAME.ecl --backbone tiny"
                )
            return samples
        try:
            samples = np.asarray(samples)
        except ValueError as error:
            raise InputError(f"samples: expected features (N, {dim or 'D'}), images or paths; found {error}") from None
    if has_backbone and samples.dtype == np.uint8 and samples.ndim != 2:
        if samples.ndim != 4 or samples.shape[3] != 3 or 0 in samples.shape[1:]:
            raise InputError(f"samples: expected images (N, H, W, 3) uint8; found shape {samples.shape}")
        return samples
    if has_backbone and samples.ndim == 4:
        raise InputError(f"samples: expected images (N, H, W, 3) uint8, 0 to 255; found dtype {samples.dtype}")
    return check_features(samples, dim)


def check_features(samples: NDArray[Any], dim: int) -> Floats:
    """Return features (N, D) float32, contiguous.

    Args:
        samples: (N, D) of any real type.
        dim: the D that is expected; 0 takes any.

    Raises:
        InputError: another shape or type, or a value that is not finite or beyond 10^12.
    """
    wanted = f"features (N, {dim or 'D'})"
    if samples.dtype.kind not in "fiub":
        raise InputError(f"samples: expected {wanted} of real numbers; found dtype {samples.dtype}")
    if samples.ndim != 2 or samples.shape[1] == 0 or (dim and samples.shape[1] != dim):
        raise InputError(f"samples: expected {wanted}; found shape {samples.shape}")
    if samples.shape[1] > MAX_DIM:
        raise InputError(
            f"samples: expected at most {MAX_DIM} features; found {samples.shape[1]}; extract features first"
        )
    with np.errstate(over="ignore"):
        features = np.ascontiguousarray(samples, dtype=np.float32)
    bad = np.flatnonzero(~(np.abs(features) <= MAX_VALUE).all(axis=1))
    if len(bad):
        raise InputError(f"samples: expected finite numbers below 1e12; found NaN, infinity or more in row {bad[0]}")
    return features


def clean_labels(labels: Labels, n_samples: int) -> list[str]:
    """Return the class name of each sample, in Unicode's composed form, so that one name is one class everywhere.

    Args:
        labels: N strings or integers.
        n_samples: N.

    Raises:
        InputError: another length, or a name that cannot be one.
    """
    if isinstance(labels, str | bytes) or not hasattr(labels, "__len__") or getattr(labels, "shape", None) == ():
        raise InputError(f"labels: expected a sequence of {n_samples} names; found one {type(labels).__name__}")
    if len(labels) != n_samples:
        raise InputError(f"labels: expected {n_samples}, one for each sample; found {len(labels)}")
    return [clean_name(label) for label in labels]


def clean_values(labels: Any, n_samples: int, n_values: int) -> Floats:
    """Return the values (N, M) float32 of each sample.

    Args:
        labels: (N,) or (N, M) numbers, or texts of them.
        n_samples: N.
        n_values: the M that is expected; 0 takes any.

    Raises:
        InputError: another shape, or what is no number, or beyond 10^12.
    """
    wanted = f"labels: head regression expected numbers ({n_samples}, {n_values or 'M'}), one row for each sample"
    values = _as_numbers(labels)
    if values is None or values.ndim == 0:
        each = [] if values is not None or isinstance(labels, str | bytes) or not hasattr(labels, "__len__") else labels
        odd = next((label for label in each if _as_numbers(label) is None), labels)
        raise InputError(f"{wanted}; found {odd!r:.80}")
    rows = values[:, None] if values.ndim == 1 else values
    if rows.ndim != 2 or len(rows) != n_samples or not 1 <= rows.shape[1] <= MAX_VALUES:
        raise InputError(f"{wanted}; found shape {values.shape}")
    if n_values and rows.shape[1] != n_values:
        raise InputError(f"{wanted}; found {rows.shape[1]} for each")
    bad = np.flatnonzero(~(np.abs(rows) <= MAX_VALUE).all(axis=1))
    if len(bad):
        raise InputError(f"labels: expected finite numbers below 1e12; found NaN, infinity or more in row {bad[0]}")
    return rows.astype(np.float32)


def _as_numbers(labels: Any) -> Floats | None:
    """Return the float64 numbers that labels are, or texts of them; None if they are none."""
    try:
        found = np.asarray(labels)
        return found.astype(np.float64) if found.dtype.kind in "fiuU" else None
    except (ValueError, TypeError, OverflowError):
        return None


def clean_name(label: Any) -> str:
    """Return one class name.

    Raises:
        InputError: it is empty, too long, holds a control character, or is neither a string nor an integer.
    """
    if (
        type(label) is str
        and label.isascii()
        and label.isprintable()
        and 1 <= len(label.strip()) == len(label) <= MAX_LENGTH
    ):
        return label  # most are, and a thousand of them are looked at each time a head is read
    if isinstance(label, np.generic):
        label = label.item()
    if isinstance(label, bool) or not isinstance(label, str | int):
        raise InputError(f"class name: expected a string; found {label!r} of type {type(label).__name__}")
    name = unicodedata.normalize("NFC", str(label)).strip()
    if not 1 <= len(name) <= MAX_LENGTH:
        raise InputError(f"class name: expected 1 to {MAX_LENGTH} characters; found {len(name)} in {name[:40]!r}")
    bad = next((c for c in name if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")), None)
    if bad is not None:
        raise InputError(f"class name: expected printable characters only; found {bad!r} in {name[:80]!r}")
    return name


def check_timeout(timeout: float) -> None:
    """Check how long to wait.

    Raises:
        InputError: it is no time.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 <= timeout <= 86_400:
        raise InputError(f"timeout: expected 0 to 86400 seconds; found {timeout!r}")
