"""The CUDA kernels of Fishers, curvature, statistics and steps against the reference, on a GPU or in the simulator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from edge_kernels import cuda, reference
from edge_kernels.arrays import KernelError
from edge_kernels.cuda import curvature, launch, matrices, recursion, statistics, steps, target

from tests.cuda_arrays import FORMS, KINDS, get, halves, need_device, put, rng, torch

need_device()

CLOSE: dict[str, Any] = {"rtol": 2e-5, "atol": 2e-6}  # what float32 sums of some tens of terms of about 1 may differ by


def problem(n: int, d: int = 4, k: int = 3) -> tuple[Any, Any, Any]:
    """Return features, probabilities and labels, whose floats float16 holds exactly."""
    features = halves(n, d)
    probabilities = reference.softmax(rng.normal(size=(n, k))).astype(np.float16).astype(np.float64)
    return features, probabilities, rng.integers(0, k, n)


@pytest.fixture(params=["one block", "blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Let kernels see their samples at once, and in blocks of one to a few rows."""
    if request.param == "blocks":
        monkeypatch.setattr(matrices, "SCRATCH_BYTES", 160)  # two rows and two classes, of problems as small as these
        monkeypatch.setattr(matrices, "VIEW_ROWS", 2)
        monkeypatch.setattr(launch, "HALF_BYTES", 16)
        monkeypatch.setattr(curvature, "FACTOR_ROWS", 2)
        monkeypatch.setattr(recursion, "BATCH_ROWS", 2)
        monkeypatch.setattr(recursion, "TILE_ROWS", 2)
        monkeypatch.setattr(statistics, "BLOCK_ROWS", 2)
        monkeypatch.setattr(statistics, "TILE_BYTES", 32)
        monkeypatch.setattr(steps, "LOSS_ROWS", 2)
    return iter([request.param])


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("has_bias", [False, True])
def test_fishers_agree_however_many_rows_and_blocks_there_are(n: int, has_bias: bool) -> None:
    x, p, y = problem(n)
    u = rng.random(n)
    for name, arrays in {"true": (x, p), "empirical": (x, p, y), "sampled": (x, p, u), "mse": (x,)}.items():
        kernel, definition = (getattr(module, f"fisher_{name}") for module in (cuda, reference))
        found = get(kernel(*(put(each, "tensors") for each in arrays), has_bias=has_bias))
        np.testing.assert_allclose(found, definition(*arrays, has_bias=has_bias), **CLOSE, err_msg=name)
        assert found.dtype == np.float32


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_fishers_agree_whatever_holds_the_numbers(kind: str, form: str) -> None:
    x, p, y = problem(3)
    u = rng.random(3).astype(np.float16).astype(np.float64)
    for name, arrays in {"true": (x, p), "empirical": (x, p, y), "sampled": (x, p, u), "mse": (x,)}.items():
        kernel, definition = (getattr(module, f"fisher_{name}") for module in (cuda, reference))
        found = kernel(*(put(each, kind, form) for each in arrays))
        np.testing.assert_allclose(get(found), definition(*arrays), **CLOSE, err_msg=name)
        assert target.is_tensor(found) == (kind == "tensors")


def hidden_problem(n: int) -> tuple[Any, Any, dict[str, Any], Any]:
    x, p, y = problem(n)
    h, slopes, weights = (halves(*size) for size in ((n, 5), (n, 5), (3, 5)))
    return x, h, {"slopes": slopes, "probabilities": p, "weights": weights}, y


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("form", FORMS)
def test_hidden_fishers_agree_whatever_holds_the_numbers(form: str) -> None:
    x, h, rest, y = hidden_problem(3)
    there = [put(each, "tensors", form) for each in (x, h)], {k: put(v, "tensors", form) for k, v in rest.items()}
    found = cuda.fisher_hidden_true(*there[0], **there[1])
    for part, want in zip(found, reference.fisher_hidden_true(x, h, **rest), strict=True):
        np.testing.assert_allclose(get(part), want, **CLOSE)
    found = cuda.fisher_hidden_empirical(*there[0], **there[1], labels=put(y, "tensors"))
    for part, want in zip(found, reference.fisher_hidden_empirical(x, h, **rest, labels=y), strict=True):
        np.testing.assert_allclose(get(part), want, **CLOSE)


