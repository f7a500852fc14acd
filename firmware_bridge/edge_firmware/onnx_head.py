"""The head of a blob as ONNX, for Linux: features in, logits and probabilities out, as `edge-cl export --kind head`."""

from __future__ import annotations

from pathlib import Path

from edge_kernels.arrays import Floats

from edge_cl.backbones.cut import FEATURES
from edge_cl.backbones.session import open_session
from edge_cl.errors import BundleError, MissingPackageError, first_line
from edge_cl.export.base import features_base
from edge_cl.export.build import build, set_metadata
from edge_cl.export.graph import LOGITS
from edge_cl.export.metadata import CHECKSUM, describe_export, describe_head, to_json
from edge_cl.export.options import Options
from edge_cl.export.read import stable
from edge_cl.export.tensors import checksum_of, tensors_of
from edge_firmware.arithmetic import dequantise
from edge_firmware.blob import Blob
from edge_firmware.canaries import check_canaries
from edge_firmware.heads import to_head

OPTIONS = Options(kind="head")
BACKBONE_KEY = "edge_firmware.backbone_sha256"


def head_onnx(blob: Blob) -> bytes:
    """Return the ONNX file of a blob's head, which `edge_cl.Predictor` and onnxruntime read.

    Raises:
        BundleError: the blob's numbers are none.
    """
    head, feature_map = to_head(blob)
    tensors = tensors_of(head)
    model = build(features_base(blob.dim, OPTIONS.opset), tensors, (head, feature_map), OPTIONS, "")
    metadata = describe_head(head, feature_map)
    metadata |= describe_export(OPTIONS, (blob.version, blob.parent), None, blob.dim)
    metadata["edge_cl.training"] = to_json({"created": blob.created, "counter": blob.counter, "product": blob.product})
    if any(blob.backbone):
        metadata[BACKBONE_KEY] = blob.backbone.hex()
    metadata[CHECKSUM] = checksum_of(tensors, stable(metadata))
    set_metadata(model, metadata)
    data: bytes = model.SerializeToString()
    return data


def check_onnx(blob: Blob, model: Path | bytes) -> None:
    """Refuse a model by which onnxruntime gives a canary another answer than it must.

    Args:
        blob: whose canaries are asked.
        model: of `head_onnx`, or its path.

    Raises:
        BundleError: it does, or onnxruntime cannot run it.
        MissingPackageError: onnxruntime is not installed.
    """
    try:
        logits: Floats = open_session(model, "cpu").run([LOGITS], {FEATURES: dequantise(blob, blob.canaries)})[0]
    except MissingPackageError:
        raise
    except Exception as error:  # onnxruntime's exceptions derive from Exception alone
        raise BundleError(f"onnxruntime cannot run the head: {first_line(error)}") from None
    if logits.shape != (len(blob.canaries), len(blob.classes)):
        raise BundleError(f"onnxruntime gives logits {logits.shape}; expected {len(blob.classes)} for each canary")
    check_canaries(blob, logits, "onnxruntime")
