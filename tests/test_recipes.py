"""What each recipe promises, and what all of them do with whatever comes."""

from __future__ import annotations

import warnings
from dataclasses import fields
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_cl import Learner
from edge_cl.codecs import CODECS
from edge_cl.errors import InputError
from edge_cl.memory import Memory
from edge_cl.recipes import RECIPES, Recipe, get_recipe
from edge_cl.refine import cross_entropy
from edge_cl.update import Proposal, propose

from .learning_task import blobs

DIM = 16


def empty(recipe: Recipe, dim: int = DIM, *, replay_bytes: int = 10**6, codec: str = "float32") -> Memory:
    return Memory.empty(
        dim,
        has_scatter=recipe.has_scatter,
        replay_bytes=replay_bytes,
        seed=0,
        codec=codec,
        selection=recipe.selection,
    )


def learn(name: str, batches: list[tuple[np.ndarray, np.ndarray]], **options: Any) -> list[Proposal]:
    """Return what each batch comes to."""
    recipe = get_recipe(name)
    memory, proposals = empty(recipe, batches[0][0].shape[1], **options), []
    for x, y in batches:
        proposals.append(propose(memory, recipe, x, [f"c{k}" for k in y]))
        memory = proposals[-1].memory
    return proposals


def answers(memory: Memory, x: np.ndarray) -> np.ndarray:
    return np.array([int(memory.head.classes[k][1:]) for k in memory.head.logits(x).argmax(axis=1)])


def in_tasks(n_tasks: int = 4, n_samples: int = 60, dim: int = DIM) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return batches of three new classes each."""
    return [blobs(n_samples, dim, range(3 * task, 3 * task + 3), seed=task) for task in range(n_tasks)]


def accuracy(memory: Memory, n_classes: int = 12) -> float:
    x, y = blobs(50 * n_classes, DIM, range(n_classes), seed=99)
    return float((answers(memory, x) == y).mean())


def test_a_recipe_is_data_that_says_its_name() -> None:
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert len(fields(recipe)) == len(vars(recipe))
    with pytest.raises(InputError, match=r"recipe: expected one of edge, .*joint; found 'magic'"):
        get_recipe("magic")


@pytest.mark.parametrize("name", RECIPES)
def test_classes_learnt_at_once_are_known(name: str) -> None:
    batch = [np.concatenate(parts) for parts in zip(*in_tasks(), strict=True)]
    (only,) = learn(name, [(batch[0], batch[1])])
    assert accuracy(only.memory) > 0.9
    assert only.retention == 1.0


REMEMBER = ("edge", "slda", "ridge", "ncm", "icarl", "ewc", "ewc+replay", "replay", "wa", "bic", "joint")


@pytest.mark.parametrize("name", REMEMBER)
def test_recipes_with_a_memory_keep_the_old_classes(name: str) -> None:
    last = learn(name, in_tasks())[-1]
    assert accuracy(last.memory) > 0.88
    assert last.accuracy_after > 0.85  # and know that they do


def test_the_kronecker_fisher_keeps_without_a_stored_sample_what_the_diagonal_one_forgets() -> None:
    found = {
        name: accuracy(learn(name, in_tasks(), replay_bytes=0)[-1].memory)
        for name in ("ewc", "ewc-diagonal", "online-ewc", "l2", "lwf", "finetune")
    }
    assert found["ewc"] > 0.88
    assert max(found["ewc-diagonal"], found["online-ewc"], found["finetune"]) < 0.6
    assert found["finetune"] < found["l2"] < found["ewc"]


def test_each_memory_of_the_past_keeps_more_of_it_than_none() -> None:
    batches = in_tasks()
    x, y = batches[0]
    losses, among_themselves = {}, {}
    for name in ("finetune", "gem", "a-gem", "lwf", "l2", "ewc-diagonal"):
        head = learn(name, batches)[-1].memory.head
        labels = np.array([head.classes.index(f"c{k}") for k in y])
        losses[name] = cross_entropy(head.logits(x), labels).mean()
        among_themselves[name] = cross_entropy(head.logits(x)[:, :3], labels).mean()
    for name in ("gem", "a-gem", "l2"):
        assert losses[name] < losses["finetune"], losses
    for name in ("lwf", "ewc-diagonal"):  # neither has anything to say of new rows, but how old ones differ is kept
        assert among_themselves[name] < among_themselves["finetune"], among_themselves


def test_without_stored_samples_gem_has_nothing_to_object() -> None:
    first, second = (learn(name, in_tasks(2), replay_bytes=0)[-1].memory.head for name in ("gem", "a-gem"))
    np.testing.assert_array_equal(first.weights, second.weights)


@pytest.mark.parametrize(
    "name", ["lwf", "wa", "bic", "ewc", "l2", "online-ewc", "ewc-diagonal", "ewc+replay", "replay"]
)
def test_a_first_update_has_no_past_and_is_plain_training(name: str) -> None:
    batches = in_tasks(1)
    plain = learn("finetune", batches)[-1].memory.head
    found = learn(name, batches)[-1].memory.head
    if get_recipe(name).fisher == "diagonal":  # in other coordinates: the same minimum, to the minimiser's tolerance
        np.testing.assert_allclose(found.predict(batches[0][0]), plain.predict(batches[0][0]), atol=0.05)
    else:
        np.testing.assert_array_equal(found.weights, plain.weights)


def test_the_nearest_class_mean_is_named() -> None:
    batches = in_tasks()
    memory = learn("ncm", batches)[-1].memory
    x, _ = blobs(300, DIM, range(12), seed=5)
    means = np.stack([part[labels == k].mean(axis=0) for part, labels in batches for k in np.unique(labels)])
    distances = np.square(x[:, None] - means).sum(axis=2)
    gap = np.sort(distances, axis=1)
    clear = gap[:, 1] - gap[:, 0] > 1e-3
    np.testing.assert_array_equal(answers(memory, x)[clear], distances.argmin(axis=1)[clear])


def test_a_sample_is_asked_about_its_class_mean_without_it() -> None:
    """Ten samples of each class, far from each other: with itself in the mean, each would be right."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 400)).astype(np.float32), np.arange(40) % 4
    (only,) = learn("ncm", [(x, y)])
    left_out = [
        np.square(x[n] - [x[(y == k) & (np.arange(40) != n)].mean(axis=0) for k in range(4)]).sum(axis=1).argmin()
        for n in range(40)
    ]
    assert only.accuracy_after == pytest.approx(float((np.array(left_out) == y).mean()))
    assert (answers(only.memory, x) == y).all()