def test_hidden_fishers_agree_on_arrays_of_other_libraries() -> None:
    x, h, rest, _ = hidden_problem(2)
    found = cuda.fisher_hidden_true(
        put(x, "others"), put(h, "others"), **{k: put(v, "others") for k, v in rest.items()}
    )
    for part, want in zip(found, reference.fisher_hidden_true(x, h, **rest), strict=True):
        np.testing.assert_allclose(get(part), want, **CLOSE)


def test_what_all_weights_of_a_hidden_layer_share_costs_no_digits() -> None:
    weights = np.array([[1000.25], [1000.5], [1000.125]], np.float32)  # mean of squares less square of mean: 0 left
    p = np.array([[0.5, 0.25, 0.25]], np.float32)
    arrays = np.ones((1, 1), np.float32), np.ones((1, 1), np.float32)
    rest = {"slopes": np.ones((1, 1), np.float32), "probabilities": p, "weights": weights}
    there = [put(each, "tensors") for each in arrays], {name: put(each, "tensors") for name, each in rest.items()}
    found = cuda.fisher_hidden_true(*there[0], **there[1]).weights_in
    np.testing.assert_allclose(get(found), reference.fisher_hidden_true(*arrays, **rest).weights_in, rtol=1e-5)
    y = np.array([2])
    found = cuda.fisher_hidden_empirical(*there[0], **there[1], labels=put(y, "tensors")).weights_in
    want = reference.fisher_hidden_empirical(*arrays, **rest, labels=y).weights_in
    np.testing.assert_allclose(get(found), want, rtol=1e-5)


def test_small_terms_are_not_lost_beside_a_large_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrices, "SCRATCH_BYTES", 1)  # a block for each row
    x = np.full((65, 1), 0.5, np.float32)
    x[0] = 4096  # whose square is 2^24: float32 cannot add 1/4 to it
    found = get(cuda.fisher_mse(put(x, "tensors")))
    np.testing.assert_allclose(found, reference.fisher_mse(x), rtol=1e-7)


def test_sampled_labels_change_exactly_where_the_summed_probabilities_do() -> None:
    p = np.full((6, 7), 1 / 7, np.float32)
    edges = np.cumsum(p[0], dtype=np.float64)
    u = np.array([edges[2], np.nextafter(edges[2], 0), edges[5], np.nextafter(edges[5], 0), 0.0, edges[6] + 1])
    x = np.arange(1, 7, dtype=np.float32)[:, None] ** 2
    found = get(cuda.fisher_sampled(put(x, "tensors"), put(p, "tensors"), put(u, "tensors")))
    np.testing.assert_allclose(found, reference.fisher_sampled(x, p, u), **CLOSE)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_is_the_label_of_none_or_left_out(label: int) -> None:
    x, p, y = problem(4)
    wrong = np.array([*y[:3], label])
    found = get(cuda.fisher_empirical(put(x[3:], "tensors"), put(p[3:], "tensors"), put(wrong[3:], "tensors")))
    np.testing.assert_allclose(found, p[3][:, None] ** 2 * x[3] ** 2, **CLOSE)
    weights = rng.random(4)
    loss, delta = cuda.cross_entropy_delta(
        put(p, "tensors"), put(wrong, "tensors"), sample_weights=put(weights, "tensors")
    )
    want_loss, want_delta = reference.cross_entropy_delta(p[:3], y[:3], sample_weights=weights[:3])
    np.testing.assert_allclose(loss, want_loss, rtol=1e-6)
    np.testing.assert_allclose(get(delta), [*want_delta, [0, 0, 0]], **CLOSE)
    kept, want = (statistics_of(samples, labels) for samples, labels in ((x, wrong), (x[:3], y[:3])))
    for a, b in zip(kept, want, strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_softmax_and_cross_entropy_agree_whatever_holds_the_numbers(kind: str, form: str) -> None:
    logits = (rng.normal(size=(2, 6)) * 3).astype(np.float16).astype(np.float64)
    y, weights = np.array([5, 0]), np.array([0.5, 2.0])
    np.testing.assert_allclose(get(cuda.softmax(put(logits, kind, form))), reference.softmax(logits), **CLOSE)
    there = put(logits, kind, form), put(y, kind), put(weights, kind, form)
    loss, delta = cuda.cross_entropy_delta(*there[:2], sample_weights=there[2])
    want_loss, want_delta = reference.cross_entropy_delta(logits, y, sample_weights=weights)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-6)
    np.testing.assert_allclose(get(delta), want_delta, **CLOSE)
    assert isinstance(loss, float)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_the_loss_is_the_sum_over_all_blocks(n: int) -> None:
    logits, y, weights = rng.normal(size=(n, 3)).astype(np.float32), rng.integers(0, 3, n), rng.random(n)
    loss, delta = cuda.cross_entropy_delta(
        put(logits, "tensors"), put(y, "tensors"), sample_weights=put(weights, "tensors")
    )
    want_loss, want_delta = reference.cross_entropy_delta(logits, y, sample_weights=weights)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-6)
    np.testing.assert_allclose(get(delta), want_delta, **CLOSE)


