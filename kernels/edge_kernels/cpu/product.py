"""Product quantisation: many rows side by side against one codeword, so that no minimum is sought within a vector."""

from __future__ import annotations

import numpy as np

from edge_kernels.arrays import Codes, Floats, HostShapes, Ints, KernelError
from edge_kernels.cpu.blocks import count_threads, float_blocks, on_threads, row_slices, rows_of
from edge_kernels.cpu.compiled import compiled
from edge_kernels.cpu.gather import check_finite, check_gather
from edge_kernels.reference.product import start_rows

LANES = 256  # rows compared with a codeword at a time: their distances stay in the first-level cache
SUM_BYTES = 1 << 20  # of the subspaces that are trained at a time
BOOK_BYTES = 1 << 21  # of the codewords of some subspaces, as the loop wants them
LANE_BYTES = 3 << 20  # of the scratch of all threads
THREAD_WORK = 1 << 22  # comparisons of single values that are worth a thread of its own


def train_pq(features: Floats, *, n_subspaces: int, n_codewords: int = 256, n_steps: int = 10, seed: int = 0) -> Floats:
    """See reference.train_pq.

    Raises:
        KernelError: the features, the subspaces or the codewords do not fit.
    """
    shapes = HostShapes()
    shapes.check("features", features, "N D")
    shapes.need_rows("features")
    dim = features.shape[1]
    if not 1 <= n_subspaces <= dim or dim % n_subspaces:
        raise KernelError(f"n_subspaces: expected a divisor of D = {dim}; found {n_subspaces}")
    if not 1 <= n_codewords <= 256:
        raise KernelError(f"n_codewords: expected 1 to 256, the values of a byte; found {n_codewords}")
    width = dim // n_subspaces
    codebooks = np.empty((n_subspaces, n_codewords, width), np.float32)
    for c, row in enumerate(start_rows(len(features), n_codewords, seed)):
        codebooks[:, c] = features[row].reshape(n_subspaces, width)
    for group in row_slices(n_subspaces, rows_of(2 * n_codewords * (width + 1), SUM_BYTES)):
        _improve(features[:, group.start * width : group.stop * width], codebooks[group], n_steps)
    return codebooks


def _improve(features: Floats, codebooks: Floats, n_steps: int) -> None:
    """Move the codewords (M, C, S) of some subspaces to the means of their samples (N, M S), in place, step by step."""
    sums, counts = np.empty(codebooks.shape), np.empty(codebooks.shape[:2], np.int64)
    for _ in range(n_steps):
        sums[...], counts[...] = 0, 0
        for _, x in float_blocks(features, rows_of(features.shape[1], 1 << 20)):
            _sum_up(x, encode_pq(x, codebooks), sums, counts)
        sums /= np.maximum(counts, 1)[:, :, None]
        np.copyto(codebooks, sums, casting="same_kind", where=(counts > 0)[:, :, None])


