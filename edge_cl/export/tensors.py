"""A head as named tensors, as they stand in an export, and back.

| name              | type and shape         | what |
|-------------------|------------------------|------|
| head.weights      | float32 or int8 (R, D) | a row for each class, then one for each further look |
| head.scales       | float32 (R,)           | of int8 rows: what each is multiplied by |
| head.bias         | float32 (R,)           | |
| head.looks        | int64 (K, J)           | of linear heads: class k answers by the highest of the rows |
|                   |                        | `k + head.looks[k]`; (1, 1), a zero: each by its own |
| head.units        | float32 or int8 (H, D) | of an `mlp`: its hidden units |
| head.units.scales | float32 (H,)           | of int8 rows |
| head.units.bias   | float32 (H,)           | |
| head.units.rows   | float32 (K, H)         | what each class makes of the units |
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from edge_kernels.arrays import Floats, Ints
from numpy.typing import NDArray

from edge_cl.export.quantise import quantise_rows
from edge_cl.head import Head
from edge_cl.hidden import Hidden
from edge_cl.look_rows import LookRows

WEIGHTS, BIAS, LOOKS, UNITS = "head.weights", "head.bias", "head.looks", "head.units"
SCALES = {WEIGHTS: "head.scales", UNITS: "head.units.scales"}
UNITS_BIAS, UNITS_ROWS = "head.units.bias", "head.units.rows"
NAMES = (WEIGHTS, SCALES[WEIGHTS], BIAS, LOOKS, UNITS, SCALES[UNITS], UNITS_BIAS, UNITS_ROWS)

Tensors = Mapping[str, NDArray[Any]]


def tensors_of(head: Head, *, is_int8: bool = False) -> dict[str, NDArray[Any]]:
    """Return the tensors of a head."""
    weights, bias = head.rows
    if head.looks is not None:
        weights, bias = np.concatenate([weights, head.looks.weights]), np.concatenate([bias, head.looks.bias])
    tensors: dict[str, NDArray[Any]] = {WEIGHTS: weights, BIAS: bias}
    if head.kind == "linear":
        tensors[LOOKS] = _offsets(head)
    if head.hidden is not None:
        units = head.hidden.units
        tensors |= {UNITS: units[:, :-1], UNITS_BIAS: units[:, -1], UNITS_ROWS: head.hidden.rows}
    for name in SCALES if is_int8 else ():
        if name in tensors:
            tensors[name], tensors[SCALES[name]] = quantise_rows(tensors[name])
    return {name: np.ascontiguousarray(tensors[name]) for name in NAMES if name in tensors}


def head_from(tensors: Tensors, classes: Sequence[str], kind: str, *, has_tasks: bool = False) -> Head:
    """Return the head of tensors; of a cosine head, the rows that answer.

    Args:
        tensors: of `tensors_of`.
        classes: K names.
        kind: of `Head`.
        has_tasks: of `Head`.

    Raises:
        ValueError: they do not fit together, or hold what is no number.
    """
    weights, bias, hidden = _floats(tensors, WEIGHTS), _floats(tensors, BIAS), None
    n_classes = len(classes)
    if weights.ndim != 2 or bias.shape != weights.shape[:1] or not 0 < n_classes <= len(weights):
        raise ValueError(f"{n_classes} names, weights {weights.shape} and bias {bias.shape}")
    if (kind == "mlp") != (UNITS in tensors):
        raise ValueError(f"a head of kind {kind} with {', '.join(tensors)}")
    if kind == "mlp":
        units, start, rows = (_floats(tensors, name) for name in (UNITS, UNITS_BIAS, UNITS_ROWS))
        shapes = (units.shape[1:], start.shape, rows.shape)
        if shapes != (weights.shape[1:], units.shape[:1], (n_classes, len(units))):
            raise ValueError(f"hidden units of shapes {', '.join(map(str, shapes))}")
        hidden = Hidden(np.concatenate([units, start[:, None]], axis=1), rows, np.zeros(0, np.float32))
    looks = None
    if len(weights) > n_classes:
        owners = _owners(np.asarray(tensors.get(LOOKS, np.zeros((1, 1), np.int64))), n_classes, len(weights))
        looks = LookRows(owners, weights[n_classes:], bias[n_classes:])
    head = Head(tuple(classes), weights[:n_classes], bias[:n_classes], kind, has_tasks, None, hidden, looks)
    if kind == "linear" and not np.array_equal(_offsets(head), tensors.get(LOOKS, np.zeros((1, 1), np.int64))):
        raise ValueError(f"{LOOKS} of rows that are none")
    return head


def table_of(offsets: Ints) -> Ints:
    """Return (K, J) which rows are each class's, of `head.looks`."""
    return np.asarray(offsets + np.arange(len(offsets))[:, None])


