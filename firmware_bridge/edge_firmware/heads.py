"""Heads as the rows of a blob, int8 or float32, and back.

Features become int8 on one grid, and so do the inputs that rows are multiplied with. Where features are raised to 3/4
before a head sees them, a table of 256 entries leads from the one grid to the other, so that no device computes a root.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from edge_kernels.arrays import Floats, Ints
from numpy.typing import NDArray

from edge_cl.errors import BundleError
from edge_cl.export.quantise import TINY, quantise_rows
from edge_cl.feature_map import FeatureMap
from edge_cl.head import Head
from edge_cl.look_rows import LookRows
from edge_firmware.arithmetic import HIGHEST, LOWEST
from edge_firmware.blob import Blob, Int8
from edge_firmware.formats import MOST_FEATURES, PRODUCT_BYTES

STEPS = HIGHEST - LOWEST
MOST_ROWS = 0xFFFF
MOST_NUMBER = 0xFFFFFFFF
LARGEST_SUM = (1 << 31) - 1
FREE_BIAS = 1 << 20  # what the bias of a row of zeros becomes, whose scale is free
AS_FLOATS = "pack it with float32 rows: --float32"


@dataclass(frozen=True)
class Grid:
    """How numbers become int8: `scale * (int8 - zero)` is the number.

    Attributes:
        scale: above 0, a float32.
        zero: the int8 that stands for 0.
    """

    scale: float = 1.0
    zero: int = 0

    @classmethod
    def over(cls, low: float, high: float) -> Grid:
        """Return the finest grid on which a range lies, and 0."""
        low, high = min(low, 0.0), max(high, 0.0)
        if not np.isfinite(high - low) or high - low < STEPS * TINY:
            return cls()
        scale = float(np.float32((high - low) / STEPS))
        return cls(scale, int(np.clip(round(LOWEST - low / scale), LOWEST, HIGHEST)))

    @property
    def values(self) -> Floats:
        """The numbers (256,) that int8 from -128 on stand for."""
        return np.asarray((np.arange(LOWEST, HIGHEST + 1) - self.zero) * np.float32(self.scale), dtype=np.float32)

    def nearest(self, values: Floats) -> Int8:
        """Return the int8 of numbers."""
        steps = np.rint(values / np.float64(self.scale) + self.zero)
        return np.asarray(steps.clip(LOWEST, HIGHEST), dtype=np.int8)


@dataclass(frozen=True)
class Facts:
    """What a blob says of itself beside its head.

    Attributes:
        product: id, at most 32 bytes in UTF-8.
        version: of the head.
        parent: the version it was made from.
        counter: security counter.
        backbone: sha256, or zeros.
        key_id: of the key that signs.
        created: seconds since 1970, UTC.
    """

    product: str
    version: int
    parent: int
    counter: int
    backbone: bytes
    key_id: bytes
    created: int

    def __post_init__(self) -> None:
        """Refuse what no blob can hold.

        Raises:
            BundleError: the product's id is too long, or a number too large.
        """
        product = _utf8(self.product)
        if not 1 <= len(product) <= PRODUCT_BYTES or b"\0" in product:
            what = f"1 to {PRODUCT_BYTES} bytes without a zero"
            raise BundleError(f"product {self.product!r}: expected {what}; found {len(product)}; pass --product NAME")
        for name in ("version", "parent", "counter", "created"):
            if not 0 <= getattr(self, name) <= MOST_NUMBER:
                raise BundleError(f"{name}: expected 0 to {MOST_NUMBER}; found {getattr(self, name)}")


def check_head(head: Head, feature_map: FeatureMap, *, is_int8: bool) -> None:
    """Refuse what no blob can hold.

    Raises:
        BundleError: it says what, and what to do.
    """
    if head.kind in {"mlp", "regression"} or head.hidden is not None:
        raise BundleError(f"expected a linear or cosine head; found {head.kind!r}; make a state with --head linear")
    if feature_map.n_random:
        raise BundleError("expected features as they are; found random ones; make a state without --random-features")
    if feature_map.is_unit and is_int8:
        raise BundleError(f"a cosine head has no int8 rows: its features are of unit length; {AS_FLOATS}")
    n_rows = len(head.classes) + (len(head.looks.owners) if head.looks else 0)
    if n_rows > MOST_ROWS:
        raise BundleError(f"expected at most {MOST_ROWS} classes and looks; found {n_rows}; forget some classes")
    if feature_map.n_inputs > MOST_FEATURES:
        raise BundleError(f"expected at most {MOST_FEATURES} features; found {feature_map.n_inputs}; cut the backbone")
    for name in head.classes:
        if "\0" in name or len(_utf8(name)) == 0:
            raise BundleError(f"class {name!r}: a zero byte ends a name; learn it under another name")


def float_blob(head: Head, feature_map: FeatureMap, features: Grid, facts: Facts) -> Blob:
    """Return the blob of float32 rows; it has no canaries yet.

    Args:
        head: linear or cosine.
        feature_map: before it.
        features: the grid that canaries lie on.
        facts: of the blob.

    Raises:
        BundleError: no blob can hold the head.
    """
    check_head(head, feature_map, is_int8=False)
    weights, bias = head.rows
    owners: Ints = np.zeros(0, np.int64)
    if head.looks is not None:
        weights, bias = np.concatenate([weights, head.looks.weights]), np.concatenate([bias, head.looks.bias])
        owners = head.looks.owners
    return Blob(
        **vars(facts),
        classes=head.classes,
        rows=weights.astype(np.float32),
        scales=np.zeros(0, np.float32),
        bias=bias.astype(np.float32),
        owners=owners,
        canaries=np.zeros((0, feature_map.n_inputs), np.int8),
        answers=np.zeros(0, np.int64),
        feature_scale=features.scale,
        feature_zero=features.zero,
        is_raised=feature_map.is_raised,
        is_unit=feature_map.is_unit,
    )


def int8_blob(head: Head, feature_map: FeatureMap, features: Grid, facts: Facts) -> Blob:
    """Return the blob of int8 rows; see `float_blob`.

    Raises:
        BundleError: no blob can hold the head.
    """
    check_head(head, feature_map, is_int8=True)
    exact = float_blob(head, feature_map, features, facts)
    table, inputs = _table_of(features) if feature_map.is_raised else (None, features)
    rows, scales = quantise_rows(exact.rows)
    with np.errstate(over="ignore", under="ignore"):
        is_free = ~rows.any(axis=1) & (exact.bias != 0)
        of_row = np.where(is_free, np.abs(exact.bias) / np.float64(FREE_BIAS) / inputs.scale, scales)
        steps = (of_row * inputs.scale).astype(np.float32)  # what a unit of a row's sum is worth
    _check_steps(steps, exact)
    bias = np.rint(exact.bias.astype(np.float64) / steps) - inputs.zero * rows.sum(axis=1, dtype=np.int64)
    largest = np.abs(rows.astype(np.int64)).sum(axis=1) * -LOWEST + np.abs(bias)
    if (largest > LARGEST_SUM).any():
        raise BundleError(f"{_whose(exact, largest.argmax())}: its bias does not fit 32 bits as int8; {AS_FLOATS}")
    return replace(
        exact,
        rows=rows,
        scales=steps,
        bias=bias.astype(np.int32),
        input_scale=inputs.scale,
        input_zero=inputs.zero,
        table=table,
        is_raised=False,
    )


def _table_of(features: Grid) -> tuple[Int8, Grid]:
    """Return the input for each int8 feature, where features are raised to 3/4, and the grid of the inputs."""
    raised = _raised(features)
    inputs = Grid.over(float(raised[0]), float(raised[-1]))
    return inputs.nearest(raised), inputs


def _raised(features: Grid) -> Floats:
    """Return what each int8 feature (256,) is, raised to 3/4."""
    return FeatureMap(1, is_raised=True).apply(features.values[:, None])[:, 0]


def _check_steps(steps: Floats, exact: Blob) -> None:
    """Refuse rows so small or large that float32 does not hold what a unit is worth.

    Raises:
        BundleError: there is one.
    """
    is_odd = ~(steps >= TINY) | ~np.isfinite(steps)
    is_odd &= exact.rows.any(axis=1) | (exact.bias != 0)
    if is_odd.any():
        row = int(np.flatnonzero(is_odd)[0])
        raise BundleError(f"{_whose(exact, row)}: its weights are too small or large for int8; {AS_FLOATS}")
    steps[~(steps >= TINY)] = TINY  # a row of zeros


def _whose(blob: Blob, row: Any) -> str:
    n_classes = len(blob.classes)
    return f"class {blob.classes[row if row < n_classes else blob.owners[row - n_classes]]!r}"


def to_head(blob: Blob) -> tuple[Head, FeatureMap]:
    """Return the head of a blob, its rows as floats, and the feature map before it.

    Raises:
        BundleError: its table is not that of a feature map, or its numbers are none.
    """
    rows, bias = _exact_rows(blob)
    is_raised = blob.is_raised
    if blob.table is not None:
        wanted = Grid(blob.input_scale, blob.input_zero).nearest(_raised(Grid(blob.feature_scale, blob.feature_zero)))
        if np.abs(wanted.astype(np.int64) - blob.table).max() > 1:
            raise BundleError("blob: its table is not that of the power 3/4; pack it again")
        is_raised = True
    if not (np.isfinite(rows).all() and np.isfinite(bias).all()):
        raise BundleError("blob: expected finite weights; found others; pack it again")
    n_classes, looks = len(blob.classes), None
    if len(blob.owners):
        order = np.argsort(blob.owners, kind="stable")
        looks = LookRows(blob.owners[order], rows[n_classes:][order], bias[n_classes:][order])
    kind = "cosine" if blob.is_unit else "linear"
    head = Head(blob.classes, rows[:n_classes], bias[:n_classes], kind, looks=looks)
    return head, FeatureMap(blob.dim, is_unit=blob.is_unit, is_raised=is_raised)


def _exact_rows(blob: Blob) -> tuple[Floats, NDArray[Any]]:
    """Return rows (R, D) and bias (R,) float32."""
    if not blob.is_int8:
        return blob.rows.astype(np.float32), blob.bias.astype(np.float32)
    steps = blob.scales.astype(np.float64)
    with np.errstate(all="ignore"):
        rows = blob.rows * (steps / blob.input_scale)[:, None]
        bias = (blob.bias + blob.input_zero * blob.rows.sum(axis=1, dtype=np.float64)) * steps
        return rows.astype(np.float32), bias.astype(np.float32)


def _utf8(text: str) -> bytes:
    """Return a text's bytes.

    Raises:
        BundleError: it has none in UTF-8.
    """
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise BundleError(f"{text!r}: is no text of UTF-8; choose another name") from None
