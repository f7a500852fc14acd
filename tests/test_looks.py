"""Looks of classes: what opens one, what a class answers with, and where it is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from edge_cl import Learner
from edge_cl.anchor import whiten
from edge_cl.companion import weigh
from edge_cl.devices import HOST
from edge_cl.errors import StateError
from edge_cl.learning.looks import distance_limit, find_looks
from edge_cl.learning.parted import Parted
from edge_cl.look_rows import MOST, LookRows
from edge_cl.looks import ENOUGH, Looks
from edge_cl.memory import Memory
from edge_cl.recipes import RECIPES
from edge_cl.state.check import check_file
from edge_cl.statistics import Statistics
from edge_cl.update import propose

Array = NDArray[Any]
DIM, K = 12, 4


def seen(look: int, n: int, seed: int = 0, classes: tuple[int, ...] = tuple(range(K))) -> tuple[Array, list[str]]:
    """Return samples of classes in one of their looks, each of which lies anywhere."""
    rng = np.random.default_rng((look, seed))
    y = np.array(classes)[np.arange(n) % len(classes)]
    means = np.random.default_rng(look).normal(size=(K, DIM)) * 2
    return (means[y] + rng.normal(size=(n, DIM))).astype(np.float32), [f"c{k}" for k in y]


def taught(*looks: int, n: int = 80, path: Path | str = ":memory:", **options: Any) -> Learner:
    learner = Learner.create(path, **options)
    for look in looks:
        learner.learn(*seen(look, n), min_retention=0)
    return learner


def memory_of(learner: Learner) -> Memory:
    return learner._current.memory()


def test_a_class_in_a_new_look_keeps_its_old_one() -> None:
    """One mean between two looks is neither: the same recipe without looks is the reference."""
    accuracy = {}
    for parts in (False, True):
        recipe = replace(RECIPES["edge"], parts=parts)
        memory = Memory.empty(DIM, has_scatter=True, replay_bytes=0, seed=0)
        for look in range(4):
            memory = propose(memory, recipe, *seen(look, 80)).memory
        hits = [memory.head.logits(seen(look, 400, 1)[0]).argmax(1) == np.arange(400) % K for look in range(4)]
        accuracy[parts] = float(np.mean(hits))
    assert 1 - accuracy[True] < (1 - accuracy[False]) / 3


@pytest.mark.parametrize("batch", [1, 7, 40])
def test_samples_that_come_a_few_at_a_time_are_told_for_a_new_look_too(batch: int) -> None:
    with taught(0, replay_bytes=0) as learner:
        x, names = seen(1, 120)
        for start in range(0, 120, batch):
            learner.learn(x[start : start + batch], names[start : start + batch], min_retention=0)
        assert learner.looks == dict.fromkeys((f"c{k}" for k in range(K)), 2)
        assert min(learner.evaluate(*seen(look, 400, 1)).accuracy for look in (0, 1)) > 0.9


@pytest.mark.parametrize(("dim", "tail"), [(2, None), (30, None), (300, None), (30, 5)])
def test_random_batches_of_the_same_look_open_none(dim: int, tail: float | None) -> None:
    """Of 200 batches: normal samples, and those of heavier tails, in few and in many dimensions."""
    rng = np.random.default_rng(dim)

    def draw(n: int) -> tuple[Array, list[str]]:
        y = rng.integers(0, 5, n)
        z = rng.normal(size=(n, dim)) if tail is None else rng.standard_t(tail, size=(n, dim))
        means = 3 * np.random.default_rng(1).normal(size=(5, dim))
        return (means[y] + z * np.geomspace(1, 0.1, dim)).astype(np.float32), [str(k) for k in y]

    memory = propose(Memory.empty(dim, has_scatter=True, replay_bytes=0, seed=0), RECIPES["edge"], *draw(300)).memory
    for _ in range(50):  # each has about 12 samples of each class
        memory = propose(memory, RECIPES["edge"], *draw(60)).memory
    assert memory.looks.n_known == 0
    assert memory.head.looks is None


def test_classes_that_come_one_after_another_have_one_look_each() -> None:
    with Learner.create(":memory:") as learner:
        for k in range(K):
            learner.learn(*seen(0, 30, classes=(k,)))
        assert len(memory_of(learner).looks.owners) == 0
        assert learner.looks == {}


def test_a_few_samples_that_lie_far_away_open_none() -> None:
    with taught(0, replay_bytes=0) as learner:
        x, names = seen(0, ENOUGH - 1, 5, classes=(2,))
        learner.learn(x + 100, names, min_retention=0)
        assert learner.looks == {}


@pytest.mark.parametrize("shrinkage", [0.01, 0.3, 0.9])
def test_the_limit_is_passed_by_chance_less_often_than_it_says(shrinkage: float) -> None:
    """Distances of pairs of means of the same normal class, in the space of a covariance far from round."""
    rng = np.random.default_rng(0)
    spread = np.geomspace(1, 0.01, 20)
    x = (rng.normal(size=(2000, 20)) * spread).astype(np.float32)
    statistics = Statistics.empty(20, has_scatter=True).learn(x, np.arange(2000) % 4, 4)
    space = whiten(statistics, shrinkage)
    pairs = rng.normal(size=(2, 20_000, 20)) * spread / np.sqrt([[[10.0]], [[40.0]]])
    z = (pairs[0] - pairs[1]) @ space.whitener.T.astype(np.float64)
    ratio = (z**2).sum(1) / (space.noise * (1 / 10 + 1 / 40))
    limit = distance_limit(space, statistics, HOST)
    assert (ratio > limit).mean() < 1e-3
    assert limit < 2 * np.quantile(ratio, 0.999)  # and it is not so far away that nothing passes it


def test_parts_of_a_class_are_all_of_it() -> None:
    with taught(0, 1, 2, replay_bytes=0) as learner:
        memory = memory_of(learner)
    counts, means = memory.looks.first(memory.statistics)
    known = memory.looks.known
    total, sums = counts.copy(), counts[:, None] * means
    np.add.at(total, known.owners, known.counts)
    np.add.at(sums, known.owners, known.counts[:, None] * known.means.astype(np.float64))
    assert np.array_equal(total, memory.statistics.counts)
    np.testing.assert_allclose(sums / total[:, None], memory.statistics.means, atol=1e-5)
    want = [np.mean(seen(0, 80)[0][k::K], axis=0) for k in range(K)]
    np.testing.assert_allclose(means, want, atol=1e-5)  # the first look is still the first domain's


def test_of_too_many_looks_the_nearest_two_become_one() -> None:
    with taught(*range(MOST + 1), replay_bytes=0) as learner:
        assert set(learner.looks.values()) == {MOST + 1}
        before = memory_of(learner).looks
        x, names = seen(1, 80, 3)
        learner.learn(x + 1.5, names, min_retention=0)  # near the second look, and another one
        after = memory_of(learner).looks
    assert set(np.bincount(after.owners)) == {MOST}
    assert after.counts.sum() == before.counts.sum() + 80
    moved = np.abs(after.means - before.means).max(axis=1) > 1e-3
    assert moved.sum() == K  # one of each class


def parted_of(n_looks: int) -> tuple[Parted, Looks, Statistics, Array, Array, Array]:
    """Return the closed form of classes in several looks, the samples, their classes and their looks."""
    parts = [seen(look, 40, look) for look in range(n_looks)]
    looks, statistics = Looks.empty(DIM), Statistics.empty(DIM, has_scatter=True)
    y = np.arange(40) % K
    for place, (x, _) in enumerate(parts):
        statistics = statistics.learn(x, y, K)
        looks = looks.gather(x, y) if place else looks
        looks = find_looks(looks, statistics, whiten(statistics), HOST)
    parted = Parted.of(whiten(statistics), looks, statistics, HOST)
    assert parted is not None
    features = np.concatenate([x for x, _ in parts])
    return parted, looks, statistics, features, np.tile(y, n_looks), np.repeat(np.arange(n_looks), 40)


def test_leaving_one_out_is_learning_without_it() -> None:
    """Against inverses and means in float64, of samples that are nearest to the look that they are of."""
    parted, looks, statistics, x, y, look = parted_of(2)
    space = parted.space
    assert looks.n_known == K
    found = parted.leave_one_out(space.transform(x), y)
    covariance = np.linalg.inv((space.whitener.T @ space.whitener).astype(np.float64))
    counts, means = looks.first(statistics)
    for n in (0, 5, 47, 79):
        total, whole = statistics.counts.astype(float), statistics.means.astype(np.float64)
        count = np.stack([counts, looks.counts]).astype(float)
        mean = np.stack([means, looks.means.astype(np.float64)])
        k, own = y[n], x[n] - whole[y[n]]
        without = covariance - total[k] / (total[k] - 1) * space.weight * np.outer(own, own)
        expected = expect(parted, count, mean, total, whole)
        mean[look[n], k] -= (x[n] - mean[look[n], k]) / (count[look[n], k] - 1)
        whole[k] -= own / (total[k] - 1)
        count[look[n], k] -= 1
        total[k] -= 1
        expected[look[n], k] = expect(parted, count, mean, total, whole)[look[n], k]  # the other look stays
        gaps = x[n] - expected
        want = -0.5 * np.einsum("lkd,de,lke->lk", gaps, np.linalg.inv(without), gaps).min(axis=0)
        got = found[n].astype(np.float64)
        np.testing.assert_allclose(got - got[0], want - want[0], rtol=2e-3, atol=2e-3 * np.abs(want).max())


def expect(parted: Parted, count: Array, mean: Array, total: Array, whole: Array) -> Array:
    """Return what is believed of the means of looks (L, K, D): drawn to the class's, and this to the centre."""
    space = parted.space
    trust = total * space.signal / (total * space.signal + space.noise)
    share = parted.signal / (parted.signal + space.noise * (1 / count - 1 / total))
    centre = space.centre.astype(np.float64)
    return np.asarray(centre + trust[:, None] * (whole - centre) + share[:, :, None] * (mean - whole))


