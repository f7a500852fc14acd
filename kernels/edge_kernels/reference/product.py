"""Product quantisation: a vector is cut into M parts, each part is the number of its nearest codeword (Jegou 2011)."""

from __future__ import annotations

import numpy as np

from edge_kernels.arrays import Codes, Floats, Ints, fill


def train_pq(features: Floats, *, n_subspaces: int, n_codewords: int = 256, n_steps: int = 10, seed: int = 0) -> Floats:
    """Return codebooks by k-means in every subspace, the same for the same seed.

    Args:
        features: (N, D); D is a multiple of the subspaces.
        n_subspaces: M.
        n_codewords: C, at most 256; what exceeds the samples is filled with codewords that no sample takes.
        n_steps: of Lloyd's algorithm, from samples drawn by the seed.
        seed: of the draw.

    Returns:
        (M, C, D / M).
    """
    parts = features.astype(np.float64).reshape(len(features), n_subspaces, -1)
    codebooks: Floats = parts[start_rows(len(features), n_codewords, seed)].transpose(1, 0, 2).copy()
    for _ in range(n_steps):
        codes = encode_pq(features, codebooks)
        for m in range(n_subspaces):
            for c in np.unique(codes[:, m]):
                codebooks[m, c] = parts[codes[:, m] == c, m].mean(axis=0)
    return codebooks


def start_rows(n_rows: int, n_codewords: int, seed: int) -> Ints:
    """Return the samples (C,) that the codewords start from, drawn without repetition as long as there are any."""
    rows = np.random.default_rng(seed).choice(n_rows, min(n_rows, n_codewords), replace=False)
    return np.resize(rows, n_codewords)  # repeated codewords lose every tie, so that no sample takes them


def encode_pq(features: Floats, codebooks: Floats) -> Codes:
    """Return the nearest codewords (N, M), of equally near ones the first.

    Args:
        features: (N, D).
        codebooks: (M, C, D / M).
    """
    parts = features.astype(np.float64).reshape(len(features), len(codebooks), 1, codebooks.shape[2])
    distances = np.square(parts - codebooks.astype(np.float64)).sum(axis=3)
    codes: Codes = distances.argmin(axis=2).astype(np.uint8)
    return codes


def decode_pq(codes: Codes, codebooks: Floats, rows: Ints, *, out: Floats | None = None) -> Floats:
    """Return the features (B, D) of some rows.

    Args:
        codes: (N, M) uint8.
        codebooks: (M, C, D / M).
        rows: (B,) below N.
        out: (B, D) float32 to decode into, instead of a new array.
    """
    taken = codes[rows]
    return fill(
        out, codebooks.astype(np.float64)[np.arange(len(codebooks)), taken].reshape(len(taken), codebooks[:, 0].size)
    )
