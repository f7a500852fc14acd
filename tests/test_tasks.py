"""Tasks: several heads in one state; a class of a task is told from those of its own task only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edge_cl import Learner
from edge_cl.errors import InputError
from edge_cl.head import Head, choose
from edge_cl.recipes import RECIPES
from edge_cl.state import StateFile
from edge_cl.state.check import check_file

from .conftest import clusters
from .test_cli import as_json, run

DIM = 12
Array = NDArray[np.float32]


def batch(task: str, *, seed: int = 0, n_samples: int = 12) -> tuple[Array, list[str]]:
    """Return samples of a task's two classes, which bear the same names in all tasks."""
    features, labels = clusters(4, n_samples, DIM, seed=seed)
    first = 0 if task == "gearbox" else 2 * n_samples
    return features[first : first + 2 * n_samples], [
        "ok" if name in {"c0", "c2"} else "broken" for name in labels[first:]
    ][: 2 * n_samples]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_class_of_one_task_is_never_the_answer_for_another(recipe: str) -> None:
    with Learner.create(":memory:", recipe=recipe) as learner:
        for task in ("gearbox", "motor"):
            report = learner.learn(*batch(task), task=task, min_retention=0)
            assert report.committed
        assert report.new_classes == ("motor/ok", "motor/broken")
        assert learner.tasks == ("gearbox", "motor")
        assert learner.classes == ("gearbox/ok", "gearbox/broken", "motor/ok", "motor/broken")
        for task in learner.tasks:
            answers = learner.predict(batch(task, seed=5)[0], task=task)
            assert answers.classes == ("ok", "broken")
            assert set(answers.labels) <= {"ok", "broken"}
            np.testing.assert_allclose(answers.probabilities.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("recipe", ["edge", "slda", "replay"])
def test_each_task_is_answered_well(recipe: str) -> None:
    with Learner.create(":memory:", recipe=recipe) as learner:
        for task in ("gearbox", "motor"):
            learner.learn(*batch(task), task=task)
        for task in learner.tasks:
            assert learner.evaluate(*batch(task, seed=5, n_samples=50), task=task).accuracy > 0.9


@pytest.mark.parametrize("recipe", ["edge", "replay"])
def test_two_tasks_may_ask_different_things_of_the_same_samples(recipe: str) -> None:
    """Colour and shape of one sample: four clusters, cut in half in two ways; across tasks every answer is a tie."""
    features, names = clusters(4, 20, DIM)
    tests, wanted = clusters(4, 100, DIM, seed=9)
    colour = {"c0": "red", "c1": "red", "c2": "blue", "c3": "blue"}
    shape = {"c0": "round", "c1": "square", "c2": "round", "c3": "square"}
    with Learner.create(":memory:", recipe=recipe) as learner:
        for task, kinds in (("colour", colour), ("shape", shape)):
            report = learner.learn(features, [kinds[name] for name in names], task=task)
            assert report.committed, report
            assert report.accuracy_after > 0.9
        for task, kinds in (("colour", colour), ("shape", shape)):
            found = learner.evaluate(tests, [kinds[name] for name in wanted], task=task)
            assert found.accuracy > 0.95
            answers = learner.predict(tests, task=task)
            assert float(answers.probabilities.max(axis=1).mean()) > 0.7


def test_softmax_runs_over_the_rows_of_the_task() -> None:
    with Learner.create(":memory:") as learner:
        for task in ("gearbox", "motor"):
            learner.learn(*batch(task), task=task)
        x = batch("motor", seed=3)[0]
        logits = learner.head.logits(x)[:, 2:]
        wanted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(learner.predict(x, task="motor").probabilities, wanted, rtol=1e-4, atol=1e-6)


def test_names_may_hold_slashes_and_tasks_may_not(tmp_path: Path) -> None:
    path, (x, _) = tmp_path / "a.ecl", batch("motor")
    with Learner.create(path) as learner:
        learner.learn(x[:2], ["a/b/c", "a"], task="Prüfung 1")
        assert learner.classes == ("Prüfung 1/a/b/c", "Prüfung 1/a")
        assert set(learner.predict(x, task="Prüfung 1").classes) == {"a/b/c", "a"}
        for task, words in (
            ("a/b", "without '/'"),
            ("", "1 to 1000 characters"),
            ("a\nb", "printable"),
            (1.5, "a string"),
        ):
            with pytest.raises(InputError, match=f"task: .*{words}"):
                learner.learn(x[:2], ["a", "b"], task=task)  # type: ignore[arg-type]
    assert not list(check_file(str(path)))
    with Learner.open(path) as learner:
        assert learner.tasks == ("Prüfung 1",)


def test_a_state_with_slashes_in_its_names_has_no_tasks() -> None:
    x, labels = batch("motor")
    with Learner.create(":memory:") as learner:
        learner.learn(x, [f"motor/{label}" for label in labels])
        assert not learner.tasks
        assert set(learner.predict(x).labels) == {"motor/ok", "motor/broken"}
        with pytest.raises(InputError, match="task: its classes are of no task; found 'motor'; leave it out"):
            learner.predict(x, task="motor")
        with pytest.raises(InputError, match=r"task: its 2 classes are of no task; found 'motor'.*edge-cl new"):
            learner.learn(x, labels, task="motor")


def test_a_task_that_is_missing_or_unknown_is_one_clear_error() -> None:
    x, labels = batch("motor")
    with Learner.create(":memory:") as learner:
        learner.learn(x, labels, task="motor")
        for act in (learner.predict, lambda x: learner.evaluate(x, labels)):
            with pytest.raises(InputError, match="task: expected one of motor; found none; --task NAME"):
                act(x)
        with pytest.raises(InputError, match="task: expected one of motor; found 'pump'"):
            learner.predict(x, task="pump")
        with pytest.raises(InputError, match="task: expected one of motor, or a new one; found none"):
            learner.learn(x, labels)
        assert learner.version == 1


def test_another_learner_of_the_same_file_cannot_mix_tasks_and_none(tmp_path: Path) -> None:
    x, labels = batch("motor")
    with Learner.create(tmp_path / "a.ecl") as first, Learner.open(tmp_path / "a.ecl") as second:
        assert not second.tasks
        first.learn(x, labels, task="motor")
        assert second.tasks == ("motor",)
        assert set(second.predict(x, task="motor").labels) == {"ok", "broken"}
        with pytest.raises(InputError, match="expected one of motor"):
            second.learn(x, labels)
        second.learn(x, labels, task="pump")
        assert first.tasks == ("motor", "pump")


def test_what_is_forgotten_rolled_back_and_begun_anew(tmp_path: Path) -> None:
    path, (x, labels) = tmp_path / "a.ecl", batch("motor")
    with Learner.create(path) as learner:
        learner.learn(*batch("gearbox"), task="gearbox")
        learner.learn(x, labels, task="motor")
        learner.rollback(1)
        assert learner.tasks == ("gearbox",)
        learner.rollback(2)
        assert [change.name for change in learner.diff(1, 2)][2:] == ["motor/ok", "motor/broken"]
        learner.forget("gearbox/ok")
        assert learner.predict(x, task="gearbox").classes == ("broken",)
        for name in learner.classes:
            learner.forget(name)
        assert not learner.tasks
        learner.learn(x, labels)
        assert (list(learner.tasks), learner.classes) == ([], ("ok", "broken"))
    assert not list(check_file(str(path)))
    with Learner.open(path) as learner:
        assert set(learner.predict(x).labels) == {"ok", "broken"}


def test_older_programs_are_told_to_upgrade(tmp_path: Path) -> None:
    """They would take the names for those of classes: from the first task on, the file is of a newer format."""
    path, (x, labels) = tmp_path / "a.ecl", batch("motor")
    with Learner.create(path, recipe="replay") as learner:
        learner.learn(x, labels)
        for name in learner.classes:
            learner.forget(name)
    assert path.read_bytes()[60:64] == (2).to_bytes(4, "big")
    with Learner.open(path) as learner:
        learner.learn(x, labels, task="motor")
    assert path.read_bytes()[60:64] == (3).to_bytes(4, "big")


def test_accuracy_and_retention_count_answers_within_tasks() -> None:
    """Two tasks on the same samples: across tasks, half of all answers would be wrong."""
    features, names = clusters(2, 30, DIM)
    with Learner.create(":memory:", recipe="slda") as learner:
        learner.learn(features, names, task="first")
        report = learner.learn(features, [f"new {name}" for name in names], task="second")
        assert report.accuracy_after > 0.95
        assert report.retention > 0.99


def test_choosing_within_tasks_is_choosing_in_the_head_of_the_task() -> None:
    rng = np.random.default_rng(0)
    names = ("a/x", "b/x", "a/y", "b/y", "b/z")
    head = Head(
        names, rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=5).astype(np.float32), has_tasks=True
    )
    features, labels = rng.normal(size=(200, 3)).astype(np.float32), rng.integers(0, 5, 200)
    found = choose(head.logits(features), labels, head.groups())
    for n in range(200):
        task, _ = names[labels[n]].split("/")
        part = head.of_task(task)
        assert names[found[n]] == f"{task}/{part.classes[int(part.logits(features[n : n + 1]).argmax())]}"


