"""Data sets of features for benchmarks, and the .npz that holds one."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from edge_kernels.arrays import Bools, Floats, Ints

from edge_cl.errors import InputError
from edge_cl.inputs import check_features, clean_labels

ARRAYS = ("X", "x", "y", "train", "classes", "domain", "batch")


@dataclass(frozen=True)
class DataSet:
    """Labelled features.

    Attributes:
        name: where they are from.
        features: (N, D) float32.
        labels: (N,) rows of `classes`.
        classes: K names, each with a sample.
        is_train: (N,) what is to be learnt, the others being for testing; None where the data does not say.
        domains: (N,) rows of `domain_names`, or None.
        domain_names: in the order of time.
    """

    name: str
    features: Floats
    labels: Ints
    classes: tuple[str, ...]
    is_train: Bools | None = None
    domains: Ints | None = None
    domain_names: tuple[str, ...] = ()


def read_data(path: str | os.PathLike[str]) -> DataSet:
    """Return the data set of an .npz.

    Args:
        path: of a file with `X` (or `x`) (N, D) and `y` (N,), and where it has them `train` (N,), `classes` (K,), and
            `domain` or `batch` (N,) in the order of time.

    Raises:
        InputError: it is none, an array is missing, or does not fit the others.
    """
    path = Path(path)
    arrays = read_arrays(path, ARRAYS)
    samples = arrays["X"] if "X" in arrays else arrays.get("x")
    labels = arrays.get("y")
    if samples is None or labels is None or labels.ndim != 1:
        found = ", ".join(f"{name} {array.shape}" for name, array in arrays.items()) or "none of them"
        raise InputError(f"{path}: expected arrays X (N, D) and y (N,); found {found}")
    try:
        features = check_features(samples, 0)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if not len(features):
        raise InputError(f"{path}: expected at least one sample; found none")
    for name in ("y", "train", "domain", "batch"):
        if name in arrays and arrays[name].shape != (len(features),):
            raise InputError(f"{path}: expected {name} ({len(features)},), as many as X; found {arrays[name].shape}")
    if "train" in arrays and arrays["train"].dtype.kind not in "biu":
        raise InputError(f"{path}: expected train to be true or false; found dtype {arrays['train'].dtype}")
    classes, rows = _name_classes(path, labels, arrays.get("classes"))
    is_train = arrays["train"].astype(bool) if "train" in arrays else None
    moments = arrays["domain"] if "domain" in arrays else arrays.get("batch")
    if moments is None:
        return DataSet(str(path), features, rows, classes, is_train)
    times, domains = np.unique(moments, return_inverse=True)
    return DataSet(str(path), features, rows, classes, is_train, domains.astype(np.int64), tuple(map(str, times)))


def take_logarithm(data: DataSet) -> DataSet:
    """Return the data set with sign(x) log(1 + |x|) of every value, which raw sensors need."""
    return replace(data, features=np.sign(data.features) * np.log1p(np.abs(data.features)))


def _name_classes(path: Path, labels: Any, names: Any) -> tuple[tuple[str, ...], Ints]:
    """Return K names and the row (N,) of each label among them; names without a sample are left out.

    Raises:
        InputError: the labels are no rows of the names, or cannot be names.
    """
    if names is not None:
        n_classes = len(names)
        if labels.dtype.kind not in "iu" or not 0 <= labels.min() <= labels.max() < n_classes:
            raise InputError(f"{path}: expected y to be rows of classes, 0 to {n_classes - 1}")
    present, rows = np.unique(labels, return_inverse=True)
    try:
        classes = tuple(clean_labels((present if names is None else names[present]).tolist(), len(present)))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if len(set(classes)) < len(classes):
        raise InputError(f"{path}: expected classes of different names; found one twice")
    return classes, rows.astype(np.int64)


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Return those arrays of an .npz that it has.

    Raises:
        InputError: it is no .npz, or damaged.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    broken = (OSError, ValueError, TypeError, EOFError, AttributeError, KeyError, NotImplementedError)
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as data:  # it leaves a broken one open
            return {name: data[name] for name in names if name in data.files}
    except (*broken, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: expected an .npz of arrays; found {error}") from None
