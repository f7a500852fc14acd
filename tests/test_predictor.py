"""A predictor takes every new head whole, between two calls, and goes on with the old one when a new one is broken."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edge_cl import Learner, Predictor
from edge_cl.errors import BackboneMismatchError, EdgeClError, ExportError, InputError, StateError
from edge_cl.export.tensors import tensors_of
from edge_cl.files import write_whole
from edge_cl.head import Head

from .conftest import Photos, clusters
from .exported import DIM, FORMS, asked

Array = NDArray[Any]


def wait_for(is_so: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until something is so, or fail."""
    limit = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < limit, "it did not come"
        time.sleep(0.005)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["state", "model", "head", "live"])
def test_it_answers_as_the_learner_bit_for_bit(tmp_path: Path, form: str, kind: str) -> None:
    learner = FORMS[form]()
    if kind == "state":
        with Learner.create(tmp_path / "a", head=learner.head_kind, random_features=32 * (form == "randomised")) as own:
            x, names = clusters(4, 10, DIM)
            own.learn(x, x[:, :2] if form == "regression" else names, task="t" if form == "tasks" else None)
            task = "t" if form == "tasks" else None
            want = own.predict(asked(), top=2, task=task)
        source: Path = tmp_path / "a"
    else:
        source = tmp_path / "a.onnx"
        learner.export(source, kind)
        task = "back" if form == "tasks" else None
        want = learner.predict(asked(), top=2, task=task)
    with Predictor(source, poll_seconds=0) as predictor:
        found = predictor.predict(asked(), top=2, task=task)
    np.testing.assert_array_equal(found.values, want.values)
    np.testing.assert_allclose(found.probabilities, want.probabilities, atol=1e-6)
    assert (found.labels, found.classes, found.version) == (want.labels, want.classes, want.version)
    assert [[name for name, _ in row] for row in found.top] == [[name for name, _ in row] for row in want.top]


@pytest.mark.parametrize("options", [{}, {"preprocess": True}, {"kind": "live"}, {"kind": "split"}])
def test_it_answers_images_with_the_backbone_of_the_export(
    tmp_path: Path, photos: Photos, options: dict[str, Any]
) -> None:
    folder = photos("x", "y")
    with Learner.create(tmp_path / "a.ecl", backbone="tiny") as learner:
        learner.learn_folder(folder)
        target = tmp_path / ("app" if options.get("kind") == "split" else "a.onnx")
        learner.export(target, **options)
        paths = [str(path) for path in sorted(folder.glob("*/*.png"))]
        want = learner.predict(paths)
    with Predictor(target) as predictor:
        found = predictor.predict(paths)
        np.testing.assert_allclose(found.probabilities, want.probabilities, atol=1e-5)
        assert found.labels == want.labels
        (tmp_path / "broken.png").write_bytes(b"no image")
        with pytest.raises(InputError, match="not an image"):
            predictor.predict([str(tmp_path / "broken.png")])
        assert predictor.predict([*paths, str(tmp_path / "broken.png")], strict=False).skipped


LEARNING = """
import sys
import numpy as np
from edge_cl import Learner
with Learner.open(sys.argv[1]) as learner:
    for n in range(3):
        learner.learn(np.random.default_rng(n).normal(size=(5, 12)), [f"new{n}"] * 5, min_retention=0)
"""


def test_what_another_process_learns_is_answered_with(tmp_path: Path) -> None:
    with Learner.create(tmp_path / "a.ecl") as learner:
        learner.learn(*clusters(2, 5, DIM))
    with Predictor(tmp_path / "a.ecl", poll_seconds=0.01) as predictor:
        assert len(predictor.classes) == 2
        subprocess.run([sys.executable, "-c", LEARNING, str(tmp_path / "a.ecl")], check=True)
        wait_for(lambda: predictor.version == 4)
        assert list(predictor.classes) == ["c0", "c1", "new0", "new1", "new2"]
        with Learner.open(tmp_path / "a.ecl") as learner:
            x = asked()
            np.testing.assert_array_equal(predictor.predict(x).probabilities, learner.predict(x).probabilities)
            learner.rollback(1)
            wait_for(lambda: predictor.version == 5)
            assert len(predictor.classes) == 2


def test_another_state_moved_into_its_place_is_answered_with(tmp_path: Path) -> None:
    for name, n_classes in (("a.ecl", 2), ("b.ecl", 3)):
        with Learner.create(tmp_path / name) as learner:
            learner.learn(*clusters(n_classes, 5, DIM))
    with Predictor(tmp_path / "a.ecl", poll_seconds=0) as predictor:
        assert not predictor.refresh()
        os.replace(tmp_path / "b.ecl", tmp_path / "a.ecl")
        assert predictor.refresh()
        assert not predictor.refresh()
        assert predictor.classes == ("c0", "c1", "c2")