def test_samples_left_out_are_answered_like_unseen_ones() -> None:
    parted, *_, x, y, _ = parted_of(3)
    left_out = parted.leave_one_out(parted.space.transform(x), y).argmax(axis=1) == y
    unseen = np.concatenate([seen(look, 4000, 9)[0] for look in range(3)])
    hits = parted.logits(parted.space.transform(unseen)).argmax(axis=1) == np.tile(np.arange(4000) % K, 3)
    assert abs(left_out.mean() - hits.mean()) < 3 * (hits.mean() * (1 - hits.mean()) / len(y)) ** 0.5 + 0.01


def test_the_heads_rows_are_the_closed_form() -> None:
    parted, *_, x, _, _ = parted_of(3)
    weights, bias = parted.head(0.5)
    got = parted.look_rows(0.5).logits(x, x @ weights.T + bias)
    want = 0.5 * parted.logits(parted.space.transform(x))
    np.testing.assert_allclose(got - got[:, :1], want - want[:, :1], atol=1e-3 * np.abs(want).max())


def test_the_companion_counts_the_same_beside_every_look() -> None:
    with Learner.create(":memory:", codec="float32") as learner:
        for look in (0, 1):
            x, names = seen(look, 400)
            learner.learn(np.sinh(x), names, min_retention=0)  # far from normal
        head, memory = learner.head, memory_of(learner)
    companion = memory.companion
    assert head.looks is not None
    assert companion.rows.any()
    parted = Parted.of(whiten(memory.statistics, companion.shrinkage), memory.looks, memory.statistics, HOST)
    assert parted is not None
    x = np.sinh(seen(1, 50, 7)[0])
    alone = companion.factor * parted.logits(parted.space.transform(x))
    want = weigh(companion.share, alone, x @ companion.rows[:, :-1].T + companion.rows[:, -1])
    got = head.logits(x)
    got, want = got - got.mean(axis=1, keepdims=True), want - want.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(got, want, atol=2e-3 * np.abs(want).max())


