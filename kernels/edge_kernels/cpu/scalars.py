"""Codecs of one scale for each vector, decoded while they are gathered."""

from __future__ import annotations

import numpy as np

from edge_kernels.arrays import Codes, Floats, HostShapes, Ints, KernelError
from edge_kernels.cpu.blocks import float_blocks, rows_of
from edge_kernels.cpu.compiled import compiled
from edge_kernels.cpu.gather import check_gather


def encode_int8(features: Floats) -> tuple[Codes, Floats]:
    """See reference.encode_int8."""
    return _encode(features, 8)


def decode_int8(codes: Codes, scales: Floats, rows: Ints, *, out: Floats | None = None) -> Floats:
    """See reference.decode_int8."""
    shapes = HostShapes()
    shapes.check("codes", codes, "N D", "u1")
    places, decoded, sizes, flips = _prepare(shapes, scales, rows, out)
    _decode_bytes(codes, sizes, flips << 7, places, decoded)
    return decoded


def encode_int4(features: Floats) -> tuple[Codes, Floats]:
    """See reference.encode_int4."""
    return _encode(features, 4)


def decode_int4(codes: Codes, scales: Floats, rows: Ints, *, dim: int, out: Floats | None = None) -> Floats:
    """See reference.decode_int4."""
    shapes = HostShapes(D=dim, bytes=(dim + 1) // 2)
    shapes.check("codes", codes, "N bytes", "u1")
    places, decoded, sizes, flips = _prepare(shapes, scales, rows, out)
    _decode_halves(codes, sizes, flips << 3, places, decoded)
    return decoded


def _encode(features: Floats, n_bits: int) -> tuple[Codes, Floats]:
    """Return codes and scales.

    Raises:
        KernelError: a value is not finite, or beyond what a float16 scale reaches.
    """
    HostShapes().check("features", features, "N D")
    n_rows, dim = features.shape
    codes, scales = np.empty((n_rows, (dim * n_bits + 7) // 8), np.uint8), np.empty(n_rows, np.float16)
    for block, x in float_blocks(features, rows_of(dim)):
        low, high = x.min(axis=1, initial=0), x.max(axis=1, initial=0)
        is_signed = low < 0
        top = np.where(is_signed, 2 ** (n_bits - 1) - 1, 2**n_bits - 1)
        exact = np.maximum(-low, high).astype(np.float64) / top
        bad = np.flatnonzero(~(exact <= np.finfo(np.float16).max))
        if len(bad):
            where = f"features: row {block.start + bad[0]} of shape {features.shape} {features.dtype}"
            raise KernelError(
                f"{where}: expected finite values up to {65504 * top[bad[0]]}, as a float16 scale reaches; found "
                f"{low[bad[0]]} to {high[bad[0]]}; divide the features first"
            )
        rounded = exact.astype(np.float16)
        rounded = np.where(rounded < exact, np.nextafter(rounded, np.float16(np.inf)), rounded)
        scales[block] = np.where(is_signed, rounded, -rounded)
        steps = np.where(rounded == 0, 1, rounded).astype(np.float64)
        (_encode_bytes if n_bits == 8 else _encode_halves)(x, steps, codes[block])
    return codes, scales


def _prepare(shapes: HostShapes, scales: Floats, rows: Ints, out: Floats | None) -> tuple[Ints, Floats, Floats, Ints]:
    """Return `check_gather`'s, the sizes (B,) of the scales, and (B,) 1 where codes are signed."""
    shapes.check("scales", scales, "N")
    places, decoded = check_gather(shapes, rows, out)
    taken = scales[places].astype(np.float32)
    return places, decoded, np.abs(taken), (taken > 0).astype(np.int32)


@compiled
def _encode_bytes(x, steps, codes):  # type: ignore[no-untyped-def]
    for n in range(x.shape[0]):
        for d in range(x.shape[1]):
            codes[n, d] = np.int32(np.rint(x[n, d] / steps[n])) & 255


@compiled
def _encode_halves(x, steps, codes):  # type: ignore[no-untyped-def]
    for n in range(x.shape[0]):
        for d in range(x.shape[1] // 2):
            low, high = np.rint(x[n, 2 * d] / steps[n]), np.rint(x[n, 2 * d + 1] / steps[n])
            codes[n, d] = (np.int32(low) & 15) | (np.int32(high) & 15) << 4
        if x.shape[1] % 2:
            codes[n, x.shape[1] // 2] = np.int32(np.rint(x[n, x.shape[1] - 1] / steps[n])) & 15


@compiled
def _decode_bytes(codes, sizes, flips, rows, decoded):  # type: ignore[no-untyped-def]
    for b in range(rows.shape[0]):
        row, size, flip = rows[b], sizes[b], flips[b]
        for d in range(decoded.shape[1]):
            decoded[b, d] = np.float32((np.int32(codes[row, d]) ^ flip) - flip) * size


@compiled
def _decode_halves(codes, sizes, flips, rows, decoded):  # type: ignore[no-untyped-def]
    for b in range(rows.shape[0]):
        row, size, flip = rows[b], sizes[b], flips[b]
        for d in range(decoded.shape[1] // 2):
            code = np.int32(codes[row, d])
            decoded[b, 2 * d] = np.float32(((code & 15) ^ flip) - flip) * size
            decoded[b, 2 * d + 1] = np.float32(((code >> 4) ^ flip) - flip) * size
        if decoded.shape[1] % 2:
            code = np.int32(codes[row, decoded.shape[1] // 2])
            decoded[b, decoded.shape[1] - 1] = np.float32(((code & 15) ^ flip) - flip) * size
