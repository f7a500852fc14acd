"""What an update must do whatever the recipe, and what each recipe promises."""

from __future__ import annotations

import numpy as np
import pytest

from edge_cl.head import Head
from edge_cl.memory import Memory
from edge_cl.recipes import RECIPES, get_recipe
from edge_cl.update import Proposal, propose

from .conftest import clusters

DIM = 32


def empty(recipe: str, replay_bytes: int = 10**6) -> Memory:
    has_scatter = RECIPES[recipe].has_scatter
    return Memory.empty(DIM, has_scatter=has_scatter, replay_bytes=replay_bytes, seed=0)


def positive(n_classes: int, n_samples: int, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Return features as a ReLU leaves them: with a large mean that all classes share."""
    x, names = clusters(n_classes, n_samples, DIM, seed=seed)
    return x + 2, names


def learn_in_tasks(recipe: str, replay_bytes: int = 10**6, n_samples: int = 20, per_task: int = 3) -> list[Proposal]:
    """Learn 12 classes, a few at a time."""
    x, names = positive(12, n_samples)
    memory, proposals = empty(recipe, replay_bytes), []
    for start in range(0, len(x), per_task * n_samples):
        rows = slice(start, start + per_task * n_samples)
        proposals.append(propose(memory, get_recipe(recipe), x[rows], names[rows]))
        memory = proposals[-1].memory
    return proposals


def accuracy(head: Head, n_classes: int = 12) -> float:
    x, names = positive(n_classes, 50, seed=99)
    return float(np.mean(np.array(head.classes)[head.logits(x).argmax(axis=1)] == np.array(names)))


def test_old_logits_do_not_move_when_a_class_is_added() -> None:
    rng = np.random.default_rng(0)
    head = Head(("a", "b"), rng.normal(size=(2, 4)).astype(np.float32), rng.normal(size=2).astype(np.float32))
    x = rng.normal(size=(9, 4)).astype(np.float32)
    grown = head.grow(["c"])
    assert grown.classes == ("a", "b", "c")
    np.testing.assert_array_equal(grown.logits(x)[:, :2], head.logits(x))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_learns_its_first_classes(recipe: str) -> None:
    x, names = positive(5, 20)
    proposal = propose(empty(recipe), get_recipe(recipe), x, names)
    assert accuracy(proposal.memory.head, 5) > 0.9
    assert proposal.retention == 1.0


@pytest.mark.parametrize("recipe", ["edge", "slda", "replay"])
def test_recipes_with_a_memory_keep_the_old_classes(recipe: str) -> None:
    proposals = learn_in_tasks(recipe)
    assert accuracy(proposals[-1].memory.head) > 0.85
    assert all(proposal.retention > 0.9 for proposal in proposals)


def test_finetune_forgets_and_the_gate_would_see_it() -> None:
    proposals = learn_in_tasks("finetune", per_task=1)
    assert accuracy(proposals[-1].memory.head) < 0.5
    assert min(proposal.retention for proposal in proposals) < 0.8


def test_ewc_moves_old_weights_less_than_finetune_does() -> None:
    moved = {}
    for recipe in ("ewc-diagonal", "online-ewc", "finetune"):
        first, *_, last = learn_in_tasks(recipe)
        moved[recipe] = float(np.linalg.norm(last.memory.head.weights[:3] - first.memory.head.weights))
    assert max(moved["ewc-diagonal"], moved["online-ewc"]) < moved["finetune"]


def test_kronecker_ewc_keeps_what_finetune_forgets() -> None:
    known = {recipe: accuracy(learn_in_tasks(recipe)[-1].memory.head) for recipe in ("ewc", "finetune")}
    assert known["ewc"] > known["finetune"] + 0.2


@pytest.mark.parametrize("replay_bytes", [0, 3000, 10**6])
def test_edge_needs_no_replay_to_remember(replay_bytes: int) -> None:
    proposals = learn_in_tasks("edge", replay_bytes)
    assert proposals[-1].memory.replay.records.nbytes <= replay_bytes
    assert accuracy(proposals[-1].memory.head) > 0.85


@pytest.mark.parametrize("recipe", ["edge", "slda"])
def test_reported_accuracy_is_that_of_unseen_samples(recipe: str) -> None:
    last = learn_in_tasks(recipe, n_samples=8)[-1]
    assert last.accuracy_after == pytest.approx(accuracy(last.memory.head), abs=0.09)  # 96 samples: 2 standard errors
    assert last.accuracy_before < last.accuracy_after


def test_swapped_labels_are_seen_by_the_gate() -> None:
    x, names = clusters(4, 20, DIM)
    memory = propose(empty("edge"), get_recipe("edge"), x, names).memory
    y, others = clusters(4, 200, DIM, seed=5)
    swapped = [{"c0": "c1", "c1": "c0"}.get(name, name) for name in others]
    assert propose(memory, get_recipe("edge"), y, swapped).retention < 0.8


@pytest.mark.parametrize("n_samples", [1, 2, 3, 5])
def test_classes_learnt_one_by_one_from_few_samples_are_not_refused(n_samples: int) -> None:
    proposals = learn_in_tasks("edge", n_samples=n_samples, per_task=1)
    assert not any(proposal.forgets(0.95) for proposal in proposals)
    again = proposals[-1].memory
    x, names = positive(12, 2, seed=7)
    assert not propose(again, get_recipe("edge"), x, names).forgets(0.95)


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_runs_give_the_same_bits(recipe: str) -> None:
    first, second = (learn_in_tasks(recipe)[-1].memory for _ in range(2))
    np.testing.assert_array_equal(first.head.weights, second.head.weights)
    np.testing.assert_array_equal(first.head.bias, second.head.bias)
    assert first.replay.records.tobytes() == second.replay.records.tobytes()


def test_a_class_is_usable_after_one_sample() -> None:
    x, names = positive(6, 1)
    proposal = propose(empty("edge"), get_recipe("edge"), x, names)
    assert accuracy(proposal.memory.head, 6) > 0.6  # chance is 0.17
    assert np.isfinite(proposal.memory.head.weights).all()


def test_refinement_is_only_taken_if_unseen_samples_gain() -> None:
    """Classes that are no Gaussians: the closed form is beaten by training, and training is chosen."""
    rng = np.random.default_rng(0)

    def ring(n: int) -> tuple[np.ndarray, list[str]]:
        y = rng.integers(0, 3, n)
        x = rng.normal(size=(n, DIM)) * 0.3
        x[:, 0] += np.where(y == 0, 0, np.where(y == 1, 2.0, rng.choice([8.0, 30.0], n)))
        return x.astype(np.float32), [f"c{label}" for label in y]

    x, names = ring(600)
    test, answers = ring(2000)
    heads = {name: propose(empty(name), get_recipe(name), x, names).memory.head for name in ("edge", "slda")}
    right = {
        n: np.mean([h.classes[k] for k in h.logits(test).argmax(axis=1)] == np.array(answers)) for n, h in heads.items()
    }
    assert right["edge"] > right["slda"] + 0.02
