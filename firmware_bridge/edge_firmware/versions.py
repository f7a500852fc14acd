"""Folders of versions, as `edge-cl deploy` makes them: a bundle, and its head as ONNX for apps.

| file          | what |
|---------------|------|
| head.edgehead | the bundle, as it came |
| head.onnx     | its head, features in: for onnxruntime and `edge_cl.Predictor`, with the names of the classes |

A folder is filled under another name, synced and renamed: under its own name it is whole.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path

import numpy as np

from edge_cl.errors import BundleError, ExportError
from edge_cl.export.read import export_in
from edge_cl.export.tensors import tensors_of
from edge_cl.files import sync_folder, write_whole
from edge_firmware.blob import Blob
from edge_firmware.bundle import from_bytes, read_bundle
from edge_firmware.heads import to_head
from edge_firmware.keys import PublicKey
from edge_firmware.onnx_head import check_onnx, head_onnx

BUNDLE, HEAD = "head.edgehead", "head.onnx"
NEW = ".new"
NAME = re.compile(r"[0-9]{6,10}-[0-9a-f]{8}")


def name_of(data: bytes) -> str:
    """Return what the folder of a bundle is called: its version, and 8 digits of the sha256 of its bytes."""
    return f"{from_bytes(data).version:06d}-{hashlib.sha256(data).hexdigest()[:8]}"


def write_version(root: Path, data: bytes) -> str:
    """Return the name of the folder of a bundle, which is made, whole, if there is none.

    Args:
        root: the folder of these folders.
        data: bytes of the bundle.

    Raises:
        OSError: it cannot be written.
        BundleError: no ONNX can be made of its head.
    """
    name, new = name_of(data), root / NEW
    model = head_onnx(from_bytes(data).head)
    root.mkdir(exist_ok=True)
    sync_folder(root.parent)
    shutil.rmtree(new, ignore_errors=True)  # what a power cut left
    new.mkdir()
    write_whole(new / BUNDLE, data)
    write_whole(new / HEAD, model)
    if (root / name).exists():  # the one before, once more, or damaged
        shutil.rmtree(root / name)
    os.rename(new, root / name)
    sync_folder(root)
    return name


def check_version(folder: Path, key: PublicKey) -> Blob:
    """Return the head in a folder, after all was checked: signatures, weights and, by onnxruntime, canaries.

    Raises:
        BundleError: it may not run.
    """
    blob = read_bundle(folder / BUNDLE, key).head
    path = folder / HEAD
    try:
        data = path.read_bytes()
        found = export_in(data, str(path))
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}; deploy the bundle again") from None
    except ExportError as error:
        raise BundleError(f"{error}; deploy the bundle again") from None
    head, feature_map = to_head(blob)
    wanted, tensors = tensors_of(head), found.tensors
    is_same = wanted.keys() == tensors.keys() and all(np.array_equal(wanted[name], tensors[name]) for name in wanted)
    if not is_same or found.feature_map != feature_map or found.head.classes != head.classes:
        raise BundleError(f"{path}: is not the head of {BUNDLE} beside it; deploy the bundle again")
    try:
        check_onnx(blob, data)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from None
    return blob


def list_versions(root: Path) -> list[str]:
    """Return the names of the folders."""
    try:
        return sorted(entry.name for entry in root.iterdir() if NAME.fullmatch(entry.name))
    except OSError:
        return []


def remove_versions(root: Path, kept: Collection[str | None]) -> None:
    """Remove all folders but some, and what a power cut left."""
    for name in [*list_versions(root), NEW]:
        if name not in kept:
            shutil.rmtree(root / name, ignore_errors=True)
