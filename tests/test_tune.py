"""Tuning finds what the trials say, changes nothing by itself, and a learner heeds what it is told."""

from __future__ import annotations

import io
import json
import math
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge_cl import Learner
from edge_cl.anchor import whiten
from edge_cl.bench.data import DataSet, read_data
from edge_cl.bench.tuning import (
    FEW,
    Choice,
    Trial,
    Tuning,
    better,
    count_tasks,
    make_grid,
    make_streams,
    own_choice,
    thin,
    tune,
    usual_budgets,
)
from edge_cl.bench.tuning_report import command_of, draw_all, to_json, to_markdown
from edge_cl.errors import InputError
from edge_cl.learning.one_hot import fit
from edge_cl.recipes import PENALTIES, RECIPES, get_recipe
from edge_cl.state import Settings

from .conftest import Photos
from .learning_task import blobs
from .test_cli import as_json, run

PENALISED = [name for name, recipe in RECIPES.items() if recipe.is_penalised]
SHRUNK = [name for name, recipe in RECIPES.items() if recipe.shrinks]
EWC = [name for name in PENALISED if not RECIPES[name].decays_weights]


def settings_of(recipe: str = "edge", **parts: Any) -> Settings:
    return replace(Settings("", recipe, 20_000, 0, "cpu"), **parts)


def data_of(n_samples: int = 400, n_classes: int = 4, dim: int = 8) -> DataSet:
    """Return classes that lie close together, in noise 30 x as large along one direction that is no feature's."""
    x, y = blobs(n_samples, dim, range(n_classes))
    along = np.random.default_rng(3).normal(size=dim) / np.sqrt(dim)
    noise = np.random.default_rng(4).normal(size=(n_samples, 1)) * 30 * along
    return DataSet("made", (x + noise).astype(np.float32), y, tuple(f"c{k}" for k in range(n_classes)))


# What a learner is told.


@pytest.mark.parametrize("recipe", ["edge", "slda"])
def test_a_learner_uses_the_shrinkage_it_is_told_but_never_less_than_the_least(recipe: str) -> None:
    data, heads = data_of(200), []
    x, y = data.features, data.labels
    for shrinkage in (0.4, 1e-6):
        with Learner.create(":memory:", recipe=recipe, shrinkage=shrinkage, replay_bytes=0) as learner:
            for rows in (slice(0, 100), slice(100, 150), slice(150, 200)):
                learner.learn(x[rows], y[rows])
            memory = learner._current.memory()
            heads.append(memory.head.weights)
            least = whiten(memory.statistics, 0.0).shrinkage
            assert 1e-6 < least < 0.4
            assert memory.companion.shrinkage == max(shrinkage, least)
    assert np.abs(heads[0] - heads[1]).max() > 0


def test_the_companion_decays_as_it_is_told() -> None:
    rng, y = np.random.default_rng(0), np.arange(900) % 4
    centres = 0.5 * np.random.default_rng(7).normal(size=(4, 12))
    x = np.exp(centres[y] + rng.normal(size=(900, 12))).astype(np.float32)  # no Gaussian: a companion is worth having
    squares = []
    for penalty in (0.01, 0.1):
        with Learner.create(":memory:", penalty=penalty, codec="float32") as learner:
            learner.learn(x[:800], y[:800])
            companion = learner._current.memory().companion
            assert companion.pull == penalty
            squares.append(float((companion.rows[:, :-1] ** 2).sum()))
            learner.learn(x[800:], y[800:])
            assert learner._current.memory().companion.pull == penalty
    assert squares[0] > squares[1] > 0


