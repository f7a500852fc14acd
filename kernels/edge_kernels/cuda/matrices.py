"""Matrix products: torch's for tensors, plain kernels for other arrays; and sums of them over blocks of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from edge_kernels.cuda.launch import Place, dtype_of, spans
from edge_kernels.cuda.target import TILE, cuda

SCRATCH_BYTES = 6 << 20  # of the 8 MiB that a call may take; callers keep the rest for what they decode
TILE_ROWS = 256  # of a product at a time
PADDED = TILE + 1  # columns of a tile in shared memory: no two threads of a column wait for the same bank

VIEW_ROWS = 8192  # of a product whose matrices need no scratch: few enough for float32 sums

# Rows and columns, and scratch of that shape, to the block of the left matrix
Left = Callable[[slice, slice, Any], Any]
Right = Callable[[slice, Any], Any]  # rows, and scratch for them, to the block of the right matrix


def multiply(place: Place, left: Any, right: Any, out: Any, *, form: str = "NN", keeps: bool = False) -> None:
    """Write a product of matrices, which are all float32 or all float64.

    Args:
        place: of the matrices.
        left: (A, B), or (B, A) where the form says T.
        right: (B, C), or (C, B) where the form says T.
        out: (A, C).
        form: N or T, for transposed, of the left and the right matrix.
        keeps: whether the product is added to what is there.
    """
    flips_left, flips_right = form[0] == "T", form[1] == "T"
    if place.like is not None:
        with exact_products():
            out.addmm_(left.T if flips_left else left, right.T if flips_right else right, beta=int(keeps))
    elif dtype_of(out) == "float64":
        place.launch(_multiply_wide, out.size, left, right, out, (flips_left, flips_right, keeps))
    elif out.size:
        blocks = (-(-out.shape[1] // TILE), -(-out.shape[0] // TILE))
        place.start(_multiply_tiles, blocks, (TILE, TILE), left, right, out, (flips_left, flips_right, keeps))


def add_products(place: Place, out: Any, n_rows: int, left: Left, right: Right, *, has_scratch: bool = True) -> None:
    """Write the product `left^T right`, of matrices that are made block by block.

    Args:
        place: of the matrices.
        out: (K, D) float32.
        n_rows: N, at least 1.
        left: makes blocks of the left matrix (N, K), float32.
        right: makes blocks of the right matrix (N, D), float32.
        has_scratch: whether they are made, in scratch; or only seen where they are, many rows at a time.
    """
    n_classes, dim = out.shape
    height = max(1, min(n_classes, TILE_ROWS, SCRATCH_BYTES // (16 * max(dim, 1))))  # at most half of the scratch
    step = max((SCRATCH_BYTES - 8 * height * dim) // (4 * (dim + height + 1)), 1)
    step = min(step if has_scratch else max(step, VIEW_ROWS), n_rows)
    lefts, rights = (place.empty(step if has_scratch else 0, width) for width in (height, dim))
    part, lost = (place.empty(height if step < n_rows else 0, dim) for _ in range(2))
    for columns in spans(n_classes, height):
        width, sums = columns.stop - columns.start, out[columns]
        for rows in spans(n_rows, step):
            size, is_first = rows.stop - rows.start, rows.start == 0
            ready = left(rows, columns, lefts[:size, :width]), right(rows, rights[:size])
            if step == n_rows:
                multiply(place, *ready, sums, form="TN")
            else:
                multiply(place, *ready, part[:width], form="TN")
                place.launch(_add_kept, width * dim, part[:width], sums, lost[:width], is_first)


def add_square(place: Place, out: Any, rows: Any, sign: int, part: Any) -> None:
    """Add `sign rows^T rows` to a matrix (D, D), of any type, through the scratch `part` of D columns."""
    for columns in spans(out.shape[0], part.shape[0]):
        tile = part[: columns.stop - columns.start]
        multiply(place, rows[:, columns], rows, tile, form="TN")
        place.launch(add_part, out.shape[1] * tile.shape[0], tile, out[columns], np.float32(sign))


def mirror(place: Place, matrix: Any) -> None:
    """Make a matrix (D, D) symmetric to the last bit: what is above the diagonal becomes what is below."""
    place.launch(_mirror, matrix.shape[0] * matrix.shape[1], matrix)


@contextmanager
def exact_products() -> Iterator[None]:
    """Keep torch from TF32, whose 10 bits are not float32's, where its user has allowed it."""
    import torch

    settings: Any = torch.backends.cuda.matmul
    name, exact = ("fp32_precision", "ieee") if hasattr(settings, "fp32_precision") else ("allow_tf32", False)
    before = getattr(settings, name)
    if before in {"ieee", "none", False}:
        yield
        return
    setattr(settings, name, exact)
    try:
        yield
    finally:
        setattr(settings, name, before)


