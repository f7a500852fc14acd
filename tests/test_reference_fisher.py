"""The reference Fishers against their definition: squared scores, label by label and sample by sample."""

from __future__ import annotations

from collections.abc import Callable
from math import fsum
from typing import Any

import numpy as np
import pytest
from edge_kernels import reference
from edge_kernels.arrays import Floats, Ints
from hypothesis import given, settings
from hypothesis import strategies as st

N, D, H, K = 6, 3, 5, 4
BELOW_ONE = float(np.nextafter(1.0, 0.0))


def problem(seed: int = 0) -> tuple[Floats, Floats, Ints]:
    """Return features (N, D), probabilities (N, K) and labels (N,)."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(N, D)), rng.dirichlet(np.ones(K), N), rng.integers(0, K, N)


Fisher = Callable[..., Floats]


def true(features: Floats, probabilities: Floats, _: Ints, *, has_bias: bool = False) -> Floats:
    return reference.fisher_true(features, probabilities, has_bias=has_bias)


def sampled(features: Floats, probabilities: Floats, labels: Ints, *, has_bias: bool = False) -> Floats:
    return reference.fisher_sampled(features, probabilities, (labels + 0.5) / K, has_bias=has_bias)


def regression(features: Floats, _: Floats, __: Ints, *, has_bias: bool = False) -> Floats:
    return reference.fisher_mse(features, has_bias=has_bias)


every_fisher = pytest.mark.parametrize("fisher", [true, reference.fisher_empirical, sampled, regression])


def leaves(*shapes: tuple[int, ...]) -> list[Any]:
    """Return weights in torch, of these shapes, that gradients can be taken by."""
    import torch

    rng = np.random.default_rng(1)
    return [torch.tensor(rng.normal(size=shape), requires_grad=True) for shape in shapes]


def gradients(loss: Any, by: list[Any]) -> list[Floats]:
    """Return the derivatives of a loss by each of these parts, from torch's autograd."""
    import torch

    return [gradient.numpy() for gradient in torch.autograd.grad(loss, by, retain_graph=True)]


def test_softmax_of_large_logits_is_finite_and_sums_to_one() -> None:
    p = reference.softmax(np.array([[1e4, 0.0, -1e4], [5.0, 5.0, 5.0]]))
    np.testing.assert_allclose(p, np.array([[1, 0, 0], [1 / 3] * 3]), atol=1e-15)  # exp(-1e4) is 0 in float64


@given(seed=st.integers(0, 2**32), shift=st.floats(-1e3, 1e3), spread=st.floats(0, 100))
@settings(deadline=None)
def test_softmax_keeps_the_differences_of_the_logits_and_nothing_else(seed: int, shift: float, spread: float) -> None:
    logits = spread * np.random.default_rng(seed).uniform(-1, 1, size=(3, K)) + shift
    p = reference.softmax(logits)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-14)
    differences = np.log(p) - np.log(p[:, :1])
    np.testing.assert_allclose(differences, logits - logits[:, :1], atol=1e-11)  # rounding of logits up to 1100


@pytest.mark.parametrize("has_bias", [False, True])
def test_true_fisher_is_the_expected_squared_score(has_bias: bool) -> None:
    x, p, _ = problem()
    inputs = np.hstack([x, np.ones((N, 1))]) if has_bias else x
    want = np.zeros((K, D + has_bias))
    for n in range(N):
        for y in range(K):
            want += p[n, y] * np.outer(np.eye(K)[y] - p[n], inputs[n]) ** 2 / N
    np.testing.assert_allclose(reference.fisher_true(x, p, has_bias=has_bias), want, rtol=1e-12)  # order of sums