def rows_of(*owners: int) -> LookRows:
    rng = np.random.default_rng(0)
    n = len(owners)
    weights = rng.normal(size=(n, 3)).astype(np.float32)
    return LookRows(np.array(owners), weights, rng.normal(size=n).astype(np.float32))


def test_a_class_answers_by_its_highest_row() -> None:
    rows, rng = rows_of(0, 2, 2, 2, 4), np.random.default_rng(1)
    x, logits = rng.normal(size=(9, 3)).astype(np.float32), rng.normal(size=(9, 5)).astype(np.float32)
    further = x @ rows.weights.T + rows.bias
    want = logits.copy()
    for e, k in enumerate(rows.owners):
        want[:, k] = np.maximum(want[:, k], further[:, e])
    np.testing.assert_array_equal(rows.logits(x, logits.copy()), want)
    both = np.concatenate([logits, further], axis=1)
    np.testing.assert_array_equal(both[:, rows.table(5)].max(axis=2), want)
    kept = rows.keep(np.array([2, 4]))
    assert kept is not None
    np.testing.assert_array_equal(kept.logits(x, logits[:, [2, 4]].copy()), want[:, [2, 4]])
    assert rows.keep(np.array([1, 3])) is None


def test_bytes_give_them_back() -> None:
    with taught(0, 1, replay_bytes=0) as learner:
        learner.learn(*seen(2, 10), min_retention=0)
        looks, counts = memory_of(learner).looks, memory_of(learner).statistics.counts
    found = Looks.unpack(looks.pack(), counts, DIM)
    assert looks.n_known == found.n_known == K < len(looks.owners)
    for name in ("owners", "counts", "means"):
        assert np.array_equal(getattr(found, name), getattr(looks, name))
    assert Looks.empty(DIM).pack() == b""
    rows = rows_of(0, 0, 1)
    assert LookRows.unpack(rows.pack(), 2, 3).pack() == rows.pack()