@cuda.jit
def _add_kept(part, sums, lost, is_first):  # type: ignore[no-untyped-def]
    for t in range(cuda.grid(1), part.size, cuda.gridsize(1)):
        k, d = divmod(t, part.shape[1])
        if is_first:
            sums[k, d], lost[k, d] = part[k, d], 0
        else:
            term = part[k, d] - lost[k, d]  # Kahan 1965: what a sum loses is kept for the next one
            total = sums[k, d] + term
            lost[k, d] = (total - sums[k, d]) - term
            sums[k, d] = total


@cuda.jit
def add_part(part, out, sign):  # type: ignore[no-untyped-def]
    """Add `sign part` to a matrix."""
    for t in range(cuda.grid(1), part.size, cuda.gridsize(1)):
        k, d = divmod(t, part.shape[1])
        out[k, d] += sign * part[k, d]


@cuda.jit
def divide(out, divisor):  # type: ignore[no-untyped-def]
    """Divide a matrix by a number."""
    for t in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        k, d = divmod(t, out.shape[1])
        out[k, d] /= divisor


@cuda.jit
def _mirror(matrix):  # type: ignore[no-untyped-def]
    for t in range(cuda.grid(1), matrix.size, cuda.gridsize(1)):
        d, e = divmod(t, matrix.shape[1])
        if e > d:
            matrix[d, e] = matrix[e, d]


@cuda.jit
def _multiply_wide(left, right, out, form):  # type: ignore[no-untyped-def]
    flips_left, flips_right, keeps = form
    n_terms = left.shape[0] if flips_left else left.shape[1]
    for t in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        a, c = divmod(t, out.shape[1])
        total = out[a, c] if keeps else np.float64(0)
        for b in range(n_terms):
            total += (left[b, a] if flips_left else left[a, b]) * (right[c, b] if flips_right else right[b, c])
        out[a, c] = total


@cuda.jit
def _multiply_tiles(left, right, out, form):  # type: ignore[no-untyped-def]
    lefts = cuda.shared.array((TILE, PADDED), np.float32)
    rights = cuda.shared.array((TILE, PADDED), np.float32)
    flips_left, flips_right, keeps = form
    n_terms = left.shape[0] if flips_left else left.shape[1]
    x, y, first_a, first_c = cuda.threadIdx.x, cuda.threadIdx.y, cuda.blockIdx.y * TILE, cuda.blockIdx.x * TILE
    total = np.float32(0)
    for first in range(0, n_terms, TILE):  # neighbouring threads read neighbours, whatever the form
        a, b = (first_a + x, first + y) if flips_left else (first_a + y, first + x)
        value = np.float32(0)
        if a < out.shape[0] and b < n_terms:
            value = left[b, a] if flips_left else left[a, b]
        lefts[a - first_a, b - first] = value
        b, c = (first + x, first_c + y) if flips_right else (first + y, first_c + x)
        value = np.float32(0)
        if b < n_terms and c < out.shape[1]:
            value = right[c, b] if flips_right else right[b, c]
        rights[b - first, c - first_c] = value
        cuda.syncthreads()
        for b in range(TILE):
            total += lefts[y, b] * rights[b, x]
        cuda.syncthreads()
    a, c = first_a + y, first_c + x
    if a < out.shape[0] and c < out.shape[1]:
        out[a, c] = total + out[a, c] if keeps else total
