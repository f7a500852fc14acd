"""The learnt classifier as ONNX, proven against the learner before a file appears; and read back."""

from edge_cl.export.kinds import BACKBONE, HEAD, ExportReport, export, export_delta
from edge_cl.export.learnt import Learnt
from edge_cl.export.options import KINDS, Options

__all__ = ["BACKBONE", "HEAD", "KINDS", "ExportReport", "Learnt", "Options", "export", "export_delta"]