def test_large_logits_give_finite_probabilities_and_a_sure_label_a_delta_with_digits() -> None:
    sure = np.array([[1e4, 0.0, -1e4], [10.0, 0.0, 0.0]], np.float32)
    np.testing.assert_allclose(get(cuda.softmax(put(sure, "tensors"))), reference.softmax(sure), rtol=1e-5)
    there = put(sure, "tensors"), put(np.array([0, 0]), "tensors")
    _, delta = cuda.cross_entropy_delta(*there, sample_weights=put(np.ones(2), "tensors"))
    want = reference.cross_entropy_delta(sure, np.array([0, 0]), sample_weights=np.ones(2))[1]
    np.testing.assert_allclose(get(delta), want, rtol=1e-5)


def step(kind: str, lam: float, form: str = "float32") -> tuple[Any, Any, Any, Any]:
    """Return weights after a step, and stepped weights, Fisher and anchor, (3, 4) each."""
    w, g, anchor = (halves(3, 4).astype(np.float32) for _ in range(3))
    fisher = np.repeat(np.array([0, 1e-3, 1, 60000], np.float16).astype(np.float32)[None], 3, axis=0)
    weights = put(w, kind, "every other column" if form == "every other column" else "float32")
    rest = {"fisher": put(fisher, kind, form), "anchor": put(anchor, kind, form)}
    cuda.ewc_step(weights, put(g, kind, form), **rest, lr=0.5, lam=lam)
    return get(weights), w - np.float32(0.5) * g, fisher, anchor


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_ewc_step_agrees_and_lies_between_the_step_and_the_anchor(kind: str, form: str) -> None:
    for lam in (0.0, 1e-3, 1.0, 1e12):
        found, stepped, fisher, anchor = step(kind, lam, form)
        pull = 0.5 * lam * fisher.astype(np.float64)
        np.testing.assert_allclose(found, (stepped + pull * anchor) / (1 + pull), **CLOSE)
        assert (found >= np.minimum(stepped, anchor)).all()
        assert (found <= np.maximum(stepped, anchor)).all()
        np.testing.assert_array_equal(found[:, 0], stepped[:, 0])  # no Fisher, no anchor


@pytest.mark.filterwarnings("ignore:overflow encountered in scalar multiply:RuntimeWarning")  # the law is about it
def test_an_ewc_term_beyond_float32_leaves_the_anchor_and_no_fisher_the_step() -> None:
    w, g, anchor = (put(np.full((1, 2), value, np.float32), "tensors") for value in (1.0, 2.0, 5.0))
    cuda.ewc_step(w, g, fisher=put(np.array([[3e38, 0]], np.float32), "tensors"), anchor=anchor, lr=1e30, lam=1e12)
    np.testing.assert_array_equal(get(w), [[5.0, np.float32(1) - np.float32(1e30) * np.float32(2)]])


def test_weights_at_their_anchor_stay_there_to_the_last_bit_without_a_gradient() -> None:
    w, fisher = halves(8, 8).astype(np.float32) / 3, rng.random((8, 8)).astype(np.float32)
    weights, anchor, none = put(w), put(w), put(np.zeros_like(w))
    cuda.ewc_step(weights, none, fisher=put(fisher), anchor=anchor, lr=1.0, lam=1.0)
    np.testing.assert_array_equal(get(weights), w)


def test_a_mirrored_matrix_is_what_was_below_its_diagonal() -> None:
    matrix = rng.random((4, 4)).astype(np.float32)
    place, (there,) = launch.settle(matrix=put(matrix))
    matrices.mirror(place, there)
    np.testing.assert_array_equal(get(there), np.tril(matrix) + np.tril(matrix, -1).T)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_kronecker_factors_agree_and_are_symmetric_to_the_last_bit(n: int, form: str) -> None:
    x, p, _ = problem(n)
    for kernel, definition, array in (
        (cuda.second_moment, reference.second_moment, x),
        (cuda.label_covariance, reference.label_covariance, p),
    ):
        found = get(kernel(put(array, "tensors", form)))
        np.testing.assert_allclose(found, definition(array), **CLOSE)
        np.testing.assert_array_equal(found, found.T)