@pytest.mark.parametrize("replay_bytes", [10**6, 3000, 0])
def test_icarl_names_the_nearest_mean_of_its_exemplars(replay_bytes: int) -> None:
    batches = in_tasks()
    memory = learn("icarl", batches, replay_bytes=replay_bytes)[-1].memory
    assert memory.replay.selection == "herding"
    kept = np.flatnonzero(~memory.replay.held_out)
    stored, rows = memory.replay.decode(memory.statistics, kept), memory.replay.labels[kept]
    is_last = np.arange(12) >= 9  # of the batch, all samples that are not held out took part
    x, _ = blobs(300, DIM, range(12), seed=5)
    means = []
    for row in range(12):
        own = stored[rows == row]
        mean = (
            (own / np.linalg.norm(own, axis=1, keepdims=True)).mean(axis=0)
            if len(own)
            else memory.statistics.means[row]
        )
        means.append(mean / np.linalg.norm(mean))
    distances = np.square((x / np.linalg.norm(x, axis=1, keepdims=True))[:, None] - means).sum(axis=2)[:, ~is_last]
    found = memory.head.logits(x)[:, ~is_last].argmax(axis=1)
    gap = np.sort(distances, axis=1)
    clear = gap[:, 1] - gap[:, 0] > 1e-4
    np.testing.assert_array_equal(found[clear], distances.argmin(axis=1)[clear])