def test_the_exported_model_names_the_columns_of_each_task(tmp_path: Path) -> None:
    with Learner.create(":memory:") as learner:
        for task in ("gearbox", "motor"):
            learner.learn(*batch(task), task=task)
        learner.export(tmp_path / "a.onnx")
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "a.onnx").metadata_props}
    assert json.loads(metadata["edge_cl.tasks"]) == {"gearbox": [0, 1], "motor": [2, 3]}
    assert json.loads(metadata["edge_cl.classes"])[2] == "motor/ok"


def test_the_command_line_knows_tasks(tmp_path: Path, command: list[str]) -> None:
    path = tmp_path / "a.ecl"
    run(command, "new", path, "--backbone", "none")
    for task in ("gearbox", "motor"):
        x, labels = batch(task)
        np.savez(tmp_path / f"{task}.npz", X=x, y=np.array(labels))
        assert as_json(command, "learn", path, tmp_path / f"{task}.npz", "--task", task)["committed"]
        answers = as_json(command, "predict", path, tmp_path / f"{task}.npz", "--task", task)
        assert {answer["label"] for answer in answers} <= {"ok", "broken"}
    found = as_json(command, "eval", path, tmp_path / "motor.npz", "--task", "motor")
    assert (set(found["per_class"]), found["accuracy"] > 0.9) == ({"ok", "broken"}, True)
    assert "never learnt" not in run(command, "eval", path, tmp_path / "motor.npz", "--task", "motor").stderr
    assert as_json(command, "info", path)["tasks"] == ["gearbox", "motor"]
    assert "2: gearbox, motor" in run(command, "info", path).stdout
    assert "one of gearbox, motor" in run(command, "predict", path, tmp_path / "motor.npz", status=1).stderr


@pytest.mark.parametrize("names", [["x"], ["motor/"], ["/ok"], ["motor/ok", "loose"]])
def test_a_class_without_a_task_beside_others_is_damage(tmp_path: Path, names: list[Any]) -> None:
    path = tmp_path / "a.ecl"
    with Learner.create(path) as learner:
        learner.learn(np.eye(DIM)[: len(names)], names)
    state = StateFile.open(str(path))
    with state.writing():
        state._connection.execute("INSERT INTO settings VALUES ('has_tasks', 'True')")
        state._connection.execute("PRAGMA user_version = 3")
    state.close()
    assert any("classes of no task" in line for line in check_file(str(path)))