def test_true_fisher_is_the_autograd_gradient_squared_and_averaged_over_the_labels() -> None:
    torch = pytest.importorskip("torch")
    x, _, _ = problem()
    weights, bias = leaves((K, D), (K,))
    logits = torch.tensor(x) @ weights.T + bias
    p = torch.softmax(logits, dim=1).detach().numpy()
    want = np.zeros((K, D + 1))
    for n in range(N):
        for y in range(K):
            by_weights, by_bias = gradients(torch.log_softmax(logits[n], dim=0)[y], [weights, bias])
            want += p[n, y] * np.hstack([by_weights, by_bias[:, None]]) ** 2 / N
    np.testing.assert_allclose(reference.fisher_true(x, p, has_bias=True), want, rtol=1e-10)  # torch's own exp
    np.testing.assert_allclose(reference.fisher_true(x, p), want[:, :-1], rtol=1e-10)


def test_empirical_fisher_is_the_mean_squared_gradient_of_each_sample() -> None:
    torch = pytest.importorskip("torch")
    x, _, labels = problem()
    weights, bias = leaves((K, D), (K,))
    logits = torch.tensor(x) @ weights.T + bias
    want = np.zeros((K, D + 1))
    for n in range(N):
        loss = torch.nn.functional.cross_entropy(logits[n], torch.tensor(labels[n]))
        by_weights, by_bias = gradients(loss, [weights, bias])
        want += np.hstack([by_weights, by_bias[:, None]]) ** 2 / N
    p = torch.softmax(logits, dim=1).detach().numpy()
    np.testing.assert_allclose(reference.fisher_empirical(x, p, labels, has_bias=True), want, rtol=1e-9)  # torch's exp
    np.testing.assert_allclose(reference.fisher_empirical(x, p, labels), want[:, :-1], rtol=1e-9)


def test_true_fisher_is_the_empirical_one_averaged_over_every_labelling() -> None:
    x, p, _ = problem()
    want = np.zeros((K, D))
    for n in range(N):
        for y in range(K):
            want += p[n, y] / N * reference.fisher_empirical(x[n : n + 1], p[n : n + 1], np.array([y]))
    np.testing.assert_allclose(reference.fisher_true(x, p), want, rtol=1e-12)  # order of sums


@pytest.mark.parametrize(
    ("probabilities", "uniform", "label"),
    [
        ((0.25, 0.5, 0.25), 0.0, 0),
        ((0.25, 0.5, 0.25), float(np.nextafter(0.25, 0)), 0),
        ((0.25, 0.5, 0.25), 0.25, 1),
        ((0.25, 0.5, 0.25), float(np.nextafter(0.75, 0)), 1),
        ((0.25, 0.5, 0.25), 0.75, 2),
        ((0.25, 0.5, 0.25), BELOW_ONE, 2),
        ((0.0, 0.4, 0.6), 0.0, 1),  # what has no probability is never drawn
        ((0.4, 0.0, 0.6), 0.4, 2),
        ((1.0, 0.0, 0.0), BELOW_ONE, 0),
        ((0.5, 0.25, 0.2499), 0.99999, 2),  # beyond the sum of a row that was rounded down
        ((0.5, 0.25, 0.2499), BELOW_ONE, 2),
        ((0.5, 0.25, 0.2501), BELOW_ONE, 2),
    ],
)
def test_a_sampled_label_is_the_first_class_whose_cumulative_probability_passes_the_uniform(
    probabilities: tuple[float, ...], uniform: float, label: int
) -> None:
    x, p = np.array([[1.0, -2.0]]), np.array([probabilities])
    found = reference.fisher_sampled(x, p, np.array([uniform]), has_bias=True)
    of_each = [reference.fisher_empirical(x, p, np.array([y]), has_bias=True) for y in range(3)]
    assert [bool(np.array_equal(found, one)) for one in of_each] == [y == label for y in range(3)]


def test_each_sample_is_drawn_by_its_own_uniform() -> None:
    x, p, _ = problem()
    uniforms = np.random.default_rng(1).uniform(size=N)
    labels = np.array([next(y for y in range(K) if sum(p[n, : y + 1]) > uniforms[n]) for n in range(N)])
    assert len(set(labels)) > 1
    found = reference.fisher_sampled(x, p, uniforms)
    np.testing.assert_array_equal(found, reference.fisher_empirical(x, p, labels))


