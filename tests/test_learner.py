"""The Python contract, and that bad input changes no bit."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_cl import EdgeClError, Learner
from edge_cl.errors import InputError, StateError
from edge_cl.recipes import RECIPES

from .conftest import Photos, clusters

DIM = 24


def learner_of(n_classes: int = 4, **options: Any) -> Learner:
    learner = Learner.create(":memory:", **options)
    learner.learn(*clusters(n_classes, 10, DIM))
    return learner


def test_photos_in_answers_out(tmp_path: Path, photos: Photos) -> None:
    root = photos("door", "mailbox", "bicycle")
    with Learner.create(tmp_path / "cam.ecl", backbone="tiny") as learner:
        report = learner.learn_folder(root)
        assert report.committed
        assert report.version == learner.version == 1
        assert report.new_classes == learner.classes == ("bicycle", "door", "mailbox")
        assert report.n_samples == 18
        assert 0 <= report.accuracy_before <= report.accuracy_after <= 1
        assert report.retention == 1.0
        assert 0 < report.seconds_extracting < report.seconds
        fresh = photos("door", "mailbox", folder="fresh", seed=5)
        paths = [str(fresh / "door" / "0.png"), str(fresh / "mailbox" / "3.png")]
        found = learner.predict(paths, top=2)
        assert found.labels == ("door", "mailbox")
        assert found.probabilities.shape == (2, 3)
        np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, rtol=1e-5)
        assert [row[0][0] for row in found.top] == ["door", "mailbox"]
        assert len(found.top[0]) == 2
        assert found.top[0][0][1] > found.top[0][1][1]
        images = np.stack([np.asarray(Image.open(path)) for path in paths])
        np.testing.assert_array_equal(learner.predict(images).probabilities, found.probabilities)
        result = learner.evaluate(paths, ["door", "unknown"])
        assert (result.accuracy, result.class_mean_accuracy, result.n) == (0.5, 0.5, 2)
        assert result.per_class == {"door": 1.0, "unknown": 0.0}
        assert result.ms_per_sample > 0


def test_a_class_is_added_by_its_name_at_any_time() -> None:
    x, names = clusters(6, 10, DIM)
    with learner_of() as learner:
        report = learner.learn(x[40:], names[40:])
        assert report.new_classes == ("c4", "c5")
        assert learner.classes == ("c0", "c1", "c2", "c3", "c4", "c5")
        again = learner.learn(x[:20], names[:20])
        assert again.new_classes == ()
        assert learner.evaluate(x, names).accuracy > 0.9


def test_log_and_bytes_tell_what_happened() -> None:
    with learner_of(replay_bytes=1000) as learner:
        learner.learn(*clusters(5, 4, DIM, seed=3))
        first, second = learner.versions()
        assert (first.version, first.parent, first.n_samples) == (1, 0, 40)
        assert (second.parent, second.new_classes, second.recipe, second.seed) == (1, ("c4",), "edge", 0)
        sizes = learner.state_bytes
        assert set(sizes) == {"head", "statistics", "fisher", "replay", "versions"}
        companion = 5 * 8 + 5 * (DIM + 1) * 4
        assert sizes["head"] == 5 * (DIM + 1) * 4 + len('["c0", "c1", "c2", "c3", "c4"]') + companion
        latest = 16 + 4 * (16 + 4 * DIM)  # of the four old classes, which could be a new look of them
        assert sizes["statistics"] == 5 * 8 + 5 * DIM * 4 + DIM * (DIM + 1) // 2 * 4 + latest
        usage = learner.replay_usage()
        assert (
            usage["bytes"] == sizes["replay"] == usage["samples"] * usage["bytes_per_sample"] <= usage["limit"] == 1000
        )


@pytest.mark.parametrize("recipe", RECIPES)
def test_closing_and_opening_between_updates_gives_the_same_bits(tmp_path: Path, recipe: str) -> None:
    x, names = clusters(8, 12, DIM)
    parts = np.array_split(np.arange(len(x)), 6)
    room = 100_000 if recipe == "joint" else 2000
    with Learner.create(tmp_path / "a.ecl", recipe=recipe, replay_bytes=room) as learner:
        for rows in parts:
            learner.learn(x[rows], [names[row] for row in rows], min_retention=0)
        whole = learner.head
    Learner.create(tmp_path / "b.ecl", recipe=recipe, replay_bytes=room).close()
    for rows in parts:
        with Learner.open(tmp_path / "b.ecl") as learner:
            learner.learn(x[rows], [names[row] for row in rows], min_retention=0)
    with Learner.open(tmp_path / "b.ecl", read_only=True) as learner:
        np.testing.assert_array_equal(learner.head.weights, whole.weights)
        np.testing.assert_array_equal(learner.head.bias, whole.bias)


def test_photos_give_the_same_bits_twice(tmp_path: Path, photos: Photos) -> None:
    root, heads = photos("a", "b", "c"), []
    for name in ("1.ecl", "2.ecl"):
        with Learner.create(tmp_path / name, backbone="tiny", seed=7) as learner:
            learner.learn_folder(root)
            heads.append(learner.head)
    np.testing.assert_array_equal(heads[0].weights, heads[1].weights)


def test_an_update_that_forgets_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    x, names = clusters(4, 20, DIM)
    with Learner.create(tmp_path / "a.ecl") as learner:
        learner.learn(x, names)
    before = (tmp_path / "a.ecl").read_bytes()
    y, others = clusters(4, 200, DIM, seed=5)
    swapped = [{"c0": "c1", "c1": "c0"}.get(name, name) for name in others]
    with Learner.open(tmp_path / "a.ecl") as learner:
        report = learner.learn(y, swapped)
        assert not report.committed
        assert report.retention < 0.95
        assert (report.version, learner.version) == (1, 1)
        assert learner.evaluate(x, names).accuracy > 0.95
    assert (tmp_path / "a.ecl").read_bytes() == before
    with Learner.open(tmp_path / "a.ecl") as learner:
        assert learner.learn(y, swapped, min_retention=0).committed


def test_one_class_alone_is_learnt() -> None:
    with Learner.create(":memory:") as learner:
        assert learner.learn(np.ones((1, DIM)), ["only"]).committed
        found = learner.predict(np.zeros((2, DIM)))
        assert found.labels == ("only", "only")
        np.testing.assert_array_equal(found.probabilities, 1)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    "x",
    [
        np.zeros((6, 3)),
        np.ones((6, 3)) * 1e11,
        np.eye(6) * 1e-20,
        np.repeat(np.eye(2), 3, axis=0),
        np.array([[1e11], [1e-9], [0], [-5], [3], [3]]),
    ],
)
def test_degenerate_features_give_finite_answers(recipe: str, x: np.ndarray) -> None:
    with Learner.create(":memory:", recipe=recipe, replay_bytes=500) as learner:
        for names in (["a", "b", "a", "b", "a", "b"], ["c", "a", "b", "c", "c", "c"]):
            learner.learn(x, names, min_retention=0)
            assert np.isfinite(learner.predict(x).probabilities).all()


def logical_hash(learner: Learner) -> str:
    dump = "\n".join(learner._state._connection.iterdump())
    return hashlib.sha256(dump.encode()).hexdigest()


@pytest.mark.parametrize(
    ("samples", "labels"),
    [
        (np.zeros((2, DIM + 1)), ["a", "b"]),
        (np.full((2, DIM), np.nan), ["a", "b"]),
        (np.full((2, DIM), np.inf), ["a", "b"]),
        (np.zeros((2, DIM)), ["a"]),
        (np.zeros((2, DIM)), ["a", ""]),
        (np.zeros((2, DIM)), ["a", "x\ny"]),
        (np.zeros((2, DIM)), ["a", 0.5]),
        (np.zeros((0, DIM)), []),
        ([], []),
        (["photo.jpg"], ["a"]),
        ("photo.jpg", ["a"]),
        (np.zeros((2, DIM), complex), ["a", "b"]),
        (np.zeros((2, 4, 4, 3), np.uint8), ["a", "b"]),
    ],
)
def test_bad_samples_are_one_line_and_change_nothing(samples: Any, labels: list[Any]) -> None:
    with learner_of() as learner:
        before = logical_hash(learner)
        with pytest.raises(InputError) as caught:
            learner.learn(samples, labels)
        assert "\n" not in str(caught.value)
        assert logical_hash(learner) == before


@pytest.mark.parametrize(
    "options",
    [
        {"recipe": "magic"},
        {"device": "tpu"},
        {"replay_bytes": -1},
        {"replay_bytes": 1.5},
        {"seed": -1},
        {"seed": True},
        {"backbone": "no.onnx"},
        {"preprocessing": {"mean": (0, 0, 0)}},
        {"backbone": "tiny", "preprocessing": {"mean": (0, 0, 0)}},
    ],
)
def test_bad_options_make_no_file(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(EdgeClError):
        Learner.create(tmp_path / "a.ecl", **options)
    assert list(tmp_path.iterdir()) == []


def test_questions_before_the_first_learn_are_answered_with_what_to_type() -> None:
    with Learner.create(":memory:") as learner:
        assert learner.classes == ()
        assert learner.version == 0
        assert learner.versions() == ()
        for ask in (lambda: learner.predict(np.zeros((1, 3))), lambda: learner.export("x.onnx")):
            with pytest.raises(StateError, match="edge-cl learn"):
                ask()


@pytest.mark.parametrize("top", [0, -1, 1.5, True])
def test_top_is_a_count(top: Any) -> None:
    with learner_of() as learner, pytest.raises(InputError, match="top"):
        learner.predict(np.zeros((1, DIM)), top=top)


@pytest.mark.parametrize("min_retention", [-0.1, 1.1, "x", float("nan")])
def test_min_retention_is_a_share(min_retention: Any) -> None:
    with learner_of() as learner, pytest.raises(InputError, match="min_retention"):
        learner.learn(np.zeros((1, DIM)), ["a"], min_retention=min_retention)


def test_unreadable_photos_are_skipped_or_refused(tmp_path: Path, photos: Photos) -> None:
    root = photos("a", "b")
    (root / "a" / "broken.jpg").write_bytes(b"nothing")
    (root / "b" / "empty.png").write_bytes(b"")
    with Learner.create(tmp_path / "a.ecl", backbone="tiny") as learner:
        with pytest.raises(InputError, match=r"broken\.jpg: not an image .*strict"):
            learner.learn_folder(root, strict=True)
        assert learner.version == 0
        report = learner.learn_folder(root)
        assert report.n_samples == 12
        assert sorted(Path(item.path).name for item in report.skipped) == ["broken.jpg", "empty.png"]
        assert learner._current.memory().statistics.counts.sum() == 12
        with pytest.raises(InputError, match=r"broken\.jpg"):
            learner.predict([str(root / "a" / "broken.jpg")])
        found = learner.predict([str(root / "a" / "broken.jpg"), str(root / "a" / "0.png")], strict=False)
        assert found.labels == ("a",)
        assert found.rows.tolist() == [1]
        with pytest.raises(InputError, match="at least one that can be read"):
            learner.learn([str(root / "a" / "broken.jpg")], ["a"])
