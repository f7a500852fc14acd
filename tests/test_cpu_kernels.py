"""The CPU kernels against their definitions: any float type, strides and number of rows, in bounded memory."""

from __future__ import annotations

import ast
import inspect
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_kernels import cpu, reference
from edge_kernels.arrays import Floats, Ints, KernelError
from edge_kernels.cpu import blas, blocks, fisher, product, statistics
from hypothesis import given, settings
from hypothesis import strategies as st

CLOSE: dict[str, Any] = {"rtol": 2e-5, "atol": 1e-6}  # float32 sums of some thousand terms
FORMS: dict[str, Callable[[Floats], Floats]] = {
    "float32": lambda x: x,
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16),
    "fortran": np.asfortranarray,
    "every second row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "every second column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "reversed": lambda x: x[::-1].copy()[::-1],
    "big-endian": lambda x: x.astype(">f4"),
}


def problem(n: int, d: int, k: int, seed: int = 0) -> tuple[Floats, Floats, Ints]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(np.float32)
    p = reference.softmax(rng.normal(size=(n, k)) * 3).astype(np.float32)
    return x, p, rng.integers(0, k, n)


def test_names_and_signatures_are_those_of_the_reference() -> None:
    assert cpu.__all__ == reference.__all__
    for name in reference.__all__:
        first, second = getattr(cpu, name), getattr(reference, name)
        assert inspect.signature(first) == inspect.signature(second), name


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", [1, 2, 40])
def test_fisher_of_every_form_agrees(form: str, n: int) -> None:
    x, p, y = problem(n, 17, 5)
    u = np.random.default_rng(1).random(n)
    a, q = FORMS[form](x), FORMS[form](p)
    for has_bias in (False, True):
        np.testing.assert_allclose(
            cpu.fisher_true(a, q, has_bias=has_bias), reference.fisher_true(a, q, has_bias=has_bias), **CLOSE
        )
        np.testing.assert_allclose(
            cpu.fisher_empirical(a, q, y, has_bias=has_bias),
            reference.fisher_empirical(a, q, y, has_bias=has_bias),
            **CLOSE,
        )
        np.testing.assert_allclose(
            cpu.fisher_sampled(a, q, u, has_bias=has_bias),
            reference.fisher_sampled(a, q, u, has_bias=has_bias),
            **CLOSE,
        )
        np.testing.assert_allclose(
            cpu.fisher_mse(a, has_bias=has_bias), reference.fisher_mse(a, has_bias=has_bias), **CLOSE
        )
    np.testing.assert_allclose(cpu.softmax(a), reference.softmax(a), **CLOSE)


@pytest.mark.parametrize("form", FORMS)
def test_hidden_fisher_of_every_form_agrees(form: str) -> None:
    x, p, y = problem(30, 9, 5)
    rng = np.random.default_rng(1)
    hidden, slopes = rng.normal(size=(2, 30, 7)).astype(np.float32)
    w = rng.normal(size=(5, 7)).astype(np.float32)
    a, h, s, q, v = (FORMS[form](array) for array in (x, hidden, slopes, p, w))
    for name, labels in (("fisher_hidden_true", {}), ("fisher_hidden_empirical", {"labels": y})):
        found = getattr(cpu, name)(a, h, slopes=s, probabilities=q, weights=v, **labels)
        want = getattr(reference, name)(a, h, slopes=s, probabilities=q, weights=v, **labels)
        for field in want._fields:
            np.testing.assert_allclose(getattr(found, field), getattr(want, field), rtol=1e-4, atol=1e-6)


def test_blocks_and_tiles_do_not_change_the_fisher(monkeypatch: pytest.MonkeyPatch) -> None:
    x, p, y = problem(67, 16, 11)
    want = cpu.fisher_true(x, p, has_bias=True), cpu.fisher_empirical(x, p, y)
    monkeypatch.setattr(fisher, "TILE_BYTES", 8 * 17 * 3)  # three classes at a time
    monkeypatch.setattr(fisher, "CALL_BYTES", 12 * 3 * 17 + 4 * 20 * 10)  # ten rows at a time
    np.testing.assert_allclose(cpu.fisher_true(x, p, has_bias=True), want[0], rtol=1e-6)
    np.testing.assert_allclose(cpu.fisher_empirical(x, p, y), want[1], rtol=1e-6)


