"""Rows of the benchmark for the kernels that no limit is promised for."""

from __future__ import annotations

from typing import Any

import numpy as np
from bench_cases import Case, copy_of, matrices
from edge_kernels import cpu


def others(n: int, d: int, k: int) -> list[Case]:
    """The kernels that the rows above leave out, each against its products or its bytes."""
    x, w, p = matrices(n, d, k)
    rng = np.random.default_rng(0)
    labels, uniforms, weights = rng.integers(0, k, n), rng.random(n), rng.random(n, np.float32)
    hidden, slopes = rng.random((n, k), np.float32), rng.random((n, k), np.float32)
    out, moment, own = rng.random((k, k), np.float32), np.zeros((d, d), np.float32), np.eye(d, dtype=np.float32)
    state = np.zeros(k, np.int64), np.zeros((k, d), np.float32), np.zeros((d, d), np.float32)
    cpu.add_samples(*state, features=x, labels=labels)
    other: Any = {"other_counts": state[0], "other_means": state[1], "other_scatter": state[2]}
    covariance = cpu.second_moment(x)
    few, logits_bound, words = x[:64], *copy_of(2 * p.nbytes)
    hidden_options = {"slopes": slopes, "probabilities": p, "weights": out}
    sizes = {"N": n, "D": d, "K": k}

    def back() -> object:
        return p.T @ x

    def twice() -> None:
        cpu.add_samples(*state, features=x, labels=labels)
        cpu.remove_samples(*state, features=x, labels=labels)

    def merge() -> None:
        cpu.merge_statistics(*(part.copy() for part in state), **other)

    def learn() -> None:
        cpu.rls_update(w.copy(), own.copy(), features=few, targets=p[:64])

    def least_squares() -> object:
        spread = few.astype(np.float64) @ own
        return spread.T @ spread

    return [
        Case("fisher_empirical", sizes, lambda: cpu.fisher_empirical(x, p, labels), back, "p^T x"),
        Case("fisher_sampled", sizes, lambda: cpu.fisher_sampled(x, p, uniforms), back, "p^T x"),
        Case("fisher_mse", {"N": n, "D": d}, lambda: cpu.fisher_mse(x), *copy_of(x.nbytes)),
        Case(
            "fisher_hidden_true",
            {**sizes, "H": k},
            lambda: cpu.fisher_hidden_true(x, hidden, **hidden_options),
            lambda: (back(), p @ out, p.T @ hidden),
            "h^T x, p w, p^T h",
        ),
        Case(
            "fisher_hidden_empirical",
            {**sizes, "H": k},
            lambda: cpu.fisher_hidden_empirical(x, hidden, **hidden_options, labels=labels),
            lambda: (back(), p @ out, p.T @ hidden),
            "h^T x, p w, p^T h",
        ),
        Case("label_covariance", {"N": n, "K": k}, lambda: cpu.label_covariance(p), lambda: p.T @ p, "p^T p"),
        Case(
            "kronecker_product",
            {"D": d, "K": k},
            lambda: cpu.kronecker_product(w, label_factor=out, feature_factor=covariance),
            lambda: out @ w @ covariance,
            "numpy",
        ),
        Case("rls_update", {"N": 64, "D": d, "K": k}, learn, least_squares, "x C and its square, float64"),
        Case("add and remove_samples", sizes, twice, lambda: (x.T @ x, x.T @ x), "numpy x^T x, twice"),
        Case("merge_statistics", {"D": d, "K": k}, merge, *copy_of(5 * moment.nbytes)),
        Case(
            "cross_entropy_delta",
            {"N": n, "K": k},
            lambda: cpu.cross_entropy_delta(p, labels, sample_weights=weights),
            logits_bound,
            words,
        ),
        Case("softmax", {"N": n, "K": k}, lambda: cpu.softmax(p), logits_bound, words),
        Case(
            "balanced_reservoir",
            {"N": n, "K": k},
            lambda: cpu.balanced_reservoir(labels, cpu.draw_priority(labels, labels, seed=0), capacity=n // 2),
            lambda: np.argsort(uniforms),
            "one sort of N",
        ),
        Case(
            "fit_projection",
            {"D": d},
            lambda: cpu.fit_projection(x[0], covariance, n_bytes=160),
            lambda: np.linalg.eigh(covariance.astype(np.float64)),
            "numpy eigh",
        ),
    ]
