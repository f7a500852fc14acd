"""Versions: what is kept, going back to it bit for bit, what changed, and what it costs in bytes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_cl import Learner
from edge_cl.errors import InputError, StateReadOnlyError
from edge_cl.memory import Memory
from edge_cl.recipes import RECIPES
from edge_cl.state import store, versions
from edge_cl.state.check import check_file
from edge_cl.state.form import EXACT_CODECS
from edge_cl.state.parts import to_parts

from .conftest import clusters

DIM = 16


def bits(learner: Learner) -> dict[str, bytes]:
    return to_parts(learner._current.memory())


def batches(n_batches: int, n_classes: int = 4) -> list[tuple[NDArray[np.float32], list[str]]]:
    return [clusters(n_classes, 3, DIM, seed=seed) for seed in range(n_batches)]


@pytest.mark.parametrize(
    ("recipe", "codec"),
    [
        (recipe.name, codec)
        for recipe in RECIPES.values()
        for codec in ("sketch", "eigen", "pq", "float16")
        if codec in EXACT_CODECS or not recipe.keeps_all
    ],
)
def test_a_rollback_gives_back_every_bit_in_a_new_process_too(tmp_path: Path, recipe: str, codec: str) -> None:
    path, seen = tmp_path / "a.ecl", {}
    replay_bytes = 100_000 if RECIPES[recipe].keeps_all else 3000
    with Learner.create(path, recipe=recipe, codec=codec, replay_bytes=replay_bytes) as learner:
        wrong = (batches(1)[0][0], ["c1", "c2", "c3", "c0"] * 3)
        for batch in (*batches(4), wrong):
            version = learner.learn(*batch, min_retention=0).version
            seen[version] = bits(learner)
        learner.learn(*clusters(6, 3, DIM), min_retention=0)
    for number in (4, 1, 5, 3):
        with Learner.open(path) as learner:
            before = learner.version
            made = learner.rollback(number)
            assert (made.version, made.parent, made.kind, made.restored) == (before + 1, before, "rollback", number)
            assert made.n_seen == 12 * number
            assert bits(learner) == seen[number]
        with Learner.open(path, read_only=True) as learner:
            assert learner.version == before + 1
            assert bits(learner) == seen[number]
    assert not list(check_file(str(path)))


def test_a_batch_of_wrong_labels_leaves_no_trace(tmp_path: Path) -> None:
    good, bad = batches(6), (batches(1)[0][0], ["c1", "c2", "c3", "c0"] * 3)
    heads = []
    for name, with_bad in (("a", False), ("b", True)):
        with Learner.create(tmp_path / f"{name}.ecl", replay_bytes=3000) as learner:
            for number, batch in enumerate(good):
                if with_bad and number == 3:
                    learner.learn(*bad, min_retention=0)
                    learner.rollback(3)
                learner.learn(*batch, min_retention=0)
            heads.append(bits(learner))
    assert heads[0] == heads[1]


def test_going_back_costs_no_copy(tmp_path: Path) -> None:
    with Learner.create(tmp_path / "a.ecl") as learner:
        for batch in batches(3):
            learner.learn(*batch)
        before = learner.state_bytes["versions"]
        row = store.load_current(learner._state._connection)
        assert row is not None
        for number in (1, 2, 3, 1, 2, 3):
            learner.rollback(number)
        chunks = learner._state._connection.execute("SELECT count(*) FROM chunks").fetchone()[0]
        assert learner.state_bytes["versions"] - before <= 6 * row.n_bytes
        learner.rollback(2)
        assert learner._state._connection.execute("SELECT count(*) FROM chunks").fetchone()[0] == chunks


def test_a_version_stores_what_changed_and_no_more(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with Learner.create(tmp_path / "a.ecl", codec="float32", replay_bytes=2_000_000, recipe="finetune") as learner:
        learner.learn(rng.normal(size=(400, 256)).astype(np.float32), [f"c{n % 200}" for n in range(400)])
        before = learner.state_bytes["versions"]
        learner.learn(rng.normal(size=(2, 256)).astype(np.float32), ["c0", "c0"], min_retention=0)
        kept = store.load_kept(learner._state._connection)
        grown = learner.state_bytes["versions"] - before
        head = 200 * 257 * 4  # moves as a whole; 600 kB of statistics and records do not
        assert grown < head + 5 * 4_000 + 64_000 + kept[0].n_bytes


def test_history_is_bounded_and_the_oldest_goes_first(tmp_path: Path) -> None:
    path = tmp_path / "a.ecl"
    with Learner.create(path, history_bytes=40_000, replay_bytes=2000) as learner:
        for batch in batches(30):
            learner.learn(*batch, min_retention=0)
            kept = store.load_kept(learner._state._connection)
            assert store.split_history(kept, 1 << 62)[1] <= 40_000
        log = learner.versions()
        assert [v.version for v in log] == list(range(1, 31))
        first = min(v.version for v in log if v.is_kept)
        assert 1 < first < 30
        assert all(v.is_kept == (v.version >= first) for v in log)
        with pytest.raises(InputError, match=rf"a\.ecl: version: expected {first} to 30; found {first - 1}; see them"):
            learner.rollback(first - 1)
        learner.resize(history_bytes=0)
        assert [v.version for v in learner.versions() if v.is_kept] == [30]
        assert len(learner.versions()) == 30
    assert not list(check_file(str(path)))


def test_no_more_than_64_versions_are_kept(tmp_path: Path) -> None:
    with Learner.create(tmp_path / "a.ecl", replay_bytes=2000, recipe="finetune") as learner:
        for n in range(70):
            learner.learn(np.full((1, 4), n, np.float32), [f"c{n % 3}"], min_retention=0)
        assert [v.version for v in learner.versions() if v.is_kept] == list(range(7, 71))


def test_the_file_does_not_grow_with_the_number_of_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log's ring is made shorter than the updates, so that its lines are overwritten too."""
    monkeypatch.setattr(versions, "MIN_LINES", 256)
    path, rng = tmp_path / "a.ecl", np.random.default_rng(0)
    Learner.create(path, history_bytes=400_000, replay_bytes=3000, recipe="slda").close()
    sizes = []
    for n_updates in (100, 500):
        with Learner.open(path) as learner:
            for _ in range(n_updates):
                learner.learn(rng.normal(size=(2, DIM)).astype(np.float32), ["a", "b"], min_retention=0)
        sizes.append(path.stat().st_size)
    assert sizes[1] <= 1.1 * sizes[0]
    with Learner.open(path) as learner:
        assert [v.version for v in learner.versions()] == list(range(345, 601))
    assert not list(check_file(str(path)))


