"""A torchvision classifier by its name: weights by torchvision's own loader, exported to ONNX once and cached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edge_cl.backbones import cache
from edge_cl.backbones.preprocessing import METADATA_KEY, crop_of
from edge_cl.backbones.session import open_session
from edge_cl.errors import BackboneError, MissingPackageError

WEIGHTS_KEY = "edge_cl.weights_sha256"


def find_pretrained(name: str, weights_sha256: str | None = None) -> tuple[Path | bytes, str]:
    """Return the exported classifier and the sha256 of its weights; torch is imported only if there is no export yet.

    Args:
        name: a torchvision classification model, such as `mobilenet_v3_small`.
        weights_sha256: of the weights that a state was made with; None takes torchvision's default ones.

    Raises:
        BackboneError: torchvision has no such model, its weights cannot be had, or they are others.
        MissingPackageError: torch or torchvision is not installed.
    """
    wanted = weights_sha256[:16] if weights_sha256 else "????????????????"
    if cached := cache.find(f"torchvision-{name}-{wanted}"):
        return cached, weights_sha256 or _weights_of(cached)
    data, sha256 = _export(name)
    if weights_sha256 and sha256 != weights_sha256:
        raise BackboneError(
            f"{name}: made with weights {weights_sha256[:12]}..., but torchvision now gives {sha256[:12]}...; "
            f"pass the ONNX file it was made with"
        )
    return cache.store(f"torchvision-{name}-{sha256[:16]}", lambda: data), sha256


def _weights_of(path: Path) -> str:
    return str(open_session(path, "cpu").get_modelmeta().custom_metadata_map[WEIGHTS_KEY])


def _export(name: str) -> tuple[bytes, str]:
    """Return the ONNX classifier with its preprocessing as metadata, and the sha256 of the weights' file.

    Raises:
        BackboneError: torchvision has no such model, or cannot get its weights.
        MissingPackageError: torch or torchvision is not installed.
    """
    try:
        import onnx
        import torch
        import torchvision
    except ImportError as error:
        raise MissingPackageError(
            f"{name}: is no file; as a torchvision name it needs torch and torchvision once ({error}); "
            "type: pip install torch torchvision onnxscript"
        ) from None
    try:
        weights: Any = torchvision.models.get_model_weights(name).DEFAULT
    except ValueError:
        raise BackboneError(
            f"{name}: expected 'tiny', an .onnx file that exists, or a torchvision classifier; found none of that name"
        ) from None
    try:
        model = torchvision.models.get_model(name, weights=weights).eval()
    except (OSError, RuntimeError) as error:
        raise BackboneError(
            f"{name}: torchvision cannot get the weights: {str(error).splitlines()[0]}; "
            f"connect once, or put {Path(weights.url).name} into {torch.hub.get_dir()}/checkpoints"
        ) from None
    preset = weights.transforms()
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    sha256 = cache.sha256_of(file)
    size = int(preset.crop_size[0])
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 3, size, size),),
        input_names=["pixels"],
        output_names=["logits"],
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("N")},),
        verbose=False,
    )
    assert program is not None
    exported: onnx.ModelProto = program.model_proto
    preprocessing = {
        "input_size": [size, size],
        "scale": 1 / 255,
        "mean": list(preset.mean),
        "std": list(preset.std),
        "crop": crop_of(int(preset.resize_size[0]), size),
    }
    onnx.helper.set_model_props(exported, {WEIGHTS_KEY: sha256, METADATA_KEY: json.dumps(preprocessing)})
    return exported.SerializeToString(), sha256