def test_what_is_told_no_more_is_chosen_by_the_next_update() -> None:
    rng, y = np.random.default_rng(0), np.arange(1200) % 4
    centres = 0.5 * np.random.default_rng(7).normal(size=(4, 12))
    x = np.exp(centres[y] + rng.normal(size=(1200, 12))).astype(np.float32)
    with Learner.create(":memory:", penalty=0.7, codec="float32") as learner:
        learner.learn(x[:1100], y[:1100])
        learner.change(penalty=None)
        learner.learn(x[1100:1120], y[1100:1120])
        assert 0 < learner._current.memory().companion.pull != 0.7
        learner.change(penalty=0.05)
        learner.learn(x[1120:1140], y[1120:1140])
        assert learner._current.memory().companion.pull == 0.05


def test_ridge_regression_has_the_strength_it_is_told() -> None:
    x, y = blobs(300, 8, range(3))
    with Learner.create(":memory:", recipe="ridge", penalty=0.7) as learner:
        learner.learn(x, y)
        memory = learner._current.memory()
    told, chosen = (fit(memory.statistics, ridge).rows for ridge in (0.7, 0.01))

    def cosine(rows: np.ndarray) -> float:  # the head is the rows, times a factor
        product = float((rows * memory.head.weights).sum())
        return product / float(np.linalg.norm(rows) * np.linalg.norm(memory.head.weights))

    assert cosine(told) > 1 - 1e-6 > cosine(chosen)


def test_a_firmer_decay_leaves_smaller_weights_in_the_joint_head() -> None:
    x, y = blobs(300, 8, range(3))
    squares = []
    for penalty in (1e-3, 1e-1, 10.0):
        with Learner.create(":memory:", recipe="joint", penalty=penalty) as learner:
            learner.learn(x, y)
            squares.append(float((learner.head.weights**2).sum()))
    assert squares == sorted(squares, reverse=True)
    assert squares[0] > 2 * squares[-1]


@pytest.mark.parametrize("recipe", EWC)
def test_a_larger_lambda_lets_old_rows_move_less_and_1_is_what_it_is_untold(recipe: str) -> None:
    old, new = blobs(200, 8, range(3)), blobs(60, 8, range(3, 5), seed=1)
    moved, heads = [], {}
    for penalty in (None, 1.0, 0.01, 100.0):
        with Learner.create(":memory:", recipe=recipe, penalty=penalty) as learner:
            learner.learn(*old)
            before = learner.head.weights
            learner.learn(*new, min_retention=0)
            heads[penalty] = learner.head.weights
        moved.append(float(((heads[penalty][:3] - before) ** 2).sum()))
    assert np.array_equal(heads[None], heads[1.0])
    assert moved[2] > moved[1] > moved[3]


def test_what_was_told_is_kept_in_the_file_and_can_be_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.ecl"
    x, y = blobs(100, 8, range(3))
    with Learner.create(path, shrinkage=0.3, penalty=0.1 + 0.2) as learner:
        learner.learn(x, y)
    assert path.read_bytes()[60:64] == (3).to_bytes(4, "big")
    with Learner.open(path) as learner:
        assert (learner.settings.shrinkage, learner.settings.penalty) == (0.3, 0.1 + 0.2)
        learner.change(shrinkage=None, penalty=0.01, replay_bytes=5_000)
        assert learner._current.recipe == get_recipe("edge", penalty=0.01)
        with pytest.raises(InputError, match="shrinkage: expected a number from 1e-06 to 1; found 2"):
            learner.change(replay_bytes=1, shrinkage=2)
        with pytest.raises(InputError, match=r"expected settings among replay_bytes, .*; found 'seed'"):
            learner.change(seed=3)
        assert own_choice(learner.settings) == Choice(5_000, None, 0.01)
    keys = {key for (key,) in sqlite3.connect(path).execute("SELECT key FROM settings")}
    assert "penalty" in keys
    assert "shrinkage" not in keys


@pytest.mark.parametrize("value", [0, -1, 1.5, math.nan, math.inf, True, "0.1"])
def test_a_shrinkage_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="shrinkage: expected a number from 1e-06 to 1; found"):
        Learner.create(":memory:", shrinkage=value)