def test_a_spread_far_from_zero_is_a_variance_and_no_difference_of_squares() -> None:
    x, p, _ = problem(20, 3, 4)
    w = (1000 + np.random.default_rng(0).normal(size=(4, 6))).astype(np.float32)
    ones = np.ones((20, 6), np.float32)
    found = cpu.fisher_hidden_true(x, ones, slopes=ones, probabilities=p, weights=w)
    want = reference.fisher_hidden_true(x, ones, slopes=ones, probabilities=p, weights=w)
    # the mean of weights of 1000 is known to 1e-4, a tenth of a percent of a deviation of 0.1 and more
    np.testing.assert_allclose(found.weights_in, want.weights_in, rtol=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_matrices_of_every_form_agree(form: str) -> None:
    x, p, _ = problem(30, 9, 5)
    a, q = FORMS[form](x), FORMS[form](p)
    np.testing.assert_allclose(cpu.second_moment(a), reference.second_moment(a), **CLOSE)
    np.testing.assert_allclose(cpu.label_covariance(q), reference.label_covariance(q), **CLOSE)
    factors = {"label_factor": cpu.label_covariance(q), "feature_factor": cpu.second_moment(a)}
    w = FORMS[form](np.random.default_rng(1).normal(size=(5, 9)).astype(np.float32))
    np.testing.assert_allclose(cpu.kronecker_product(w, **factors), reference.kronecker_product(w, **factors), **CLOSE)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ridge", [0.5, 1e-2, 1e-4])
def test_ten_updates_of_recursive_least_squares_equal_the_joint_ridge(ridge: float, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(900, 40)), rng.normal(size=(900, 3))
    weights, covariance = np.zeros((3, 40), dtype), np.eye(40, dtype=dtype) / dtype(ridge)
    for part in np.array_split(np.arange(900), 10):
        cpu.rls_update(weights, covariance, features=x[part].astype(dtype), targets=t[part].astype(dtype))
    joint = np.linalg.solve(x.T @ x + ridge * np.eye(40), x.T @ t).T
    np.testing.assert_allclose(weights, joint, atol=1e-4 * np.abs(joint).max())
    np.testing.assert_array_equal(covariance, covariance.T)


def empty(k: int, d: int, dtype: Any = np.float32) -> tuple[Ints, Floats, Floats]:
    return np.zeros(k, np.int64), np.zeros((k, d), dtype), np.zeros((d, d), dtype)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_statistics_of_every_form_agree(form: str, dtype: Any) -> None:
    x, _, y = problem(50, 9, 4)
    a = FORMS[form](x)
    found, want = empty(6, 9, dtype), empty(6, 9, np.float64)
    for part in (slice(0, 1), slice(1, 1), slice(1, 50)):
        for module, state in ((cpu, found), (reference, want)):
            module.add_samples(*state, features=a[part], labels=y[part])
    for first, second in zip(found, want, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-5)
    for module, state in ((cpu, found), (reference, want)):
        module.remove_samples(*state, features=a[10:40], labels=y[10:40])
    for first, second in zip(found, want, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found[2], found[2].T)


@pytest.mark.parametrize("form", ["float32", "float16"])
@pytest.mark.parametrize("loop_rows", [0, 1000])
def test_small_blocks_and_groups_do_not_change_the_statistics(
    loop_rows: int, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, _, y = problem(90, 9, 7)
    want, found = empty(7, 9), empty(7, 9)
    x = FORMS[form](x)
    reference.add_samples(*want, features=x, labels=y)
    monkeypatch.setattr(statistics, "LOOP_ROWS", loop_rows)
    monkeypatch.setattr(statistics, "BLOCK_BYTES", 4 * 9 * 4)  # four rows
    cpu.add_samples(*found, features=x, labels=y)
    for first, second in zip(found, want, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-5)


def test_merged_statistics_are_those_of_all_samples() -> None:
    x, _, y = problem(300, 9, 4)
    first, second, both = empty(5, 9), empty(5, 9), empty(5, 9)
    cpu.add_samples(*first, features=x[:200], labels=y[:200])
    cpu.add_samples(*second, features=x[200:], labels=y[200:])
    cpu.add_samples(*both, features=x, labels=y)
    cpu.merge_statistics(*first, other_counts=second[0], other_means=second[1], other_scatter=second[2])
    for found, want in zip(first, both, strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-4)


def spectrum(state: tuple[Ints, Floats, Floats]) -> Floats:
    """Return the eigenvalues of the covariance, ascending."""
    values: Floats = np.linalg.eigvalsh(state[2].astype(np.float64)) / state[0].sum()
    return values


@pytest.mark.parametrize("n_rows", [200, 20_000])
@pytest.mark.parametrize("splits", [1, 2])
def test_one_sample_far_from_the_others_does_not_drown_them(n_rows: int, splits: int) -> None:
    rng = np.random.default_rng(0)
    x = (1e4 + rng.normal(size=(n_rows, 8))).astype(np.float32)
    x[0] = 0  # the first of its class, and of a batch of its own where there are two
    state, exact = empty(1, 8), empty(1, 8, np.float64)
    for part in [slice(0, 1), slice(1, None)] if splits == 2 else [slice(None)]:
        y = np.zeros(len(x[part]), np.int64)
        cpu.add_samples(*state, features=x[part], labels=y)
        reference.add_samples(*exact, features=x[part], labels=y)
    # its square is 1e8, which float32 holds to 8, a hundred times over: some tenths of what 200 samples add
    np.testing.assert_allclose(spectrum(state)[:-1], spectrum(exact)[:-1], atol=1)


def test_removing_what_was_added_leaves_what_was_before() -> None:
    x, _, y = problem(300, 9, 4)
    state = empty(5, 9)
    cpu.add_samples(*state, features=x[:200], labels=y[:200])
    kept = [array.copy() for array in state]
    more = np.append(y[200:299], 4)
    cpu.add_samples(*state, features=x[200:], labels=more)
    cpu.remove_samples(*state, features=x[200:], labels=more)
    for found, want in zip(state, kept, strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(state[1][4], 0)


def test_more_than_was_added_cannot_be_removed_and_nothing_changes() -> None:
    x, _, _ = problem(3, 9, 4)
    state = empty(2, 9)
    cpu.add_samples(*state, features=x[:2], labels=np.array([0, 1]))
    kept = [array.copy() for array in state]
    with pytest.raises(KernelError, match="labels: expected at most the 1 samples of class 1; found 2"):
        cpu.remove_samples(*state, features=x[1:], labels=np.array([1, 1]))
    for found, want in zip(state, kept, strict=True):
        np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-4), (np.float64, 1e-9)])
