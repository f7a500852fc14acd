"""The bench follows the learner that a user has, and tells what failed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge_cl import Learner
from edge_cl.backbones import open_backbone
from edge_cl.bench.accuracy import ALL, Plan, follow, parse_budget, run_all, split_plans
from edge_cl.bench.course import NONE, Course, measure
from edge_cl.bench.data import DataSet, read_data
from edge_cl.bench.folders import extract_photos, list_photos
from edge_cl.bench.report import Result, gather, to_json, to_markdown
from edge_cl.bench.streams import class_incremental, domain_incremental
from edge_cl.errors import InputError
from edge_cl.quantities import parse_bytes

from .conftest import Photos, clusters
from .test_cli import as_json, run


def data_of(n_classes: int = 6, n_samples: int = 24, dim: int = 8, spread: float = 1.0) -> DataSet:
    """Return clusters; a third of each class is for testing."""
    features, names = clusters(n_classes, n_samples, dim, spread=spread)
    labels = np.array([int(name[1:]) for name in names])
    train = np.arange(len(labels)) % 3 > 0
    return DataSet("clusters", features, labels, tuple(f"c{k}" for k in range(n_classes)), train)


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """Return an .npz of clusters, with a mask and domains."""
    data = data_of()
    path = tmp_path / "clusters.npz"
    arrays: dict[str, Any] = {"X": data.features, "y": data.labels, "train": data.is_train}
    np.savez(path, **arrays, domain=np.arange(len(data.labels)) % 4)
    return path


@pytest.mark.parametrize(("recipe", "replay_bytes"), [("slda", 100_000), ("replay", 300)])
def test_a_course_is_what_a_user_would_see(recipe: str, replay_bytes: int) -> None:
    data = data_of(spread=2.0)
    stream = class_incremental(data, 3, 1)
    course = follow(stream, Plan.parse(recipe), str(replay_bytes))
    asked = stream.asked(2)
    with Learner.create(":memory:", recipe=recipe, replay_bytes=replay_bytes, seed=1) as learner:
        for t in range(3):
            rows = stream.train[t]
            learner.learn(data.features[rows], [data.classes[k] for k in data.labels[rows]], min_retention=0)
            predictions = learner.predict(data.features[asked])
            assert [data.classes[k] for k in course.answers[t]] == list(predictions.labels)
    np.testing.assert_allclose(course.confidences, predictions.probabilities.max(axis=1))
    figures = measure(stream, course)
    right = np.array(predictions.labels) == np.array(data.classes)[data.labels[asked]]
    assert figures["final_accuracy"] == right.mean() == figures["seen_accuracies"][-1]
    assert figures["classes_seen"] == [2, 4, 6]
    assert figures["state_bytes"] == sum(figures["n_bytes"].values()) > 0


def test_results_do_not_depend_on_what_else_is_run() -> None:
    data = data_of(spread=2.0)
    streams = [class_incremental(data, 3, seed) for seed in range(2)]
    everything = run_all(streams, ["edge", "replay", "joint-cv", "slda"], ["0", "20kB"])
    alone = run_all(streams[1:], ["replay"], ["20kB"])[0]
    (same,) = [r for r in everything if (r.recipe, r.budget, r.seed) == ("replay", "20kB", 1)]
    for name, value in alone.figures.items():
        assert name == "seconds" or same.figures[name] == value or math.isnan(value)
    assert [(r.recipe, r.budget, r.seed) for r in everything] == [
        *((recipe, budget, seed) for recipe in ("edge", "replay") for budget in ("0", "20kB") for seed in (0, 1)),
        *(("joint-cv", "", seed) for seed in (0, 1)),
        *(("slda", budget, seed) for budget in ("0", "20kB") for seed in (0, 1)),
    ]


def test_online_and_batch_give_the_statistics_the_same_head() -> None:
    data = data_of(spread=2.0)
    batch, online = (class_incremental(data, 3, 0, batch=n) for n in (0, 1))
    first, second = (follow(stream, Plan.parse("slda"), "0") for stream in (batch, online))
    np.testing.assert_array_equal(first.answers, second.answers)


@given(st.integers(2, 5), st.integers(0, 3), st.booleans())
def test_the_right_answers_have_the_best_figures(n_tasks: int, seed: int, has_domains: bool) -> None:
    data = data_of()
    if has_domains:
        domains = np.arange(len(data.labels)) // 3 % n_tasks
        data = DataSet(**{**vars(data), "domains": domains, "domain_names": tuple(map(str, range(n_tasks)))})
        stream = domain_incremental(data, seed)
    else:
        stream = class_incremental(data, n_tasks, seed)
    labels = data.labels[stream.asked(stream.n_tasks - 1)]
    known = [set(data.labels[np.concatenate(stream.train[: t + 1])].tolist()) for t in range(stream.n_tasks)]
    answers = np.array([[k if k in seen else NONE for k in labels] for seen in known])
    figures = measure(stream, Course(answers, np.ones(len(labels)), np.ones(stream.n_tasks)))
    best = ("final_accuracy", "class_mean_accuracy", "task_mean_accuracy", "average_incremental_accuracy")
    for name in (*best, "learning_accuracy", "old_class_retention"):
        assert figures[name] == 1, name
    for name in ("forgetting", "backward_transfer", "calibration_error"):
        assert figures[name] == 0, name
    assert figures["forward_transfer"] == pytest.approx(1 - 1 / 6 if has_domains else 0)
    assert figures["seconds"] == stream.n_tasks


def test_a_head_that_forgets_all_but_the_last_task() -> None:
    data = data_of()
    stream = class_incremental(data, 3, 0)
    labels = data.labels[stream.asked(2)]
    answers = np.array([np.where(np.isin(labels, stream.new_classes(t)), labels, NONE) for t in range(3)])
    figures = measure(stream, Course(answers, np.ones(len(labels)), np.zeros(3)))
    assert figures["final_accuracy"] == pytest.approx(1 / 3)
    assert figures["forgetting"] == figures["learning_accuracy"] == figures["new_class_accuracy"] == 1
    assert figures["backward_transfer"] == -1
    assert figures["old_class_retention"] == 0
    assert figures["average_incremental_accuracy"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert figures["calibration_error"] == pytest.approx(2 / 3)


def test_plans_and_budgets_are_read_as_they_are_written() -> None:
    text = "edge, slda ,edge[codec=float32,replay=1KB/class],joint-cv,"
    assert split_plans(text) == ["edge", "slda", "edge[codec=float32,replay=1KB/class]", "joint-cv"]
    plan = Plan.parse("edge[codec=float32, replay=1KB/class]")
    assert (plan.recipe, plan.settings, plan.budget) == (
        "edge",
        {"codec": "float32", "replay": "1KB/class"},
        "1KB/class",
    )
    assert Plan.parse("edge[replay_bytes=5]").budget == "5"
    assert Plan.parse("edge").budget is None
    assert parse_budget("1KB/class", 101) == 101_000
    assert parse_budget("1.5 MB", 101) == 1_500_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", "recipe: expected one of edge"),
        ("edge[", "such as edge or"),
        ("edge]", "expected one of"),
        ("edge[replay]", "expected settings among"),
        ("edge[path=x]", "expected settings among"),
        ("edge[seed=1]", "expected settings among"),
        ("edge[colour=red]", "found 'colour=red'"),
    ],
)
def test_a_plan_that_is_none_is_refused(text: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected.replace("[", r"\[")):
        Plan.parse(text)


@given(st.integers(0, 10**12))
def test_bytes_are_read_as_they_are_written(n: int) -> None:
    assert parse_bytes(str(n)) == parse_bytes(f" {n} b ") == n
    assert parse_bytes(f"{n}kB") == 1000 * n
    assert parse_bytes(f"{n}MiB") == n << 20


@pytest.mark.parametrize("text", ["", "MB", "-1", "1e6", "1 TB", "1MB/task", "1/class/class"])
def test_bytes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected bytes such as"):
        parse_budget(text, 3)


def test_a_recipe_that_fails_is_shown_and_the_others_run() -> None:
    streams = [class_incremental(data_of(), 2, seed) for seed in range(2)]
    rows = gather(run_all(streams, ["edge[selection=none]", "slda"], ["1MB"]))
    table = to_markdown("title", rows)
    assert "failed: selection: expected one of" in table
    assert "| `slda` | 1MB | 100.00 ± 0.00 |" in table
    result = to_json({}, rows)
    assert [bool(row["error"]) for row in result["rows"]] == [True, False]
    assert result["rows"][0]["mean"]["final_accuracy"] is None
    json.dumps(result, allow_nan=False)


def test_a_recipe_that_keeps_all_is_given_the_room() -> None:
    stream = class_incremental(data_of(), 3, 0)
    (result,) = run_all([stream], ["joint"], ["0", "1kB"])
    assert (result.budget, result.error) == (ALL, "")
    n_values = sum(map(len, stream.train)) * stream.data.features.shape[1]
    assert 4 * n_values < result.figures["n_bytes"]["replay"] < 8 * n_values
    assert Plan.parse("joint[replay=1MB]").budget == "1MB"


def test_mean_and_deviation_are_over_the_orders() -> None:
    rows = gather([Result("edge", "0", seed, {"final_accuracy": share}) for seed, share in enumerate((0.8, 0.9, 1.0))])
    assert len(rows) == 1
    assert rows[0].mean("final_accuracy") == pytest.approx(0.9)
    assert rows[0].deviation("final_accuracy") == pytest.approx(0.1)  # of a sample: sqrt(0.02 / 2)
    assert math.isnan(rows[0].mean("forgetting"))
    assert "90.00 ± 10.00" in to_markdown("", rows)


def test_a_folder_is_extracted_once(photos: Photos, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = photos("door", "window", n_images=4)
    (root / "door" / "broken.jpg").write_bytes(b"no photo")
    backbone = open_backbone("tiny", None, "cpu", 32)
    first = extract_photos(list_photos(root), backbone)
    cached = set(own_cache.glob("features.*.npz"))
    assert cached
    with monkeypatch.context() as patch:
        patch.setattr(backbone, "extract", None)  # not called again
        found = list_photos(root)
        second = extract_photos(found, backbone)
    assert [Path(item.path).name for item in found.skipped] == ["broken.jpg"]
    np.testing.assert_array_equal(first.features, second.features)
    assert first.classes == second.classes == ("door", "window")
    assert second.labels.tolist() == [0] * 4 + [1] * 4
    for path in cached:
        path.write_bytes(path.read_bytes()[:-30])
    np.testing.assert_array_equal(extract_photos(list_photos(root), backbone).features, first.features)
    Image.new("RGB", (64, 64), "red").save(root / "door" / "0.png")
    assert not np.array_equal(extract_photos(list_photos(root), backbone).features, first.features)


def test_folders_say_what_is_for_testing_and_which_domain_it_is(photos: Photos, tmp_path: Path) -> None:
    for domain in ("day 2", "day 10"):
        for part in ("train", "test"):
            photos("door", "window", n_images=2 if part == "train" else 1, folder=f"home/{domain}/{part}")
    found = list_photos(tmp_path / "home", has_domains=True)
    assert found.domain_names == ("day 2", "day 10")
    assert found.domains == [0] * 6 + [1] * 6
    assert found.is_train == [True, True, True, True, False, False] * 2
    assert list_photos(tmp_path / "home" / "day 2").is_train == found.is_train[:6]
    photos("door", "window", folder="home/day 3")
    with pytest.raises(InputError, match="train and test in every domain, or in none"):
        list_photos(tmp_path / "home", has_domains=True)


def test_bench_accuracy_writes_what_it_shows(tmp_path: Path, command: list[str], npz: Path) -> None:
    options = ["--data", npz, "--tasks", 3, "--orders", 2, "--recipes", "edge,slda,joint-cv", "--replay", "0,5kB"]
    result = as_json(command, "bench", "accuracy", *options, "--out", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == result
    assert (result["kind"], result["data"]["classes"]) == ("accuracy", 6)
    assert [(row["recipe"], row["replay"]) for row in result["rows"]] == [
        *(("edge", "0"), ("edge", "5kB"), ("slda", "0"), ("slda", "5kB"), ("joint-cv", ""))
    ]
    for row in result["rows"]:
        assert row["error"] == ""
        assert [order["seed"] for order in row["orders"]] == [0, 1]
        assert row["mean"]["final_accuracy"] == np.mean([order["final_accuracy"] for order in row["orders"]])
    assert (
        result["rows"][0]["orders"][0]["n_bytes"]["replay"] == 0 < result["rows"][1]["orders"][0]["n_bytes"]["replay"]
    )
    assert "| `joint-cv` | - |" in (tmp_path / "out" / "table.md").read_text()
    for name in ("classes", "bytes"):
        with Image.open(tmp_path / "out" / f"{name}.png") as picture:
            assert picture.size == (1000, 620)


def test_bench_accuracy_fails_in_one_line(command: list[str], npz: Path, photos: Photos) -> None:
    cases: list[tuple[list[object], str]] = [
        (["--data", npz.parent / "none.npz"], "no such file or folder"),
        (["--data", npz, "--recipes", "best"], "recipe: expected one of edge"),
        (["--data", npz, "--recipes", ","], "recipes: expected at least one"),
        (["--data", npz, "--replay", "much"], "expected bytes such as 1MB or 1KB/class"),
        (["--data", npz, "--tasks", 7], "expected 1 to 6 tasks"),
        (["--data", npz, "--backbone", "tiny"], "leave out --backbone"),
        (["--data", photos("door", "window"), "--domains"], "expected class folders"),
    ]
    for options, text in cases:
        done = run(command, "bench", "accuracy", *options, status=1)
        assert text in done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""
    done = run(
        command, "bench", "accuracy", "--data", npz, "--recipes", "slda,edge[codec=none]", "--orders", 1, status=1
    )
    assert "| `slda` | 1MB | 100.00 |" in done.stdout
    assert "failed: codec: expected one of" in done.stdout


def test_bench_accuracy_learns_domains_and_folders(command: list[str], npz: Path, photos: Photos) -> None:
    result = as_json(
        *(command, "bench", "accuracy", "--data", npz, "--domains", "--recipes", "slda", "--orders", 1),
        *("--online", "--per-class", 2),
    )
    (row,) = result["rows"]
    assert row["orders"][0]["classes_seen"] == [6] * 4
    assert row["mean"]["forward_transfer"] > 0
    result = as_json(
        *(command, "bench", "accuracy", "--data", photos("door", "window", "gate"), "--tasks", 2, "--orders", 1),
        *("--recipes", "edge"),
    )
    assert result["rows"][0]["mean"]["final_accuracy"] == 1


def test_read_data_takes_what_learn_takes(npz: Path) -> None:
    with np.load(npz) as arrays:
        np.testing.assert_array_equal(read_data(npz).features, arrays["X"])