@pytest.mark.parametrize("kind", KINDS)
def test_a_confident_head_has_a_label_covariance_with_digits(kind: str) -> None:
    p = reference.softmax(np.array([[9.0, 0, -1], [8, 1, 0]])).astype(np.float32)
    found = get(cuda.label_covariance(put(p, kind)))
    np.testing.assert_allclose(found, reference.label_covariance(p), rtol=2e-5)
    np.testing.assert_allclose(found.sum(axis=1), 0, atol=1e-7)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_kronecker_product_agrees(kind: str, form: str) -> None:
    w, a, s = (halves(*size) for size in ((3, 5), (3, 3), (5, 5)))
    factors = {"label_factor": put(a, kind, form), "feature_factor": put(s, kind, form)}
    want = reference.kronecker_product(w, label_factor=a, feature_factor=s)
    np.testing.assert_allclose(get(cuda.kronecker_product(put(w, kind, form), **factors)), want, rtol=2e-5, atol=1e-5)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize(("kind", "form"), [("tensors", "float32"), ("tensors", "float64"), ("others", "float32")])
def test_ten_updates_of_recursive_least_squares_are_one_ridge_regression(kind: str, form: str) -> None:
    x, ridge = rng.normal(size=(23, 4)), 1e-3  # so that the first covariance is large beside the last
    t = x @ rng.normal(size=(4, 2)) + 0.1 * rng.normal(size=(23, 2))
    weights, covariance = put(np.zeros((2, 4)), kind, form), put(np.eye(4) / ridge, kind, form)
    for rows in np.array_split(np.arange(23), 10):
        cuda.rls_update(weights, covariance, features=put(x[rows], kind, form), targets=put(t[rows], kind, form))
    inverse = np.linalg.inv(x.T @ x + ridge * np.eye(4))
    np.testing.assert_allclose(get(weights), (inverse @ x.T @ t).T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(get(covariance), inverse, rtol=1e-3, atol=3e-4)  # float32 of 1,000 less nearly 1,000


def statistics_of(x: Any, y: Any, kind: str = "tensors", form: str = "float64") -> list[Any]:
    """Return counts, means and scatter of samples of three classes, found on the device."""
    d = x.shape[1]
    found = (
        put(np.zeros(3, np.int64), kind),
        put(np.zeros((3, d), np.float32), kind),
        put(np.zeros((d, d), np.float32), kind),
    )
    cuda.add_samples(*found, features=put(x, kind, form), labels=put(y, kind))
    return [get(each) for each in found]


def reference_statistics(x: Any, y: Any) -> list[Any]:
    found = [np.zeros(3, np.int64), np.zeros((3, x.shape[1])), np.zeros((x.shape[1],) * 2)]
    reference.add_samples(*found, features=x, labels=y)
    return found


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_added_samples_give_the_statistics_of_the_reference(n: int, form: str) -> None:
    x, _, y = problem(n)
    for found, want in zip(statistics_of(x, y, form=form), reference_statistics(x, y), strict=True):
        np.testing.assert_allclose(found, want, **CLOSE)


def test_added_samples_agree_on_arrays_of_other_libraries() -> None:
    x, _, y = problem(4, d=3)
    for found, want in zip(statistics_of(x, y, "others"), reference_statistics(x, y), strict=True):
        np.testing.assert_allclose(found, want, **CLOSE)


@pytest.mark.usefixtures("blocks")
def test_means_far_from_zero_leave_the_scatter_its_digits() -> None:
    x, _, y = problem(5, d=3)
    _, _, found = statistics_of(x + 4096, y)
    np.testing.assert_allclose(found, reference_statistics(x + 4096, y)[2], rtol=1e-3, atol=1e-3)  # means are float32


@pytest.mark.usefixtures("blocks")
def test_statistics_in_float64_hold_float64_samples() -> None:
    x, _, y = problem(5, d=3)
    found = [put(np.zeros(size)) for size in ((3, 3), (3, 3))]
    cuda.add_samples(put(np.zeros(3, np.int64)), *found, features=put(x + 1e6), labels=put(y))
    _, means, scatter = reference_statistics(x + 1e6, y)
    np.testing.assert_allclose(get(found[0]), means, rtol=1e-14)
    np.testing.assert_allclose(get(found[1]), scatter, **CLOSE)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("has_scatter", [True, False])
def test_adding_and_removing_the_same_samples_leads_back_to_the_start(has_scatter: bool) -> None:
    (x, _, y), (more, _, labels) = problem(4, d=3), problem(3, d=3)
    start = statistics_of(x, y)
    there = [put(each, "tensors") for each in start]
    there[2] = there[2] if has_scatter else None
    for change in (cuda.add_samples, cuda.remove_samples):
        change(*there, features=put(more, "tensors"), labels=put(labels, "tensors"))
    for found, want in zip(there[: 3 if has_scatter else 2], start, strict=False):
        np.testing.assert_allclose(get(found), want, rtol=1e-4, atol=1e-5)  # removing turns rounding into differences
    cuda.remove_samples(*there, features=put(x, "tensors"), labels=put(y, "tensors"))
    assert not get(there[0]).any()
    assert not get(there[1]).any()  # exactly 0 where no sample is left


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("kind", KINDS)
def test_merged_statistics_are_those_of_all_samples(kind: str) -> None:
    (x, _, y), (more, _, labels) = problem(4, d=3), problem(3, d=3)
    own, others = ([put(each, kind) for each in statistics_of(*samples)] for samples in ((x, y), (more, labels)))
    names = ("other_counts", "other_means", "other_scatter")
    cuda.merge_statistics(*own, **dict(zip(names, others, strict=True)))
    want = reference_statistics(np.concatenate([x, more]), np.concatenate([y, labels]))
    for found, expected in zip(own, want, strict=True):
        np.testing.assert_allclose(get(found), expected, **CLOSE)


def test_inputs_stay_as_they_are_and_may_require_gradients() -> None:
    x, p, y = problem(3)
    tensors = [put(each, "tensors", "float32") for each in (x, p, y)]
    tensors[0].requires_grad_()
    before = [each.detach().clone() for each in tensors]
    assert not cuda.fisher_empirical(*tensors).requires_grad
    assert all(torch.equal(old, new) for old, new in zip(before, tensors, strict=True))


def test_what_cannot_be_used_is_refused_with_its_name_shape_and_type() -> None:
    x, p, y = (put(each, "tensors", "float32") for each in problem(3))
    wide, half = put(np.zeros((3, 4)), "tensors"), put(np.zeros((3, 4)), "tensors", "float16")
    counts = put(np.zeros(3, np.int64), "tensors")
    refusals: dict[str, Callable[[], Any]] = {
        r"probabilities: expected \(N, K\) with N = 2; found shape \(3, 3\) float32": lambda: cuda.fisher_true(
            x[:2], p
        ),
        r"features: expected at least one row; found N = 0": lambda: cuda.fisher_true(x[:0], p[:0]),
        r"labels: expected \(N,\) integers; found shape \(3,\) float32": lambda: cuda.fisher_empirical(x, p, x[:, 0]),
        r"features: expected an array on the GPU; found list": lambda: cuda.second_moment([[1.0]]),
        r"weights: expected \(K, D\) float32; found shape \(3, 4\) float64": lambda: cuda.ewc_step(
            wide, x, fisher=x, anchor=x, lr=1, lam=1
        ),
        r"means: expected float32 or float64; found shape \(3, 4\) float16": lambda: cuda.add_samples(
            counts, half, None, features=x, labels=y
        ),
        r"other_scatter: expected one where `scatter` is one": lambda: cuda.merge_statistics(
            counts, wide, put(np.eye(4), "tensors"), other_counts=counts, other_means=wide, other_scatter=None
        ),
        r"labels: expected it where features is, a torch tensor on .*; found shape \(3,\) int64, an array of another": (
            lambda: cuda.fisher_empirical(x, p, put(get(y), "others"))
        ),
    }
    for text, call in refusals.items():
        with pytest.raises(KernelError, match=text):
            call()


def test_products_keep_to_float32_where_torch_may_use_less() -> None:
    settings: Any = torch.backends.cuda.matmul
    name, loose = ("fp32_precision", "tf32") if hasattr(settings, "fp32_precision") else ("allow_tf32", True)
    before = getattr(settings, name)
    setattr(settings, name, loose)
    try:
        with matrices.exact_products():
            assert getattr(settings, name) in {"ieee", False}
        assert getattr(settings, name) == loose
    finally:
        setattr(settings, name, before)
