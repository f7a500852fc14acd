"""The Fisher kernels against the definition of the Fisher, and the fast ones against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from edge_kernels import cpu, reference
from edge_kernels.reference import Floats, Ints


def problem(n: int, d: int, k: int, seed: int = 0) -> tuple[Floats, Floats, Ints]:
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(n, d)).astype(np.float32),
        reference.softmax(rng.normal(size=(n, k)) * 3).astype(np.float32),
        rng.integers(0, k, n),
    )


def test_softmax_of_large_logits_is_finite_and_sums_to_one() -> None:
    p = reference.softmax(np.array([[1e4, 0.0, -1e4], [5.0, 5.0, 5.0]]))
    np.testing.assert_allclose(p, np.array([[1, 0, 0], [1 / 3] * 3]), atol=1e-12)


def test_true_fisher_is_the_expected_squared_score() -> None:
    x, p, _ = problem(4, 3, 5)
    terms: list[Floats] = [p[n, y] * np.outer(np.eye(5)[y] - p[n], x[n]) ** 2 / 4 for n in range(4) for y in range(5)]
    want: Floats = np.sum(np.asarray(terms, dtype=np.float64), axis=0)
    np.testing.assert_allclose(reference.fisher_true(x, p), want, rtol=1e-6)


def test_empirical_fisher_is_the_mean_squared_gradient_of_each_sample() -> None:
    torch = pytest.importorskip("torch")
    x, _, y = problem(6, 3, 4)
    weights = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    want = np.zeros((4, 3))
    for n in range(6):
        loss = torch.nn.functional.cross_entropy(
            torch.tensor(x[n : n + 1]).double() @ weights.T, torch.tensor(y[n : n + 1])
        )
        (gradient,) = torch.autograd.grad(loss, weights)
        want += gradient.numpy() ** 2 / 6
    p = reference.softmax(x @ weights.detach().numpy().T)
    np.testing.assert_allclose(reference.fisher_empirical(x, p, y), want, rtol=1e-9)


@pytest.mark.parametrize("n", [1, 511, 512, 513, 1500])
def test_cpu_kernels_agree_with_the_reference(n: int) -> None:
    x, p, y = problem(n, 17, 5)
    np.testing.assert_allclose(cpu.fisher_true(x, p), reference.fisher_true(x, p), rtol=2e-5)
    np.testing.assert_allclose(cpu.fisher_empirical(x, p, y), reference.fisher_empirical(x, p, y), rtol=2e-5)


def test_fisher_does_not_depend_on_how_samples_are_batched() -> None:
    x, p, _ = problem(700, 9, 4)
    halves = (cpu.fisher_true(x[:300], p[:300]) * 300 + cpu.fisher_true(x[300:], p[300:]) * 400) / 700
    np.testing.assert_allclose(cpu.fisher_true(x, p), halves, rtol=1e-5)
