"""Forgetting on purpose: a class leaves head, statistics, replay, history, and the bytes of the file."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_cl import Learner
from edge_cl.errors import InputError
from edge_cl.recipes import RECIPES
from edge_cl.state.check import check_file

from .conftest import Photos, clusters

DIM = 24


def three(n_samples: int = 12) -> tuple[NDArray[np.float32], list[str]]:
    return clusters(3, n_samples, DIM)


@pytest.mark.parametrize("codec", ["sketch", "eigen", "pq", "int8", "float32"])
@pytest.mark.parametrize("selection", ["reservoir", "herding"])
def test_nothing_of_the_class_is_left_in_the_raw_file(tmp_path: Path, codec: str, selection: str) -> None:
    """Searched for as raw bytes: its name, its mean, its row of the head, each of its codes, of all versions."""
    path = tmp_path / "a.ecl"
    x, names = three()
    names = [{"c1": "Mrs Miller"}.get(name, name) for name in names]
    secrets: set[bytes] = {b"Mrs Miller"}
    with Learner.create(path, codec=codec, selection=selection, replay_bytes=20_000) as learner:
        for rows in (slice(0, 18), slice(18, 36), slice(10, 20)):
            learner.learn(x[rows], names[rows], min_retention=0)
            memory = learner._current.memory()
            row = memory.head.classes.index("Mrs Miller")
            secrets |= {memory.head.weights[row].tobytes(), memory.statistics.means[row].tobytes()}
            secrets |= {record["code"].tobytes() for record in memory.replay.records if record["label"] == row}
        learner.rollback(2)
        learner.learn(x[:4], names[:4], min_retention=0)
        everything = read_all(path)
        assert all(any(secret in data for data in everything) for secret in sorted(secrets)[:3])  # or nothing is tested
        others = {record["code"].tobytes() for record in memory.replay.records if record["label"] != row}
        report = learner.forget("Mrs Miller")
        left = [secret for secret in secrets - others if any(secret in data for data in read_all(path))]
        assert left == []
        assert (report.n_samples, report.class_name) == (12, "Mrs Miller")
        assert report.n_versions == 5
        assert learner.classes == ("c0", "c2")
        assert [v.is_kept for v in learner.versions()] == [False] * 5 + [True]
        assert all("Mrs Miller" not in v.new_classes for v in learner.versions())
    assert [secret for secret in secrets - others if secret in path.read_bytes()] == []
    assert not list(check_file(str(path)))


def read_all(path: Path) -> list[bytes]:
    return [p.read_bytes() for p in sorted(path.parent.glob("a.ecl*")) if not p.name.endswith("-shm")]


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_others_are_known_as_before(recipe: str) -> None:
    x, names = three()
    with Learner.create(":memory:", recipe=recipe) as learner:
        learner.learn(x, names)
        report = learner.forget("c0")
        assert learner.classes == ("c1", "c2")
        assert learner.evaluate(x[12:], names[12:]).accuracy == 1.0
        assert learner.versions()[-1].kind == "forget"
        memory = learner._current.memory()
        assert memory.statistics.counts.tolist() == [12, 12]
        assert set(memory.replay.labels.tolist()) == {0, 1}
        assert bool(report.remains) == (not RECIPES[recipe].is_recomputed or memory.statistics.scatter is not None)
        assert learner.learn(x[:12], ["again"] * 12, min_retention=0).new_classes == ("again",)


@pytest.mark.parametrize("recipe", ["edge", "slda"])
def test_given_its_samples_it_is_as_if_the_class_had_never_been(recipe: str) -> None:
    """Statistics are sums: what is taken out leaves what the others alone would have made, to float32's rounding."""
    x, names = three(40)
    with Learner.create(":memory:", recipe=recipe, codec="float32") as learner:
        learner.learn(x, names)
        report = learner.forget("c1", x[40:80])
        found = learner._current.memory()
        assert report.remains == ()
    rows = np.r_[0:40, 80:120]
    with Learner.create(":memory:", recipe=recipe, codec="float32") as learner:
        learner.learn(x[rows], [names[row] for row in rows])
        wanted = learner._current.memory()
    assert found.statistics.scatter is not None
    assert wanted.statistics.scatter is not None
    np.testing.assert_array_equal(found.statistics.counts, wanted.statistics.counts)
    np.testing.assert_allclose(found.statistics.means, wanted.statistics.means, rtol=1e-6)
    scale = np.abs(wanted.statistics.scatter).max()
    np.testing.assert_allclose(found.statistics.scatter, wanted.statistics.scatter, atol=3e-6 * scale)  # 100 roundings
    size = np.abs(wanted.head.weights).max()
    np.testing.assert_allclose(found.head.weights, wanted.head.weights, atol=1e-3 * size)  # the factor is bisected
    assert set(found.replay.labels.tolist()) == {0, 1}


