"""Product quantisation on a GPU; see `reference.product` for the arguments."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edge_kernels.arrays import KernelError, Shapes
from edge_kernels.cuda.launch import DeviceArray, Place, is_half, settle, spans
from edge_kernels.cuda.target import cuda
from edge_kernels.reference.product import start_rows

CODE_BYTES = 1 << 20  # of the codes that training looks at together


def train_pq(
    features: DeviceArray, *, n_subspaces: int, n_codewords: int = 256, n_steps: int = 10, seed: int = 0
) -> DeviceArray:
    """See `reference.train_pq`.

    Raises:
        KernelError: D cannot be cut into as many parts, or a code would not fit its byte.
    """
    place, (x,) = settle(features=features)
    shapes = Shapes()
    shapes.check("features", x, "N D")
    shapes.need_rows("features")
    n_samples, dim = x.shape
    if not 1 <= n_subspaces <= dim or dim % n_subspaces:
        raise KernelError(f"n_subspaces: expected a divisor of D = {dim}; found {n_subspaces}")
    if not 1 <= n_codewords <= 256:
        raise KernelError(f"n_codewords: expected 1 to 256, the values of a byte; found {n_codewords}")
    codebooks = place.empty(n_subspaces, n_codewords, dim // n_subspaces)
    drawn = place.send(start_rows(n_samples, n_codewords, seed))
    for rows, block in place.blocks(x):
        place.launch(_start, n_codewords * dim, block, drawn, rows.start, codebooks)
    for _ in range(n_steps):
        _improve(place, x, codebooks)
    return codebooks


def encode_pq(features: DeviceArray, codebooks: DeviceArray) -> DeviceArray:
    """See `reference.encode_pq`."""
    place, (x, codebooks) = settle(features=features, codebooks=codebooks)
    codebooks = _readable(place, codebooks)
    Shapes(D=codebooks.shape[0] * codebooks.shape[2]).check("features", x, "N D")
    codes = place.empty(len(x), codebooks.shape[0], dtype="uint8")
    for rows, block in place.blocks(x):
        place.launch(_assign, len(block) * codes.shape[1], block, codebooks, codes[rows])
    return codes


def decode_pq(
    codes: DeviceArray, codebooks: DeviceArray, rows: DeviceArray, *, out: DeviceArray | None = None
) -> DeviceArray:
    """See `reference.decode_pq`; a row that is not there is a row of NaN, and so is a codeword."""
    place, (codes, codebooks, rows, out) = settle(codes=codes, codebooks=codebooks, rows=rows, out=out)
    codebooks = _readable(place, codebooks)
    dim = codebooks.shape[0] * codebooks.shape[2]
    shapes = Shapes(M=codebooks.shape[0], D=dim)
    shapes.check("codes", codes, "N M", "u1")
    shapes.check("rows", rows, "B", "iu")
    if out is None:
        out = place.empty(len(rows), dim)
    shapes.check("out", out, "B D", "f4")
    place.launch(_decode, len(rows) * dim, codes, codebooks, rows, out)
    return out


def _improve(place: Place, features: Any, codebooks: Any) -> None:
    """Take a step of Lloyd's algorithm; without atomics, whose order would change the last bits from run to run."""
    n_subspaces, n_codewords, width = codebooks.shape
    sums = place.zeros(n_codewords, n_subspaces * width, dtype="float64")
    counts = place.zeros(n_codewords, n_subspaces, dtype="int64")
    step = max(1, min(len(features), CODE_BYTES // n_subspaces))
    codes = place.empty(step, n_subspaces, dtype="uint8")
    for few in spans(len(features), step):
        for rows, block in place.blocks(features[few]):
            part = codes[rows]
            place.launch(_assign, len(block) * n_subspaces, block, codebooks, part)
            place.launch(_sum, n_subspaces * width, block, part, sums, counts)
    place.launch(_average, n_codewords * n_subspaces * width, sums, counts, codebooks)


def _readable(place: Place, codebooks: Any) -> Any:
    Shapes().check("codebooks", codebooks, "M C W")
    if not is_half(codebooks):
        return codebooks
    decoded = place.empty(*codebooks.shape)
    for m in range(len(codebooks)):
        place.copy(codebooks[m], decoded[m])
    return decoded


@cuda.jit
def _start(features, drawn, first, codebooks):  # type: ignore[no-untyped-def]
    """Write the codewords that are drawn from a block of samples."""
    dim, width = features.shape[1], codebooks.shape[2]
    for t in range(cuda.grid(1), codebooks.size, cuda.gridsize(1)):
        c, d = divmod(t, dim)
        n = drawn[c] - first
        if 0 <= n < features.shape[0]:
            codebooks[d // width, c, d % width] = features[n, d]


@cuda.jit
def _assign(features, codebooks, codes):  # type: ignore[no-untyped-def]
    for t in range(cuda.grid(1), codes.size, cuda.gridsize(1)):
        n, m = divmod(t, codes.shape[1])
        first, nearest, best = m * codebooks.shape[2], 0, np.float32(math.inf)
        for c in range(codebooks.shape[1]):
            distance = np.float32(0)
            for d in range(codebooks.shape[2]):
                shift = np.float32(features[n, first + d] - codebooks[m, c, d])
                distance += shift * shift
            if distance < best:  # of equally near ones the first
                nearest, best = c, distance
        codes[n, m] = nearest


@cuda.jit
def _sum(features, codes, sums, counts):  # type: ignore[no-untyped-def]
    """Add a block of samples to the sums of their codewords, one thread for each value of a sample."""
    width = sums.shape[1] // codes.shape[1]
    for t in range(cuda.grid(1), sums.shape[1], cuda.gridsize(1)):
        m = t // width
        for n in range(features.shape[0]):
            sums[codes[n, m], t] += features[n, t]
            if t % width == 0:
                counts[codes[n, m], m] += 1


@cuda.jit
def _average(sums, counts, codebooks):  # type: ignore[no-untyped-def]
    for t in range(cuda.grid(1), sums.size, cuda.gridsize(1)):
        c, d = divmod(t, sums.shape[1])
        m, rest = divmod(d, codebooks.shape[2])
        if counts[c, m] > 0:
            codebooks[m, c, rest] = sums[c, d] / counts[c, m]


@cuda.jit
def _decode(codes, codebooks, rows, out):  # type: ignore[no-untyped-def]
    for t in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        b, d = divmod(t, out.shape[1])
        m, rest = divmod(d, codebooks.shape[2])
        out[b, d] = np.float32(math.nan)
        if 0 <= rows[b] < codes.shape[0] and codes[rows[b], m] < codebooks.shape[1]:
            out[b, d] = codebooks[m, codes[rows[b], m], rest]
