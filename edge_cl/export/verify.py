"""An exported file held against the state it came from, at any time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_cl.errors import ExportError
from edge_cl.export.base import base_of
from edge_cl.export.learnt import Learnt
from edge_cl.export.proof import probes_of, prove, prove_base
from edge_cl.export.read import Export, load_onnx, read_export
from edge_cl.export.tensors import Tensors, round_rows, tensors_of
from edge_cl.origin import BACKBONE, HEAD, Origin


@dataclass(frozen=True)
class VerifyReport:
    """What was found to agree.

    Attributes:
        path: of the export.
        kind: see `Options`.
        version: of the export.
        n_classes: or outputs.
        n_samples: that both answered.
    """

    path: str
    kind: str
    version: int
    n_classes: int
    n_samples: int


def read_head_of(path: Path) -> Export:
    """Return the export at a path: a file, or the head of a folder.

    Raises:
        ExportError: there is none, or it is damaged.
    """
    if path.is_dir() and not (path / HEAD).exists():
        raise ExportError(f"{path}: expected an exported file, or a folder with {HEAD}; found neither")
    return read_export(path / HEAD if path.is_dir() else path)


def verify(path: Path, found: Export, learnt: Learnt) -> VerifyReport:
    """Return what agrees, when everything does.

    Args:
        path: of the export.
        found: read from there.
        learnt: the same version of the state.

    Raises:
        ExportError: something differs; it says what, and where.
        BackboneMismatchError: it is of another backbone.
    """
    wanted = Origin.of_info(learnt.info, learnt.feature_map.n_inputs)
    found.origin.check_same(wanted, found.name, "pass the state it came from")
    kinds = [
        (head.kind, head.has_tasks, feature_map)
        for head, feature_map in ((found.head, found.feature_map), (learnt.head, learnt.feature_map))
    ]
    if kinds[0] != kinds[1]:
        raise ExportError(f"{found.name}: is of head and feature map {kinds[0]}, the state's are {kinds[1]}")
    names, others = found.head.classes, learnt.head.classes
    if names != others:
        row = next((row for row, pair in enumerate(zip(names, others, strict=False)) if pair[0] != pair[1]), None)
        where = f"they differ from row {min(len(names), len(others)) if row is None else row} on"
        raise ExportError(
            f"{found.name}: {len(names)} classes, the state's version {learnt.version} has {len(others)}; {where}; "
            "export it again"
        )
    _compare(found, tensors_of(learnt.head, is_int8=found.options.int8))
    head = round_rows(learnt.head) if found.options.int8 else learnt.head
    try:
        base = base_of(load_onnx(path / BACKBONE) if path.is_dir() else found.model)
        probes = probes_of(base, learnt, found.options)
        if path.is_dir():
            prove_base(base, probes, found.options)
        own = probes_of(base_of(found.model), learnt, found.options) if path.is_dir() else probes
        prove(found.model, own, (head, learnt.feature_map), found.options)
    except ExportError as error:
        raise ExportError(f"{path}: does not agree: {error}") from None
    n_samples = sum(len(features) for _, features in probes)
    return VerifyReport(str(path), found.options.kind, found.version, len(names), n_samples)


def _compare(found: Export, wanted: Tensors) -> None:
    """Compare the tensors of an export, bit for bit.

    Raises:
        ExportError: one differs.
    """
    for name, want in wanted.items():
        got = found.tensors.get(name)
        if got is None or got.shape != want.shape or got.dtype != want.dtype:
            shape = "nothing" if got is None else f"{got.dtype} {got.shape}"
            raise ExportError(f"{found.name}: {name}: expected {want.dtype} {want.shape}; found {shape}")
        rows = np.flatnonzero((got != want).reshape(len(want), -1).any(axis=1))
        if len(rows):
            names = found.head.classes
            row = int(rows[0])
            whose = f" ({names[row]})" if row < len(names) and "units" not in name else ""
            raise ExportError(
                f"{found.name}: {name}: {len(rows)} of {len(want)} rows are not those of version {found.version}, the "
                f"first is {row}{whose}; export it again"
            )
