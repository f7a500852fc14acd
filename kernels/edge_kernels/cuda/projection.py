"""Codes of the leading directions of a covariance on a GPU; see `reference.projection` for the arguments."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edge_kernels.arrays import KernelError, Shapes
from edge_kernels.cuda import target
from edge_kernels.cuda.launch import DeviceArray, settle, spans
from edge_kernels.cuda.matrices import multiply
from edge_kernels.cuda.target import cuda
from edge_kernels.reference import projection as reference
from edge_kernels.reference.projection import GAUSSIAN_STEPS, Projection, allocate_bits

BLOCK_BYTES = 4 << 20  # of samples and their levels at a time


def fit_projection(centre: DeviceArray, covariance: DeviceArray, *, n_bytes: int) -> Projection:
    """See `reference.fit_projection`; it waits for the device, and the factorisation takes memory of its own.

    Raises:
        KernelError: there is no byte.
    """
    place, (centre, covariance) = settle(centre=centre, covariance=covariance)
    shapes = Shapes()
    shapes.check("centre", centre, "D")
    shapes.check("covariance", covariance, "D D")
    if n_bytes < 1:
        raise KernelError(f"n_bytes: expected at least 1; found {n_bytes}")
    if place.like is None:
        host = target.to_host(centre), target.to_host(covariance)
        return Projection(*map(place.send, reference.fit_projection(*host, n_bytes=n_bytes)))
    import torch

    variances, directions = torch.linalg.eigh(covariance.double())
    shares = target.to_host(variances.flip(0).clamp(min=0))
    bits = allocate_bits(shares, n_bits=8 * n_bytes)
    taken = np.flatnonzero(bits)
    basis = directions.T.flip(0)[place.send(taken)]
    if len(taken):
        basis = basis * basis.gather(1, basis.abs().argmax(dim=1, keepdim=True)).sign()  # eigh leaves the sign open
    steps = np.asarray(GAUSSIAN_STEPS)[bits[taken] - 1] * np.sqrt(shares[taken])
    steps = np.maximum(steps, np.finfo(np.float32).tiny)
    of_codes = place.send(steps.astype(np.float32)), place.send(bits[taken].astype(np.uint8))
    return Projection(basis.float().contiguous(), centre.to(torch.float32, copy=True), *of_codes)


def encode_projection(features: DeviceArray, projection: Projection) -> DeviceArray:
    """See `reference.encode_projection`; it waits for the device, which knows how many bytes a code has."""
    place, (x, *parts) = settle(features=features, **projection._asdict())
    Shapes(D=_dim(parts)).check("features", x, "N D")
    basis, centre, steps, bits = parts
    codes = place.empty(len(x), -(-int(target.to_host(bits).sum()) // 8), dtype="uint8")
    step = _block_rows(parts)
    shifted, values = place.empty(min(step, len(x)), x.shape[1]), place.empty(min(step, len(x)), len(basis))
    for rows in spans(len(x), step):
        size = rows.stop - rows.start
        place.launch(_shift, size * x.shape[1], place.readable(x[rows]), centre, shifted[:size])
        multiply(place, shifted[:size], basis, values[:size], form="NT")
        place.launch(_pack, size * min(codes.shape[1], 1), values[:size], steps, bits, codes[rows])
    return codes


def decode_projection(
    codes: DeviceArray, projection: Projection, rows: DeviceArray, *, out: DeviceArray | None = None
) -> DeviceArray:
    """See `reference.decode_projection`; a row that is not there is a row of NaN."""
    place, (codes, rows, out, *parts) = settle(codes=codes, rows=rows, out=out, **projection._asdict())
    shapes = Shapes(D=_dim(parts))
    shapes.check("codes", codes, "N bytes", "u1")
    shapes.check("rows", rows, "B", "iu")
    if out is None:
        out = place.empty(len(rows), shapes.sizes["D"])
    shapes.check("out", out, "B D", "f4")
    basis, centre, steps, bits = parts
    step = _block_rows(parts)
    values = place.empty(min(step, len(rows)), len(basis))
    for few in spans(len(rows), step):
        size = few.stop - few.start
        place.launch(_unpack, size, codes, rows[few], steps, bits, values[:size])
        multiply(place, values[:size], basis, out[few])
        place.launch(_finish, size * out.shape[1], codes, rows[few], centre, out[few])
    return out


def _dim(parts: list[Any]) -> int:
    """Check a projection, and return the dimension that it is of."""
    shapes = Shapes()
    for name, shape, kind, part in zip(
        ("projection.basis", "projection.centre", "projection.steps", "projection.bits"),
        ("R D", "D", "R", "R"),
        ("f4", "f4", "f4", "u1"),
        parts,
        strict=True,
    ):
        shapes.check(name, part, shape, kind)
    return shapes.sizes["D"]


def _block_rows(parts: list[Any]) -> int:
    n_directions, dim = parts[0].shape
    row_bytes: int = 4 * max(2 * dim + n_directions, 1)
    return max(1, BLOCK_BYTES // row_bytes)


@cuda.jit
def _shift(features, centre, out):  # type: ignore[no-untyped-def]
    for t in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        n, d = divmod(t, out.shape[1])
        out[n, d] = features[n, d] - centre[d]


@cuda.jit
def _pack(values, steps, bits, codes):  # type: ignore[no-untyped-def]
    """Write the code of each row, by one thread: the lowest bit of the first number first."""
    for n in range(cuda.grid(1), codes.shape[0], cuda.gridsize(1)):
        waiting, n_waiting, column = 0, 0, 0
        for r in range(values.shape[1]):
            n_bits = np.int64(bits[r])
            level, top = values[n, r] / steps[r] + (1 << (n_bits - 1)), (1 << n_bits) - 1
            if level > 0:
                waiting |= np.int64(math.floor(min(level, top))) << n_waiting
            n_waiting += n_bits
            if n_waiting >= 8:
                codes[n, column] = waiting & 255
                waiting, n_waiting, column = waiting >> 8, n_waiting - 8, column + 1
        if n_waiting > 0:
            codes[n, column] = waiting


@cuda.jit
def _unpack(codes, rows, steps, bits, out):  # type: ignore[no-untyped-def]
    """Write the values of some rows along the directions, one thread for each row."""
    for b in range(cuda.grid(1), out.shape[0], cuda.gridsize(1)):
        waiting, n_waiting, column = np.int64(0), 0, 0
        for r in range(out.shape[1]):
            n_bits = np.int64(bits[r])
            if n_waiting < n_bits:
                if 0 <= rows[b] < codes.shape[0] and column < codes.shape[1]:
                    waiting |= np.int64(codes[rows[b], column]) << n_waiting
                n_waiting, column = n_waiting + 8, column + 1
            level = waiting & ((1 << n_bits) - 1)
            out[b, r] = (level + 0.5 - (1 << (n_bits - 1))) * steps[r]
            waiting, n_waiting = waiting >> n_bits, n_waiting - n_bits


@cuda.jit
def _finish(codes, rows, centre, out):  # type: ignore[no-untyped-def]
    for t in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        b, d = divmod(t, out.shape[1])
        if 0 <= rows[b] < codes.shape[0]:
            out[b, d] += centre[d]
        else:
            out[b, d] = np.float32(math.nan)