def test_float32_rows_that_sum_to_less_than_one_still_draw_a_class() -> None:
    p = np.full((1, 10), np.nextafter(np.float32(0.1), np.float32(0)), np.float32)
    assert p.astype(np.float64).sum() < BELOW_ONE
    found = reference.fisher_sampled(np.ones((1, 1)), p, np.array([BELOW_ONE]))
    np.testing.assert_array_equal(found, reference.fisher_empirical(np.ones((1, 1)), p, np.array([9])))


def test_float32_probabilities_are_added_up_in_float64_before_a_label_is_drawn() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(100)).astype(np.float32)
    sums = np.array([fsum(p[: y + 1]) for y in range(99)])  # exact, and so is float64 for these
    uniforms = np.concatenate([sums, np.nextafter(sums, 0)])
    labels = np.concatenate([np.arange(1, 100), np.arange(99)])
    x, rows = np.arange(1.0, 199)[:, None], np.repeat(p[None], 198, axis=0)
    found = reference.fisher_sampled(x, rows, uniforms)
    np.testing.assert_array_equal(found, reference.fisher_empirical(x, rows, labels))


def test_the_mean_of_the_sampled_fisher_over_the_uniforms_is_the_true_fisher() -> None:
    n_uniforms = 1000
    grid = (np.arange(n_uniforms) + 0.5) / n_uniforms
    rng = np.random.default_rng(0)
    for n in range(N):
        x = rng.normal(size=(1, D))
        p = rng.multinomial(n_uniforms, rng.dirichlet(np.ones(K)))[None] / n_uniforms  # the grid hits them exactly
        many = np.repeat(x, n_uniforms, axis=0), np.repeat(p, n_uniforms, axis=0)
        mean = reference.fisher_sampled(*many, grid, has_bias=True)
        want = reference.fisher_true(x, p, has_bias=True)
        np.testing.assert_allclose(mean, want, rtol=1e-11, err_msg=f"sample {n}")  # rounding of 1000 summands


def test_regression_fisher_is_the_expected_squared_gradient_under_gaussian_noise() -> None:
    torch = pytest.importorskip("torch")
    x, _, _ = problem()
    noises, weights_of_noise = np.polynomial.hermite_e.hermegauss(5)  # exact up to degree 9; a squared gradient has 2
    weights, bias = leaves((K, D), (K,))
    want = np.zeros((K, D + 1))
    for n in range(N):
        outputs = weights @ torch.tensor(x[n]) + bias
        for k in range(K):
            for noise, chance in zip(noises, weights_of_noise / weights_of_noise.sum(), strict=True):
                target = outputs[k].detach() + noise
                by_weights, by_bias = gradients(0.5 * (outputs[k] - target) ** 2, [weights, bias])
                want[k] += chance * np.append(by_weights[k], by_bias[k]) ** 2 / N
    for k in range(K):  # neither the output nor its target matters
        np.testing.assert_allclose(reference.fisher_mse(x, has_bias=True), want[k], rtol=1e-12)  # nodes to rounding
        np.testing.assert_allclose(reference.fisher_mse(x), want[k, :-1], rtol=1e-12)


def hidden_problem() -> tuple[dict[str, Any], Any, list[Any]]:
    """Return the inputs of the hidden Fishers, the logits (N, K) of a tanh head in torch, and its four parts."""
    import torch

    x, _, _ = problem()
    parts = leaves((H, D), (H,), (K, H), (K,))
    before = torch.tensor(x) @ parts[0].T + parts[1]
    hidden = torch.tanh(before)
    logits = hidden @ parts[2].T + parts[3]
    (slopes,) = torch.autograd.grad(hidden.sum(), before, retain_graph=True)
    arrays = {
        "features": x,
        "hidden": hidden.detach().numpy(),
        "slopes": slopes.numpy(),
        "probabilities": torch.softmax(logits, dim=1).detach().numpy(),
        "weights": parts[2].detach().numpy(),
    }
    return arrays, logits, parts