def test_joint_learns_the_same_in_pieces_as_at_once() -> None:
    batches = in_tasks()
    whole = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
    pieces, once = learn("joint", batches)[-1].memory, learn("joint", [(whole[0], whole[1])])[-1].memory
    x, _ = blobs(600, DIM, range(12), seed=5)
    by_name = [pieces.head.classes.index(name) for name in once.head.classes]
    np.testing.assert_allclose(pieces.head.predict(x)[:, by_name], once.head.predict(x), atol=0.02)
    assert (answers(pieces, x) == answers(once, x)).mean() > 0.99


def test_joint_says_what_it_needs_to_see_everything() -> None:
    x, y = blobs(30, DIM, range(3))
    with pytest.raises(InputError, match=r"recipe joint: .* 30 samples.*; found .*1000.*--replay"):
        learn("joint", [(x, y)], replay_bytes=1000)


AWKWARD = {
    "one class": (np.ones(6, int), 3),
    "one sample": (np.zeros(1, int), 3),
    "one sample of each class": (np.arange(5), 3),
    "more features than samples": (np.arange(8) % 3, 40),
    "one feature": (np.arange(8) % 3, 1),
    "a class of one sample beside a large one": (np.array([0] * 30 + [1]), 4),
}


@pytest.mark.parametrize("kind", ["plain", "large and far", "tiny", "constant", "half zero"])
@pytest.mark.parametrize("name", RECIPES)
def test_whatever_comes_is_learnt_without_a_warning(name: str, kind: str) -> None:
    rng = np.random.default_rng(0)
    for what, (y, dim) in AWKWARD.items():
        batches = []
        for shift in (0, 2, 2, 9):  # the third brings nothing new, the fourth nothing old
            x = rng.normal(size=(len(y), dim)) + 0.5 * (y[:, None] + shift)
            if kind == "large and far":
                x = 1e4 * (x + 30)
            elif kind == "tiny":
                x = 1e-6 * x
            elif kind == "constant":
                x = np.ones_like(x)
            elif kind == "half zero":
                x = np.maximum(x, 0) * (np.arange(dim) % 2)
            batches.append((
                x.astype(np.float16).astype(np.float32) if kind == "plain" else x.astype(np.float32),
                y + shift,
            ))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for proposal in learn(name, batches):
                head = proposal.memory.head
                assert np.isfinite(head.weights).all(), (what, kind)
                assert np.isfinite(head.bias).all(), (what, kind)
                assert np.isfinite([proposal.accuracy_after, proposal.retention]).all(), (what, kind)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if not recipe.keeps_all])
def test_every_codec_and_budget_will_do(name: str, codec: str) -> None:
    for replay_bytes in (0, 700, 10**5):
        last = learn(name, in_tasks(2, 30), codec=codec, replay_bytes=replay_bytes)[-1]
        assert last.memory.replay.n_bytes <= replay_bytes
        assert np.isfinite(last.memory.head.weights).all()


@pytest.mark.parametrize("name", RECIPES)
def test_samples_may_come_one_at_a_time(name: str) -> None:
    x, y = blobs(40, 5, range(4))
    memory = learn(name, [(x[n : n + 1], y[n : n + 1]) for n in range(40)])[-1].memory
    assert memory.statistics.counts.sum() == 40
    assert np.isfinite(memory.head.weights).all()
    if name in {"slda", "ridge", "ncm", "ewc", "joint"}:
        test, labels = blobs(200, 5, range(4), seed=3)
        assert (answers(memory, test) == labels).mean() > (0.6 if name == "ewc" else 0.75)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(1, 59), max_size=8))
@pytest.mark.parametrize("name", ["ncm", "ridge", "slda"])
def test_the_statistics_way_does_not_care_for_order_or_batches(name: str, seed: int, cuts: list[int]) -> None:
    x, y = blobs(60, 5, range(4))
    order = np.random.default_rng(seed).permutation(60)
    blocks = np.split(order, sorted(set(cuts)))
    mixed = learn(name, [(x[rows], y[rows]) for rows in blocks])[-1].memory
    once = learn(name, [(x, y)])[-1].memory
    by_name = [mixed.head.classes.index(c) for c in once.head.classes]
    np.testing.assert_array_equal(mixed.statistics.counts[by_name], once.statistics.counts)
    np.testing.assert_allclose(mixed.statistics.means[by_name], once.statistics.means, atol=1e-5)
    if once.statistics.scatter is not None:
        assert mixed.statistics.scatter is not None
        np.testing.assert_allclose(mixed.statistics.scatter, once.statistics.scatter, rtol=1e-3, atol=1e-3)
    test, _ = blobs(200, 5, range(4), seed=3)
    assert (answers(mixed, test) == answers(once, test)).mean() > 0.97