@pytest.mark.parametrize("value", [0, -1, 2 * PENALTIES[1], math.nan, math.inf, True, "0.1"])
def test_a_penalty_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="penalty: expected a number from 1e-09 to 1e"):
        Learner.create(":memory:", penalty=value)


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_a_recipe_has_not_is_refused(recipe: str) -> None:
    for name, having in (("shrinkage", SHRUNK), ("penalty", PENALISED)):
        told: dict[str, Any] = {name: 0.5}
        if recipe in having:
            Learner.create(":memory:", recipe=recipe, **told).close()
            continue
        with pytest.raises(InputError, match=f"{name}: expected a recipe that has one, of .*; found '{recipe}'"):
            Learner.create(":memory:", recipe=recipe, **told)
    with pytest.raises(InputError, match="penalty: head regression chooses its ridge by itself"):
        Learner.create(":memory:", head="regression", penalty=0.5)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("recipe", PENALISED)
def test_the_ends_of_the_range_are_numbers_still(recipe: str, penalty: float) -> None:
    x, y = blobs(90, 8, range(4))
    with Learner.create(":memory:", recipe=recipe, penalty=penalty) as learner:
        for part in (y < 2, y >= 2):
            learner.learn(x[part], y[part], min_retention=0)
        assert np.isfinite(learner.predict(x).probabilities).all()


# What is tried.


def test_the_grid_has_every_combination_once_and_the_states_own() -> None:
    settings = settings_of(shrinkage=0.3, penalty=0.02)
    grid = make_grid(settings, budgets=[0, 500], shrinkages=[None, 0.3, 0.5], penalties=[0.1])
    assert own_choice(settings) in grid
    assert len(set(grid)) == len(grid) == 2 * 3 * 2 + 3  # without stored samples nothing decays
    assert {choice.penalty for choice in grid if not choice.replay_bytes} == {0.02}
    assert {choice.shrinkage for choice in make_grid(settings_of("l2"))} == {None}
    assert {choice.penalty for choice in make_grid(settings_of("slda"))} == {None}
    with pytest.raises(InputError, match="penalty: expected a recipe that has one"):
        make_grid(settings_of("slda"), penalties=[0.1])
    with pytest.raises(InputError, match="replay: recipe joint stores every sample"):
        make_grid(settings_of("joint", codec="float32"), budgets=[100])
    with pytest.raises(InputError, match="regression chooses its ridge by itself"):
        make_grid(settings_of(head="regression", codec="float32"))


