"""Labelled samples on disk: a folder of class folders, a CSV of paths and names, or an .npz of features."""

from __future__ import annotations

import csv
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_cl.backbones import Skipped
from edge_cl.errors import InputError
from edge_cl.inputs import clean_labels

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".tga", ".ico"),
)
_ZIP = (zipfile.BadZipFile, zlib.error)
IGNORED = frozenset({"thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class LabelledSamples:
    """What `learn` and `evaluate` take.

    Attributes:
        samples: N paths, or features (N, D).
        labels: N class names, or values (N,) or (N, M).
        skipped: files that are no samples.
    """

    samples: Any
    labels: Any
    skipped: tuple[Skipped, ...]


def read_samples(path: str | os.PathLike[str], *, has_values: bool = False) -> LabelledSamples:
    """Return the labelled samples at a path: a folder, a .csv or an .npz.

    Args:
        path: of them.
        has_values: whether they are for a regression.

    Raises:
        InputError: it is none of these, or has no sample.
    """
    source = Path(path)
    if source.is_dir():
        return read_folder(source)
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    if source.suffix.lower() == ".csv":
        return read_csv(source, has_values=has_values)
    if source.suffix.lower() == ".npz":
        return read_npz(source, has_values=has_values)
    raise InputError(f"{source}: expected a folder of class folders, a .csv or an .npz; found a {source.suffix} file")


def read_folder(path: str | os.PathLike[str]) -> LabelledSamples:
    """Return the images in a folder's folders, each named after its folder; all in sorted order.

    Hidden files are passed over; anything else that has no image's suffix is listed as skipped.

    Raises:
        InputError: there is no such folder, or no image in it.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(
            f"{root}: expected a folder of class folders; found {'a file' if root.exists() else 'nothing'}"
        )
    images: list[str] = []
    labels: list[str] = []
    skipped: list[Skipped] = []
    for entry in sorted(root.iterdir()):
        if _is_hidden(entry.name):
            continue
        if not entry.is_dir():
            skipped.append(Skipped(str(entry), "not in a class folder"))
            continue
        files, folders = _split_entries(entry)
        usable, others = _sort_out(files)
        images += usable
        labels += [entry.name] * len(usable)
        skipped += others
        skipped += [Skipped(str(folder), "a folder inside a class folder") for folder in folders]
        if not usable:
            skipped.append(Skipped(str(entry), "a class folder without an image"))
    if not images:
        raise InputError(
            f"{root}: expected class folders with images, as in {root / 'CLASS' / 'photo.jpg'}; found none"
        )
    return LabelledSamples(images, labels, tuple(skipped))


def list_images(path: str | os.PathLike[str]) -> LabelledSamples:
    """Return the images at or anywhere below a path, sorted, without names.

    Raises:
        InputError: there is no such path, or no image.
    """
    root = Path(path)
    if root.is_file():
        return LabelledSamples([str(root)], [], ())
    if not root.exists():
        raise InputError(f"{path}: no such file or folder")
    files, waiting, seen = [], [root], set()
    while waiting:
        folder = waiting.pop()
        if folder.resolve() not in seen:  # links may lead in circles
            seen.add(folder.resolve())
            here, folders = _split_entries(folder)
            files += here
            waiting += folders
    images, others = _sort_out(sorted(files, key=str))
    if not images:
        raise InputError(f"{root}: expected at least one image; found none")
    return LabelledSamples(images, [], tuple(others))


def _sort_out(files: Sequence[Path]) -> tuple[list[str], list[Skipped]]:
    """Return the paths that may be images by their suffix, and the others."""
    images = [str(file) for file in files if file.suffix.lower() in SUFFIXES]
    others = [Skipped(str(file), "no image by its suffix") for file in files if file.suffix.lower() not in SUFFIXES]
    return images, others


def _split_entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the files (and dangling links) and the folders of a folder, sorted, without the hidden ones."""
    entries = [entry for entry in sorted(folder.iterdir()) if not _is_hidden(entry.name)]
    return [entry for entry in entries if not entry.is_dir()], [entry for entry in entries if entry.is_dir()]


def read_csv(path: Path, *, has_values: bool = False) -> LabelledSamples:
    """Return the rows `path,label` of a UTF-8 CSV, with or without that header; paths are relative to the CSV.

    For a regression, the columns after the path are values, as many in each row.

    Raises:
        InputError: a row has other columns, or there is none.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), start=1) if any(row)]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise InputError(f"{path}: expected a CSV in UTF-8; found {error}") from None
    if rows and _is_heading(rows[0][1], has_values):
        del rows[0]
    n_columns = max(2, len(rows[0][1])) if rows and has_values else 2
    wanted = f"{n_columns} columns, path and values" if has_values else "two columns, path and label"
    for number, row in rows:
        if len(row) != n_columns or not all(cell.strip() for cell in row):
            raise InputError(f"{path}:{number}: expected {wanted}; found {','.join(row)!r}")
        if has_values and not all(map(_is_number, row[1:])):
            raise InputError(f"{path}:{number}: expected {wanted}; found no number in {','.join(row[1:])!r}")
    if not rows:
        raise InputError(f"{path}: expected rows of {wanted}; found none")
    labels: Any = [[float(cell) for cell in row[1:]] if has_values else row[1] for _, row in rows]
    return LabelledSamples([str(path.parent / row[0].strip()) for _, row in rows], labels, ())


def _is_heading(row: Sequence[str], has_values: bool) -> bool:
    names = [cell.strip().lower() for cell in row]
    if has_values:
        return names[0] == "path" and not any(map(_is_number, names[1:]))
    return names == ["path", "label"]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_npz(path: Path, *, has_values: bool = False) -> LabelledSamples:
    """Return `X` (N, D) and `y` (N,) of an .npz; with `classes` (K,) in it, `y` are rows of that.

    For a regression, `y` are values (N,) or (N, M).

    Raises:
        InputError: it is no .npz, or lacks one of the two.
    """
    arrays = _read_arrays(path)
    shapes = [getattr(arrays.get(name), "ndim", 0) for name in ("X", "y")]
    if shapes != [2, 1] and not (has_values and shapes == [2, 2]):
        found = ", ".join(f"{name} {array.shape}" for name, array in arrays.items()) or "neither"
        also = " or (N, M)" if has_values else ""
        raise InputError(f"{path}: expected arrays X (N, D) and y (N,){also}; found {found}")
    if len(arrays["X"]) != len(arrays["y"]):
        raise InputError(f"{path}: expected as many y as X; found {len(arrays['y'])} and {len(arrays['X'])}")
    labels = arrays["y"]
    if has_values:
        return LabelledSamples(arrays["X"], labels, ())
    if "classes" in arrays:
        if arrays["classes"].ndim != 1:
            raise InputError(f"{path}: expected classes (K,); found shape {arrays['classes'].shape}")
        n_classes = len(arrays["classes"])
        if labels.dtype.kind not in "iu" or (len(labels) and not 0 <= labels.min() <= labels.max() < n_classes):
            raise InputError(f"{path}: expected y to be rows of classes, 0 to {n_classes - 1}")
        labels = arrays["classes"][labels]
    return LabelledSamples(arrays["X"], labels.tolist(), ())


def read_features(path: str | os.PathLike[str]) -> Any:
    """Return `X` (N, D) of an .npz.

    Raises:
        InputError: it is no .npz, or has no X.
    """
    arrays = _read_arrays(Path(path))
    if "X" not in arrays:
        raise InputError(f"{path}: expected an array X (N, D); found {', '.join(arrays) or 'none'}")
    return arrays["X"]


def read_class(path: str | os.PathLike[str], name: str) -> Any:
    """Return the samples of one class: paths, or features (N, D).

    Args:
        path: a folder of its images, a folder of class folders, a .csv, or an .npz (with y, or of this class alone).
        name: of the class.

    Raises:
        InputError: there are none.
    """
    source = Path(path)
    (name,) = clean_labels([name], 1)
    if source.is_dir() and not any(entry.is_dir() for entry in source.iterdir() if not _is_hidden(entry.name)):
        return list_images(source).samples
    if source.suffix.lower() == ".npz" and "y" not in _read_arrays(source):
        return read_features(source)
    found = read_samples(source)
    rows = [n for n, label in enumerate(clean_labels(found.labels, len(found.labels))) if label == name]
    if not rows:
        raise InputError(f"{source}: expected samples of {name!r}; found none of {len(found.labels)}")
    return found.samples[rows] if isinstance(found.samples, np.ndarray) else [found.samples[n] for n in rows]


def _read_arrays(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in ("X", "y", "classes") if name in data.files}
    except (OSError, ValueError, TypeError, EOFError, AttributeError, KeyError, NotImplementedError, *_ZIP) as error:
        raise InputError(f"{path}: expected an .npz of arrays; found {error}") from None


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in IGNORED