BROKEN = {
    "a count of nothing": lambda looks: replace(looks, counts=0 * looks.counts),
    "more samples than the class has": lambda looks: replace(looks, counts=looks.counts + 70),
    "a class that is not there": lambda looks: replace(looks, owners=looks.owners + 2),
    "a class before the first": lambda looks: replace(looks, owners=looks.owners - 1),
    "owners out of order": lambda looks: replace(looks, owners=looks.owners[::-1].copy()),
    "a mean that is none": lambda looks: replace(looks, means=looks.means * np.nan),
    "more looks than rows": lambda looks: replace(looks, n_known=len(looks.owners) + 1),
    "fewer than none": lambda looks: replace(looks, n_known=-1),
    "one class's last samples twice": lambda looks: replace(looks, n_known=0, owners=0 * looks.owners),
}


@pytest.mark.parametrize("name", BROKEN)
def test_looks_of_numbers_that_are_none_are_refused(name: str) -> None:
    means = np.ones((K, DIM), np.float32)
    whole = Looks(K, np.arange(K), np.full(K, 20), means)
    counts = np.full(K, 80)
    assert Looks.unpack(whole.pack(), counts, DIM).n_known == K
    with pytest.raises(ValueError, match="looks of"):
        Looks.unpack(BROKEN[name](whole).pack(), counts, DIM)


@pytest.mark.parametrize("data", [b"\0", bytes(16), rows_of(0, 1).pack()[:-4], rows_of(1, 0).pack(), rows_of(2).pack()])
def test_rows_that_are_none_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="rows of looks"):
        LookRows.unpack(data, 2, 3)


def test_the_file_keeps_them(tmp_path: Path) -> None:
    path, x = tmp_path / "a.ecl", np.concatenate([seen(look, 40, 2)[0] for look in (0, 1)])
    with taught(0, 1, path=path) as learner:
        want, sizes = learner.predict(x).probabilities, learner.state_bytes
        assert sizes["statistics"] > K * (8 + 4 * DIM) + 2 * DIM * (DIM + 1) + K * 4 * DIM
        learner.rollback(1)
        assert learner.looks == {}
        learner.rollback(2)
    assert not list(check_file(str(path)))
    with Learner.open(path) as learner:
        np.testing.assert_array_equal(learner.predict(x).probabilities, want)
        assert set(learner.looks.values()) == {2}
        memory = learner._current.state.read_memory()
        assert memory is not None
        assert memory.head.looks is not None
        assert np.array_equal(memory.head.looks.owners, memory.looks.known.owners)