def test_ten_million_samples_far_from_zero_are_summed_stably(dtype: Any, tolerance: float) -> None:
    rng = np.random.default_rng(0)
    pool = (rng.normal(size=(5000, 3)) * (1, 2, 0.5) + (0, 50, -50)).astype(np.float32)
    labels = rng.integers(0, 2, 5000)
    state = empty(2, 3, dtype)
    for _ in range(2000):
        cpu.add_samples(*state, features=pool, labels=labels)
    x = pool.astype(np.float64)
    means = np.stack([x[labels == k].mean(axis=0) for k in range(2)])
    apart = x - means[labels]
    assert state[0].sum() == 10**7
    np.testing.assert_allclose(state[1], means, rtol=1e-6, atol=1e-4)
    want = 2000 * apart.T @ apart
    assert np.abs(state[2] - want).max() < tolerance * np.abs(want).max()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("factor", [1.0, -1.0, 0.25])
def test_squares_are_added_by_either_way(dtype: Any, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows, total = rng.normal(size=(20, 33)).astype(dtype), rng.normal(size=(33, 33)).astype(dtype)
    total += total.T
    want = total + factor * rows.T @ rows
    for strip_bytes in (1 << 20, 4 * 33 * 5):
        monkeypatch.setattr(blas, "STRIP_BYTES", strip_bytes)
        for routines in (blas._routines(), {}):
            monkeypatch.setattr(blas, "_routines", lambda routines=routines: routines)
            found = total.copy()
            blas.add_squares(found, rows, factor)
            blas.mirror(found)
            np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


WEIGHTS = st.floats(-1e6, 1e6, width=32)
STEPS = st.tuples(WEIGHTS, WEIGHTS, st.floats(0, 2.0**80, width=32), WEIGHTS)


@settings(max_examples=300, deadline=None)
@given(
    entries=st.lists(STEPS, min_size=1, max_size=20),
    lam=st.one_of(st.just(0.0), st.floats(0, 1e12)),
    lr=st.floats(0, 10),
)
def test_ewc_step_ends_between_the_gradient_step_and_the_anchor(
    entries: list[tuple[float, ...]], lam: float, lr: float
) -> None:
    w, g, f, a = np.array(entries, np.float32).T[:, None].copy()
    free = w - np.float32(lr) * g
    cpu.ewc_step(w, g, fisher=f, anchor=a, lr=lr, lam=lam)
    assert np.isfinite(w).all()
    slack = 1e-6 * np.maximum(np.abs(free), np.abs(a)) + 1e-30  # two roundings of float32
    assert (w >= np.minimum(free, a) - slack).all()
    assert (w <= np.maximum(free, a) + slack).all()
    still = (f == 0) | (lam == 0) | (lr == 0)
    np.testing.assert_array_equal(w[still], free[still])


@pytest.mark.parametrize("lam", [0.0, 1e-3, 1.0, 1e6, 1e12])
@pytest.mark.parametrize("form", FORMS)
def test_ewc_step_agrees_with_the_equation(lam: float, form: str) -> None:
    rng = np.random.default_rng(0)
    w, g, a = rng.normal(size=(3, 7, 9)).astype(np.float32)
    g, f, a = FORMS[form](g), FORMS[form](rng.random((7, 9)).astype(np.float32)), FORMS[form](a)
    want = w.astype(np.float64)
    reference.ewc_step(want, g, fisher=f, anchor=a, lr=0.1, lam=lam)
    cpu.ewc_step(w, g, fisher=f, anchor=a, lr=0.1, lam=lam)
    np.testing.assert_allclose(w, want, rtol=1e-5, atol=1e-6)


def test_an_enormous_gradient_does_not_leave_the_way_to_the_anchor() -> None:
    w, g, one = np.zeros((1, 1), np.float32), np.full((1, 1), 1e30, np.float32), np.ones((1, 1), np.float32)
    cpu.ewc_step(w, g, fisher=one, anchor=one, lr=1e10, lam=1e12)
    assert w[0, 0] <= 1


@pytest.mark.parametrize("gap", [7.0, 1e-3])
def test_far_float64_logits_keep_their_difference(gap: float) -> None:
    logits, y, weights = np.array([[3e8, 3e8 + gap]]), np.array([0]), np.ones(1)
    np.testing.assert_allclose(cpu.softmax(logits), reference.softmax(logits), rtol=1e-5)
    loss, _ = cpu.cross_entropy_delta(logits, y, sample_weights=weights)
    assert loss == pytest.approx(reference.cross_entropy_delta(logits, y, sample_weights=weights)[0], rel=1e-6)


def test_herding_sees_float64_far_from_zero() -> None:
    x = 1e8 + np.random.default_rng(0).normal(size=(40, 5))
    np.testing.assert_array_equal(cpu.herd(x, n_chosen=20), reference.herd(x, n_chosen=20))


def test_a_confident_head_keeps_the_digits_of_its_covariance() -> None:
    p = np.tile(np.array([[1 - 1e-6, 1e-6]], np.float32), (10, 1))
    np.testing.assert_allclose(np.diag(cpu.label_covariance(p)), np.diag(reference.label_covariance(p)), rtol=1e-4)


def test_thousand_ewc_steps_settle_where_the_gradient_and_the_pull_balance() -> None:
    rng = np.random.default_rng(0)
    target, a = rng.normal(size=(2, 3, 4)).astype(np.float32)
    f = rng.random((3, 4)).astype(np.float32)
    w = np.zeros((3, 4), np.float32)
    for _ in range(1000):
        cpu.ewc_step(w, w - target, fisher=f, anchor=a, lr=0.5, lam=3.0)
    np.testing.assert_allclose(w, (target + 3 * f * a) / (1 + 3 * f), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_cross_entropy_of_every_form_agrees(form: str) -> None:
    rng = np.random.default_rng(0)
    logits, labels, weights = rng.normal(size=(30, 5)).astype(np.float32) * 20, rng.integers(0, 5, 30), rng.random(30)
    a = FORMS[form](logits)
    loss, delta = cpu.cross_entropy_delta(a, labels, sample_weights=weights)
    want_loss, want_delta = reference.cross_entropy_delta(a, labels, sample_weights=weights)
    assert loss == pytest.approx(want_loss, rel=1e-6)
    np.testing.assert_allclose(delta, want_delta, **CLOSE)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n_bits", [4, 8])
@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (9, 6), (40, 33)])
def test_codes_of_every_form_are_those_of_the_reference(form: str, n_bits: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(np.float32)
    x[::3] = np.abs(x[::3])
    x[-1:] = 0
    a = FORMS[form](x)
    codes, scales = getattr(cpu, f"encode_int{n_bits}")(a)
    want = getattr(reference, f"encode_int{n_bits}")(a)
    np.testing.assert_array_equal(codes, want[0])
    np.testing.assert_array_equal(scales, want[1])
    rows = rng.integers(0, max(shape[0], 1), 7 if shape[0] else 0)
    options = {"dim": shape[1]} if n_bits == 4 else {}
    decoded = getattr(reference, f"decode_int{n_bits}")(codes, scales, rows, **options)
    out = np.full((len(rows), 2 * shape[1]), np.nan, np.float32)[:, ::2]
    found = getattr(cpu, f"decode_int{n_bits}")(codes, scales, rows, **options, out=out)
    assert found is out
    np.testing.assert_allclose(out, decoded, rtol=1e-6)
    np.testing.assert_array_equal(getattr(cpu, f"decode_int{n_bits}")(codes, scales, rows, **options), out)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("n_rows", "n_parts"), [(1, 12), (30, 4), (300, 1), (300, 3), (5000, 4)])