def test_half_of_what_there_is_to_store_is_tried() -> None:
    (stream,) = make_streams(data_of())
    n_samples = sum(map(len, stream.train))
    assert usual_budgets(settings_of(codec="float32"), stream) == (n_samples * (7 + 4 * 8) // 2, 0)
    assert usual_budgets(settings_of(codec="float32", replay_bytes=100), stream) == (50, 0)
    assert usual_budgets(settings_of("joint", codec="float32"), stream) == ()


@given(st.lists(st.integers(1, 90), min_size=2, max_size=5), st.integers(0, 3))
def test_a_few_are_a_tenth_of_each_class_and_at_least_five(sizes: list[int], seed: int) -> None:
    sizes[0] += 1  # one to ask about
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    features = np.zeros((len(labels), 2), np.float32)
    data = DataSet("made", features, labels, tuple(map(str, range(len(sizes)))))
    (stream,) = make_streams(data, seed=seed)
    few = thin(stream)
    for part, fewer in zip(stream.train, few.train, strict=True):
        assert set(fewer) <= set(part)
        for k in set(labels[part]):
            n_all, n_few = (int((labels[rows] == k).sum()) for rows in (part, fewer))
            assert n_few == min(n_all, max(FEW, math.ceil(n_all / 10)))
    assert all(map(np.array_equal, stream.test, few.test))


def test_what_is_marked_for_testing_is_never_looked_at() -> None:
    data = data_of()
    is_train = np.arange(len(data.labels)) % 4 > 0
    spoilt = data.features.copy()
    spoilt[~is_train] = np.random.default_rng(0).permutation(spoilt[~is_train]) + 5
    found = []
    for features in (data.features, spoilt):
        streams = make_streams(replace(data, features=features, is_train=is_train))
        found.append(plain(tune(streams, settings_of("slda"), make_grid(settings_of("slda")))))
    assert found[0] == found[1]
    with pytest.raises(InputError, match="made: expected samples of at least two classes to learn; found 0"):
        make_streams(replace(data, is_train=0 * is_train > 0))


def plain(found: Tuning) -> dict[str, Any]:
    """Return the figures that do not depend on the clock."""
    return json.loads(json.dumps(to_json({}, found)), object_hook=lambda part: {**part, "seconds": 0})  # type: ignore[no-any-return]


def test_the_same_seed_gives_the_same_bits_and_the_figures_are_those_of_a_learner() -> None:
    data, settings = data_of(), settings_of(codec="float32")
    streams = make_streams(data, n_tasks=2, n_orders=2)
    grid = make_grid(settings, budgets=[1_000], shrinkages=[None, 0.5], penalties=[None, 0.01])
    done: list[int] = []
    found = tune(streams, settings, grid, done.append)
    assert plain(found) == plain(tune(streams, settings, grid))
    assert sum(done) == count_tasks(streams, settings, grid)
    assert [trial.choice for trial in found.few] == grid
    trial = next(t for t in found.full if t.choice == own_choice(settings))
    hits = []
    for stream in streams:
        with Learner.create(":memory:", replay_bytes=20_000, codec="float32", seed=stream.seed) as learner:
            for t in range(2):
                rows = stream.train[t]
                learner.learn(data.features[rows], [f"c{k}" for k in data.labels[rows]], min_retention=0)
            rows = np.sort(stream.asked(1))
            labels = learner.predict(data.features[rows]).labels
            hits.append(np.array(labels) == [f"c{k}" for k in data.labels[rows]])
            n_bytes = sum(n for part, n in learner.state_bytes.items() if part != "versions")
    right = np.mean(hits, axis=0)
    assert trial.accuracy == pytest.approx(right.mean(), abs=1e-12)
    assert trial.error == pytest.approx(right.std(ddof=1) / len(right) ** 0.5, abs=1e-12)
    assert trial.state_bytes == n_bytes


def test_a_clear_case_comes_through_the_few_samples() -> None:
    """With the noise along one direction, a covariance that is shrunk to the identity cannot tell the classes."""
    settings = settings_of("slda", shrinkage=1.0, replay_bytes=0)
    found = tune(make_streams(data_of()), settings, make_grid(settings, shrinkages=[1.0, 0.9, 0.8, 1e-4]))
    assert found.best.choice.shrinkage == 1e-4
    assert found.best.accuracy > found.as_it_is.accuracy + 0.2
    assert len(found.full) < len(found.few)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.integers(0, 2)), min_size=1, max_size=24))
def test_of_each_budget_the_best_goes_on_and_its_own(figures: list[tuple[float, bool, int]]) -> None:
    own = Choice(0)
    trials = [Trial(Choice(budget), 0.5) for budget in range(3)]
    for n, (accuracy, is_failed, budget) in enumerate(figures):
        choice = Choice(budget, penalty=n + 1.0)
        trials.append(Trial(choice, failure="no") if is_failed else Trial(choice, accuracy))
    kept = better(trials, own)
    assert kept == [trial.choice for trial in trials if trial.choice in set(kept)]
    for budget in range(3):
        others = [t for t in trials if t.choice.replay_bytes == budget and t.choice.penalty]
        chosen = [t for t in others if t.choice in kept]
        assert Choice(budget) in kept
        assert len(chosen) == math.ceil(len(others) / 3)
        gone = [t.accuracy for t in others if t not in chosen and not t.failure]
        assert all(not t.failure and t.accuracy >= max(gone) for t in chosen if gone)


