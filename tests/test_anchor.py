"""The closed-form head against plain linear algebra in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_cl.anchor import Whitened, calibrate, far_units, nearest_factor, oracle_shrinkage, whiten
from edge_cl.cholesky import inverse_cholesky
from edge_cl.head import Head
from edge_cl.refine import cross_entropy
from edge_cl.statistics import Statistics


def learnt(n_classes: int, n_samples: int, dim: int, seed: int = 0) -> tuple[Statistics, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(n_classes), n_samples)
    x = (rng.normal(size=(n_classes, dim))[y] * 2 + rng.normal(size=(len(y), dim))).astype(np.float32)
    return Statistics.empty(dim, has_scatter=True).learn(x, y, n_classes), x, y


@pytest.mark.parametrize("dim", [1, 2, 127, 128, 129, 300, 513])
def test_inverse_cholesky_inverts_the_factor(dim: int) -> None:
    root = np.random.default_rng(dim).normal(size=(dim, dim + 5))
    matrix = (root @ root.T / dim + np.eye(dim)).astype(np.float32)
    inverse = inverse_cholesky(matrix)
    assert np.array_equal(inverse, np.tril(inverse))
    np.testing.assert_allclose(inverse.T @ inverse @ matrix, np.eye(dim), atol=2e-3)  # float32, condition about 100


@pytest.mark.parametrize(("n_samples", "dim"), [(20, 6), (4, 40)])
def test_head_gives_the_lda_logits(n_samples: int, dim: int) -> None:
    statistics, x, _ = learnt(5, n_samples, dim)
    space = whiten(statistics)
    precision = (space.whitener.T @ space.whitener).astype(np.float64)
    head = Head(tuple("abcde"), *space.head(0.5))
    centre = statistics.means.astype(np.float64).mean(axis=0)
    means = centre + space.trust(statistics.counts)[:, None] * (statistics.means - centre)
    want = 0.5 * (x @ precision @ means.T - 0.5 * np.einsum("kd,de,ke->k", means, precision, means))
    got = head.logits(x)
    want, got = want - want[:, :1], got - got[:, :1]  # the same up to one number a sample, which softmax does not see
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3 * np.abs(want).max())


@pytest.mark.parametrize(("n_samples", "dim"), [(20, 6), (3, 40)])
def test_leaving_one_out_is_learning_without_it(n_samples: int, dim: int) -> None:
    statistics, x, y = learnt(4, n_samples, dim)
    space = whiten(statistics)
    logits = space.leave_one_out(space.transform(x), y)
    covariance = np.linalg.inv((space.whitener.T @ space.whitener).astype(np.float64))
    for n in (0, 1, len(y) - 1):
        count = statistics.counts[y[n]]
        own = (x[n] - statistics.means[y[n]]).astype(np.float64)
        without = covariance - count / (count - 1) * space.weight * np.outer(own, own)
        means, counts = statistics.means.astype(np.float64), statistics.counts.copy()
        means[y[n]] -= own / (count - 1)
        counts[y[n]] -= 1
        means = space.centre + space.trust(counts)[:, None] * (means - space.centre)
        gaps = x[n] - means
        want = -0.5 * np.einsum("kd,de,ke->k", gaps, np.linalg.inv(without), gaps)
        got = logits[n].astype(np.float64)  # the same up to one number, which softmax does not see
        np.testing.assert_allclose(got - got[0], want - want[0], rtol=2e-3, atol=2e-3 * np.abs(want).max())


def test_leave_one_out_accuracy_is_that_of_unseen_samples() -> None:
    statistics, x, y = learnt(10, 8, 60)
    space = whiten(statistics)
    unseen = space.leave_one_out(space.transform(x), y).argmax(axis=1) == y
    seen = space.logits(space.transform(x)).argmax(axis=1) == y
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(10, 60)) * 2  # the same draw as in `learnt`
    fresh = np.arange(4000) % 10
    test = (centres[fresh] + np.random.default_rng(9).normal(size=(4000, 60))).astype(np.float32)
    truth = (space.logits(space.transform(test)).argmax(axis=1) == fresh).mean()
    assert seen.mean() >= truth
    assert abs(unseen.mean() - truth) < 0.06  # 80 samples: one standard error is at most 0.056


def test_one_feature_in_other_units_does_not_drown_the_rest() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(900) % 3
    x = (rng.normal(size=(3, 40))[y] + 2 * rng.normal(size=(900, 40))).astype(np.float32)
    accuracy = []
    for unit in (1, 1e6, 1e-6):
        scaled = x * np.where(np.arange(40) == 7, unit, 1).astype(np.float32)
        space = whiten(Statistics.empty(40, has_scatter=True).learn(scaled[:450], y[:450], 3))
        accuracy.append((space.logits(space.transform(scaled[450:])).argmax(axis=1) == y[450:]).mean())
    assert min(accuracy) > accuracy[0] - 0.05


@pytest.mark.parametrize("degrees", [1, 2, 5, 30])
def test_what_few_samples_differ_by_is_not_taken_for_units(degrees: int) -> None:
    """Of 100 sets of features that all have deviation 1; in units of 10^-3 to 10^4 nearly all are far."""
    rng = np.random.default_rng(0)
    deviations = (rng.chisquare(degrees, size=(100, 50)) / degrees) ** 0.5
    assert sum(far_units(d.astype(np.float32), degrees) is not None for d in deviations) <= 10
    raw = deviations * 10 ** rng.uniform(-3, 4, size=(100, 50))
    assert all(far_units(d.astype(np.float32), degrees) is not None for d in raw)


@pytest.mark.parametrize(("n_classes", "n_samples", "dim"), [(2, 6, 256), (2, 2, 8), (3, 4, 500), (30, 2, 64)])
def test_samples_that_are_easy_stay_easy_when_left_out(n_classes: int, n_samples: int, dim: int) -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(n_classes), n_samples)
    x = (rng.normal(size=(n_classes, dim))[y] * 5 + rng.normal(size=(len(y), dim)) * 0.5).astype(np.float32)
    space = whiten(Statistics.empty(dim, has_scatter=True).learn(x, y, n_classes))
    assert (space.leave_one_out(space.transform(x), y).argmax(axis=1) == y).all()


def test_one_sample_of_each_class_is_told_apart_by_the_scatter_of_the_means() -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(20, 40)) * np.linspace(0.1, 4, 40)).astype(np.float32)
    space = whiten(Statistics.empty(40, has_scatter=True).learn(x, np.arange(20), 20))
    assert space.weight is None
    assert (space.logits(space.transform(x)).argmax(axis=1) == np.arange(20)).all()


def sums_of_many_updates(n_samples: int, dim: int, error: float, seed: int) -> Statistics:
    """Return statistics of two classes whose features are nearly copies of one, their sums off by a share of each."""
    noise = np.tril(np.random.default_rng(seed).normal(size=(dim, dim)), -1)
    scatter = n_samples * (1 + error * (noise + noise.T)) + np.diag(np.full(dim, 1e-6 * n_samples))
    means = np.stack([np.zeros(dim), np.full(dim, 2.0)]).astype(np.float32)
    return Statistics(np.array([n_samples // 2] * 2), means, scatter.astype(np.float32))


@pytest.mark.parametrize("seed", range(3))
def test_sums_that_many_updates_left_no_covariance_are_one_still(seed: int) -> None:
    """Each update rounds the sums once more, at random: by 2^-24 of each; 10^7 updates by 3,162 times that."""
    statistics = sums_of_many_updates(10**7, 200, 2.0**-24 * 10**3.5, seed)
    assert statistics.scatter is not None
    smallest = float(np.linalg.eigvalsh(statistics.scatter.astype(np.float64))[0]) / 10**7
    assert smallest < -2e-3  # far beyond what the samples' number would have it shrunk by
    for shrinkage in (None, 1e-4):
        space = whiten(statistics, shrinkage)
        assert space.shrinkage > -smallest
        logits = space.logits(space.transform(np.array([[0.1], [1.9]], np.float32) * np.ones(200, np.float32)))
        assert logits.argmax(axis=1).tolist() == [0, 1]


def test_sums_that_no_rounding_explains_are_none() -> None:
    with pytest.raises(np.linalg.LinAlgError):
        whiten(sums_of_many_updates(1000, 200, 0.1, 0))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(2, 1000))
def test_calibration_minimises_the_smoothed_cross_entropy(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, 200)
    logits = ((np.eye(4)[y] + rng.normal(size=(200, 4))) * scale).astype(np.float32)

    def loss(factor: float) -> float:
        others = np.mean([cross_entropy(factor * logits, np.full(200, k)).mean() for k in range(4)])
        return float(200 / 201 * cross_entropy(factor * logits, y).mean() + 1 / 201 * others)

    factor = calibrate(logits, y)
    assert all(loss(factor) <= loss(factor * step) + 1e-6 for step in (0.8, 0.95, 1.05, 1.25) if factor * step <= 1)


def test_a_few_right_answers_do_not_make_it_certain() -> None:
    logits = np.array([[900, 0], [0, 900], [900, 0]], np.float32)
    factor = calibrate(logits, np.array([0, 1, 0]))
    assert 1 / (1 + np.exp(-factor * 900)) < 0.9


def test_nearest_factor_makes_a_mean_fairly_sure_of_itself() -> None:
    means = np.eye(6, dtype=np.float32) * 30
    logits = nearest_factor(means) * (means @ means.T - 0.5 * (means**2).sum(axis=1))
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert (np.diag(p / p.sum(axis=1, keepdims=True)) > 0.85).all()


def test_shrinkage_falls_from_all_to_nearly_none_as_samples_come() -> None:
    rng = np.random.default_rng(0)
    scales = np.linspace(0.1, 3, 30)

    def shrinkage(n_samples: int) -> float:
        x = rng.normal(size=(n_samples, 30)) * scales
        return oracle_shrinkage((x.T @ x / n_samples).astype(np.float32), n_samples)

    values = [shrinkage(n) for n in (2, 20, 200, 20_000)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.01
    assert oracle_shrinkage(np.eye(30, dtype=np.float32), 10) == 1.0


@pytest.mark.parametrize("x", [np.zeros((1, 4)), np.ones((3, 4)), np.eye(4)[:1] * 1e6])
def test_one_class_and_constant_features_have_a_space(x: np.ndarray) -> None:
    statistics = Statistics.empty(4, has_scatter=True).learn(x.astype(np.float32), np.zeros(len(x), int), 1)
    space = whiten(statistics)
    assert np.isfinite(space.whitener).all()
    head = Head(("a",), *space.head(1.0))
    assert np.isfinite(head.logits(x.astype(np.float32))).all()


def test_means_are_believed_as_far_as_their_samples_go() -> None:
    """Against the posterior mean of a Gaussian class whose true mean is Gaussian too, both variances known."""
    rng = np.random.default_rng(3)
    n_classes, dim, counts = 400, 30, np.array([1, 4, 16, 64])[np.arange(400) % 4]
    true = 0.5 * rng.normal(size=(n_classes, dim))
    y = np.repeat(np.arange(n_classes), counts)
    x = (true[y] + rng.normal(size=(len(y), dim))).astype(np.float32)
    space = whiten(Statistics.empty(dim, has_scatter=True).learn(x, y, n_classes))
    want = counts * 0.25 / (counts * 0.25 + 1)
    np.testing.assert_allclose(space.trust(space.counts), want, atol=0.02)  # 8,500 samples: the variances to 2 %
    gaps = [np.square(means @ np.linalg.inv(space.whitener).T + space.centre - true).mean() for means in _both(space)]
    assert gaps[1] < 0.8 * gaps[0]


def _both(space: Whitened) -> tuple[np.ndarray, np.ndarray]:
    return space.means, space.expected


@pytest.mark.parametrize(("n_classes", "n_samples", "dim"), [(30, 3, 120), (10, 40, 60), (40, 10, 200)])
def test_the_shrinkage_that_separates_best_tells_new_samples_apart_best(
    n_classes: int, n_samples: int, dim: int
) -> None:
    rng = np.random.default_rng(dim)
    spread = np.geomspace(3, 0.1, dim)
    centres = rng.normal(size=(n_classes, dim)) * spread**0.5 * 0.6
    y = np.repeat(np.arange(n_classes), n_samples)
    fresh = np.arange(4000) % n_classes
    x, test = ((centres[k] + rng.normal(size=(len(k), dim)) * spread).astype(np.float32) for k in (y, fresh))
    statistics = Statistics.empty(dim, has_scatter=True).learn(x, y, n_classes)

    def accuracy(shrinkage: float | None) -> float:
        space = whiten(statistics, shrinkage)
        return float((space.logits(space.transform(test)).argmax(axis=1) == fresh).mean())

    assert accuracy(None) > max(accuracy(tried) for tried in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)) - 0.02


def test_a_shrinkage_that_was_chosen_before_is_used_again() -> None:
    statistics, _, _ = learnt(10, 8, 60)
    chosen = whiten(statistics)
    assert np.array_equal(whiten(statistics, chosen.shrinkage).whitener, chosen.whitener)
    assert whiten(statistics, 0.0).shrinkage <= chosen.shrinkage
