"""Frozen feature extractors: an ONNX classifier cut before its last linear layer, a torchvision name, or `tiny`."""

from edge_cl.backbones.backbone import Backbone, BackboneInfo, Extraction, Progress, Skipped
from edge_cl.backbones.images import UnreadableImageError, read_rgb
from edge_cl.backbones.locate import check_backbone, open_backbone, reopen_backbone
from edge_cl.backbones.preprocessing import Preprocessing

__all__ = [
    "Backbone",
    "BackboneInfo",
    "Extraction",
    "Preprocessing",
    "Progress",
    "Skipped",
    "UnreadableImageError",
    "check_backbone",
    "open_backbone",
    "read_rgb",
    "reopen_backbone",
]
