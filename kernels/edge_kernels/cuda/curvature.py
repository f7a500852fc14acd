"""Fisher matrices beyond the diagonal on a GPU; see `reference.curvature` for the arguments."""

from __future__ import annotations

from typing import Any

from edge_kernels.arrays import Shapes
from edge_kernels.cuda import matrices
from edge_kernels.cuda.fisher import ones, spread
from edge_kernels.cuda.launch import DeviceArray, Place, dtype_of, settle, spans
from edge_kernels.cuda.target import cuda

FACTOR_ROWS = 256  # of a product with a factor at a time


def second_moment(features: DeviceArray) -> DeviceArray:
    """See `reference.second_moment`."""
    place, (x,) = settle(features=features)
    _check_rows("features", x, "N D")
    out = place.empty(x.shape[1], x.shape[1])
    _add_gram(place, out, x)
    place.launch(matrices.divide, out.shape[0] ** 2, out, float(len(x)))
    matrices.mirror(place, out)
    return out


def label_covariance(probabilities: DeviceArray) -> DeviceArray:
    """See `reference.label_covariance`."""
    place, (p,) = settle(probabilities=probabilities)
    _check_rows("probabilities", p, "N K")
    n_classes = p.shape[1]

    def variances(rows: slice, out: Any) -> Any:
        for part, block in place.blocks(p[rows]):
            place.launch(spread, len(block) * n_classes, block, out[part])
        return out

    diagonal, out = place.empty(1, n_classes), place.empty(n_classes, n_classes)
    matrices.add_products(place, diagonal, len(p), ones(place), variances)
    _add_gram(place, out, p)
    place.launch(_finish_covariance, n_classes**2, diagonal, out, float(len(p)))
    matrices.mirror(place, out)
    return out


def kronecker_product(weights: DeviceArray, *, label_factor: DeviceArray, feature_factor: DeviceArray) -> DeviceArray:
    """See `reference.kronecker_product`."""
    place, (w, labels, features) = settle(weights=weights, label_factor=label_factor, feature_factor=feature_factor)
    shapes = Shapes()
    for name, array, shape in (
        ("weights", w, "K D"),
        ("label_factor", labels, "K K"),
        ("feature_factor", features, "D D"),
    ):
        shapes.check(name, array, shape)
    (n_classes, dim), out = w.shape, place.empty(*w.shape)
    height = max(1, min(FACTOR_ROWS, n_classes, matrices.SCRATCH_BYTES // (4 * (2 * dim + n_classes + 1))))
    half, scratch, tile = place.empty(height, dim), place.empty(height, dim), place.empty(height, n_classes)
    for rows in spans(n_classes, height):
        size = rows.stop - rows.start
        _multiply_blocks(place, place.single(labels[rows], tile[:size]), w, half[:size], scratch)
        _multiply_blocks(place, half[:size], features, out[rows], scratch)
    return out


def _multiply_blocks(place: Place, left: Any, right: Any, out: Any, scratch: Any) -> None:
    """Write the product of float32 with a matrix of any type, of which as many rows are cast as the scratch has."""
    for rows in spans(len(right), len(right) if dtype_of(right) == "float32" else len(scratch)):
        block = place.single(right[rows], scratch[: rows.stop - rows.start])
        matrices.multiply(place, left[:, rows], block, out, keeps=rows.start > 0)


def _add_gram(place: Place, out: Any, rows_of: Any) -> None:
    """Write `X^T X` of a matrix (N, D) of any type."""

    def left(rows: slice, columns: slice, scratch: Any) -> Any:
        return place.single(rows_of[rows, columns], scratch)

    def right(rows: slice, scratch: Any) -> Any:
        return place.single(rows_of[rows], scratch)

    is_cast = dtype_of(rows_of) != "float32"
    matrices.add_products(place, out, len(rows_of), left, right, has_scratch=is_cast)


def _check_rows(name: str, array: Any, shape: str) -> None:
    shapes = Shapes()
    shapes.check(name, array, shape)
    shapes.need_rows(name)


@cuda.jit
def _finish_covariance(diagonal, out, n_samples):  # type: ignore[no-untyped-def]
    for t in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        k, other = divmod(t, out.shape[1])
        if k == other:  # the mean of p (1 - p); its difference of two means would lose a confident head's digits
            out[k, k] = diagonal[0, k] / n_samples
        else:
            out[k, other] /= -n_samples  # Martens 2015, eq. 1, at the output layer