def test_product_codes_are_nearest_codewords(form: str, n_rows: int, n_parts: int) -> None:
    x, _, _ = problem(n_rows, 12, 2)
    a = FORMS[form](x)
    books = cpu.train_pq(a, n_subspaces=n_parts, n_codewords=20, n_steps=2, seed=3)
    np.testing.assert_array_equal(books, cpu.train_pq(a, n_subspaces=n_parts, n_codewords=20, n_steps=2, seed=3))
    codes = cpu.encode_pq(a, books)
    parts = a.astype(np.float64).reshape(n_rows, n_parts, 1, -1)
    distances = np.square(parts - books).sum(axis=3)
    taken = np.take_along_axis(distances, codes[:, :, None].astype(int), 2)[:, :, 0]
    # of two that are equally near to float32's rounding either may be taken
    np.testing.assert_allclose(taken, distances.min(axis=2), rtol=1e-5, atol=1e-6)
    rows = np.random.default_rng(0).integers(0, n_rows, 9)
    np.testing.assert_array_equal(cpu.decode_pq(codes, books, rows), reference.decode_pq(codes, books, rows))


def test_codebooks_are_those_of_the_reference() -> None:
    x, _, _ = problem(200, 12, 2)
    found = cpu.train_pq(x, n_subspaces=3, n_codewords=16, n_steps=3)
    want = reference.train_pq(x, n_subspaces=3, n_codewords=16, n_steps=3)
    np.testing.assert_allclose(found, want, **CLOSE)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n_rows", [0, 1, 50])