def test_the_log_has_room_for_10_000_lines() -> None:
    assert versions.n_lines(32_000_000) >= 10_000


def test_golden_line() -> None:
    version = versions.Version(
        7, 6, "2026-01-02T03:04:05+00:00", "rollback", "edge", 0, 3, 9, (), 0.5, 0.25, 1.0, 2.0, 4
    )
    line = versions.encode_line(version)
    assert line.hex() == (
        "0700000006000000a535576900000000030000000900000004000000"
        "0000003f0000803e0000803f0000004001000000" + line[-4:].hex()
    )
    fields = versions.decode_line(line)
    assert fields is not None
    assert versions.as_version(fields, "edge", 0, (), True) == version
    assert versions.decode_line(bytes(versions.LINE_BYTES)) is None


def test_diff_tells_rows_samples_and_accuracy(tmp_path: Path) -> None:
    x, names = clusters(4, 12, DIM)
    with Learner.create(tmp_path / "a.ecl") as learner:
        learner.learn(x[:24], names[:24])
        learner.learn(x[24:], names[24:])
        learner.learn(np.concatenate([x[:12]] * 20), ["c1"] * 240, min_retention=0)
        first, same = learner.diff(1, 2), learner.diff(2, 2)
        assert [change.name for change in first] == ["c0", "c1", "c2", "c3"]
        assert [change.status for change in first] == ["changed", "changed", "new", "new"]
        assert [change.samples for change in first] == [(12, 12), (12, 12), (None, 12), (None, 12)]
        assert [change.moved is None for change in first] == [False, False, True, True]
        assert {change.status for change in same} == {"same"}
        assert {change.moved for change in same} == {0.0}
        worse = {change.name: change for change in learner.diff(2, 3)}["c1"]
        assert worse.samples == (12, 252)
        assert worse.accuracy[0] == pytest.approx(1.0, abs=0.1)
        assert worse.accuracy[1] is not None
        assert worse.accuracy[1] < 0.9
        assert [change.status for change in learner.diff(2, 1)][2:] == ["gone", "gone"]


