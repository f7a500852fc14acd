"""The learnt classifier as ONNX, proven against the learner before the file appears."""

from edge_cl.export.model import export_model

__all__ = ["export_model"]