trials = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.2), st.integers(1, 9)), min_size=1, max_size=12)


@given(trials, st.integers(0, 3))
def test_the_best_is_the_most_accurate_and_the_cheapest_is_within_its_error(
    shown: list[tuple[float, float, int]], n_failed: int
) -> None:
    sound = [Trial(Choice(n, penalty=n + 1.0), *figures, seconds=0.1) for n, figures in enumerate(shown)]
    failed = [Trial(Choice(90 + n), failure="no room | here") for n in range(n_failed)]
    found = Tuning(settings_of(replay_bytes=0, penalty=1.0), 0, (), (*failed, *sound))
    assert found.best.accuracy == max(trial.accuracy for trial in sound)
    near = [trial for trial in sound if trial.accuracy >= found.best.accuracy - found.best.error]
    assert found.cheapest in near
    assert found.cheapest.state_bytes == min(trial.state_bytes for trial in near)
    assert found.as_it_is is sound[0]
    table = to_markdown("title", found)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[4:]]
    assert len(rows) == len(found.full)
    assert all(len(row) == 7 for row in rows)
    (best,) = [row for row in rows if "best" in row[-1]]
    assert best[0] == str(found.best.choice.replay_bytes)
    assert sum("failed: no room / here" in row[-1] for row in rows) == n_failed
    json.dumps(to_json({}, found), allow_nan=False)


def test_the_line_to_type_says_what_differs() -> None:
    settings = settings_of(shrinkage=0.3)
    assert command_of("a.ecl", own_choice(settings), settings) == ""
    line = command_of("my a.ecl", Choice(7, None, 0.1 + 0.2), settings)
    assert line == "edge-cl set 'my a.ecl' --replay 7 --shrinkage auto --penalty 0.30000000000000004"