def encode_pq(features: Floats, codebooks: Floats) -> Codes:
    """See reference.encode_pq."""
    shapes = _check_codebooks(codebooks)
    shapes.check("features", features, "N D")
    (n_rows, dim), (n_parts, n_words, width) = features.shape, codebooks.shape
    codes = np.empty((n_rows, n_parts), np.uint8)
    n_threads = count_threads(n_rows, THREAD_WORK // (n_words * dim))
    for group in row_slices(n_parts, rows_of((n_words + 1) * (width + 4), BOOK_BYTES)):
        books, columns = _centre(codebooks[group]), slice(group.start * width, group.stop * width)
        part = features[:, columns]
        lanes = max(8, min(LANES, rows_of((books.shape[2] + 4 + part.shape[1]) * n_threads, LANE_BYTES)))

        def encode(
            rows: slice, part: Floats = part, group: slice = group, books: Floats = books, lanes: int = lanes
        ) -> None:
            values, nearest = np.empty((books.shape[2] - 1, lanes), np.float32), np.empty(lanes, np.int32)
            distances = np.empty((3, lanes), np.float32)
            for block, x in float_blocks(part[rows], lanes):
                _encode(x, books, values, distances, nearest, codes[rows, group][block])
                bad = np.flatnonzero(~np.isfinite(distances[2, : len(x)]))
                check_finite(features, rows.start + block.start + bad)

        on_threads(encode, n_rows, n_threads)
    return codes


def decode_pq(codes: Codes, codebooks: Floats, rows: Ints, *, out: Floats | None = None) -> Floats:
    """See reference.decode_pq.

    Raises:
        KernelError: an array does not fit the others, or a code is none of the codewords.
    """
    shapes = _check_codebooks(codebooks)
    shapes.check("codes", codes, "N M", "u1")
    places, decoded = check_gather(shapes, rows, out)
    n_codewords = codebooks.shape[1]
    if n_codewords < 256 and rows.size and (highest := codes[places].max(initial=0)) >= n_codewords:
        raise KernelError(f"codes: expected below C = {n_codewords}; found {highest} in shape {codes.shape}")
    _decode(codes, np.ascontiguousarray(codebooks, np.float32), places, decoded)
    return decoded


def _centre(codebooks: Floats) -> Floats:
    """Return codewords seen from their mean, padded to a multiple of four values, half their square behind them.

    Seen from their mean, half of |c|^2 - x c orders them as |x - c|^2 does, to the rounding of their spread.

    Returns:
        (M, C + 1, S + 1) float32: the last word is the mean.
    """
    n_words, n_values = codebooks.shape[1:]
    books = np.zeros((len(codebooks), n_words + 1, -(-n_values // 4) * 4 + 1), np.float32)
    books[:, n_words, :n_values] = codebooks.mean(axis=1, dtype=np.float64)
    np.subtract(codebooks, books[:, n_words:, :n_values], out=books[:, :n_words, :n_values], casting="same_kind")
    books[:, :, -1] = 0.5 * np.einsum("mcs,mcs->mc", books, books)
    return books


def _check_codebooks(codebooks: Floats) -> HostShapes:
    """Return the shapes, D among them.

    Raises:
        KernelError: these are no codebooks.
    """
    shapes = HostShapes()
    shapes.check("codebooks", codebooks, "M C S")
    if not 1 <= codebooks.shape[1] <= 256 or 0 in codebooks.shape:
        raise KernelError(
            f"codebooks: expected (M, C, D / M) of 1 to 256 codewords; found shape {codebooks.shape} {codebooks.dtype}"
        )
    shapes.sizes["D"] = codebooks.shape[0] * codebooks.shape[2]
    return shapes


@compiled
def _encode(x, books, values, distances, nearest, codes):  # type: ignore[no-untyped-def]
    """Fill (n, M) with the nearest codewords; `values`, `distances` and `nearest` are scratch, a lane for each row.

    A distance is half its square, less what is the same for all codewords. The books (M, C + 1, S + 1) are made by
    `_centre`: S is a multiple of four there, and in `values` (S, lanes).
    """
    distance, least, total = distances[0], distances[1], distances[2]
    n_words, last = books.shape[1] - 1, books.shape[2] - 5
    n_values = x.shape[1] // books.shape[0]
    values[:] = 0
    nearest[:] = 0
    total[:] = 0
    for m in range(books.shape[0]):
        for s in range(n_values):
            for n in range(x.shape[0]):
                values[s, n] = x[n, m * n_values + s] - books[m, n_words, s]
        v0, v1, v2, v3 = values[last], values[last + 1], values[last + 2], values[last + 3]
        least[:] = np.inf
        for c in range(n_words):
            word = books[m, c]
            _measure(values, word, distance)
            c0, c1, c2, c3 = word[last], word[last + 1], word[last + 2], word[last + 3]
            for n in range(distance.shape[0]):
                found = distance[n] - (v0[n] * c0 + v1[n] * c1 + v2[n] * c2 + v3[n] * c3)
                is_less = found < least[n]
                least[n] = found if is_less else least[n]
                nearest[n] = c if is_less else nearest[n]
        for n in range(x.shape[0]):
            codes[n, m] = nearest[n]
            total[n] += least[n]  # infinite or no number where a row cannot be encoded


@compiled
def _measure(values, word, distance):  # type: ignore[no-untyped-def]
    """Fill (lanes,) with the distances of values (S, lanes) from a codeword (S + 1,), but for its last four."""
    last = word.shape[0] - 5
    start = word[last + 4]
    if last == 0:
        distance[:] = start
    for s in range(0, last, 4):
        c0, c1, c2, c3 = word[s], word[s + 1], word[s + 2], word[s + 3]
        v0, v1, v2, v3 = values[s], values[s + 1], values[s + 2], values[s + 3]
        if s == 0:
            for n in range(distance.shape[0]):
                distance[n] = start - (v0[n] * c0 + v1[n] * c1 + v2[n] * c2 + v3[n] * c3)
        else:
            for n in range(distance.shape[0]):
                distance[n] -= v0[n] * c0 + v1[n] * c1 + v2[n] * c2 + v3[n] * c3


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
