"""Codecs of one scale for each vector on a GPU; see `reference.scalars` for the table and the arguments."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edge_kernels.arrays import KernelError, Shapes
from edge_kernels.cuda.halves import NEGATIVE, half_above, half_value
from edge_kernels.cuda.launch import DeviceArray, dtype_of, settle
from edge_kernels.cuda.target import ROW_THREADS, cuda


def encode_int8(features: DeviceArray) -> tuple[DeviceArray, DeviceArray]:
    """See `reference.encode_int8`."""
    return _encode(features, 8)


def decode_int8(
    codes: DeviceArray, scales: DeviceArray, rows: DeviceArray, *, out: DeviceArray | None = None
) -> DeviceArray:
    """See `reference.decode_int8`; a row that is not there is a row of NaN."""
    return _decode(codes, scales, rows, dim=None, out=out)


def encode_int4(features: DeviceArray) -> tuple[DeviceArray, DeviceArray]:
    """See `reference.encode_int4`."""
    return _encode(features, 4)


def decode_int4(
    codes: DeviceArray, scales: DeviceArray, rows: DeviceArray, *, dim: int, out: DeviceArray | None = None
) -> DeviceArray:
    """See `reference.decode_int4`; a row that is not there is a row of NaN."""
    return _decode(codes, scales, rows, dim=dim, out=out)


def _encode(features: Any, n_bits: int) -> tuple[Any, Any]:
    place, (x,) = settle(features=features)
    Shapes().check("features", x, "N D")
    n_samples, dim = x.shape
    codes = place.empty(n_samples, dim if n_bits == 8 else (dim + 1) // 2, dtype="uint8")
    scales = place.empty(n_samples, dtype="float16")
    for rows, block in place.blocks(x):
        place.launch_rows(_encode_rows, len(block), block, n_bits, codes[rows], scales[rows])
    return codes, scales


def _decode(codes: Any, scales: Any, rows: Any, *, dim: int | None, out: Any) -> Any:
    place, (codes, scales, rows, out) = settle(codes=codes, scales=scales, rows=rows, out=out)
    shapes = Shapes() if dim is None else Shapes(D=dim, H=(dim + 1) // 2)
    shapes.check("codes", codes, "N D" if dim is None else "N H", "u1")
    shapes.check("scales", scales, "N")
    if dtype_of(scales) != "float16":
        raise KernelError(f"scales: expected (N,) float16; found shape {tuple(scales.shape)} {dtype_of(scales)}")
    shapes.check("rows", rows, "B", "iu")
    if out is None:
        out = place.empty(len(rows), shapes.sizes["D"])
    shapes.check("out", out, "B D", "f4")
    kernel = _decode_bytes if dim is None else _decode_nibbles
    place.launch(kernel, out.shape[0] * out.shape[1], codes, scales, rows, out)
    return out


@cuda.jit(device=True)
def _code(value, step, mask):  # type: ignore[no-untyped-def]
    """Return the nearest multiple of the step, of two the even one, in the bits of the mask."""
    size = abs(value)
    count = np.int64(math.floor(size / step))
    rest = size - count * step if count else size  # the step may be infinite
    if rest > step / 2 or (rest == step / 2 and count & 1):
        count += 1
    return (count if value > 0 else -count) & mask


@cuda.jit
def _encode_rows(features, n_bits, codes, scales):  # type: ignore[no-untyped-def]
    """Encode each row by a block of threads."""
    shared = cuda.shared.array((2, ROW_THREADS), np.float64)
    n, t, dim = cuda.blockIdx.x, cuda.threadIdx.x, features.shape[1]
    lowest, highest = 0.0, 0.0
    for d in range(t, dim, ROW_THREADS):
        lowest, highest = min(lowest, features[n, d]), max(highest, features[n, d])
    shared[0, t], shared[1, t] = lowest, highest
    cuda.syncthreads()
    for s in range(ROW_THREADS):
        lowest, highest = min(lowest, shared[0, s]), max(highest, shared[1, s])
    mask = (1 << n_bits) - 1
    top = mask >> 1 if lowest < 0 else mask
    scale = half_above(np.float64(max(-lowest, highest)) / top)  # up: the largest value fits
    step = half_value(scale) if scale else np.float32(1)
    if t == 0:
        scales[n] = scale if lowest < 0 else scale | NEGATIVE
    per_byte = 8 // n_bits
    for column in range(t, codes.shape[1], ROW_THREADS):
        byte = 0
        for part in range(per_byte):
            d = column * per_byte + part
            if d < dim:
                byte |= _code(features[n, d], step, mask) << (n_bits * part)
        codes[n, column] = byte


@cuda.jit
def _decode_bytes(codes, scales, rows, out):  # type: ignore[no-untyped-def]
    for t in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        b, d = divmod(t, out.shape[1])
        n = rows[b]
        value = np.float32(math.nan)
        if 0 <= n < codes.shape[0]:
            scale, code = half_value(scales[n]), np.int64(codes[n, d])
            value = abs(scale) * np.float32(code - 256 if scale > 0 and code > 127 else code)
        out[b, d] = value


@cuda.jit
def _decode_nibbles(codes, scales, rows, out):  # type: ignore[no-untyped-def]
    for t in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        b, d = divmod(t, out.shape[1])
        n = rows[b]
        value = np.float32(math.nan)
        if 0 <= n < codes.shape[0]:
            scale, code = half_value(scales[n]), (np.int64(codes[n, d // 2]) >> (4 * (d & 1))) & 15
            value = abs(scale) * np.float32(code - 16 if scale > 0 and code > 7 else code)
        out[b, d] = value