@pytest.mark.parametrize("version", [0, 9, -1, 1 << 40, True, "2", 1.0])
def test_a_version_that_is_not_kept_is_one_line_and_changes_nothing(tmp_path: Path, version: object) -> None:
    with Learner.create(tmp_path / "a.ecl") as learner:
        learner.learn(*batches(1)[0])
        before = bits(learner)
        for call in (lambda: learner.rollback(version), lambda: learner.diff(1, version)):  # type: ignore[arg-type]
            with pytest.raises(InputError, match="version: expected") as caught:
                call()
            assert "\n" not in str(caught.value)
        assert learner.version == 1
        assert bits(learner) == before


def test_a_read_only_learner_revises_nothing(tmp_path: Path) -> None:
    with Learner.create(tmp_path / "a.ecl") as learner:
        learner.learn(*batches(1)[0])
    before = (tmp_path / "a.ecl").read_bytes()
    with Learner.open(tmp_path / "a.ecl", read_only=True) as learner:
        for call in (lambda: learner.rollback(1), lambda: learner.forget("c0"), lambda: learner.resize(replay_bytes=1)):
            with pytest.raises(StateReadOnlyError):
                call()
    assert (tmp_path / "a.ecl").read_bytes() == before


def test_a_smaller_replay_budget_is_kept_to_by_rollbacks_too(tmp_path: Path) -> None:
    path = tmp_path / "a.ecl"
    with Learner.create(path, codec="float16", replay_bytes=3000) as learner:
        for batch in batches(5):
            learner.learn(*batch)
        stored = learner.replay_usage()["samples"]
        sizes = learner.resize(replay_bytes=500)
        assert learner.replay_usage()["bytes"] == sizes["replay"] <= 500
        assert 0 < learner.replay_usage()["samples"] < stored
        assert [v.kind for v in learner.versions()] == ["learn"] * 5 + ["set"]
        learner.rollback(5)
        assert learner.replay_usage()["bytes"] <= 500
        assert learner.learn(*batches(1)[0]).committed
        assert learner.replay_usage()["bytes"] <= 500
        learner.resize(replay_bytes=10_000)
        assert learner.versions()[-1].kind == "learn"  # nothing had to change
        learner.learn(*batches(1)[0])
        assert learner.replay_usage()["samples"] > 500 // 45
    assert not list(check_file(str(path)))


@pytest.mark.parametrize(("name", "value"), [("replay_bytes", -1), ("history_bytes", "x"), ("replay_bytes", 1.5)])
def test_a_budget_that_is_none_changes_nothing(tmp_path: Path, name: str, value: object) -> None:
    with Learner.create(tmp_path / "a.ecl") as learner:
        learner.learn(*batches(1)[0])
        with pytest.raises(InputError, match=name):
            learner.resize(**{name: value})  # type: ignore[arg-type]
        with pytest.raises(InputError, match="found neither"):
            learner.resize()
        assert learner.history_bytes == 32_000_000
        assert learner.replay_usage()["limit"] == 1_000_000


def test_a_reader_sees_a_new_budget(tmp_path: Path) -> None:
    with Learner.create(tmp_path / "a.ecl") as learner, Learner.open(tmp_path / "a.ecl", read_only=True) as reader:
        learner.learn(*batches(1)[0])
        assert reader.replay_usage()["limit"] == 1_000_000
        learner.resize(replay_bytes=2000)
        assert reader.replay_usage()["limit"] == 2000


def test_a_damaged_version_can_be_left_for_an_earlier_one(tmp_path: Path, command: list[str]) -> None:
    path = tmp_path / "a.ecl"
    with Learner.create(path) as learner:
        for batch in batches(3):
            learner.learn(*batch)
        kept = store.load_kept(learner._state._connection)
        weights = int(kept[-1].ids[kept[-1].places("weights")][0])
        good = bits_of_version(learner, 2)
        learner._state._connection.execute("UPDATE chunks SET data = zeroblob(9) WHERE id = ?", (weights,))
    found = subprocess.run([*command, "check", path], capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert "version 3: weights: chunk" in found.stderr
    assert f"edge-cl rollback {path}" in found.stderr
    done = subprocess.run([*command, "rollback", path, "2"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with Learner.open(path) as learner:
        assert bits(learner) == good


def bits_of_version(learner: Learner, version: int) -> dict[str, bytes]:
    memory = learner._state.read_memory(version)
    assert isinstance(memory, Memory)
    return to_parts(memory)