def assert_same_parts(found: reference.HiddenFisher, want: list[Floats]) -> None:
    for one, other in zip(found, want, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-9)  # torch's own exp and tanh


def test_hidden_true_fisher_is_the_expected_squared_gradient_of_all_four_parts() -> None:
    torch = pytest.importorskip("torch")
    arrays, logits, parts = hidden_problem()
    want = [np.zeros(part.shape) for part in parts]
    for n in range(N):
        for y in range(K):
            for m, gradient in enumerate(gradients(torch.log_softmax(logits[n], dim=0)[y], parts)):
                want[m] += arrays["probabilities"][n, y] * gradient**2 / N
    assert_same_parts(reference.fisher_hidden_true(**arrays), want)


def test_hidden_empirical_fisher_is_the_mean_squared_gradient_of_all_four_parts() -> None:
    torch = pytest.importorskip("torch")
    arrays, logits, parts = hidden_problem()
    _, _, labels = problem()
    want = [np.zeros(part.shape) for part in parts]
    for n in range(N):
        loss = torch.nn.functional.cross_entropy(logits[n], torch.tensor(labels[n]))
        for m, gradient in enumerate(gradients(loss, parts)):
            want[m] += gradient**2 / N
    assert_same_parts(reference.fisher_hidden_empirical(**arrays, labels=labels), want)


def test_the_hidden_fisher_names_its_parts_in_the_order_of_the_layers() -> None:
    pytest.importorskip("torch")
    arrays, _, _ = hidden_problem()
    fisher = reference.fisher_hidden_true(**arrays)
    assert [part.shape for part in fisher] == [(H, D), (H,), (K, H), (K,)]
    assert fisher == (fisher.weights_in, fisher.bias_in, fisher.weights_out, fisher.bias_out)


def test_hidden_fishers_of_small_types_are_summed_in_float64() -> None:
    pytest.importorskip("torch")
    _, _, labels = problem()
    arrays = {name: array.astype(np.float16) for name, array in hidden_problem()[0].items()}
    arrays["features"] *= 1000  # squares that float16 cannot hold
    wide = {name: array.astype(np.float64) for name, array in arrays.items()}
    assert_same_parts(reference.fisher_hidden_true(**arrays), [*reference.fisher_hidden_true(**wide)])
    want = reference.fisher_hidden_empirical(**wide, labels=labels)
    assert_same_parts(reference.fisher_hidden_empirical(**arrays, labels=labels), [*want])


@every_fisher
def test_the_bias_is_one_more_weight_whose_input_is_one(fisher: Fisher) -> None:
    x, p, labels = problem()
    with_bias = fisher(x, p, labels, has_bias=True)
    np.testing.assert_array_equal(fisher(np.hstack([x, np.ones((N, 1))]), p, labels), with_bias)
    np.testing.assert_array_equal(fisher(x, p, labels), with_bias[..., :-1])


@every_fisher
def test_the_fisher_of_a_batch_is_the_mean_of_its_samples(fisher: Fisher) -> None:
    x, p, labels = problem()
    each = [fisher(x[n : n + 1], p[n : n + 1], labels[n : n + 1], has_bias=True) for n in range(N)]
    found = fisher(x, p, labels, has_bias=True)
    np.testing.assert_allclose(found, np.mean(each, axis=0), rtol=1e-12)  # order of sums


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@every_fisher
def test_small_types_are_summed_in_float64(fisher: Fisher, dtype: type[np.floating[Any]]) -> None:
    x, p, labels = problem()
    x, p = (x * 1000).astype(dtype), p.astype(dtype)  # squares that float16 cannot hold
    found = fisher(x, p, labels)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, fisher(x.astype(np.float64), p.astype(np.float64), labels))
