"""From what a user names, or a state remembers, to an opened backbone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_cl.backbones import cache
from edge_cl.backbones.backbone import Backbone, BackboneInfo
from edge_cl.backbones.preprocessing import METADATA_KEY, Preprocessing, resolve
from edge_cl.errors import BackboneMismatchError, BackboneMissingError

TINY = "tiny"
TINY_FILE = Path(__file__).with_name("tiny.onnx")
CUT_VERSION = 1  # part of the cache key: raise it when the same file would be cut differently


def open_backbone(
    spec: str, given: Mapping[str, Any] | None = None, device: str = "auto", precision: int = 32
) -> Backbone:
    """Return the backbone that the user names.

    Args:
        spec: `tiny`, an .onnx file (`file.onnx#tensor` cuts at that tensor), or a torchvision name.
        given: preprocessing options (see `preprocessing`), for a file that does not say its own.
        device: `auto`, `cpu` or `cuda`.
        precision: 32 or 16, see `open_session`.

    Raises:
        BackboneError: it is none of these, or cannot be used.
        BackboneMissingError: there is no such file.
        MissingPackageError: onnxruntime, torch or torchvision is not installed.
    """
    path, tensor = _split(spec)
    source: Path | bytes
    if spec == TINY:
        source, name, place, sha256 = TINY_FILE, TINY, "", cache.sha256_of(TINY_FILE)
    elif path.is_file():
        source, name, place, sha256 = path, path.name, str(path.resolve()), cache.sha256_of(path)
    elif os.sep in spec or path.suffix == ".onnx" or path.exists():
        raise BackboneMissingError(f"{path}: no such file; pass an .onnx file, 'tiny' or a torchvision name")
    else:
        from edge_cl.backbones.pretrained import find_pretrained

        name, place = spec, ""
        source, sha256 = find_pretrained(spec)
    wanted = Preprocessing.parse({"input_size": (given or {}).get("input_size")}, name)
    info = BackboneInfo(name, place, tensor, sha256, 0, wanted)
    backbone = Backbone(info, _cut_once(info, source), device, precision)
    sides = backbone.session.get_inputs()[0].shape[2:]
    size = (sides[0], sides[1]) if all(isinstance(side, int) for side in sides) else None
    stored = backbone.session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    backbone.info = replace(info, preprocessing=resolve(stored, given, size, name))
    backbone.info = replace(backbone.info, dim=backbone.measure_dim())
    return backbone


def reopen_backbone(
    info: BackboneInfo, beside: Path, spec: str | None = None, *, device: str = "auto", precision: int = 32
) -> Backbone:
    """Return the backbone that a state was made with.

    Args:
        info: what the state remembers.
        beside: the state's folder, where the file is looked for if it is no longer where it was.
        spec: where the user says it is now.
        device: `auto`, `cpu` or `cuda`.
        precision: 32 or 16, see `open_session`.

    Raises:
        BackboneMissingError: it cannot be found.
        BackboneMismatchError: it is another one.
    """
    source: Path | bytes | None = check_backbone(info, beside, spec)
    if source is None and (spec or info.path):
        raise BackboneMissingError(f"{spec or info.path}: the backbone is not there; give its place: --backbone FILE")
    if source is None:
        from edge_cl.backbones.pretrained import find_pretrained

        source, _ = find_pretrained(info.name, info.sha256)
    return Backbone(info, _cut_once(info, source), device, precision)


def check_backbone(info: BackboneInfo, beside: Path, spec: str | None = None) -> Path | None:
    """Return the backbone's file, if it is where it should be and has not changed; None if it is not there.

    Args:
        info: what the state remembers.
        beside: the state's folder.
        spec: where the user says it is now.

    Raises:
        BackboneMismatchError: its sha256 is not the one that the state remembers.
    """
    if spec is not None:
        places = [TINY_FILE if spec == TINY else _split(spec)[0]]
    elif info.path:
        places = [Path(info.path), beside / Path(info.path).name]
    else:
        places = [TINY_FILE] if info.name == TINY else []
    changed = ""
    for place in places:
        if place.is_file():
            found = cache.sha256_of(place)
            if found == info.sha256:
                return place
            changed = changed or f"{place}: sha256 {found[:16]}..."
    if changed:
        raise BackboneMismatchError(
            f"{changed}, but the state was made with {info.name}, {info.sha256[:16]}...; "
            "pass the one it was made with: --backbone FILE"
        )
    return None


def _split(spec: str) -> tuple[Path, str]:
    """Return the path and the tensor of `file.onnx#tensor`."""
    head, mark, tensor = spec.partition(".onnx#")
    return (Path(head + ".onnx"), tensor) if mark else (Path(spec), "")


def _cut_once(info: BackboneInfo, source: Path | bytes) -> Path | bytes:
    """Return the cut model, from the cache if it was made before; onnx is imported only if it was not."""

    def build() -> bytes:
        from edge_cl.backbones.cut import cut

        data = source if isinstance(source, bytes) else source.read_bytes()
        return cut(data, info.tensor or None, info.name, info.preprocessing.input_size)

    place = hashlib.sha256(info.tensor.encode()).hexdigest()[:8]
    return cache.store(f"cut{CUT_VERSION}-{info.sha256[:32]}-{place}", build)