def test_a_forgotten_class_leaves_none_of_its_looks(tmp_path: Path) -> None:
    path = tmp_path / "a.ecl"
    with taught(0, 1, path=path) as learner:
        learner.learn(*seen(2, 12), min_retention=0)  # too few to be told
        looks, head = memory_of(learner).looks, learner.head
        assert head.looks is not None
        secrets = {row.tobytes() for row in looks.means[looks.owners == 1]}
        secrets |= {row.tobytes() for row in head.looks.weights[head.looks.owners == 1]}
        assert len(secrets) == 3
        assert all(any(secret in data for data in contents(path)) for secret in secrets)
        learner.forget("c1")
        after = memory_of(learner).looks
        assert np.array_equal(after.owners, [0, 1, 2, 0, 1, 2])
        assert np.array_equal(after.means, looks.means[looks.owners != 1])
        others = [seen(look, 90, 4, classes=(0, 2, 3)) for look in (0, 1)]
        assert min(learner.evaluate(*part).accuracy for part in others) > 0.9
        assert not [secret for secret in secrets if any(secret in data for data in contents(path))]
        for name in ("c0", "c2", "c3"):
            learner.forget(name)
        assert len(memory_of(learner).looks.owners) == 0


def contents(path: Path) -> list[bytes]:
    return [file.read_bytes() for file in path.parent.glob(path.name + "*") if not file.name.endswith("-shm")]


def test_another_recipes_head_has_none() -> None:
    forms: list[dict[str, Any]] = [{"recipe": "slda"}, {"head": "cosine"}, {"head": "mlp"}, {"recipe": "replay"}]
    for options in forms:
        with taught(0, 1, **options) as learner:
            assert len(memory_of(learner).looks.owners) == 0
            assert learner.head.looks is None


def test_rows_of_looks_that_are_not_remembered_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ecl"
    with taught(0, 1, path=path) as learner:
        memory, current = memory_of(learner), learner._current
        with current.changing():
            current.commit_change("set", replace(memory, looks=Looks.empty(DIM)))
    with Learner.open(path) as learner, pytest.raises(StateError, match="4 rows of looks beside 0 looks"):
        learner.learn(*seen(0, 8))
    assert any("rows of looks" in line for line in check_file(str(path)))


@pytest.mark.parametrize("looks", [(0,), (0, 1), (0, 1, 2, 3)])
def test_an_export_answers_like_the_learner(looks: tuple[int, ...], tmp_path: Path) -> None:
    x = np.concatenate([seen(look, 40, 2)[0] for look in range(4)])
    with taught(*looks) as learner:
        learner.export(tmp_path / "h.onnx")
        want = learner.head.logits(x)
    session = onnxruntime.InferenceSession(str(tmp_path / "h.onnx"), providers=["CPUExecutionProvider"])
    found = session.run(["logits"], {"features": x})[0]
    np.testing.assert_allclose(found, want, atol=1e-4 * np.abs(want).max())
    assert found.shape == (160, K)


@pytest.mark.parametrize("dim", [4, 8, 16])
@pytest.mark.parametrize("seed", range(6))
def test_without_stored_samples_looks_neither_fail_the_gate_nor_the_check(dim: int, seed: int, tmp_path: Path) -> None:
    """The mean of a whole class lies between its looks, where no sample is: it says nothing."""
    rng = np.random.default_rng(seed)
    means = 10 * rng.normal(size=(4, 12, dim))
    y = np.arange(360) % 12
    with Learner.create(tmp_path / "a.ecl", replay_bytes=0) as learner:
        for look in means:
            report = learner.learn((look[y] + rng.normal(size=(360, dim))).astype(np.float32), y)
            assert report.committed
        assert max(learner.looks.values()) > 2
    assert not list(check_file(str(tmp_path / "a.ecl")))


def test_rows_of_more_looks_than_a_class_may_have_are_refused() -> None:
    """The highest of a class's rows is found one after another: thousands of one class would take minutes."""
    rows = LookRows(np.zeros(MOST + 1, np.int64), np.ones((MOST + 1, 2), np.float32), np.ones(MOST + 1, np.float32))
    with pytest.raises(ValueError, match="rows of looks"):
        LookRows.unpack(rows.pack(), 3, 2)
