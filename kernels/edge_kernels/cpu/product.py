"""Product quantisation: many rows side by side against one codeword, so that no minimum is sought within a vector."""

from __future__ import annotations

import numpy as np

from edge_kernels.arrays import Codes, Floats, Ints, KernelError, Shapes
from edge_kernels.cpu.blocks import float_blocks, on_threads, row_slices, rows_of
from edge_kernels.cpu.compiled import compiled
from edge_kernels.cpu.scalars import check_gather
from edge_kernels.reference.product import start_rows

LANES = 256  # rows compared with a codeword at a time: their distances stay in the first-level cache
THREAD_WORK = 1 << 22  # comparisons of single values that are worth a thread of its own


def train_pq(features: Floats, *, n_subspaces: int, n_codewords: int = 256, n_steps: int = 10, seed: int = 0) -> Floats:
    """See reference.train_pq.

    Raises:
        KernelError: the features, the subspaces or the codewords do not fit.
    """
    shapes = Shapes()
    shapes.check("features", features, "N D")
    shapes.need_rows("features")
    dim = features.shape[1]
    if not 1 <= n_subspaces <= dim or dim % n_subspaces:
        raise KernelError(f"n_subspaces: expected a divisor of D = {dim}; found {n_subspaces}")
    if not 1 <= n_codewords <= 256:
        raise KernelError(f"n_codewords: expected 1 to 256, the values of a byte; found {n_codewords}")
    rows = start_rows(len(features), n_codewords, seed)
    parts = features[rows].astype(np.float32).reshape(n_codewords, n_subspaces, -1)
    codebooks = np.ascontiguousarray(parts.transpose(1, 0, 2))
    sums, counts = np.empty(codebooks.shape), np.empty((n_subspaces, n_codewords), np.int64)
    for _ in range(n_steps):
        sums[...], counts[...] = 0, 0
        for _, x in float_blocks(features, rows_of(dim)):
            _sum_up(x, encode_pq(x, codebooks), sums, counts)
        sums /= np.maximum(counts, 1)[:, :, None]
        np.copyto(codebooks, sums, casting="same_kind", where=(counts > 0)[:, :, None])
    return codebooks


def encode_pq(features: Floats, codebooks: Floats) -> Codes:
    """See reference.encode_pq."""
    shapes = _check_codebooks(codebooks)
    shapes.check("features", features, "N D")
    books = np.ascontiguousarray(codebooks, np.float32)
    codes = np.empty((len(features), len(books)), np.uint8)

    def encode(rows: slice) -> None:
        lanes = min(LANES, max(8, rows.stop - rows.start))
        values, nearest = np.empty((books.shape[2], lanes), np.float32), np.empty(lanes, np.int32)
        distances = np.empty((2, lanes), np.float32)
        for part in row_slices(rows.stop - rows.start, lanes):
            block = slice(rows.start + part.start, rows.start + part.stop)
            x = np.ascontiguousarray(features[block], np.float32)
            _encode(x, books, values, distances, nearest, codes[block])

    on_threads(encode, len(features), max(1, THREAD_WORK // max(books.size, 1)))
    return codes


def decode_pq(codes: Codes, codebooks: Floats, rows: Ints, *, out: Floats | None = None) -> Floats:
    """See reference.decode_pq.

    Raises:
        KernelError: an array does not fit the others, or a code is none of the codewords.
    """
    shapes = _check_codebooks(codebooks)
    shapes.check("codes", codes, "N M", "u1")
    decoded = check_gather(shapes, rows, out)
    n_codewords = codebooks.shape[1]
    if n_codewords < 256 and rows.size and (highest := codes[rows].max(initial=0)) >= n_codewords:
        raise KernelError(f"codes: expected below C = {n_codewords}; found {highest} in shape {codes.shape}")
    _decode(codes, np.ascontiguousarray(codebooks, np.float32), rows, decoded)
    return decoded


def _check_codebooks(codebooks: Floats) -> Shapes:
    shapes = Shapes()
    shapes.check("codebooks", codebooks, "M C S")
    shapes.sizes["D"] = codebooks.shape[0] * codebooks.shape[2]
    return shapes


@compiled
def _encode(x, codebooks, values, distances, nearest, codes):  # type: ignore[no-untyped-def]
    """Fill (n, M) with the nearest codewords; `values`, `distances` and `nearest` are scratch, a lane for each row."""
    n_values = codebooks.shape[2]
    distance, least = distances[0], distances[1]
    for m in range(codebooks.shape[0]):
        for s in range(n_values):
            for n in range(x.shape[0]):
                values[s, n] = x[n, m * n_values + s]
        least[:] = np.inf
        for c in range(codebooks.shape[1]):
            _measure(values, codebooks[m, c], distance)
            for n in range(distance.shape[0]):
                is_less = distance[n] < least[n]
                least[n] = distance[n] if is_less else least[n]
                nearest[n] = c if is_less else nearest[n]
        for n in range(x.shape[0]):
            codes[n, m] = nearest[n]


@compiled
def _measure(values, codeword, distance):  # type: ignore[no-untyped-def]
    """Fill (lanes,) with the squared distances of values (S, lanes) from a codeword (S,)."""
    distance[:] = 0
    s = 0
    while s + 4 <= codeword.shape[0]:  # four at a time: the distances are loaded and stored once for them
        c0, c1, c2, c3 = codeword[s], codeword[s + 1], codeword[s + 2], codeword[s + 3]
        v0, v1, v2, v3 = values[s], values[s + 1], values[s + 2], values[s + 3]
        for n in range(distance.shape[0]):
            d0, d1, d2, d3 = v0[n] - c0, v1[n] - c1, v2[n] - c2, v3[n] - c3
            distance[n] += d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3
        s += 4
    while s < codeword.shape[0]:
        for n in range(distance.shape[0]):
            apart = values[s, n] - codeword[s]
            distance[n] += apart * apart
        s += 1


@compiled
def _sum_up(x, codes, sums, counts):  # type: ignore[no-untyped-def]
    """Add the parts of the rows to the sums (M, C, S) and counts (M, C) of their codewords."""
    n_values = sums.shape[2]
    for n in range(x.shape[0]):
        for m in range(sums.shape[0]):
            c = codes[n, m]
            counts[m, c] += 1
            for s in range(n_values):
                sums[m, c, s] += x[n, m * n_values + s]


@compiled
def _decode(codes, codebooks, rows, decoded):  # type: ignore[no-untyped-def]
    n_values = codebooks.shape[2]
    for b in range(rows.shape[0]):
        for m in range(codebooks.shape[0]):
            c = codes[rows[b], m]
            for s in range(n_values):
                decoded[b, m * n_values + s] = codebooks[m, c, s]
