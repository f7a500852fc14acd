"""A delta applied to a file: what comes out is, byte for byte, what a whole export would have been."""

from __future__ import annotations

from pathlib import Path

import onnx

from edge_cl.errors import ExportError
from edge_cl.export.base import base_of
from edge_cl.export.build import build, set_metadata
from edge_cl.export.delta import apply_delta
from edge_cl.export.proof import prove, random_probes
from edge_cl.export.read import Export, read_export
from edge_cl.export.target import check_target, write_target


def patch_file(path: Path, delta: Path, target: Path) -> Export:
    """Put the later export at the target, and return it.

    Args:
        path: of the earlier export.
        delta: of the delta.
        target: may be the path of the earlier one.

    Raises:
        ExportError: they do not fit together, or the target cannot be written; it stays as it is.
    """
    check_target(target, None)
    if target.resolve() == delta.resolve():
        raise ExportError(f"{target}: is the delta itself; choose another name")
    old = read_export(path)
    later = apply_delta(delta, old)
    try:
        base = base_of(old.model)
        answering = (later.head, later.feature_map)
        model = build(base, later.tensors, answering, later.options, maps_of(old.model))
        set_metadata(model, later.metadata)
        data = prove(model, random_probes(base, later.feature_map, later.options), answering, later.options)
    except ExportError as error:
        raise ExportError(f"{target}: not written: {error}") from None
    write_target(target, data)
    return later


def maps_of(model: onnx.ModelProto) -> str:
    """Return the name of the feature maps that class activation maps of an export are made of; "" without any."""
    return next((node.input[0] for node in model.graph.node if node.name == "edge_cl.cam.shape"), "")