def head_that_says(version: int, n_classes: int, dim: int) -> Head:
    """Return a head that answers class `version` of `n_classes`, whose names all say the version."""
    weights, bias = np.zeros((n_classes, dim), np.float32), np.zeros(n_classes, np.float32)
    bias[version % n_classes] = version + 1
    return Head(tuple(f"v{version}-{k}" for k in range(n_classes)), weights, bias)


def exports_of(folder: Path, n_heads: int) -> list[Path]:
    """Return exported heads, each of which answers with its own version by names of its own."""
    paths = []
    for version in range(n_heads):
        with Learner.create(":memory:") as learner:
            learner.learn(*clusters(2, 3, DIM))
            current = learner._current
            memory, head = current.memory(), head_that_says(version, 2 + version, DIM)
            current._memory = replace(memory, head=head)
            current._head, current._version = head, version
            paths.append(folder / f"{version}.onnx")
            learner.export(paths[-1], "head")
    return paths


class Asking:
    """What threads ask, and what they found wrong."""

    def __init__(self, samples: Array) -> None:
        self.samples = samples
        self.errors: list[str] = []
        self.seen: set[int] = set()
        self.is_done = threading.Event()

    @contextlib.contextmanager
    def with_threads(self, predictor: Predictor) -> Iterator[None]:
        """Let four threads ask meanwhile."""
        threads = [threading.Thread(target=self.ask, args=(predictor,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.is_done.set()
            for thread in threads:
                thread.join()

    def ask(self, predictor: Predictor) -> None:
        """Compare answers with those of the head whose version they name, until it is done."""
        try:
            while not self.is_done.is_set():
                found = predictor.predict(self.samples)
                want = head_that_says(found.version, 2 + found.version, DIM)
                label = want.classes[int(want.bias.argmax())]
                if found.classes != want.classes or set(found.labels) != {label}:
                    self.errors.append(f"{found.version}: {found.classes} {found.labels}")
                if not np.array_equal(found.probabilities, want.predict(self.samples)):
                    self.errors.append(f"{found.version}: {found.probabilities}")
                self.seen.add(found.version)
        except Exception as error:  # a thread's exception would be lost
            self.errors.append(repr(error))


@pytest.mark.parametrize("is_watched", [False, True])
def test_four_threads_never_see_names_of_one_head_and_weights_of_another(tmp_path: Path, is_watched: bool) -> None:
    paths = exports_of(tmp_path, 6)
    served = tmp_path / "served.onnx"
    os.link(paths[0], served)
    x = asked(4)
    asking = Asking(x)
    with Predictor(served, poll_seconds=0.001 if is_watched else 0) as predictor, asking.with_threads(predictor):
        for n in range(400):
            os.link(paths[(n + 1) % 6], tmp_path / "next.onnx")
            os.replace(tmp_path / "next.onnx", served)
            if not is_watched:
                assert predictor.refresh()
        if is_watched:
            wait_for(lambda: predictor.version == 400 % 6)
        wait_for(lambda: predictor.version in asking.seen)
    assert asking.errors == []
    assert len(asking.seen) > 1


def test_a_file_that_changes_while_it_is_read_and_back_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A is seen, B is read in its place, and then A is there again: B must not go on answering."""
    first, other = exports_of(tmp_path, 2)
    served = tmp_path / "served.onnx"

    def put(path: Path) -> None:
        os.link(path, tmp_path / "next.onnx")
        os.replace(tmp_path / "next.onnx", served)

    put(other)
    with Predictor(served, poll_seconds=0) as predictor:
        read = predictor._source.read
        put(first)

        def read_meanwhile() -> Any:
            put(other)
            found = read()
            put(first)
            return found

        monkeypatch.setattr(predictor._source, "read", read_meanwhile)
        assert not predictor.refresh()  # B it was, which answers already
        monkeypatch.setattr(predictor._source, "read", read)
        assert predictor.refresh()
        assert predictor.version == 0


def _none(path: Path) -> None:
    path.write_bytes(b"")


def _short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def _flip(path: Path) -> None:
    model = onnx.load(path)
    weights = next(weight for weight in model.graph.initializer if weight.name == "head.weights")
    weights.raw_data = bytes([weights.raw_data[0] ^ 1]) + weights.raw_data[1:]
    write_whole(path, model.SerializeToString())


def _other_dim(path: Path) -> None:
    with Learner.create(":memory:") as learner:
        learner.learn(*clusters(2, 5, DIM + 1))
        learner.export(path, "head")


def _other_backbone(path: Path) -> None:
    with Learner.create(":memory:", backbone="tiny") as learner:
        learner.learn(np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3)).astype(np.uint8), ["a", "b"] * 2)
        learner.export(path, "head")


def _old_format(path: Path) -> None:
    model = onnx.load(path)
    next(entry for entry in model.metadata_props if entry.key == "edge_cl.format").value = "1"
    write_whole(path, model.SerializeToString())


BROKEN: dict[str, tuple[Callable[[Path], None], type[EdgeClError], str]] = {
    "empty": (_none, ExportError, "found 0 bytes of something else"),
    "cut short": (_short, ExportError, "a.onnx"),
    "a flipped bit": (_flip, ExportError, "damaged: its checksum"),
    "of other features": (_other_dim, BackboneMismatchError, "13 features"),
    "of a backbone": (_other_backbone, BackboneMismatchError, "expected none: features"),
    "of an older format": (_old_format, ExportError, "its format is 1, this edge_cl reads 2"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_head_is_refused_and_the_old_one_goes_on(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    learner = FORMS["linear"]()
    learner.export(tmp_path / "a.onnx", "head")
    spoil, kind, wanted = BROKEN[how]
    with Predictor(tmp_path / "a.onnx", poll_seconds=0) as predictor:
        before = predictor.predict(asked()).probabilities
        spoil(tmp_path / "a.onnx")
        with pytest.raises(kind, match=wanted) as caught:
            predictor.refresh()
        assert "\n" not in str(caught.value)
        assert predictor.refused is caught.value
        np.testing.assert_array_equal(predictor.predict(asked()).probabilities, before)
        learner.learn(asked(), ["new"] * 40, min_retention=0)
        learner.export(tmp_path / "a.onnx", "head")
        assert predictor.refresh()
        assert predictor.refused is None
        assert "new" in predictor.classes
    with Predictor(tmp_path / "a.onnx", poll_seconds=0.005) as predictor, caplog.at_level("WARNING", "edge_cl"):
        spoil(tmp_path / "a.onnx")
        wait_for(lambda: predictor.refused is not None)
        wait_for(lambda: bool(caplog.records))
        assert f"version {predictor.version} goes on" in caplog.text
        (tmp_path / "a.onnx").unlink()  # and a file that is gone is no news
        time.sleep(0.05)
        assert "new" in predictor.predict(asked()).classes


def test_a_state_whose_classes_were_all_forgotten_goes_on_with_the_last_head(tmp_path: Path) -> None:
    with Learner.create(tmp_path / "a.ecl") as learner:
        with pytest.raises(StateError, match="has no classes yet"):
            Predictor(tmp_path / "a.ecl")
        learner.learn(asked(), ["a"] * 40)
        with Predictor(tmp_path / "a.ecl", poll_seconds=0) as predictor:
            learner.forget("a")
            with pytest.raises(StateError, match="has no classes yet"):
                predictor.refresh()
            assert predictor.classes == ("a",)


def test_what_cannot_be_served_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_text("hello")
    (tmp_path / "x.ecl").write_text("hello")
    (tmp_path / "empty").mkdir()
    FORMS["linear"]().export(tmp_path / "d.onnx", delta_from=0)
    for source, wanted in (
        (tmp_path / "x.onnx", "expected an ONNX model"),
        (tmp_path / "no.onnx", "cannot be read"),
        (tmp_path / "x.ecl", "expected a state file"),
        (tmp_path / "no.ecl", "no such state file"),
        (tmp_path / "empty", "cannot be read"),
        (tmp_path / "d.onnx", "is a delta"),
    ):
        with pytest.raises(EdgeClError, match=wanted) as caught:
            Predictor(source)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="poll_seconds"):
        Predictor(tmp_path / "x.onnx", poll_seconds=-1)
    with pytest.raises(InputError, match="leave it out"):
        Predictor(tmp_path / "x.onnx", backbone="tiny")
    FORMS["linear"]().export(tmp_path / "a.onnx", "head")
    predictor = Predictor(tmp_path / "a.onnx")
    with pytest.raises(InputError, match="top"):
        predictor.predict(asked(), top=0)
    with pytest.raises(InputError, match="expected features"):
        predictor.predict(np.zeros((2, 5), np.float32))
    predictor.close()
    assert predictor.predict(asked()).version == 1
    with pytest.raises(InputError, match="closed"):
        predictor.refresh()
    assert not [thread for thread in threading.enumerate() if thread.name == "edge_cl-watch"]


def test_a_patch_is_taken_without_a_file_being_replaced(tmp_path: Path) -> None:
    learner = FORMS["looking"]()
    learner.export(tmp_path / "a.onnx", "head")
    version = learner.version
    with Predictor(tmp_path / "a.onnx", poll_seconds=0) as predictor:
        for step in range(2):
            learner.learn(asked(), [f"new{step}"] * 40, min_retention=0)
            learner.export(tmp_path / "d.onnx", delta_from=version)
            version = learner.version
            assert predictor.patch(tmp_path / "d.onnx") == version
            found = predictor.predict(asked())
            np.testing.assert_allclose(found.probabilities, learner.predict(asked()).probabilities, atol=1e-6)
        assert not predictor.refresh()
        assert predictor.version == version
    assert list(tensors_of(learner.head))
