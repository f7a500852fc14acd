"""The hidden layer beside the linear one: its gradient and Fisher, what it gains, and that it never costs anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from edge_kernels import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_cl import Learner
from edge_cl.devices import HOST
from edge_cl.errors import InputError
from edge_cl.head import Head
from edge_cl.hidden import MAX_UNITS, MOST_TIMES, Hidden
from edge_cl.learning.layer import _draw
from edge_cl.learning.layered import Layered, join, split
from edge_cl.recipes import RECIPES
from edge_cl.state.check import check_file
from edge_cl.state.form import _trains_layers

from .conftest import clusters

Array = NDArray[Any]
ABLE = [name for name in RECIPES if _trains_layers(name)]


def rings(n_samples: int, *, seed: int = 0) -> tuple[Array, list[str]]:
    """Return points of four rings around each other, which no plane tells apart, in the order of the rings."""
    rng = np.random.default_rng(seed)
    ring, angle = np.repeat(np.arange(4), n_samples), rng.uniform(0, 2 * np.pi, 4 * n_samples)
    radius = 1 + ring + 0.15 * rng.normal(size=len(ring))
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return x.astype(np.float32), [f"ring {k}" for k in ring]


def taught(recipe: str, x: Array, names: list[str], *, n_parts: int = 4, **options: Any) -> Learner:
    """Return a learner that was taught parts of the samples, one after another."""
    learner = Learner.create(":memory:", recipe=recipe, **options)
    for rows in np.array_split(np.arange(len(x)), n_parts):
        learner.learn(x[rows], [names[n] for n in rows], min_retention=0)
    return learner


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.integers(1, 9), st.integers(0, 99))
def test_the_gradient_is_the_slope_of_the_loss(k: int, d: int, h: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n, d))
    start = rng.normal(size=h * d + k * h)
    problem = Layered(
        inputs,
        rng.normal(size=(n, k)),
        rng.integers(0, k, n),
        rng.uniform(0.5, 2, n).astype(np.float32),
        rng.uniform(0, 1, len(start)),
        HOST,
        start=start,
        n_units=h,
    )
    shift, step = 0.1 * rng.normal(size=len(start)), 1e-4
    kinks = np.abs(inputs @ split(start + shift, h, d)[0].T).min()
    if kinks < 10 * step * np.abs(inputs).max():
        return  # the slope jumps there
    _, gradient = problem.value(shift)
    for place in range(len(start)):
        there = np.eye(len(start))[place] * step
        slope = (problem.value(shift + there)[0] - problem.value(shift - there)[0]) / (2 * step)
        assert gradient[place] == pytest.approx(slope, rel=1e-2, abs=1e-2)


def test_the_value_is_cross_entropy_of_both_layers_and_the_pull() -> None:
    rng = np.random.default_rng(0)
    x, offsets, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 4)), rng.integers(0, 4, 20)
    units, rows, shift = rng.normal(size=(5, 3)), rng.normal(size=(4, 5)), rng.normal(size=35)
    weights, pull = rng.uniform(1, 2, 20), rng.uniform(1, 2, 35)
    samples = x, offsets, y, weights.astype(np.float32)
    problem = Layered(*samples, pull, HOST, start=join(units, rows), n_units=5)
    moved_units, moved_rows = units + shift[:15].reshape(5, 3), rows + shift[15:].reshape(4, 5)
    p = reference.softmax(offsets + np.maximum(x @ moved_units.T, 0) @ moved_rows.T)
    wanted = -(weights * np.log(p[np.arange(20), y])).sum() + 0.5 * (pull * shift**2).sum()
    assert problem.value(shift)[0] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("recipe", ["edge", "replay", "ewc+replay", "joint"])
def test_rings_are_learnt_one_after_another(recipe: str) -> None:
    x, names = rings(100)
    tests, wanted = rings(200, seed=1)
    linear = taught(recipe, x, names).evaluate(tests, wanted).accuracy
    found = taught(recipe, x, names, head="mlp").evaluate(tests, wanted).accuracy
    assert linear < 0.45
    assert found > 0.97


@pytest.mark.parametrize("recipe", ["edge", "replay"])
def test_what_it_reports_is_what_unseen_samples_show(recipe: str) -> None:
    x, names = rings(150)
    tests, wanted = rings(300, seed=1)
    with Learner.create(":memory:", recipe=recipe, head="mlp") as learner:
        for rows in np.array_split(np.random.default_rng(0).permutation(len(x)), 3):
            report = learner.learn(x[rows], [names[n] for n in rows])
            assert report.committed, report
        assert report.accuracy_after == pytest.approx(learner.evaluate(tests, wanted).accuracy, abs=0.04)


@pytest.mark.parametrize("recipe", ABLE)
def test_where_planes_suffice_it_is_no_worse(recipe: str) -> None:
    x, names = clusters(6, 20, 12)
    tests, wanted = clusters(6, 100, 12, seed=7)
    linear = taught(recipe, x, names, n_parts=3, codec="float16").evaluate(tests, wanted).accuracy
    assert taught(recipe, x, names, n_parts=3, head="mlp").evaluate(tests, wanted).accuracy > linear - 0.02


def test_where_the_layer_gains_nothing_the_head_is_the_linear_one_bit_for_bit() -> None:
    x, names = clusters(3, 30, 8, spread=0.1)
    linear = taught("edge", x, names, codec="float16").head
    layered = taught("edge", x, names, head="mlp").head
    assert layered.hidden is not None
    assert not layered.hidden.rows.any()
    np.testing.assert_array_equal(layered.weights, linear.weights)
    np.testing.assert_array_equal(layered.predict(x), linear.predict(x))


def test_old_rows_and_units_keep_their_bits_when_a_class_is_added() -> None:
    x, names = rings(60)
    head = taught("replay", x, names, head="mlp").head
    grown = head.grow(["new", "newer"])
    assert head.hidden is not None
    assert grown.hidden is not None
    assert head.hidden.rows.any()
    np.testing.assert_array_equal(grown.hidden.units, head.hidden.units)
    np.testing.assert_array_equal(grown.hidden.rows[:4], head.hidden.rows)
    assert not grown.hidden.rows[4:].any()
    np.testing.assert_allclose(grown.logits(x)[:, :4], head.logits(x), rtol=1e-4, atol=1e-4)
    for rows in (np.array([2, 0]), np.array([], np.int64)):
        kept = grown.keep(rows)
        np.testing.assert_allclose(kept.logits(x), grown.logits(x)[:, rows], rtol=1e-4, atol=1e-4)


def test_growing_and_dropping_classes_carries_their_fisher_along() -> None:
    rng = np.random.default_rng(0)
    units, rows = rng.normal(size=(3, 5)), rng.normal(size=(2, 3))
    hidden = Hidden(units, rows, np.arange(21, dtype=np.float32))
    grown = hidden.grow(4)
    np.testing.assert_array_equal(grown.fisher, [*range(21), *[0] * 6])
    np.testing.assert_array_equal(grown.keep(np.array([1])).fisher, [*range(15), 18, 19, 20])
    back = Hidden.unpack(grown.pack(), grown.fisher, 4, 4, n_first=3)
    for first, second in zip((back.units, back.rows), (grown.units, grown.rows), strict=True):
        np.testing.assert_array_equal(first, second)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 5), st.integers(0, 4), st.integers(0, 99))
def test_old_logits_and_the_fisher_do_not_move_when_units_are_added(
    h: int, d: int, k: int, more: int, seed: int
) -> None:
    """Of whole numbers, whose sums are exact in any order: bit for bit."""
    rng = np.random.default_rng(seed)
    units, rows = (rng.integers(-9, 10, shape).astype(np.float32) for shape in ((h, d + 1), (k, h)))
    fisher = rng.integers(0, 10, h * (d + 1) + k * h).astype(np.float32)
    x = rng.integers(-9, 10, (7, d)).astype(np.float32)
    before = Hidden(units, rows, fisher, n_first=h)
    wide = before.widen(h + more)
    np.testing.assert_array_equal(wide.logits(x), before.logits(x))
    drawn = replace(wide, units=np.concatenate([units, rng.normal(size=(more, d + 1)).astype(np.float32)]))
    np.testing.assert_array_equal(drawn.logits(x), before.logits(x))  # whatever they are: no class reads them
    for found, want in zip(split(wide.fisher, h + more, d + 1), split(fisher, h, d + 1), strict=True):
        np.testing.assert_array_equal(found[: len(want), : want.shape[1]], want)
        assert found.sum() == want.sum()
    for classes in (np.arange(k), np.arange(k)[::2]):
        np.testing.assert_array_equal(wide.keep(classes).logits(x), before.keep(classes).logits(x))


def test_a_unit_is_drawn_the_same_whenever_it_is_added() -> None:
    rng = np.random.default_rng(0)
    inputs, others = (np.concatenate([rng.normal(size=(n, 5)), np.ones((n, 1))], axis=1) for n in (40, 23))

    def directions(samples: Array, numbers: range, seed: int) -> Array:
        units = _draw(samples.astype(np.float32), numbers, seed)[:, :-1]
        return np.asarray(units / np.linalg.norm(units, axis=1, keepdims=True))

    first = directions(inputs, range(12), 3)
    np.testing.assert_allclose(directions(others, range(5, 12), 3), first[5:], atol=1e-6)
    np.testing.assert_allclose(directions(inputs, range(30), 3)[:12], first, atol=1e-6)
    assert np.abs(directions(inputs, range(12), 4) - first).max() > 0.1


def patches(n_classes: int, n_samples: int, *, seed: int = 0) -> tuple[Array, Array]:
    """Return samples of classes, each of which lies in three places, and their names."""
    centres, rng = 3 * np.random.default_rng(5).normal(size=(n_classes, 3, 4)), np.random.default_rng(seed)
    y = np.repeat(np.arange(n_classes), n_samples)
    x = centres[y, rng.integers(0, 3, len(y))] + 0.35 * rng.normal(size=(len(y), 4))
    return x.astype(np.float32), np.array([f"c{k}" for k in y])


def taught_by_ten(path: Path | str, **options: Any) -> Learner:
    """Return a learner of forty such classes, which came by ten."""
    x, names = patches(40, 30)
    learner = Learner.create(path, head="mlp", hidden_units=12, **options)
    for part in np.split(np.arange(len(x)), 4):
        learner.learn(x[part], list(names[part]), min_retention=0)
    return learner


def test_units_grow_with_the_classes_and_the_later_ones_gain_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tests, wanted = patches(40, 30, seed=1)
    found = {}
    for most in (1, MOST_TIMES):
        monkeypatch.setattr("edge_cl.hidden.MOST_TIMES", most)
        learner = taught_by_ten(":memory:", recipe="replay")
        assert learner.head.hidden is not None
        n_units = len(learner.head.hidden.units)
        assert (n_units == 12) if most == 1 else (24 <= n_units <= 48)
        assert learner.state_bytes["head"] > 4 * n_units * (5 + 40)
        found[most] = learner.evaluate(tests, list(wanted)).accuracy
    assert found[MOST_TIMES] > found[1] + 0.02


@pytest.mark.parametrize(("recipe", "replay_bytes"), [("replay", 10**6), ("ewc-diagonal", 0), ("edge", 10**6)])
def test_a_layer_that_grew_is_kept_rolled_back_forgotten_and_exported(
    recipe: str, replay_bytes: int, tmp_path: Path
) -> None:
    path, (x, _) = tmp_path / "a.ecl", patches(40, 2, seed=1)
    with taught_by_ten(path, recipe=recipe, replay_bytes=replay_bytes) as learner:
        head = learner.head
        assert head.hidden is not None
        assert len(head.hidden.units) > 12
        learner.export(tmp_path / "a.onnx")
        session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
        logits = session.run(["logits"], {"features": x})[0]
        np.testing.assert_allclose(logits, head.logits(x), atol=1e-4 * np.abs(logits).max())
    assert not list(check_file(str(path)))
    with Learner.open(path) as learner:
        np.testing.assert_array_equal(learner.head.logits(x), head.logits(x))
        assert learner.head.hidden is not None
        np.testing.assert_array_equal(learner.head.hidden.fisher, head.hidden.fisher)
        learner.rollback(1)
        assert len(learner.head.hidden.units) == 12
        learner.rollback(4)
        learner.forget("c7")
        assert len(learner.classes) == 39
        assert np.isfinite(learner.predict(x).probabilities).all()
    assert not list(check_file(str(path)))


def test_units_are_bounded() -> None:
    assert [Hidden.units_for(k, 64) for k in (0, 1, 10, 11, 20, 40, 10_000)] == [64, 64, 64, 71, 128, 256, 256]
    assert Hidden.units_for(10_000, MAX_UNITS) == MAX_UNITS
    assert Hidden.units_for(10_000, MAX_UNITS // 2) == MAX_UNITS
    assert Hidden.units_for(20, 1) == 2


def test_the_fisher_is_the_exact_one_of_both_layers_summed_over_samples() -> None:
    x, names = rings(50)
    learner = Learner.create(":memory:", recipe="ewc-diagonal", head="mlp", replay_bytes=0)
    learner.learn(x, names)
    head = learner.head
    assert head.hidden is not None
    assert head.hidden.rows.any()
    active = head.hidden.activations(x)
    wanted = reference.fisher_hidden_true(
        x, active, slopes=(active > 0).astype(float), probabilities=head.predict(x), weights=head.hidden.rows
    )
    units, rows = split(head.hidden.fisher, *head.hidden.units.shape)
    np.testing.assert_allclose(units[:, :-1], len(x) * wanted.weights_in, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(units[:, -1], len(x) * wanted.bias_in, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(rows, len(x) * wanted.weights_out, rtol=1e-3, atol=1e-3)


def test_a_fisher_holds_the_layer() -> None:
    """Learning the same rings again moves weights that matter less than those that do not."""
    x, names = rings(80)
    moved = {}
    for recipe in ("ewc-diagonal", "finetune"):
        learner = Learner.create(":memory:", recipe=recipe, head="mlp", replay_bytes=0)
        learner.learn(x, names)
        before = learner.head.hidden
        more, labels = rings(80, seed=4)
        learner.learn(more + np.float32(0.5), labels, min_retention=0)
        after = learner.head.hidden
        assert before is not None
        assert after is not None
        moved[recipe] = float(np.square(after.pack() - before.pack()).sum())
    assert 0 < moved["ewc-diagonal"] < 0.5 * moved["finetune"]


@pytest.mark.parametrize("recipe", ABLE)
def test_a_file_brings_everything_back(recipe: str, tmp_path: Path) -> None:
    path, (x, names) = tmp_path / "a.ecl", rings(40)
    with Learner.create(path, recipe=recipe, head="mlp", hidden_units=20) as learner:
        learner.learn(x[:80], names[:80], min_retention=0)
        first = learner.predict(x).probabilities
        learner.learn(x[80:], names[80:], min_retention=0)
        second = learner.predict(x).probabilities
        assert learner.state_bytes["head"] >= 4 * 20 * (3 + 4)
    assert not list(check_file(str(path)))
    with Learner.open(path) as learner:
        np.testing.assert_array_equal(learner.predict(x).probabilities, second)
        learner.rollback(1)
        np.testing.assert_array_equal(learner.predict(x).probabilities, first)
        learner.forget("ring 0")
        assert learner.predict(x).classes == ("ring 1",)
        learner.learn(x, names, min_retention=0)
        assert len(learner.classes) == 4
    assert not list(check_file(str(path)))


def test_the_same_seed_gives_the_same_bits_and_another_one_other_units() -> None:
    x, names = rings(60)
    first, again, other = (taught("replay", x, names, head="mlp", seed=seed).head.hidden for seed in (0, 0, 1))
    assert first is not None
    assert again is not None
    assert other is not None
    np.testing.assert_array_equal(first.pack(), again.pack())
    assert (first.units != other.units).any()


def test_it_is_exported_with_both_layers(tmp_path: Path) -> None:
    x, names = rings(60)
    learner = taught("edge", x, names, head="mlp")
    assert learner.head.hidden is not None
    assert learner.head.hidden.rows.any()
    learner.export(tmp_path / "a.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    found = session.run(["logits", "probabilities"], {"features": x})
    np.testing.assert_allclose(found[0], learner.head.logits(x), atol=1e-3)
    np.testing.assert_allclose(found[1], learner.predict(x).probabilities, atol=1e-4)


@pytest.mark.parametrize("x", [np.ones((30, 3)), np.zeros((30, 3)), 1e9 * np.eye(30), np.ones((30, 1))])
def test_degenerate_samples_give_numbers(x: Array) -> None:
    for recipe in ("edge", "replay"):
        learner = taught(recipe, x, ["a", "b", "c"] * 10, head="mlp")
        assert np.isfinite(learner.predict(x).probabilities).all()


@pytest.mark.parametrize("recipe", [name for name in RECIPES if not _trains_layers(name)])
def test_a_recipe_that_cannot_train_it_is_refused_when_it_is_made(recipe: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"recipe: head mlp needs one that trains it, of edge, .*; found '{recipe}'"):
        Learner.create(tmp_path / "a.ecl", recipe=recipe, head="mlp")
    assert not list(tmp_path.iterdir())


def test_stored_samples_are_exact_unless_the_user_wants_others() -> None:
    with Learner.create(":memory:", head="mlp") as learner:
        assert learner.codec == "float16"
    x, names = rings(60)
    learner = taught("edge", x, names, head="mlp", codec="int8")
    hidden = learner.head.hidden
    assert hidden is not None
    assert not hidden.rows.any()  # `edge` does not train on lossy codes


def test_tasks_have_layers_of_their_own_rows() -> None:
    x, names = rings(60)
    with Learner.create(":memory:", recipe="replay", head="mlp") as learner:
        for task in ("a", "b"):
            learner.learn(x, names, task=task, min_retention=0)
        for task in ("a", "b"):
            assert learner.evaluate(*rings(50, seed=3), task=task).accuracy > 0.9


def test_a_head_without_samples_is_the_same_with_an_empty_layer() -> None:
    head = Head.empty(3, "mlp", hidden_units=4)
    assert head.hidden is not None
    assert head.grow(["a"]).logits(np.ones((2, 3), np.float32)).shape == (2, 1)
    assert replace(head, hidden=None).grow(["a"]).hidden is None
