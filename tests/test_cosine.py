"""The cosine head: rows of one length and no bias, and the answers of the linear head that it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper

from edge_cl import Learner
from edge_cl.feature_map import FeatureMap
from edge_cl.head import Head, softmax
from edge_cl.learning.cosine import solve_ridge, to_cosine
from edge_cl.learning.task import Learnt
from edge_cl.recipes import RECIPES
from edge_cl.state.check import check_file
from edge_cl.statistics import Statistics

from .conftest import clusters, shared

Array = NDArray[Any]


class Samples:
    """What `to_cosine` looks at of a task."""

    def __init__(self, features: Array, statistics: Statistics) -> None:
        self.features, self.statistics = features, statistics


def convert(weights: Array, bias: Array, features: Array, *, has_scatter: bool = False) -> tuple[Head, Array]:
    """Return the cosine head of a linear one, and its logits of the features."""
    statistics = Statistics.empty(features.shape[1], has_scatter=has_scatter)
    if has_scatter:
        statistics = statistics.learn(features, np.arange(len(features)) % 3, 3)
    everyone = np.ones(len(features), bool)
    learnt = Learnt(weights, bias, features @ weights.T + bias, everyone, everyone)
    made = to_cosine(learnt, Samples(features, statistics))  # type: ignore[arg-type]
    assert made.frame is not None
    names = tuple(f"c{k}" for k in range(len(bias)))
    return Head(names, made.weights, made.bias, "cosine", frame=made.frame), made.unseen


def unit(x: Array) -> Array:
    return FeatureMap(x.shape[1], is_unit=True).apply(x.astype(np.float32))


@pytest.mark.parametrize("has_scatter", [False, True])
def test_it_gives_the_probabilities_of_the_linear_head(has_scatter: bool) -> None:
    """Exactly so, where all samples have a direction in common, u x = 1, and classes are fewer than features."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 12)) * np.array([0.2] * 12)
    x[:, 0] = 0.6
    x[:, 1:] *= 0.8 / np.linalg.norm(x[:, 1:], axis=1, keepdims=True)
    x = x.astype(np.float32)
    weights, bias = rng.normal(size=(7, 12)).astype(np.float32), 3 * rng.normal(size=7).astype(np.float32)
    head, unseen = convert(weights, bias, x, has_scatter=has_scatter)
    wanted = softmax(x @ weights.T + bias)
    np.testing.assert_allclose(head.predict(x), wanted, atol=0.01)  # the ridge on u leaves so much
    np.testing.assert_allclose(softmax(unseen), head.predict(x), atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 8),
    st.integers(1, 20),
    st.integers(1, 30),
    st.integers(0, 99),
    st.sampled_from([0.0, 1e-3, 1.0, 1e3]),
)
def test_rows_have_one_length_and_no_bias(n_classes: int, dim: int, n_samples: int, seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    x = unit(rng.normal(size=(n_samples, dim)))
    weights = (size * rng.normal(size=(n_classes, dim))).astype(np.float32)
    head, unseen = convert(weights, (size * rng.normal(size=n_classes)).astype(np.float32), x)
    rows, bias = head.rows
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    assert np.isfinite(rows).all()
    assert not bias.any()
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-5)
    assert lengths[0] > 0
    np.testing.assert_array_equal(head.weights, weights)
    cosines = head.logits(x) / lengths[0]
    assert np.abs(cosines).max() <= 1.0001
    np.testing.assert_allclose(unseen, head.logits(x), atol=1e-3 * lengths[0])