def round_rows(head: Head) -> Head:
    """Return the head whose rows are what is left of them as int8."""
    return replace(head_from(tensors_of(head, is_int8=True), head.classes, head.kind), has_tasks=head.has_tasks)


def checksum_of(tensors: Tensors, metadata: Mapping[str, str]) -> str:
    """Return the hexadecimal CRC-32 of tensors and metadata: damage by chance is missed once in 4e9 times.

    Each time a head is swapped it is worked out anew, at five times the speed of a sha256.
    """
    told = [f"{name} {value.dtype.str} {value.shape}" for name, value in tensors.items()]
    checksum = zlib.crc32("\0".join([*told, *(f"{key}={metadata[key]}" for key in sorted(metadata))]).encode())
    for value in tensors.values():
        checksum = zlib.crc32(np.ascontiguousarray(value).data, checksum)
    return f"{checksum:08x}"


def digest_of(tensors: Tensors) -> str:
    """Return the hexadecimal sha256 of tensors."""
    digest = hashlib.sha256()
    for name, value in tensors.items():
        digest.update(f"{name} {value.dtype.str} {value.shape}\0".encode())
        digest.update(np.ascontiguousarray(value).data)
    return digest.hexdigest()


def _offsets(head: Head) -> Ints:
    """Return `head.looks` of a linear head."""
    if head.looks is None:
        return np.zeros((1, 1), np.int64)
    n_classes = len(head.classes)
    return np.asarray(head.looks.table(n_classes) - np.arange(n_classes)[:, None], dtype=np.int64)


def _owners(offsets: Ints, n_classes: int, n_rows: int) -> Ints:
    """Return whose each further row is (E,).

    Raises:
        ValueError: it is no one's.
    """
    if offsets.dtype != np.int64 or offsets.ndim != 2 or len(offsets) != n_classes:
        raise ValueError(f"{LOOKS} of shape {offsets.shape} for {n_rows} rows of {n_classes} classes")
    rows = table_of(offsets)
    owners = np.full(n_rows - n_classes, -1, np.int64)
    is_further = (rows >= n_classes) & (rows < n_rows)
    owners[rows[is_further] - n_classes] = np.nonzero(is_further)[0]
    if (owners < 0).any() or (np.diff(owners) < 0).any():
        raise ValueError(f"{LOOKS} of rows that are none")
    return owners


def _floats(tensors: Tensors, name: str) -> Floats:
    """Return a tensor as float32, multiplied by its scales if it is of int8.

    Raises:
        ValueError: it is missing, or of another type or shape, or holds what is no number.
    """
    value = tensors.get(name)
    if value is None:
        raise ValueError(f"no {name}")
    if value.dtype == np.int8:
        scales = _floats(tensors, SCALES.get(name, ""))
        if scales.shape != value.shape[:1]:
            raise ValueError(f"{name} {value.shape} with scales {scales.shape}")
        return np.asarray(value * scales[:, None], dtype=np.float32)
    if value.dtype != np.float32 or not np.isfinite(value).all():
        raise ValueError(f"{name} of {value.dtype}, or with what is no number")
    return np.asarray(value)