def test_without_its_samples_what_remains_is_said() -> None:
    x, names = three()
    with Learner.create(":memory:") as learner:
        learner.learn(x, names)
        before = learner._current.memory().statistics
        (text,) = learner.forget("c1").remains
        assert "second moment" in text
        assert "--samples" in text
        after = learner._current.memory().statistics
        assert before.scatter is not None
        assert after.scatter is not None
        np.testing.assert_array_equal(after.scatter, before.scatter)
        assert learner.forget("c2", x[24:]).remains == ()  # what was left of c1 does no harm
        assert learner.evaluate(x[:12], names[:12]).accuracy == 1.0


def test_samples_that_are_not_its_own_are_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    x, names = three()
    with Learner.create(tmp_path / "a.ecl") as learner:
        learner.learn(x, names)
        for samples, words in ((x[12:23], "expected the 12 that"), (x[:12], "their mean differs")):
            with pytest.raises(InputError, match=words):
                learner.forget("c1", samples)
        with pytest.raises(InputError, match=r"found 'c11'; did you mean 'c1'\?"):
            learner.forget("c11")
        with pytest.raises(InputError, match="found 'door'; see them: edge-cl info"):
            learner.forget("door")
        assert learner.version == 1
        assert learner.classes == ("c0", "c1", "c2")


def test_the_last_class_can_be_forgotten_too(tmp_path: Path) -> None:
    path = tmp_path / "a.ecl"
    x, names = three()
    with Learner.create(path, codec="eigen", replay_bytes=20_000) as learner:
        learner.learn(x[:12], names[:12])
        assert learner.forget("c0").remains == ()
        assert learner.classes == ()
        assert learner.replay_usage()["bytes"] == 0
    assert not list(check_file(str(path)))
    with Learner.open(path) as learner:
        assert learner.learn(x[12:], names[12:]).new_classes == ("c1", "c2")
        assert learner.evaluate(x[12:], names[12:]).accuracy == 1.0
    assert not list(check_file(str(path)))


@pytest.mark.parametrize("by_opening", [True, False])
def test_an_erasure_that_a_reader_held_up_is_finished_later(tmp_path: Path, by_opening: bool) -> None:
    path = tmp_path / "a.ecl"
    x, names = three()
    with Learner.create(path, timeout=0.1) as learner, Learner.open(path, read_only=True) as reader:
        learner.learn(x, [{"c1": "Mrs Miller"}.get(name, name) for name in names])
        with reader._state.reading():
            reader._state._connection.execute("SELECT count(*) FROM chunks").fetchone()
            *_, text = learner.forget("Mrs Miller").remains
            assert "its bytes in free space" in text
            assert "cannot be erased while another process reads it" in text
        assert learner.classes == ("c0", "c2")
        assert any("not erased yet" in problem for problem in check_file(str(path)))
        if by_opening:
            Learner.open(path).close()
        else:
            learner.learn(x[:2], names[:2], min_retention=0)
        assert not list(check_file(str(path)))
    assert b"Mrs Miller" not in path.read_bytes()


@pytest.mark.parametrize("recipe", [name for name, recipe in RECIPES.items() if not recipe.keeps_all])
@pytest.mark.parametrize(
    "options", [{"replay_bytes": 0}, {"replay_bytes": 30}, {"codec": "eigen", "replay_bytes": 200}]
)
def test_a_class_is_forgotten_where_nothing_is_stored(recipe: str, options: dict[str, Any]) -> None:
    x, names = three()
    with Learner.create(":memory:", recipe=recipe, **options) as learner:
        learner.learn(x, names)
        before = learner.predict(x[12:]).probabilities
        learner.forget("c0")
        assert learner.evaluate(x[12:], names[12:]).accuracy == 1.0
        after = learner.predict(x[12:]).probabilities
        certain = before[:, 1:] / before[:, 1:].sum(axis=1, keepdims=True)
        assert np.abs(after - certain).max() < 0.2  # the temperature is that of the head before, or near it


def test_names_are_cleaned_as_they_were_when_they_were_learnt() -> None:
    x, names = three()
    with Learner.create(":memory:") as learner:
        learner.learn(x, [{"c0": "1", "c1": "caf\u00e9"}.get(name, name) for name in names])
        assert learner.forget(1).class_name == "1"  # type: ignore[arg-type]
        assert learner.forget(" cafe\u0301 ").class_name == "caf\u00e9"


def test_the_command_line_forgets_photos_too(tmp_path: Path, photos: Photos, command: list[str]) -> None:
    root, cam = photos("door", "cat", "mail box"), tmp_path / "cam.ecl"
    subprocess.run([*command, "new", cam], check=True, capture_output=True)
    subprocess.run([*command, "learn", cam, root], check=True, capture_output=True)
    done = subprocess.run([*command, "forget", cam, "cat"], check=True, capture_output=True, text=True)
    assert "not removed: its part of the second moment" in done.stderr
    answer = [*command, "forget", str(cam), "mail box", "--samples", str(root / "mail box"), "--json"]
    done = subprocess.run(answer, check=True, capture_output=True, text=True)
    report = json.loads(done.stdout)
    assert (report["n_samples"], report["remains"], report["version"]) == (6, [], 3)
    assert done.stderr == ""
    assert b"mail box" not in cam.read_bytes()
    done = subprocess.run([*command, "forget", cam, "doors"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "did you mean 'door'?" in done.stderr