def test_the_ridge_solution_is_that_of_the_normal_equations_whatever_the_shape() -> None:
    rng = np.random.default_rng(0)
    for n, d in ((30, 5), (5, 30), (1, 1)):
        x, y = rng.normal(size=(n, d)), rng.normal(size=n)
        inner = x @ x.T if n < d else x.T @ x
        ridge = 0.1 * inner.diagonal().mean()
        wanted = np.linalg.solve(x.T @ x + ridge * np.eye(d), x.T @ y)
        np.testing.assert_allclose(solve_ridge(x, y, 0.1), wanted, atol=1e-9)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_teaches_it(recipe: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ecl"
    with Learner.create(path, recipe=recipe, head="cosine") as learner:
        for part in range(3):
            x, names = clusters(6, 12, 10)
            rows = slice(24 * part, 24 * part + 24)
            learner.learn(x[rows], names[rows], min_retention=0)
            lengths = np.linalg.norm(learner.head.rows[0], axis=1)
            np.testing.assert_allclose(lengths, lengths[0], rtol=1e-5)
        answers = learner.predict(x)
    assert not list(check_file(str(path)))
    with Learner.open(path) as learner:
        np.testing.assert_array_equal(learner.predict(x).probabilities, answers.probabilities)
        np.testing.assert_allclose(learner.predict(5 * x).probabilities, answers.probabilities, atol=1e-4)
        learner.forget("c1")
        assert len(learner.predict(x).classes) == 5
        learner.learn(x[:2], ["new", "c1"], min_retention=0)
        learner.rollback(learner.versions()[-1].version)


@pytest.mark.parametrize("recipe", ["edge", "slda", "replay", "ewc", "finetune"])
def test_it_learns_what_a_linear_head_learns_from_unit_vectors(recipe: str) -> None:
    """Bit for bit, since the cosines are another form of one head: what it forgets and keeps is the recipe's alone."""
    x, names = clusters(6, 15, 10)
    heads = []
    for kind, features in (("linear", unit(x)), ("cosine", x)):
        with Learner.create(":memory:", recipe=recipe, head=kind) as learner:
            for part in range(3):
                rows = slice(30 * part, 30 * part + 30)
                learner.learn(features[rows], names[rows], min_retention=0)
            heads.append(learner.head)
    np.testing.assert_array_equal(heads[1].weights, heads[0].weights)
    np.testing.assert_array_equal(heads[1].bias, heads[0].bias)


@pytest.mark.parametrize(
    "x",
    [np.ones((4, 3)), np.zeros((4, 3)), np.repeat(np.eye(3), 2, axis=0)[:4], -np.eye(4)],
    ids=["all the same", "nothing", "some the same", "negative"],
)
def test_degenerate_samples_give_numbers(x: Array) -> None:
    with Learner.create(":memory:", head="cosine") as learner:
        learner.learn(x[:1], ["a"])
        assert learner.predict(x).labels == ("a",) * 4
        learner.learn(x, ["a", "b", "b", "c"], min_retention=0)
        probabilities = learner.predict(x).probabilities
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_the_exported_rows_are_those_of_one_length(tmp_path: Path) -> None:
    x, names = clusters(5, 10, 8)
    with Learner.create(":memory:", head="cosine") as learner:
        learner.learn(x, names)
        learner.export(tmp_path / "a.onnx")
        rows = learner.head.rows[0]
    initializers = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "a.onnx").graph.initializer}
    np.testing.assert_array_equal(initializers["head.weights"], rows)
    assert not initializers["head.bias"].any()


@pytest.mark.parametrize("recipe", ["slda", "edge"])
def test_caltech_is_known_as_well_as_by_a_linear_head(recipe: str) -> None:
    """All classes in two updates, 10 photos each: within half a point of the linear head."""
    data = np.load(shared("data/features/caltech101_mobilenet_v2.npz"))
    x, y, train = data["X"].astype(np.float32), data["y"], data["train"]
    order = np.random.default_rng(0).permutation(len(y))
    few = np.concatenate([order[train[order] & (y[order] == k)][:10] for k in range(101)])
    found = []
    for head in ("linear", "cosine"):
        with Learner.create(":memory:", recipe=recipe, head=head) as learner:
            for rows in (few[:500], few[500:]):
                learner.learn(x[rows], y[rows], min_retention=0)
            found.append(learner.evaluate(x[~train], y[~train]).accuracy)
    assert found[1] > found[0] - 0.005