@pytest.mark.parametrize("name", RECIPES)
def test_two_runs_give_the_same_bits(name: str) -> None:
    first, second = (learn(name, in_tasks(2))[-1].memory for _ in range(2))
    np.testing.assert_array_equal(first.head.weights, second.head.weights)
    np.testing.assert_array_equal(first.head.bias, second.head.bias)
    assert first.replay.records.tobytes() == second.replay.records.tobytes()
    np.testing.assert_array_equal(first.fisher, second.fisher)


@pytest.mark.parametrize("name", RECIPES)
def test_a_learner_of_every_recipe_is_saved_forgets_and_goes_back(name: str, tmp_path: Any) -> None:
    path = tmp_path / "a.ecl"
    with Learner.create(path, recipe=name) as learner:
        for x, y in in_tasks(2):
            learner.learn(x, y, min_retention=0)
        said = learner.predict(x).probabilities
    with Learner.open(path) as learner:
        assert learner.recipe == name
        np.testing.assert_array_equal(learner.predict(x).probabilities, said)
        learner.forget("4")
        assert len(learner.classes) == 5
        learner.learn(*blobs(9, DIM, range(4, 6), seed=4), min_retention=0)
        learner.rollback(learner.version - 1)
        assert all(a.version < b.version for a, b in pairwise(learner.versions()))


def imbalanced() -> tuple[np.ndarray, np.ndarray]:
    """Return 1,000 samples of one class and 5 of each of two others, which overlap."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(3), [1000, 5, 5])
    return (2.2 * np.eye(3, 8)[y] + rng.normal(size=(len(y), 8))).astype(np.float32), y


@pytest.mark.parametrize("balance", ["classes", "logits"])
def test_rare_classes_are_found_where_classes_are_balanced(balance: str) -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(3000) % 3
    test = (2.2 * np.eye(3, 8)[labels] + rng.normal(size=(3000, 8))).astype(np.float32)
    accuracy = {}
    for tried in (None, balance):
        with Learner.create(":memory:", recipe="replay", balance=tried, codec="float32") as learner:
            learner.learn(*imbalanced())
            accuracy[tried] = learner.evaluate(test, labels).class_mean_accuracy
    assert accuracy[balance] > accuracy[None] + 0.05  # 3,000 samples: five standard errors


def test_a_balance_is_remembered_and_only_where_samples_are_weighed(tmp_path: Any) -> None:
    with Learner.create(tmp_path / "a.ecl", recipe="replay", balance="classes"):
        pass
    with Learner.open(tmp_path / "a.ecl") as learner:
        assert learner._current.recipe == get_recipe("replay", "classes")
        assert learner._current.recipe.balance == "classes"
    for recipe in ("edge", "slda", "joint", "icarl"):
        with pytest.raises(InputError, match=f"balance: expected a recipe that weighs samples, of ewc, .*{recipe!r}"):
            Learner.create(":memory:", recipe=recipe, balance="classes")
    with pytest.raises(InputError, match="balance: expected one of none, seen, classes, logits; found 'magic'"):
        Learner.create(":memory:", recipe="replay", balance="magic")


def test_a_recipe_says_how_samples_are_stored_unless_the_user_does() -> None:
    with Learner.create(":memory:", recipe="icarl") as learner:
        assert learner._current.settings.selection == "herding"
    with Learner.create(":memory:", recipe="icarl", selection="reservoir") as learner:
        assert learner._current.settings.selection == "reservoir"
    with Learner.create(":memory:", recipe="joint") as learner:
        assert learner.codec == "float32"
    with pytest.raises(
        InputError, match="codec: recipe joint stores samples as they are, by float32 or float16; found"
    ):
        Learner.create(":memory:", recipe="joint", codec="int4")