def test_projection_codes_are_those_of_the_reference(form: str, n_rows: int) -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(200, 24)) * np.linspace(4, 0.1, 24)).astype(np.float32) + 3
    projection = cpu.fit_projection(x.mean(axis=0), np.cov(x.T), n_bytes=9)
    a = FORMS[form](x[:n_rows])
    codes, want = cpu.encode_projection(a, projection), reference.encode_projection(a, projection)
    assert codes.shape == (n_rows, 9)
    assert (codes != want).mean() <= 0.01 if n_rows else True  # a place may be rounded to the next level
    rows = rng.integers(0, max(n_rows, 1), 5 if n_rows else 0)
    found = cpu.decode_projection(want, projection, rows)
    np.testing.assert_allclose(found, reference.decode_projection(want, projection, rows), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_selection_of_every_form_agrees(form: str) -> None:
    x, _, y = problem(60, 9, 4)
    a = FORMS[form](x + 5)
    for n_chosen in (0, 1, 20, 60):
        np.testing.assert_array_equal(cpu.herd(a, n_chosen=n_chosen), reference.herd(a, n_chosen=n_chosen))
        goal = a[:1].mean(axis=0) + np.float32(0.25)
        followed = cpu.herd(a, n_chosen=n_chosen, mean=goal)
        np.testing.assert_array_equal(followed, reference.herd(a, n_chosen=n_chosen, mean=goal))
    order = np.random.default_rng(1).random(60)
    order[::7] = 0.5
    for capacity in (0, 1, 13, 60, 99):
        found = cpu.balanced_reservoir(y, order, capacity=capacity)
        np.testing.assert_array_equal(found, reference.balanced_reservoir(y, order, capacity=capacity))


def frozen(array: Floats) -> Floats:
    array = array.copy()
    array.flags.writeable = False
    return array


X, P, _ = problem(6, 4, 3)
Y = np.array([0, 1, 2, 0, 1, 2])
PROJECTION = reference.fit_projection(X.mean(axis=0), np.cov(X.T), n_bytes=2)
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "no rows": (lambda: cpu.fisher_true(X[:0], P[:0]), "features: expected at least one row; found N = 0"),
    "rows that differ": (
        lambda: cpu.fisher_true(X, P[:5]),
        r"probabilities: expected \(N, K\) with N = 6; found shape \(5, 3\) float32",
    ),
    "integers": (lambda: cpu.fisher_mse(Y[:, None]), r"features: expected .*; found shape \(6, 1\) int64"),
    "one axis": (lambda: cpu.second_moment(X[0]), r"features: expected \(N, D\); found shape \(4,\) float32"),
    "a label too high": (lambda: cpu.fisher_empirical(X, P, Y + 3), "labels: expected 0 to 2; found 3 to 5"),
    "a label too low": (
        lambda: cpu.cross_entropy_delta(P, Y - 3, sample_weights=P[:, 0]),
        "labels: expected 0 to 2; found -3",
    ),
    "float64 weights": (
        lambda: cpu.ewc_step(X.astype(float), X, fisher=X, anchor=X, lr=1, lam=1),
        r"weights: expected \(K, D\) float32; found shape \(6, 4\) float64",
    ),
    "a negative lambda": (
        lambda: cpu.ewc_step(X.copy(), X, fisher=X, anchor=X, lr=1, lam=-1),
        "lam: expected a finite number of at least 0; found -1",
    ),
    "an infinite lambda": (
        lambda: cpu.ewc_step(X.copy(), X, fisher=X, anchor=X, lr=1, lam=float("inf")),
        "lam: expected a finite number",
    ),
    "float16 scatter": (
        lambda: cpu.add_samples(Y[:3], P[:3], P.astype(np.float16)[:3], features=P, labels=Y),
        r"scatter: is changed in place, expected a writeable, contiguous array .*; found shape \(3, 3\) float16",
    ),
    "a strided scatter": (
        lambda: cpu.add_samples(Y[:3], P[:3], np.zeros((3, 6), np.float32)[:, ::2], features=P, labels=Y),
        "scatter: is changed in place, expected a writeable, contiguous",
    ),
    "a read-only scatter": (
        lambda: cpu.add_samples(Y[:3], P[:3], frozen(P[:3]), features=P, labels=Y),
        "scatter: is changed in place, expected a writeable.*, read-only",
    ),
    "read-only weights": (
        lambda: cpu.ewc_step(frozen(X), X, fisher=X, anchor=X, lr=1, lam=1),
        "weights: is changed in place, .*, read-only",
    ),
    "a big-endian covariance": (
        lambda: cpu.rls_update(P[:3].copy(), P[:3].astype(">f4"), features=P, targets=P),
        "covariance: is changed in place, .* >f4",
    ),
    "no covariance": (
        lambda: cpu.rls_update(P[:3].copy(), -9 * np.eye(3, dtype=np.float32), features=P, targets=P),
        "covariance: expected a positive definite matrix",
    ),
    "counts of one byte": (
        lambda: cpu.add_samples(Y[:3].astype(np.uint8), P[:3], None, features=P, labels=Y),
        r"counts: expected \(K,\) int64; found shape \(3,\) uint8",
    ),
    "read-only out": (
        lambda: cpu.decode_int8(*cpu.encode_int8(X), Y, out=frozen(X)),
        "out: expected a writeable array",
    ),
    "no class": (lambda: cpu.fisher_true(X, P[:, :0]), "probabilities: expected at least one column; found K = 0"),
    "too many codewords in a book": (
        lambda: cpu.encode_pq(X, np.zeros((2, 300, 2), np.float32)),
        r"codebooks: expected .* 1 to 256 codewords; found shape \(2, 300, 2\)",
    ),
    "NaN for a codeword": (
        lambda: cpu.encode_pq(np.array([[1, 2], [np.nan, 0]], np.float32), np.ones((1, 4, 2), np.float32)),
        r"features: row 1 of shape \(2, 2\) float32: expected finite",
    ),
    "NaN to be projected": (
        lambda: cpu.encode_projection(X * np.nan, PROJECTION),
        "features: row 0 .* expected finite",
    ),
    "a covariance of NaN": (
        lambda: cpu.fit_projection(X[0], np.full((4, 4), np.nan), n_bytes=2),
        "covariance: expected finite numbers",
    ),
    "NaN": (
        lambda: cpu.encode_int8(np.array([[1, 2], [np.nan, 0]], np.float32)),
        r"features: row 1 of shape \(2, 2\) float32: expected finite values",
    ),
    "beyond float16's scale": (
        lambda: cpu.encode_int4(np.array([[1e6, -1.0]], np.float32)),
        "row 0 .* expected finite values up to 458528, .* found -1.0 to 1000000.0; divide the features first",
    ),
    "a row that is not there": (
        lambda: cpu.decode_int8(*cpu.encode_int8(X), np.array([0, 6])),
        r"rows: expected 0 to 5; found 0 to 6 in shape \(2,\)",
    ),
    "another dim": (
        lambda: cpu.decode_int4(*cpu.encode_int4(X), np.array([0]), dim=6),
        r"codes: expected \(N, bytes\) with bytes = 3; found shape \(6, 2\) uint8",
    ),
    "no divisor": (lambda: cpu.train_pq(X, n_subspaces=3), "n_subspaces: expected a divisor of D = 4; found 3"),
    "too many codewords": (lambda: cpu.train_pq(X, n_subspaces=2, n_codewords=257), "n_codewords: expected 1 to 256"),
    "a code that is no codeword": (
        lambda: cpu.decode_pq(np.full((2, 2), 9, np.uint8), np.zeros((2, 4, 2), np.float32), np.array([1])),
        r"codes: expected below C = 4; found 9 in shape \(2, 2\)",
    ),
    "codes of another projection": (
        lambda: cpu.decode_projection(np.zeros((2, 3), np.uint8), PROJECTION, np.array([0])),
        r"codes: expected \(N, bytes\) with bytes = 2; found shape \(2, 3\) uint8",
    ),
    "no byte": (lambda: cpu.fit_projection(X[0], np.eye(4), n_bytes=0), "n_bytes: expected at least 1; found 0"),
    "more than there are": (lambda: cpu.herd(X, n_chosen=7), "n_chosen: expected 0 to 6, the samples; found 7"),
    "negative capacity": (lambda: cpu.balanced_reservoir(Y, X[:, 0], capacity=-1), "capacity of at least 0"),
    "a list": (lambda: cpu.softmax([[1.0]]), r"logits: expected an array \(N, K\); found list"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_with_shape_and_type(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(KernelError, match=message):
        call()


N_LARGE, D_LARGE, K_LARGE = 3000, 2048, 1000


def large_calls() -> dict[str, Callable[[], Any]]:
    rng = np.random.default_rng(0)
    x, half = rng.random((N_LARGE, D_LARGE), np.float32), rng.random((N_LARGE, D_LARGE)).astype(np.float16)
    p, y = np.full((N_LARGE, K_LARGE), 1 / K_LARGE, np.float32), rng.integers(0, K_LARGE, N_LARGE)
    w = rng.random((K_LARGE, D_LARGE), np.float32)
    state, other = (empty(K_LARGE, D_LARGE) for _ in range(2))
    codes, scales = cpu.encode_int4(x)
    books = rng.random((256, 256, 8), np.float32)
    rows = rng.permutation(N_LARGE)
    out = np.empty_like(x)
    projection = reference.Projection(
        rng.random((320, D_LARGE), np.float32),
        x[0],
        np.full(320, 0.1, np.float32),
        np.full(320, 4, np.uint8),
    )
    packed = cpu.encode_projection(x, projection)
    deltas = {"slopes": x, "probabilities": p, "weights": w}
    covariance = np.eye(D_LARGE, dtype=np.float32)
    return {
        "fisher_true": lambda: cpu.fisher_true(x, p, has_bias=True),
        "fisher of float16": lambda: cpu.fisher_true(half, p),
        "fisher_empirical": lambda: cpu.fisher_empirical(x, p, y),
        "fisher_sampled": lambda: cpu.fisher_sampled(x, p, p[:, 0]),
        "fisher_mse": lambda: cpu.fisher_mse(half),
        "fisher_hidden_true": lambda: cpu.fisher_hidden_true(x, x, **deltas),
        "fisher_hidden_empirical": lambda: cpu.fisher_hidden_empirical(x, x, **deltas, labels=y),
        "second_moment": lambda: cpu.second_moment(half),
        "label_covariance": lambda: cpu.label_covariance(p),
        "rls_update": lambda: cpu.rls_update(w, covariance, features=x[:200], targets=p[:200]),
        "add_samples": lambda: cpu.add_samples(*state, features=x, labels=y),
        "add_samples of float16": lambda: cpu.add_samples(*state, features=half, labels=y),
        "remove_samples": lambda: cpu.remove_samples(*state, features=x, labels=y),
        "merge_statistics": lambda: cpu.merge_statistics(
            *state, other_counts=other[0], other_means=other[1], other_scatter=other[2]
        ),
        "cross_entropy_delta": lambda: cpu.cross_entropy_delta(p, y, sample_weights=p[:, 0]),
        "ewc_step": lambda: cpu.ewc_step(w, half[:1000], fisher=half[:1000], anchor=half[1000:2000], lr=0.1, lam=1),
        "encode_int8": lambda: cpu.encode_int8(half),
        "decode_int4": lambda: cpu.decode_int4(codes, scales, rows, dim=D_LARGE, out=out),
        "train_pq": lambda: cpu.train_pq(half, n_subspaces=256, n_steps=1),
        "encode_pq": lambda: cpu.encode_pq(half, books),
        "encode_projection": lambda: cpu.encode_projection(half, projection),
        "decode_projection": lambda: cpu.decode_projection(packed, projection, rows, out=out),
        "herd": lambda: cpu.herd(half, n_chosen=3),
        "softmax": lambda: cpu.softmax(p),
    }


def uneven_calls() -> dict[str, Callable[[], Any]]:
    """Shapes in which another axis is the large one."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Floats:
        return rng.random(shape, np.float32)

    def share(n: int, k: int) -> Floats:
        return np.full((n, k), 1 / k)

    def hidden(n: int, d: int, h: int, k: int, dtype: Any) -> tuple[tuple[Floats, Floats], dict[str, Any]]:
        arrays = {"slopes": normal(n, h), "probabilities": share(n, k), "weights": normal(k, h)}
        return (normal(n, d), normal(n, h)), {name: array.astype(dtype) for name, array in arrays.items()}

    wide, narrow, double = (
        hidden(8192, 64, 128, 1000, np.float32),
        hidden(8192, 32, 256, 10, np.float32),
        hidden(2000, 256, 2048, 1000, np.float64),
    )
    x, p = normal(4096, 32), share(4096, 1000)
    few, many = normal(500, 2048), normal(1_000_000, 4)
    state, small = empty(100, 2048), empty(10, 4)
    y, labels = rng.integers(0, 100, 500), rng.integers(0, 10, 1_000_000)
    w, factor = normal(1000, 2048).astype(np.float16), normal(2048, 2048).astype(np.float16)
    wide_row = normal(64, 2048)
    books = {parts: normal(parts, 256, 2048 // parts) for parts in (1, 512, 2048)}
    codes = cpu.encode_int8(few)
    return {
        "hidden of many classes": lambda: cpu.fisher_hidden_empirical(
            *wide[0], **wide[1], labels=np.zeros(8192, np.int64)
        ),
        "hidden of few features": lambda: cpu.fisher_hidden_true(*narrow[0], **narrow[1]),
        "hidden of float64": lambda: cpu.fisher_hidden_true(*double[0], **double[1]),
        "fisher of many classes": lambda: cpu.fisher_true(x, p),
        "sampled of many classes": lambda: cpu.fisher_sampled(x, p, p[:, 0]),
        "few samples": lambda: cpu.add_samples(*state, features=few, labels=y),
        "few samples of float64": lambda: cpu.add_samples(*state, features=few[:9].astype(np.float64), labels=y[:9]),
        "many samples": lambda: cpu.add_samples(*small, features=many, labels=labels),
        "many samples removed": lambda: cpu.remove_samples(*small, features=many, labels=labels),
        "kronecker of float16": lambda: cpu.kronecker_product(w, label_factor=w[:, :1000], feature_factor=factor),
        "decode_int8": lambda: cpu.decode_int8(*codes, y),
        "encode_int4": lambda: cpu.encode_int4(few),
        **{f"train_pq {m}": partial(cpu.train_pq, few, n_subspaces=m, n_steps=1) for m in books},
        **{f"encode_pq {m}": partial(cpu.encode_pq, wide_row, book) for m, book in books.items()},
    }


def nbytes(result: Any) -> int:
    if isinstance(result, tuple):
        return sum(map(nbytes, result))
    return result.nbytes if isinstance(result, np.ndarray) else 0


@pytest.mark.parametrize("calls", [large_calls, uneven_calls])
def test_no_call_needs_more_than_8_mib_beyond_inputs_and_outputs(calls: Callable[[], dict[str, Any]]) -> None:
    used = {}
    for name, call in calls().items():
        call()  # compiled by now
        tracemalloc.start()
        result = call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        is_new = name not in {"decode_int4", "decode_projection"}
        used[name] = round((peak - is_new * nbytes(result)) / 2**20, 2)
    assert {name: mib for name, mib in used.items() if mib > 8} == {}


@pytest.mark.parametrize("path", sorted(Path(cpu.__file__).parent.glob("*.py")), ids=lambda path: path.name)
def test_compiled_loops_allocate_nothing(path: Path) -> None:
    """Or it would not be counted in the test above, and be paid for in every call."""
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef) and any(ast.unparse(d) == "compiled" for d in function.decorator_list):
            names = {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)}
            assert names <= {"shape", "int32", "int64", "float32", "float64", "rint", "floor", "inf", "sqrt"}, (
                function.name
            )


@pytest.mark.parametrize("n_threads", [1, 2, 3, 16])
def test_threads_share_the_rows_and_leave_none_out(n_threads: int) -> None:
    for n_rows in (0, 1, 2, 7, 100):
        seen = np.zeros(n_rows, int)

        def mark(rows: slice, seen: Ints = seen) -> None:
            seen[rows] += 1

        blocks.on_threads(mark, n_rows, n_threads)
        np.testing.assert_array_equal(seen, 1)


@pytest.mark.parametrize("n_threads", [1, 2, 16])
def test_product_codes_do_not_depend_on_the_threads(n_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, _, _ = problem(700, 12, 2)
    books = np.random.default_rng(0).normal(size=(3, 256, 4)).astype(np.float32)
    want = cpu.encode_pq(x, books)
    monkeypatch.setattr(product, "count_threads", lambda *_: n_threads)
    np.testing.assert_array_equal(cpu.encode_pq(x, books), want)
    np.testing.assert_array_equal(cpu.encode_pq(x.astype(np.float64), books), want)
