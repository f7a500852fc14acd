"""What features become before anything learns from them: the same on every machine, in every file, and in ONNX."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_cl import Learner
from edge_cl.errors import InputError
from edge_cl.feature_map import FeatureMap
from edge_cl.inputs import MAX_VALUE
from edge_cl.state.check import check_file

from .conftest import Photos, clusters
from .test_cli import as_json

GOLDEN = (-0.18918855, 0.028040824, -0.17490253)


def test_the_projection_is_what_it_was_when_files_were_written() -> None:
    """Golden numbers: another draw would make nonsense of every state that has learnt from this one."""
    projection = FeatureMap(5, 7, seed=3).projection
    assert projection.shape == (5, 7)
    np.testing.assert_allclose(projection[0, :3], GOLDEN, rtol=1e-5)


def test_random_features_are_rectified_projections_and_unit_length_comes_last() -> None:
    x = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)
    drawn = FeatureMap(5, 40, seed=1)
    np.testing.assert_allclose(drawn.apply(x), np.maximum(x.astype(np.float64) @ drawn.projection, 0), atol=1e-6)
    unit = FeatureMap(5, 40, is_unit=True, seed=1).apply(x)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(unit * np.linalg.norm(drawn.apply(x), axis=1, keepdims=True), drawn.apply(x), atol=1e-5)
    assert FeatureMap(5).apply(x) is x


def test_the_projection_is_normally_distributed() -> None:
    """Gaussian moments, to five standard errors of 200,000 numbers."""
    drawn = FeatureMap(400, 500).projection.astype(np.float64).reshape(-1)
    drawn /= drawn.std()
    for power, want, error in ((1, 0, 1), (3, 0, 15**0.5), (4, 3, 96**0.5)):
        assert abs((drawn**power).mean() - want) < 5 * error / len(drawn) ** 0.5


def test_seeds_and_sizes_give_projections_of_their_own() -> None:
    first = FeatureMap(20, 30, seed=0).projection
    for other in (FeatureMap(20, 30, seed=1).projection, FeatureMap(20, 30, seed=2**62).projection):
        assert abs(np.corrcoef(first.reshape(-1), other.reshape(-1))[0, 1]) < 0.15


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**63 - 1))
def test_what_is_a_legal_value_stays_one(n_inputs: int, n_random: int, seed: int) -> None:
    extreme = np.where(np.random.default_rng(seed).random((3, n_inputs)) < 0.5, -MAX_VALUE, MAX_VALUE)
    for constant in (0.0, 1.0, MAX_VALUE):
        mapped = FeatureMap(n_inputs, n_random, seed=seed, constant=constant).apply(extreme.astype(np.float32))
        assert mapped.max() <= 1.001 * MAX_VALUE
    unit = FeatureMap(n_inputs, n_random, is_unit=True, seed=seed).apply(np.zeros((1, n_inputs), np.float32))
    assert not unit.any()


def test_a_constant_is_one_feature_more() -> None:
    x = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)
    beside = np.concatenate([x, np.full((50, 1), 1.5, np.float32)], axis=1)
    with_it, without = FeatureMap(5, 40, seed=1, constant=1.5), FeatureMap(6, 40, seed=1)
    np.testing.assert_allclose(with_it.apply(x), without.apply(beside), atol=1e-6)
    scales = with_it.projection / FeatureMap(5, 40, seed=1).projection  # the same draw, to what no value may exceed
    np.testing.assert_allclose(scales, scales[0, 0], rtol=1e-5)


@pytest.mark.parametrize("recipe", ["ridge", "slda", "edge"])
@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e4])
def test_rings_around_the_origin_are_told_apart_in_any_unit(recipe: str, unit: float) -> None:
    """How far a sample lies from it is what random features without a constant can only say as the sample does."""
    rng = np.random.default_rng(0)
    ring, angle = np.arange(1200) % 4, rng.uniform(0, 2 * np.pi, 1200)
    radius = unit * (1 + ring + 0.1 * rng.normal(size=1200))
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    with Learner.create(":memory:", recipe=recipe, random_features=200) as learner:
        for k in range(4):
            learner.learn(x[:400][ring[:400] == k], ring[:400][ring[:400] == k], min_retention=0)
        assert learner.evaluate(x[400:], ring[400:]).accuracy > 0.95


def test_the_first_samples_fix_the_constant_as_twice_a_typical_value(tmp_path: Path) -> None:
    x, names = clusters(3, 8, 6)
    path, wanted = tmp_path / "a.ecl", 2 * float(np.sqrt(np.square(x, dtype=np.float64).mean()))
    with Learner.create(path, random_features=50) as learner:
        learner.learn(x, names)
        assert learner.settings.random_constant == pytest.approx(wanted, rel=1e-6)
        learner.learn(100 * x, names, min_retention=0)
        answers = learner.predict(x).probabilities
        assert learner.settings.random_constant == pytest.approx(wanted, rel=1e-6)
    with Learner.open(path) as learner:
        np.testing.assert_array_equal(learner.predict(x).probabilities, answers)
    assert not list(check_file(str(path)))
    for first in (np.zeros((4, 6)), np.full((4, 6), -MAX_VALUE)):
        with Learner.create(":memory:", random_features=50) as learner:
            learner.learn(first, ["a", "b"] * 2)
            assert learner.settings.random_constant == min(2 * np.abs(first).max(), np.float32(MAX_VALUE))
            assert np.isfinite(learner.predict(x).probabilities).all()


def test_classes_that_no_plane_separates_are_separated() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2000, 2)).astype(np.float32)
    y = ((x[:, 0] > 0) ^ (x[:, 1] > 0)).astype(int)
    found = []
    for n_random in (0, 200):
        with Learner.create(":memory:", recipe="slda", random_features=n_random) as learner:
            for k in (0, 1):
                learner.learn(x[:1000][y[:1000] == k], y[:1000][y[:1000] == k])
            found.append(learner.evaluate(x[1000:], y[1000:]).accuracy)
    assert found[0] < 0.65
    assert found[1] > 0.9


def test_the_first_batch_fixes_the_features_of_a_sample(tmp_path: Path) -> None:
    x, names = clusters(3, 8, 6)
    path = tmp_path / "a.ecl"
    with Learner.create(path, random_features=50) as first, Learner.open(path) as second:
        first.learn(x, names)
        assert first.head.weights.shape == (3, 50)
        for learner in (first, second):
            for wrong in (x[:, :5], np.tile(x, 2), np.zeros((2, 50))):
                with pytest.raises(InputError, match=r"expected features \(N, 6\)"):
                    learner.predict(wrong)
                with pytest.raises(InputError, match=r"expected features \(N, 6\)"):
                    learner.learn(wrong, ["c0"] * len(wrong))
        assert first.predict(x).labels == second.predict(x).labels
    assert not list(check_file(str(path)))
    assert path.read_bytes()[60:64] == (3).to_bytes(4, "big")
    with Learner.open(path, read_only=True) as learner:
        assert learner.evaluate(x, names).accuracy > 0.9


def test_another_learner_may_fix_the_features_while_a_batch_is_on_its_way(tmp_path: Path) -> None:
    x, names = clusters(3, 8, 6)
    path = tmp_path / "a.ecl"
    with Learner.create(path, random_features=50) as first, Learner.open(path) as second:
        extract = second._extract_inputs

        def late(samples: object, on_progress: object) -> object:
            found = extract(samples, on_progress)  # type: ignore[arg-type]
            first.learn(x, names)
            return found

        second._extract_inputs = late  # type: ignore[assignment, method-assign]
        with pytest.raises(InputError, match=r"expected features \(N, 6\); found 5"):
            second.learn(x[:, :5], names)
        assert second.version == 1


def test_images_become_random_features_too(tmp_path: Path, photos: Photos, command: list[str]) -> None:
    root = photos("door", "window")
    as_json(command, "new", tmp_path / "a.ecl", "--random-features", 300, "--head", "cosine")
    assert as_json(command, "learn", tmp_path / "a.ecl", root)["committed"]
    assert as_json(command, "eval", tmp_path / "a.ecl", root)["accuracy"] == 1.0
    as_json(command, "export", tmp_path / "a.ecl", tmp_path / "a.onnx")


def test_the_map_is_in_the_exported_model(tmp_path: Path) -> None:
    x, names = clusters(4, 10, 6)
    for n_random, head in ((0, "cosine"), (40, "linear"), (40, "cosine")):
        with Learner.create(":memory:", random_features=n_random, head=head) as learner:
            learner.learn(x, names)
            learner.export(tmp_path / "a.onnx")
            wanted = learner.predict(x).probabilities
            zeros = learner.predict(np.zeros((1, 6))).probabilities
        session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
        assert session.get_inputs()[0].shape == ["N", 6]
        np.testing.assert_allclose(session.run(["probabilities"], {"features": x})[0], wanted, atol=1e-4)
        found = session.run(["probabilities"], {"features": np.zeros((1, 6), np.float32)})[0]
        np.testing.assert_allclose(found, zeros, atol=1e-5)


def test_predicting_with_them_imports_neither_torch_nor_numba(tmp_path: Path) -> None:
    x, names = clusters(3, 8, 6)
    for head in ("linear", "cosine", "mlp"):
        with Learner.create(tmp_path / f"{head}.ecl", random_features=40, head=head) as learner:
            learner.learn(x, names)
        script = (
            "import sys\nimport numpy as np\nfrom edge_cl import Learner\n"
            f"with Learner.open({str(tmp_path / head)!r} + '.ecl') as learner: learner.predict(np.ones((2, 6)))\n"
            "print(sorted({'torch', 'numba'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"
