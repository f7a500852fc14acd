"""The learnt classifier as ONNX, proven against the learner before a file appears; and read back."""

from edge_cl.export.kinds import ExportReport, export, export_delta
from edge_cl.export.learnt import Learnt
from edge_cl.export.options import KINDS, Options

__all__ = ["KINDS", "ExportReport", "Learnt", "Options", "export", "export_delta"]
