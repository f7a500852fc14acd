"""Other libraries get the samples that our recipes get, no more and no fewer, and the bytes that were asked for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from edge_kernels.arrays import Floats, Ints
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_cl.bench.course import NONE
from edge_cl.bench.data import DataSet
from edge_cl.bench.streams import Stream, class_incremental, domain_incremental
from edge_cl.errors import InputError

from .conftest import clusters

if TYPE_CHECKING:
    from peers_course import Kind, Setup

TOOLS = Path(__file__).resolve().parents[1] / "tools"
EXTRA = "needs another library to compare with: pip install 'edge_cl[peers]'"
N_CLASSES, DIM = 6, 12


@pytest.fixture(autouse=True)
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))


def dataset(n: int = 10, *, spread: float = 1.0, domains: bool = False) -> DataSet:
    x, names = clusters(N_CLASSES, 2 * n, DIM, spread=spread)
    labels = np.array([int(name[1:]) for name in names])
    is_train = np.arange(len(x)) % 2 == 0
    moments = (np.arange(len(x)) // 2) % 3 if domains else None
    classes = tuple(sorted(set(names)))
    return DataSet("clusters", x, labels, classes, is_train, moments, ("a", "b", "c") if domains else ())


def stream(n: int = 10, seed: int = 0, **how: Any) -> Stream:
    return class_incremental(dataset(n, **how), 3, seed)


class Means:
    """A peer of ours: nearest means, which notes all that it is given."""

    def __init__(self, setup: Setup, rows: list[tuple[Floats, Ints]]) -> None:
        self.setup, self.rows = setup, rows

    def learn(self, features: Floats, labels: Ints) -> None:
        self.rows.append((features, labels))

    def score(self, features: Floats) -> Floats:
        x, y = (np.concatenate(parts) for parts in zip(*self.rows, strict=True))
        means = np.array([x[y == k].mean(axis=0) for k in range(y.max() + 1)])
        scores: Floats = -np.square(features[:, None] - means).sum(axis=2)
        return scores

    def count_bytes(self) -> dict[str, int]:
        return {"means": 4 * self.setup.n_classes * self.setup.n_features}


def means(rows: list[tuple[Floats, Ints]] | None = None, **how: Any) -> Kind:
    from peers_course import Kind

    return Kind("means", lambda setup, _: Means(setup, rows if rows is not None else []), **how)


@pytest.mark.parametrize("has_domains", [False, True])
def test_a_peer_gets_every_training_sample_once_in_its_task_and_no_other(has_domains: bool) -> None:
    from peers_course import Scaling, follow

    given_to: list[tuple[Floats, Ints]] = []
    run = domain_incremental(dataset(domains=True), 4) if has_domains else stream(seed=4)
    follow(means(given_to), run, 0, {})
    scaled = Scaling.of(run.data.features[run.train[0]], "one")(run.data.features)
    assert len(given_to) == run.n_tasks
    for (x, _), rows in zip(given_to, run.train, strict=True):
        assert sorted(map(bytes, x)) == sorted(map(bytes, scaled[rows]))
    names = [k for _, labels in given_to for k in dict.fromkeys(labels.tolist())]
    assert sorted(set(names)) == list(range(N_CLASSES))
    for task, (_, labels) in enumerate(given_to):  # numbered as they come: old numbers and the next ones
        assert labels.max() + 1 == sum(len(run.new_classes(t)) for t in range(task + 1))


def test_answers_are_classes_of_the_data_and_only_ones_that_were_learnt() -> None:
    from peers_course import follow

    run = stream(40, seed=3)
    course = follow(means(), run, 0, {})
    assert (course.answers[-1] == run.data.labels[run.asked(2)]).mean() > 0.95
    for task in range(3):
        known = np.unique(run.data.labels[np.concatenate(run.train[: task + 1])])
        assert set(np.unique(course.answers[task])) <= set(known.tolist())
    assert course.n_bytes == {"means": 4 * N_CLASSES * DIM}


def test_a_joint_peer_gets_everything_at_once_and_answers_at_the_end_only() -> None:
    from peers_course import follow

    given_to: list[tuple[Floats, Ints]] = []
    run = stream()
    course = follow(means(given_to, is_joint=True), run, 0, {})
    assert [len(x) for x, _ in given_to] == [sum(map(len, run.train))]
    assert course.only_end
    assert (course.answers[:-1] == NONE).all()
    assert (course.answers[-1] != NONE).all()


def test_stored_samples_are_counted_as_float32_with_a_label() -> None:
    from peers_course import Kind, follow

    found: list[Setup] = []

    def make(setup: Setup, _: Any) -> Means:
        found.append(setup)
        return Means(setup, [])

    follow(Kind("means", make), stream(), 1000, {})
    assert found[0].sample_bytes == 4 * DIM + 8
    assert found[0].n_stored == 1000 // (4 * DIM + 8)


@given(n=st.integers(1, 9), seed=st.integers(0, 99), domains=st.booleans())
@settings(deadline=None)
def test_settings_are_chosen_on_training_samples_that_were_held_out(n: int, seed: int, domains: bool) -> None:
    from peers_course import hold_out

    run = domain_incremental(dataset(n, domains=True), seed) if domains and n > 2 else stream(n, seed)
    tuning = hold_out(run)
    for train, learnt, held in zip(run.train, tuning.train, tuning.test, strict=True):
        assert sorted([*learnt, *held]) == sorted(train)
        labels = run.data.labels
        assert set(labels[learnt].tolist()) == set(labels[train].tolist())  # a class keeps one to be learnt from
        counts = np.bincount(labels[train], minlength=N_CLASSES)
        assert (np.bincount(labels[held], minlength=N_CLASSES) == np.ceil(0.2 * np.maximum(counts - 1, 0))).all()


def test_the_search_finds_the_best_value_of_each_axis_and_survives_one_that_fails() -> None:
    from peers_course import Kind, hold_out, search

    class Shifted(Means):
        def __init__(self, setup: Setup, shift: int) -> None:
            super().__init__(setup, [])
            self.shift = shift

        def score(self, features: Floats) -> Floats:
            return np.roll(super().score(features), self.shift, axis=1)

    def make(setup: Setup, chosen: dict[str, Any]) -> Means:
        if chosen["fails"]:
            raise RuntimeError("no such thing")
        return Shifted(setup, chosen["shift"])

    kind = Kind("shifted", make, {"shift": (1, 0, 2), "fails": (False, True)})
    chosen, tried = search(kind, hold_out(stream()), 0)
    assert chosen == {"shift": 0, "fails": False}
    assert len(tried) == 4
    assert [trial["error"] for trial in tried if trial["error"]] == ["RuntimeError: no such thing"]
    with pytest.raises(RuntimeError, match="no such thing"):
        search(Kind("shifted", make, {"fails": (True, False), "shift": (0,)}), hold_out(stream()), 0)


def test_scaling_makes_the_mean_square_norm_one_and_blows_up_nothing() -> None:
    from peers_course import Scaling

    x = np.random.default_rng(0).normal(3, [0.01, 1, 1, 100], (50, 4)).astype(np.float32)
    assert np.square(Scaling.of(x, "one")(x)).sum(axis=1).mean() == pytest.approx(1, rel=1e-5)
    each = Scaling.of(x, "each")(x)
    assert np.abs(each.mean(axis=0)).max() < 1e-3
    assert each.std(axis=0)[3] == pytest.approx(0.5, rel=1e-3)
    assert each.std(axis=0)[0] < 0.01
    assert np.isfinite(Scaling.of(np.zeros((3, 4), np.float32), "each")(x)).all()


# the whole tool


def write(path: Path, data: DataSet) -> str:
    assert data.is_train is not None
    np.savez(path, X=data.features, y=data.labels, train=data.is_train)
    return str(path)


def run_tool(*words: str) -> Any:
    import peers

    return peers.run(peers.parse_options(words))


def install(monkeypatch: pytest.MonkeyPatch, *kinds: Kind) -> None:
    """Let the tool know these peers only."""
    import peers

    module = ModuleType("peers_fake")
    module.KINDS = kinds  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "peers_fake", module)
    monkeypatch.setattr(peers, "MODULES", {kind.name: "peers_fake" for kind in kinds})


def test_a_peer_that_fails_stands_in_the_table_with_its_error_and_the_others_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from peers_course import Kind

    def fail(*_: Any) -> Means:
        raise ValueError("cannot | do that")

    install(monkeypatch, Kind("broken", fail), means())
    data = write(tmp_path / "data.npz", dataset())
    log = run_tool("--data", data, "--tasks", "3", "--orders", "2", "--ours", "slda")
    table = log.to_markdown()
    assert "ValueError: cannot / do that" in table
    rows = {row["recipe"]: row for row in log.to_json()["rows"]}
    assert len(rows["means"]["orders"]) == len(rows["slda"]["orders"]) == 2
    assert rows["means"]["mean"]["final_accuracy"] > 0.9
    assert rows["means"]["replay"] == ""  # it stores nothing, so that a budget means nothing


def test_what_is_not_installed_is_named_with_what_to_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "avalanche", None)
    monkeypatch.delitem(sys.modules, "peers_avalanche", raising=False)
    data = write(tmp_path / "data.npz", dataset())
    log = run_tool("--data", data, "--tasks", "3", "--orders", "1", "--ours", "", "--peers", "avalanche-ewc")
    assert "pip install 'edge_cl[peers]'" in log.to_markdown()


def test_what_was_run_is_not_run_again_and_other_options_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given_to: list[tuple[Floats, Ints]] = []
    install(monkeypatch, means(given_to))
    data, out = write(tmp_path / "data.npz", dataset()), str(tmp_path / "out")
    words = ["--data", data, "--ours", "", "--out", out, "--orders"]
    run_tool(*words, "2", "--tasks", "3")
    first, n_given = json.loads((tmp_path / "out" / "results.json").read_text()), len(given_to)
    given_to.clear()
    run_tool(*words, "3", "--tasks", "3")
    assert 0 < len(given_to) < n_given
    second = json.loads((tmp_path / "out" / "results.json").read_text())
    assert second["rows"][0]["orders"][:2] == first["rows"][0]["orders"]
    assert [order["seed"] for order in second["rows"][0]["orders"]] == [0, 1, 2]
    with pytest.raises(InputError, match="of the same options"):
        run_tool(*words, "2", "--tasks", "2")
    (tmp_path / "out" / "results.json").write_text("[]")
    with pytest.raises(InputError, match="expected results of this tool"):
        run_tool(*words, "2", "--tasks", "3")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--peers", "avalanche"], "expected some of avalanche-naive"),
        (["--replay", "much"], "expected bytes"),
        (["--tasks", "99"], "expected 1 to 6 tasks"),
        (["--domains"], "expected an array 'domain'"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(words: list[str], message: str, tmp_path: Path) -> None:
    data = write(tmp_path / "data.npz", dataset())
    with pytest.raises(InputError, match=message):
        run_tool("--data", data, "--out", str(tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists()


# scikit-learn and river


def first_settings(kind: Kind) -> dict[str, Any]:
    return {name: values[0] for name, values in kind.axes.items()}


def find(name: str) -> Kind:
    import peers

    kind: Kind = peers.load_kind(name)
    return kind


def test_naive_bayes_in_parts_is_naive_bayes_at_once() -> None:
    pytest.importorskip("sklearn", reason=EXTRA)
    from peers_course import Scaling, follow
    from sklearn.naive_bayes import GaussianNB

    run = stream(20)
    course = follow(find("sklearn-naive-bayes"), run, 0, {"smoothing": 1e-9})
    scaling = Scaling.of(run.data.features[run.train[0]], "one")
    rows, asked = np.concatenate(run.train), run.asked(2)
    model = GaussianNB().fit(scaling(run.data.features[rows]), run.data.labels[rows])
    assert (course.answers[-1] == model.predict(scaling(run.data.features[asked]))).mean() > 0.99


@pytest.mark.parametrize("name", ["sklearn-sgd", "sklearn-perceptron", "sklearn-naive-bayes", "river-softmax"])
def test_what_learns_in_parts_learns_a_single_task(name: str) -> None:
    pytest.importorskip(name.split("-", maxsplit=1)[0], reason=EXTRA)
    from peers_course import follow

    kind = find(name)
    run = class_incremental(dataset(40), 1, 0)
    course = follow(kind, run, 0, first_settings(kind))
    assert (course.answers[-1] == run.data.labels[run.asked(0)]).mean() > 0.9
    assert sum(course.n_bytes.values()) >= 4 * N_CLASSES * DIM


def test_the_joint_regression_is_the_least_of_its_loss_at_the_chosen_cost() -> None:
    pytest.importorskip("sklearn", reason=EXTRA)
    from peers_course import follow
    from peers_online import COSTS, choose_cost

    run = stream(40, spread=2.0)
    rows = np.concatenate(run.train)
    chosen = choose_cost(run.data.features[rows], run.data.labels[rows], N_CLASSES)
    assert chosen["C"] in COSTS
    truth = run.data.labels[run.asked(2)]
    right = {
        cost: (follow(find("sklearn-joint"), run, 0, {"C": cost}).answers[-1] == truth).mean()
        for cost in (chosen["C"], COSTS[0], COSTS[-1])
    }
    assert right[chosen["C"]] >= max(right.values()) - 0.02


# Avalanche


@pytest.fixture
def avalanche() -> Any:
    pytest.importorskip("avalanche", reason=EXTRA)
    import peers_avalanche

    return peers_avalanche


def test_every_peer_is_where_the_tool_looks_for_it(avalanche: Any) -> None:
    import peers
    import peers_online

    found = {kind.name: module.__name__ for module in (avalanche, peers_online) for kind in module.KINDS}
    assert found == peers.MODULES


def test_streaming_lda_is_its_equations(avalanche: Any) -> None:
    from peers_course import Scaling, follow

    assert avalanche
    run, shrinkage = stream(20, seed=1, spread=2.0), 1e-3
    course = follow(find("avalanche-slda"), run, 0, {"shrinkage": shrinkage, "first": "stream", "scaling": "one"})
    x = Scaling.of(run.data.features[run.train[0]], "one")(run.data.features).astype(np.float64)
    means, counts = np.zeros((N_CLASSES, DIM)), np.zeros(N_CLASSES)
    moment, n = np.zeros((DIM, DIM)), 0
    rng = np.random.default_rng((run.seed, 3))
    for rows in run.train:
        for row in rng.permutation(rows):  # Hayes 2020, eq. 2 and 3, as Avalanche has them
            k = run.data.labels[row]
            gap = x[row] - means[k]
            moment = (n * moment + np.outer(gap, gap) * n / (n + 1)) / (n + 1)
            means[k] += gap / (counts[k] + 1)
            counts[k], n = counts[k] + 1, n + 1
    weights = np.linalg.inv((1 - shrinkage) * moment + shrinkage * np.eye(DIM)) @ means.T
    scores = x[run.asked(2)] @ weights - 0.5 * (means.T * weights).sum(axis=0)
    assert (course.answers[-1] == scores.argmax(axis=1)).mean() > 0.99


@pytest.mark.parametrize(("name", "gain"), [("replay", 0.2), ("icarl", 0.2), ("gem", 0.05), ("a-gem", -0.05)])
def test_what_avalanche_stores_fits_the_budget_and_helps(avalanche: Any, name: str, gain: float) -> None:
    from peers_course import follow

    run, kind = stream(20), find(f"avalanche-{name}")
    truth = run.data.labels[run.asked(2)]
    room = 4 * DIM + 8
    budget = (N_CLASSES * 4 + 1) * room
    course = follow(kind, run, budget, first_settings(kind))
    assert 0.5 * budget < course.n_bytes["memory"] <= budget * (avalanche.TOLERANCE if name == "icarl" else 1)
    naive = follow(find("avalanche-naive"), run, budget, first_settings(find("avalanche-naive")))
    hits, without = ((c.answers[-1] == truth).mean() for c in (course, naive))
    assert hits > without + gain  # a-gem forgets here as much as without its memory
    with pytest.raises(ValueError, match="keeps at least"):
        follow(kind, run, room - 1, first_settings(kind))


def test_ewc_keeps_one_importance_for_each_task_or_one_for_all(avalanche: Any) -> None:
    from peers_course import follow

    assert avalanche
    run = stream(10)
    for name, n_kept in (("avalanche-ewc", run.n_tasks), ("avalanche-ewc-online", 1)):
        chosen = {**first_settings(find(name)), "schedule": "5 x 8"}
        n_bytes = follow(find(name), run, 0, chosen).n_bytes
        head = 4 * N_CLASSES * (DIM + 1)
        assert n_bytes["head"] == head
        assert (
            n_bytes["importances"] == n_kept * 2 * head
        )  # and where the weights were; earlier ones grow with the head


@pytest.mark.parametrize("name", ["naive", "ewc", "lwf", "replay", "a-gem", "icarl"])
def test_the_same_seed_gives_the_same_answers(avalanche: Any, name: str) -> None:
    from peers_course import follow

    assert avalanche
    kind, run = find(f"avalanche-{name}"), stream(10)
    chosen = {**first_settings(kind), "schedule": "20 x 8"}
    first, again = (follow(kind, run, 2000, chosen) for _ in range(2))
    np.testing.assert_array_equal(first.answers, again.answers)


def test_avalanche_trains_everything_at_once(avalanche: Any) -> None:
    from peers_course import follow

    assert avalanche
    kind, run = find("avalanche-joint"), stream(40)
    course = follow(kind, run, 0, first_settings(kind))
    assert (course.answers[-1] == run.data.labels[run.asked(2)]).mean() > 0.95


def test_icarl_says_that_it_cannot_take_domains(avalanche: Any) -> None:
    from peers_course import follow

    assert avalanche
    kind = find("avalanche-icarl")
    with pytest.raises(ValueError, match="new classes in every experience"):
        follow(kind, domain_incremental(dataset(domains=True), 0), 10**6, first_settings(kind))