# The command.


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return a state for features beside `made.npz`."""
    data = data_of(240, dim=6)
    np.savez(tmp_path / "made.npz", X=data.features, y=data.labels, classes=np.array(data.classes))
    Learner.create(tmp_path / "a.ecl", seed=5).close()
    return tmp_path / "a.ecl"


def test_a_user_tunes_applies_and_learns(state: Path, tmp_path: Path, command: list[str]) -> None:
    before, npz, out = state.read_bytes(), tmp_path / "made.npz", tmp_path / "out" / "here"
    asked = ["--replay", "0,4kB", "--shrinkage", "auto,0.5", "--penalty", "0.1,0.01", "--tasks", 2]
    told = run(command, "tune", state, npz, *asked, "--out", out)
    assert state.read_bytes() == before
    assert "best" in told.stdout
    assert told.stdout == (out / "table.md").read_text()
    saved = json.loads((out / "tune.json").read_text())
    assert {file.name for file in out.iterdir()} == {"table.md", "tune.json", "bytes.png", "penalty.png"}
    for name in ("bytes.png", "penalty.png"):
        with Image.open(io.BytesIO((out / name).read_bytes())) as picture:
            assert np.asarray(picture).std() > 0
    assert saved["best"]["accuracy"] == max(trial["accuracy"] for trial in saved["full"])
    assert (saved["n_classes"], saved["n_tasks"], saved["n_learnt"] + saved["n_asked"]) == (4, 2, 240)
    again = as_json(command, "tune", state, npz, *asked, "--apply", "best")
    assert again["applied"] == "best"
    assert {key: again["best"][key] for key in ("replay_bytes", "accuracy")} == {
        key: saved["best"][key] for key in ("replay_bytes", "accuracy")
    }
    with Learner.open(state) as learner:
        assert vars(own_choice(learner.settings)) == {key: again["best"][key] for key in vars(Choice(0))}
        features = read_data(npz)
        learner.learn(features.features, [features.classes[k] for k in features.labels])
    assert as_json(command, "check", state)["problems"] == []


def test_photos_are_extracted_once(tmp_path: Path, photos: Photos, command: list[str], own_cache: Path) -> None:
    root, state = photos("door", "window", n_images=8), tmp_path / "cam.ecl"
    (root / "door" / "broken.jpg").write_bytes(b"x")
    Learner.create(state, backbone="tiny", recipe="slda").close()
    before = {*own_cache.glob("features.*.npz")}
    found = [as_json(command, "tune", state, root, "--shrinkage", "0.3") for _ in range(2)]
    (kept,) = {*own_cache.glob("features.*.npz")} - before
    assert len(np.load(kept)["X"]) == 16
    assert [trial["accuracy"] for trial in found[0]["full"]] == [trial["accuracy"] for trial in found[1]["full"]]
    assert (found[0]["n_few"], found[0]["few"]) == (10, found[0]["few"])


def test_what_cannot_be_tuned_is_one_line_and_no_change(
    state: Path, tmp_path: Path, photos: Photos, command: list[str]
) -> None:
    npz = tmp_path / "made.npz"
    Learner.create(tmp_path / "slda.ecl", recipe="slda").close()
    with Learner.create(tmp_path / "other.ecl") as learner:
        learner.learn(*blobs(30, 9, range(3)))
    (tmp_path / "file").write_text("")
    cases: list[tuple[list[object], int, str]] = [
        ([state, tmp_path / "gone.npz"], 1, "no such file or folder"),
        ([state, photos("door")], 1, "since the state has no backbone"),
        ([tmp_path / "other.ecl", npz], 1, "made.npz: samples: expected features (N, 9)"),
        ([tmp_path / "slda.ecl", npz, "--penalty", "0.1"], 1, "penalty: expected a recipe that has one"),
        ([state, npz, "--shrinkage", "1.5"], 1, "shrinkage: expected a number from"),
        ([state, npz, "--tasks", 5], 1, "expected 1 to 4 tasks"),
        ([state, npz, "--out", tmp_path / "file"], 1, "File exists"),
        ([state, npz, "--penalty", "much"], 2, "expected a number or auto"),
        ([state, npz, "--replay", "much"], 2, "expected bytes"),
    ]
    before = state.read_bytes()
    for args, status, wanted in cases:
        done = run(command, "tune", *args, status=status)
        assert wanted in done.stderr, (args, done.stderr)
        assert done.stdout == ""
        if status == 1:
            assert len(done.stderr.splitlines()) == 1, done.stderr
        assert state.read_bytes() == before


def test_a_level_line_stands_for_what_is_chosen_by_itself() -> None:
    """Curves over the strengths come from the trials that all choices took part in."""
    few = [Trial(Choice(9, None, penalty), 0.5 + n / 10, 0.1, 99) for n, penalty in enumerate((None, 0.1, 0.01))]
    found = Tuning(settings_of(replay_bytes=9), 12, tuple(few), tuple(few[:2]))
    assert set(draw_all("name", found)) == {"bytes.png", "penalty.png"}
    alone = Tuning(settings_of(replay_bytes=9), 12, tuple(few[:2]), tuple(few[:2]))
    assert set(draw_all("name", alone)) == {"bytes.png"}


def test_a_choice_that_gains_nothing_takes_no_samples_away() -> None:
    """All are right everywhere: the state's own settings are as good as fewer bytes."""
    settings = settings_of("edge", replay_bytes=100_000)
    full = tuple(Trial(Choice(n, None, None), accuracy=1.0, error=0.0, state_bytes=n) for n in (0, 100_000))
    found = Tuning(settings, 0, (), full)
    assert found.best.choice.replay_bytes == 100_000
    assert found.cheapest.choice.replay_bytes == 0


def test_classes_of_tasks_are_not_tuned_as_those_of_one() -> None:
    with pytest.raises(InputError, match=r"^task: "):
        make_grid(settings_of("edge", has_tasks=True))
