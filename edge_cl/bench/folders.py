"""Folders of photos as a data set: extracted once, the features kept in the cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from edge_kernels.arrays import Bools, Ints

from edge_cl.backbones import Backbone, Extraction, Progress, Skipped
from edge_cl.backbones.cache import cache_folder, sha256_of
from edge_cl.bench.data import DataSet, read_arrays
from edge_cl.errors import InputError
from edge_cl.files import write_whole
from edge_cl.inputs import clean_labels
from edge_cl.samples import LabelledSamples, read_folder

PARTS = ("train", "test")


@dataclass
class Photos:
    """N photos on disk.

    Attributes:
        name: where they are from.
        paths: N.
        labels: N class names.
        is_train: N, or empty where the folders do not say.
        domains: N rows of `domain_names`, or empty.
        domain_names: in the order of time.
        skipped: files that are no photos.
    """

    name: str
    paths: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    is_train: list[bool] = field(default_factory=list)
    domains: list[int] = field(default_factory=list)
    domain_names: tuple[str, ...] = ()
    skipped: list[Skipped] = field(default_factory=list)


def list_photos(path: str | os.PathLike[str], *, has_domains: bool = False) -> Photos:
    """Return the photos of a folder: `train` and `test` with class folders each, or class folders alone.

    Args:
        path: of the folder.
        has_domains: its folders are domains, in the order of their names (2 before 10), each of which is as above.

    Raises:
        InputError: there is no such folder, no photo in it, or only some domains say what is for testing.
    """
    root = Path(path)
    photos = Photos(str(root))
    if not has_domains:
        _add(photos, root)
        return photos
    folders = [entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    folders.sort(key=lambda folder: _natural(folder.name))
    if not folders:
        raise InputError(f"{root}: expected folders of domains with class folders in each; found none")
    for number, folder in enumerate(folders):
        _add(photos, folder)
        photos.domains += [number] * (len(photos.paths) - len(photos.domains))
    photos.domain_names = tuple(folder.name for folder in folders)
    if photos.is_train and len(photos.is_train) < len(photos.paths):
        raise InputError(f"{root}: expected train and test in every domain, or in none; found them in some")
    return photos


def extract_photos(photos: Photos, backbone: Backbone, on_done: Progress = int) -> DataSet:
    """Return the data set of photos; those that cannot be read are added to `photos.skipped`.

    They are kept in the cache folder under the hash of the backbone and of all the photos' bytes, and found there when
    the same photos are asked for again.

    Args:
        photos: of `list_photos`.
        backbone: an opened one.
        on_done: called with the number of photos after each batch.
    """
    found = _extract_once(photos, backbone, on_done)
    photos.skipped += found.skipped
    names = np.array(clean_labels(photos.labels, len(photos.labels)))[found.rows]
    classes, labels = np.unique(names, return_inverse=True)
    is_train: Bools | None = np.array(photos.is_train)[found.rows] if photos.is_train else None
    domains: Ints | None = np.array(photos.domains)[found.rows] if photos.domains else None
    return DataSet(
        *(photos.name, found.features, labels.astype(np.int64), tuple(classes.tolist())),
        *(is_train, domains, photos.domain_names),
    )


def _add(photos: Photos, root: Path) -> None:
    """Add the photos below a folder."""
    if all((root / part).is_dir() for part in PARTS):
        for part in PARTS:
            found = read_folder(root / part)
            _extend(photos, found)
            photos.is_train += [part == "train"] * len(found.labels)
    else:
        _extend(photos, read_folder(root))


def _extend(photos: Photos, found: LabelledSamples) -> None:
    photos.paths += found.samples
    photos.labels += found.labels
    photos.skipped += found.skipped


def _natural(name: str) -> list[tuple[int, str]]:
    """Return what sorts names with numbers in them by these."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _extract_once(photos: Photos, backbone: Backbone, on_done: Progress) -> Extraction:
    info = backbone.info
    provider = backbone.session.get_providers()[0]  # a GPU rounds otherwise
    digest = hashlib.sha256(repr((info.sha256, info.tensor, asdict(info.preprocessing), provider)).encode())
    for path in photos.paths:
        digest.update(bytes.fromhex(sha256_of(path)))
    target = cache_folder() / f"features.{digest.hexdigest()}.npz"
    if found := _read_cached(target, photos.paths, info.dim):
        on_done(len(photos.paths))
        return found
    found = backbone.extract(photos.paths, on_done)
    if not len(found.rows):
        raise InputError(f"{photos.name}: expected photos that can be read; found none of {len(photos.paths)}")
    buffer = io.BytesIO()
    np.savez(buffer, X=found.features, rows=found.rows, reasons=np.array([item.reason for item in found.skipped], "U"))
    with contextlib.suppress(OSError):  # where it cannot be written, the next run extracts them again
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, buffer.getvalue())
    return found


def _read_cached(path: Path, paths: Sequence[str], dim: int) -> Extraction | None:
    """Return what an earlier run wrote of the photos at N paths; None if there is nothing, or it is damaged."""
    try:
        arrays = read_arrays(path, ("X", "rows", "reasons"))
        features, rows, reasons = arrays["X"], arrays["rows"], arrays["reasons"]
    except (InputError, KeyError):
        return None
    missing = np.setdiff1d(np.arange(len(paths)), rows)
    if features.shape != (len(rows), dim) or reasons.shape != missing.shape or len(rows) + len(missing) != len(paths):
        return None
    skipped = tuple(Skipped(paths[row], str(reason)) for row, reason in zip(missing, reasons, strict=True))
    return Extraction(features.astype(np.float32), rows.astype(np.int64), skipped)
