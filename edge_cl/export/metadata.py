"""What an export says of itself, in `metadata_props`.

| key                     | value |
|-------------------------|-------|
| edge_cl.classes         | JSON list; the index is the column of the outputs; not of a regression |
| names                   | JSON object from index to name, as Ultralytics' readers expect; not of a regression |
| edge_cl.tasks           | if there are tasks: JSON object from each to the columns of its classes |
| edge_cl.outputs         | of a regression: JSON list of its outputs |
| edge_cl.head            | `linear`, `cosine`, `mlp` or `regression` |
| edge_cl.kind            | `model`, `head`, `live`, `split` (head.onnx) or `backbone` (backbone.onnx) |
| edge_cl.options         | JSON of `edge_cl.export.options` |
| edge_cl.version         | of the state |
| edge_cl.parent          | the version that it was made from |
| edge_cl.format          | of this table, 2 |
| edge_cl.made_by         | `edge_cl` and its version |
| edge_cl.input           | in words, what the input is |
| edge_cl.training        | JSON: recipe, codec, samples (all, and of each class), time of the version, accuracy |
| edge_cl.feature_map     | JSON of `edge_cl.feature_map.FeatureMap`: what becomes of features before the head |
| edge_cl.head_loss       | of int8 rows: JSON of accuracy before and after, and of how many samples |
| edge_cl.backbone_loss   | likewise of an int8 or float16 backbone |
| edge_cl.backbone        | its name |
| edge_cl.backbone_sha256 | of the file it was cut from |
| edge_cl.preprocessing   | JSON, see `edge_cl.backbones.preprocessing` |
| edge_cl.checksum        | CRC-32 of the head's tensors and of the other keys but kind, options, input, backbone_loss |

backbone.onnx has those of its input, origin and preprocessing, its precision and opset, and the CRC-32 of its weights
and of these. `edge_cl.features` names the tensor at which the file is cut when it is made a backbone again.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version as version_of
from typing import Any

import numpy as np

from edge_cl.backbones import BackboneInfo
from edge_cl.backbones.cut import FEATURES, FEATURES_KEY
from edge_cl.backbones.preprocessing import METADATA_KEY
from edge_cl.export.options import Options
from edge_cl.feature_map import FeatureMap
from edge_cl.head import Head
from edge_cl.origin import SHA256_KEY

FORMAT = "2"
CHECKSUM = "edge_cl.checksum"


def describe_head(head: Head, feature_map: FeatureMap) -> dict[str, str]:
    """Return what tells how the head's tensors are to be read."""
    metadata = {
        "edge_cl.format": FORMAT,
        "edge_cl.head": head.kind,
        "edge_cl.feature_map": to_json(asdict(feature_map)),
    }
    if head.kind == "regression":
        metadata["edge_cl.outputs"] = to_json(head.classes)
    else:
        metadata["edge_cl.classes"] = to_json(head.classes)
        metadata["names"] = to_json(dict(enumerate(head.classes)))
    if head.has_tasks:
        columns = {task: np.flatnonzero(head.groups() == place).tolist() for place, task in enumerate(head.tasks)}
        metadata["edge_cl.tasks"] = to_json(columns)
    return metadata


def describe_export(
    options: Options, numbers: tuple[int, int], info: BackboneInfo | None, n_inputs: int
) -> dict[str, str]:
    """Return what tells where an export comes from.

    Args:
        options: of the export.
        numbers: of the version and its parent.
        info: of the backbone.
        n_inputs: features of a sample.
    """
    version, parent = numbers
    metadata = {
        "edge_cl.kind": options.kind,
        "edge_cl.options": options.to_json(),
        "edge_cl.version": str(version),
        "edge_cl.parent": str(parent),
        "edge_cl.made_by": f"edge_cl {version_of('edge_cl')}",
        "edge_cl.input": _input_of(options, info, n_inputs),
    }
    return metadata | (_describe_source(info) if info else {})


def describe_backbone(options: Options, info: BackboneInfo, *, has_images: bool) -> dict[str, str]:
    """Return what backbone.onnx of a split export says, and what a later export into its folder expects there.

    Args:
        options: of the export.
        info: of the backbone.
        has_images: whether it is calibrated where int8 is asked for.
    """
    precision = "float16" if options.fp16 else "int8" if options.int8 and has_images else "float32"
    return {
        "edge_cl.format": FORMAT,
        "edge_cl.kind": "backbone",
        "edge_cl.input": _image_input_of(options, info),
        "edge_cl.precision": precision,
        "edge_cl.opset": str(options.opset),
        **_describe_source(info),
    }


def _describe_source(info: BackboneInfo) -> dict[str, str]:
    return {
        "edge_cl.backbone": info.name,
        SHA256_KEY: info.sha256,
        METADATA_KEY: info.preprocessing.to_json(),
        FEATURES_KEY: FEATURES,
    }


def to_json(value: Any) -> str:
    """Return JSON with names as they are."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _input_of(options: Options, info: BackboneInfo | None, n_inputs: int) -> str:
    if info is None:
        return f"features: (N, {n_inputs}) float32, as they were learnt"
    if options.kind in {"head", "split"}:
        return f"features: (N, {n_inputs}) float32, as the backbone {info.name} gives them"
    return _image_input_of(options, info)


def _image_input_of(options: Options, info: BackboneInfo) -> str:
    """Return in words how an image becomes the input."""
    if options.preprocess:
        return "image: (N, H, W, 3) uint8, RGB, of any size; resized and normalised inside"
    height, width = info.preprocessing.input_size
    how = f"resized to {height} x {width}" + (", cropped" if info.preprocessing.crop else "")
    return f"pixels: (N, 3, {height}, {width}) float32, RGB, {how}, and normalised as {METADATA_KEY} says"
