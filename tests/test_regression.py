"""Regression: ridge on all samples in any order, samples left out exactly, what is refused, and real sensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from edge_kernels import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_cl import Learner
from edge_cl.errors import InputError
from edge_cl.ridge import FEW, Ridge
from edge_cl.state.check import check_file
from edge_cl.statistics import Statistics

from .conftest import shared
from .test_cli import as_json, run

Array = NDArray[Any]


def problem(n_samples: int, dim: int, n_values: int = 1, *, seed: int = 0, noise: float = 0.3) -> tuple[Array, Array]:
    """Return features (N, D) of unlike units, and values (N, M) that depend on them linearly, but for noise."""
    fixed, rng = np.random.default_rng(99), np.random.default_rng(seed)
    units, slopes = 10.0 ** fixed.integers(-3, 4, dim), fixed.normal(size=(dim, n_values))
    mixed = rng.normal(size=(n_samples, dim)) @ fixed.normal(size=(dim, dim))
    values = mixed @ slopes + 7 + noise * np.abs(slopes).sum() * rng.normal(size=(n_samples, n_values))
    return (mixed * units + 3 * units).astype(np.float32), values.astype(np.float32)


def sums_of(samples: Array) -> Statistics:
    """Return the sums of one class of samples."""
    nothing = Statistics.empty(samples.shape[1], has_scatter=True)
    return nothing.learn(samples.astype(np.float32), np.zeros(len(samples), np.int64), 1)


def solve(features: Array, values: Array, strength: Array, units: Array) -> tuple[Array, Array]:
    """Return weights (M, D) and bias (M,) of ridge regression by the normal equations, the bias free."""
    x, y = features.astype(np.float64), values.astype(np.float64)
    centred = (x - x.mean(axis=0)) / units
    rows = [
        np.linalg.solve(centred.T @ centred + s * np.eye(x.shape[1]), centred.T @ (y[:, m] - y[:, m].mean())) / units
        for m, s in enumerate(strength)
    ]
    return np.array(rows), y.mean(axis=0) - np.array(rows) @ x.mean(axis=0)


@pytest.mark.parametrize(("n_samples", "dim", "n_values"), [(200, 12, 2), (40, 60, 1), (9, 3, 4)])
def test_the_sums_give_ridge_regression_on_all_samples(n_samples: int, dim: int, n_values: int) -> None:
    x, y = problem(n_samples, dim, n_values)
    both = np.concatenate([x, y], axis=1)
    ridge = Ridge.fit(sums_of(both), n_values, both)
    weights, bias = ridge.head()
    wanted = solve(x, y, ridge.strength, x.astype(np.float64).std(axis=0))
    given_values, wanted_values = x @ weights.T + bias, x @ wanted[0].T + wanted[1]
    np.testing.assert_allclose(given_values, wanted_values, atol=2e-3 * y.std())  # of sums in float32


def test_it_is_recursive_least_squares_which_is_exact_ewc() -> None:
    x, y = problem(90, 5, 2)
    both = np.concatenate([x, y], axis=1)
    ridge = Ridge.fit(sums_of(both), 2, both)
    strength, units = float(ridge.strength[0]), x.astype(np.float64).std(axis=0)
    with_one = np.concatenate([(x - x.mean(axis=0)) / units, np.ones((90, 1))], axis=1)
    weights, covariance = np.zeros((2, 6)), np.diag([1 / strength] * 5 + [1e9])
    for rows in np.array_split(np.random.default_rng(1).permutation(90), 7):
        reference.rls_update(weights, covariance, features=with_one[rows], targets=y[rows].astype(np.float64))
    ours, bias = ridge.head()
    np.testing.assert_allclose((x @ ours.T + bias)[:, 0], (with_one @ weights.T)[:, 0], atol=2e-3 * y.std())


@pytest.mark.parametrize("replay_bytes", [0, 10**6])
def test_the_order_and_the_batches_do_not_matter(replay_bytes: int) -> None:
    x, y = problem(300, 10, 2)
    answers = []
    for seed, n_batches in ((0, 1), (1, 3), (2, 300)):
        order = np.random.default_rng(seed).permutation(300)
        with Learner.create(":memory:", head="regression", replay_bytes=replay_bytes) as learner:
            for rows in np.array_split(order, n_batches):
                learner.learn(x[rows], y[rows], min_retention=0)
            answers.append(learner.predict(x).values)
    np.testing.assert_allclose(answers[1], answers[0], atol=1e-3 * y.std())
    np.testing.assert_allclose(answers[2], answers[0], atol=1e-3 * y.std())


def test_errors_of_unseen_samples_are_those_of_a_regression_without_them() -> None:
    x, y = problem(25, 8, 2)
    both = np.concatenate([x, y], axis=1)
    ridge = Ridge.fit(sums_of(both), 2, both)
    found = ridge.unseen_errors(both)
    for n in range(25):
        others = np.arange(25) != n
        x_others, y_others = x[others].astype(np.float64), y[others].astype(np.float64)
        units = x.astype(np.float64).std(axis=0)
        weights, bias = solve(x_others, y_others, ridge.strength, units)
        np.testing.assert_allclose(found[n], y[n] - weights @ x[n] - bias, atol=2e-3 * y.std())


def test_errors_of_another_head_on_all_samples_need_no_sample() -> None:
    (x, y), (more, values) = problem(200, 6, 2), problem(150, 6, 2, seed=1)
    first, second = np.concatenate([x, y], axis=1), np.concatenate([more + 1, 3 * values], axis=1)
    before = Ridge.fit(sums_of(first), 2, first[:0])
    after = Ridge.fit(sums_of(np.concatenate([first, second])), 2, first[:0])
    weights, bias = after.head()
    weights_before, bias_before = before.head()
    free = 1 - after.freedom() / 350
    missed = np.square(y - x @ weights.T - bias).mean(axis=0) / free**2
    moved = np.square(x @ (weights - weights_before).T + bias - bias_before).mean(axis=0)
    np.testing.assert_allclose(before.mean_square(after), missed, rtol=1e-3)
    np.testing.assert_allclose(before.mean_square_move(after), moved, rtol=1e-3)


@pytest.mark.parametrize("between", ["nothing", "rollback", "resize"])
def test_an_update_is_the_same_in_a_process_that_made_the_one_before(between: str, tmp_path: Path) -> None:
    """What that one worked out is used again, and worked out again where anything has changed since."""
    x, y = problem(200, 12, 2)
    found = []
    for is_reopened in (False, True):
        path = tmp_path / f"{is_reopened}.ecl"
        with Learner.create(path, head="regression", replay_bytes=9000) as first:
            for rows in (slice(0, 80), slice(80, 150)):
                first.learn(x[rows], y[rows], min_retention=0)
            if between == "rollback":
                first.rollback(1)
            elif between == "resize":
                first.resize(replay_bytes=4000)
            if not is_reopened:
                report = first.learn(x[150:], y[150:] + 1, min_retention=0)
                found.append((report.retention, report.accuracy_before, report.accuracy_after, first.predict(x).values))
        if is_reopened:
            with Learner.open(path) as again:
                report = again.learn(x[150:], y[150:] + 1, min_retention=0)
                found.append((report.retention, report.accuracy_before, report.accuracy_after, again.predict(x).values))
    assert found[0][:3] == found[1][:3]
    np.testing.assert_array_equal(found[0][3], found[1][3])


def test_the_strength_follows_the_noise() -> None:
    """What cannot be foretold is answered by the mean, what can exactly, and never worse than the better of both."""
    rng = np.random.default_rng(0)
    x, y = problem(60, 40, noise=0.0)
    noise = rng.normal(size=(60, 1)).astype(np.float32)
    tests, answers = problem(500, 40, seed=5, noise=0.0)
    for stored in (0, 10**6):
        with Learner.create(":memory:", head="regression", replay_bytes=stored) as learner:
            learner.learn(x, y)
            assert learner.evaluate(tests, answers).r2["y"] > 0.999
        with Learner.create(":memory:", head="regression", replay_bytes=stored) as learner:
            learner.learn(x, noise)
            assert learner.evaluate(tests, rng.normal(size=(500, 1))).r2["y"] > -0.15


def test_each_output_has_a_strength_of_its_own() -> None:
    x, y = problem(60, 40, 1, noise=0.0)
    both = np.concatenate([x, y, np.random.default_rng(0).normal(size=(60, 1))], axis=1).astype(np.float32)
    ridge = Ridge.fit(sums_of(both), 2, both)
    assert ridge.strength[1] > 1e3 * ridge.strength[0]
    alone = Ridge.fit(sums_of(both[:, :-1]), 1, both[:, :-1])
    np.testing.assert_allclose(ridge.head()[0][0], alone.head()[0][0], rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 12),
    st.integers(1, 3),
    st.sampled_from([0, 2_000, 10**6]),
    st.sampled_from([1e-6, 1.0, 1e9]),
)
def test_any_shape_and_unit_gives_numbers(n: int, dim: int, n_values: int, replay_bytes: int, unit: float) -> None:
    rng = np.random.default_rng([n, dim, n_values])
    x, y = rng.normal(size=(n, dim)) * unit, rng.normal(size=(n, n_values)) / unit
    x[:, 0] = 5 * unit  # a feature that says nothing
    with Learner.create(":memory:", head="regression", replay_bytes=replay_bytes) as learner:
        for rows in np.array_split(np.arange(n), min(n, 3)):
            report = learner.learn(x[rows], y[rows], min_retention=0)
            assert np.isfinite([report.accuracy_before, report.accuracy_after, report.retention]).all()
        values = learner.predict(x).values
        assert learner.outputs == (("y",) if n_values == 1 else tuple(f"y{m}" for m in range(n_values)))
    assert values.shape == (n, n_values)
    assert np.abs(values * unit).max() < 100


@pytest.mark.parametrize("replay_bytes", [0, 10**6])
def test_an_update_that_contradicts_what_was_learnt_is_refused(tmp_path: Path, replay_bytes: int) -> None:
    x, y = problem(200, 5)
    with Learner.create(tmp_path / "a.ecl", head="regression", replay_bytes=replay_bytes) as learner:
        learner.learn(x, y)
        before = learner.predict(x).values
        again = learner.learn(*problem(200, 5, seed=1))
        assert again.committed
        assert 0.99 < again.retention < 1.01
        before = learner.predict(x).values
        refused = learner.learn(x, -y)
        assert not refused.committed
        assert refused.retention < 0.7
        np.testing.assert_array_equal(learner.predict(x).values, before)
        assert learner.version == 2
        assert learner.learn(x, -y, min_retention=0).committed


def test_an_accuracy_is_r2_of_samples_that_were_not_learnt_yet() -> None:
    x, y = problem(400, 30)
    tests, answers = problem(2000, 30, seed=8)
    with Learner.create(":memory:", head="regression") as learner:
        learner.learn(x[:100], y[:100])
        report = learner.learn(x[100:], y[100:])
        assert report.accuracy_after == pytest.approx(learner.evaluate(tests, answers).accuracy, abs=0.05)
        assert report.accuracy_before < report.accuracy_after
        assert report.new_classes == ()


def test_evaluation_is_root_mean_square_mean_absolute_and_explained_variance() -> None:
    x, y = problem(50, 4, 2)
    with Learner.create(":memory:", head="regression") as learner:
        learner.learn(x, y)
        values, found = learner.predict(x).values, learner.evaluate(x, y)
    for m, name in enumerate(("y0", "y1")):
        errors = values[:, m].astype(np.float64) - y[:, m]
        assert found.rmse[name] == pytest.approx(np.sqrt(np.mean(errors**2)))
        assert found.mae[name] == pytest.approx(np.mean(np.abs(errors)))
        assert found.r2[name] == pytest.approx(
            1 - np.sum(errors**2) / np.sum((y[:, m] - y[:, m].mean(dtype=float)) ** 2)
        )
    assert (found.n, found.per_class) == (50, {})
    assert found.accuracy == pytest.approx(np.mean(list(found.r2.values())))


def test_a_file_brings_everything_back(tmp_path: Path) -> None:
    path, (x, y) = tmp_path / "a.ecl", problem(120, 7, 2)
    with Learner.create(path, head="regression", seed=3) as learner:
        learner.learn(x[:60], y[:60])
        first = learner.predict(x).values
        learner.learn(x[60:], y[60:])
        second = learner.predict(x).values
    assert not list(check_file(str(path)))
    with Learner.open(path) as learner:
        assert (learner.head_kind, learner.outputs, learner.classes) == ("regression", ("y0", "y1"), ())
        np.testing.assert_array_equal(learner.predict(x).values, second)
        changes = learner.diff(1, 2)
        assert [(c.name, c.samples, c.stored) for c in changes] == [(n, (60, 120), (60, 120)) for n in ("y0", "y1")]
        assert all(change.moved for change in changes)
        learner.rollback(1)
        np.testing.assert_array_equal(learner.predict(x).values, first)
        assert learner.replay_usage()["samples"] == 60
        learner.resize(replay_bytes=1000)
        assert learner.replay_usage()["bytes"] <= 1000
        learner.learn(x[60:], y[60:])
        with pytest.raises(InputError, match="hold all samples alike; go back: edge-cl rollback"):
            learner.forget("y0")
    assert not list(check_file(str(path)))


def test_the_same_seed_gives_the_same_bits() -> None:
    x, y = problem(200, 9)
    answers = []
    for _ in range(2):
        with Learner.create(":memory:", head="regression", replay_bytes=3000, seed=4) as learner:
            for rows in np.array_split(np.arange(200), 5):
                learner.learn(x[rows], y[rows])
            answers.append(learner.predict(x).values.tobytes())
    assert answers[0] == answers[1]


def test_it_is_exported_with_values(tmp_path: Path) -> None:
    x, y = problem(50, 4, 2)
    with Learner.create(":memory:", head="regression", random_features=30) as learner:
        learner.learn(x, y)
        learner.export(tmp_path / "a.onnx")
        wanted = learner.predict(x).values
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["values"]
    np.testing.assert_allclose(session.run(None, {"features": x})[0], wanted, rtol=1e-3, atol=1e-3)
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "a.onnx").metadata_props}
    assert (metadata["edge_cl.head"], json.loads(metadata["edge_cl.outputs"])) == ("regression", ["y0", "y1"])
    assert "edge_cl.classes" not in metadata


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([1.0], "labels: head regression expected numbers .2, M., one row for each sample; found shape .1,."),
        (["1", "door"], "found 'door'"),
        ([[1.0, 2.0], [3.0]], "found"),
        ([[[1.0]], [[2.0]]], "found shape .2, 1, 1."),
        ([1.0, float("nan")], "below 1e12; found NaN, infinity or more in row 1"),
        ([1.0, 1e13], "in row 1"),
        ([True, False], "found"),
        ("12", "found '12'"),
        (3.0, "found 3[.]0"),
        ([None, 1.0], "found None"),
        (np.zeros((2, 0)), "found shape .2, 0."),
    ],
)
def test_labels_that_are_no_numbers_are_refused(labels: Any, words: str) -> None:
    with Learner.create(":memory:", head="regression") as learner:
        with pytest.raises(InputError, match=words) as caught:
            learner.learn(np.zeros((2, 3)), labels)
        assert "\n" not in str(caught.value)
        assert learner.version == 0


def test_other_outputs_tasks_and_classes_are_refused() -> None:
    x, y = problem(20, 3, 2)
    with Learner.create(":memory:", head="regression") as learner:
        learner.learn(x, y)
        with pytest.raises(InputError, match=r"expected numbers \(20, 2\).*found 1 for each"):
            learner.learn(x, y[:, 0])
        with pytest.raises(InputError, match="has no classes, and so no tasks"):
            learner.learn(x, y, task="a")
        with pytest.raises(InputError, match="leave it out"):
            learner.predict(x, task="a")
    with (
        Learner.create(":memory:") as learner,
        pytest.raises(InputError, match=r"class name: expected a string; found 1\.5"),
    ):
        learner.learn(x[:1], [1.5])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"recipe": "ewc"}, "recipe: head regression learns by edge.*found 'ewc'"),
        ({"codec": "int8"}, "codec: head regression stores float32"),
        ({"selection": "herding"}, "selection: head regression"),
        ({"head": "ridge"}, "head: expected one of linear, cosine, mlp, regression; found 'ridge'"),
        ({"random_features": -1}, "random_features: expected a whole number of 0 to"),
        ({"random_features": 10**6}, "random_features: expected a whole number of 0 to"),
        ({"hidden_units": 0}, "hidden_units: expected a whole number of 1 to"),
    ],
)
def test_what_does_not_go_with_it_is_refused_when_it_is_made(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        Learner.create(tmp_path / "a.ecl", **{"head": "regression", **options})
    assert not list(tmp_path.iterdir())


def test_the_command_line_learns_numbers_from_npz_and_csv(tmp_path: Path, command: list[str]) -> None:
    path, (x, y) = tmp_path / "a.ecl", problem(60, 4, 2)
    made = as_json(command, "new", path, "--backbone", "none", "--head", "regression")
    assert (made["head"], made["codec"]) == ("regression", "float32")
    np.savez(tmp_path / "train.npz", X=x, y=y)
    np.savez(tmp_path / "test.npz", X=x[:5])
    learnt = as_json(command, "learn", path, tmp_path / "train.npz")
    assert learnt["committed"]
    assert "R2 before" in run(command, "learn", path, tmp_path / "train.npz").stdout
    answers = as_json(command, "predict", path, tmp_path / "test.npz")
    assert [set(answer) for answer in answers] == [{"path", "values"}] * 5
    with Learner.open(path, read_only=True) as learner:
        np.testing.assert_allclose([list(a["values"].values()) for a in answers], learner.predict(x[:5]).values)
    assert " y1 " in run(command, "predict", path, tmp_path / "test.npz").stdout
    found = as_json(command, "eval", path, tmp_path / "train.npz")
    assert set(found) == {"r2", "rmse", "mae", "n", "ms_per_sample", "skipped"}
    assert "RMSE" in run(command, "eval", path, tmp_path / "train.npz").stdout
    info = as_json(command, "info", path)
    assert (info["head"], info["outputs"], info["classes"]) == ("regression", ["y0", "y1"], [])
    assert "2: y0, y1" in run(command, "info", path).stdout
    assert as_json(command, "export", path, tmp_path / "a.onnx")["outputs"] == 2
    np.savez(tmp_path / "wrong.npz", X=x, y=-y)
    assert "would keep" in run(command, "learn", path, tmp_path / "wrong.npz", status=1).stderr
    assert not as_json(command, "check", path)["problems"]


def test_a_csv_of_values_and_photos(tmp_path: Path, command: list[str], photos: Any) -> None:
    root = photos("bright", "dark", n_images=8)
    images = sorted(root.rglob("*.png"))
    rows = [f"{image.relative_to(tmp_path)},{n % 5 / 2},{n}" for n, image in enumerate(images)]
    (tmp_path / "dose.csv").write_text("path,dose,age\n" + "\n".join(rows), encoding="utf-8")
    run(command, "new", tmp_path / "a.ecl", "--head", "regression")
    assert as_json(command, "learn", tmp_path / "a.ecl", tmp_path / "dose.csv")["n_samples"] == 16
    (answer,) = as_json(command, "predict", tmp_path / "a.ecl", images[0])
    assert set(answer["values"]) == {"y0", "y1"}
    for text, words in (
        ("a.png,1,2\nb.png,1", ":2: expected 3 columns, path and values; found 'b.png,1'"),
        ("a.png,1\nb.png,door", ":2: expected 2 columns, path and values; found no number in 'door'"),
        ("path,value", "expected rows of"),
    ):
        (tmp_path / "bad.csv").write_text(text, encoding="utf-8")
        assert words in run(command, "learn", tmp_path / "a.ecl", tmp_path / "bad.csv", status=1).stderr


def test_few_stored_samples_do_not_choose_the_strength() -> None:
    x, y = problem(500, 6)
    both = np.concatenate([x, y], axis=1)
    sums = sums_of(both)
    few = Ridge.fit(sums, 1, both[: FEW - 1])
    assert few.strength == Ridge.fit(sums, 1, both[:0]).strength
    assert len({float(Ridge.fit(sums, 1, both[start : start + FEW]).strength[0]) for start in range(0, 300, 50)}) > 1


@pytest.mark.parametrize(("log", "least"), [(False, 0.77), (True, 0.79)])
def test_gas_sensors_tell_the_concentration(log: bool, least: float) -> None:
    """Real sensors, some samples of which lie 30 deviations off: 20 updates of 200 samples, tested on the others."""
    data = np.load(shared("data/gas_drift.npz"))
    x, y = np.sign(data["x"]) * np.log1p(np.abs(data["x"])), np.log(data["ppm"]) if log else data["ppm"]
    order = np.random.default_rng(0).permutation(len(x))
    with Learner.create(":memory:", head="regression") as learner:
        for rows in np.array_split(order[:4000], 20):
            assert learner.learn(x[rows], y[rows]).committed
        assert learner.evaluate(x[order[4000:]], y[order[4000:]]).r2["y"] > least
