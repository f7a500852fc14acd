"""What must not happen around an export: the wrong features, a lost file, a new head that is never seen."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image

from edge_cl import Learner, Predictor
from edge_cl.errors import BackboneMismatchError, EdgeClError, ExportError, InputError
from edge_cl.export.patch import patch_file
from edge_cl.state import StateFile

from .conftest import Photos, clusters
from .exported import DIM, FORMS, asked, run

Array = NDArray[Any]


@pytest.fixture
def backbone(tmp_path: Path, photos: Photos) -> Path:
    """Return a classifier that another learner has as its backbone, and that says nothing of preprocessing."""
    with Learner.create(":memory:", backbone="tiny") as learner:
        learner.learn_folder(photos("p", "q", folder="first"))
        learner.export(tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    kept = [entry for entry in model.metadata_props if entry.key == "edge_cl.features"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def seeing(path: Path, folder: Path, backbone: str | Path = "tiny", **options: Any) -> Learner:
    learner = Learner.create(path, backbone=backbone, **options)
    learner.learn_folder(folder)
    return learner


def test_a_head_for_other_preprocessing_takes_no_ones_place(tmp_path: Path, photos: Photos, backbone: Path) -> None:
    folder = photos("x", "y")
    other = {"scale": 1 / 255, "mean": (0.0, 0.0, 0.0), "std": (0.2, 0.2, 0.2)}
    with seeing(tmp_path / "a.ecl", folder, backbone) as learner:
        learner.export(tmp_path / "app", "split")
        learner.export(tmp_path / "a.onnx", preprocess=True)
    with seeing(tmp_path / "b.ecl", folder, backbone, preprocessing=other) as learner:
        learner.export(tmp_path / "head.onnx", "head")
        learner.export(tmp_path / "d.onnx", delta_from=0)
        with pytest.raises(BackboneMismatchError, match="is of preprocessing"):
            learner.verify(tmp_path / "a.onnx")
    before = (tmp_path / "a.onnx").read_bytes()
    with pytest.raises(BackboneMismatchError, match="is of preprocessing"):
        patch_file(tmp_path / "a.onnx", tmp_path / "d.onnx", tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == before
    with Predictor(tmp_path / "app", poll_seconds=0) as predictor:
        shutil.copy(tmp_path / "head.onnx", tmp_path / "app" / "head.onnx")
        with pytest.raises(BackboneMismatchError, match="is of preprocessing"):
            predictor.refresh()
    with Predictor(tmp_path / "a.ecl", poll_seconds=0) as predictor:
        os.replace(tmp_path / "b.ecl", tmp_path / "a.ecl")
        with pytest.raises(BackboneMismatchError, match="is of preprocessing"):
            predictor.refresh()


def test_a_delta_of_another_backbone_is_refused_even_from_nothing(tmp_path: Path, photos: Photos) -> None:
    with seeing(tmp_path / "a.ecl", photos("x", "y")) as learner:
        learner.export(tmp_path / "a.onnx")
        learner.export(tmp_path / "head.onnx", "head")
    FORMS["linear"]().export(tmp_path / "d.onnx", delta_from=0)
    for name in ("a.onnx", "head.onnx"):
        with pytest.raises(BackboneMismatchError, match="cannot be put into"):
            patch_file(tmp_path / name, tmp_path / "d.onnx", tmp_path / "out.onnx")
        with Predictor(tmp_path / name, poll_seconds=0) as predictor:
            with pytest.raises(BackboneMismatchError):
                predictor.patch(tmp_path / "d.onnx")
            assert predictor.n_inputs == 256
    assert not (tmp_path / "out.onnx").exists()


def test_no_file_of_the_user_is_replaced(tmp_path: Path, photos: Photos, backbone: Path) -> None:
    """Not the export by its card, not the backbone where it lies now, not a state's log, not a split's backbone."""
    with seeing(tmp_path / "a.ecl", photos("x", "y"), backbone) as learner:
        learner.export(tmp_path / "app", "split", card=tmp_path / "app" / "card.md")
    moved = backbone.rename(tmp_path / "moved.onnx")
    with Learner.open(tmp_path / "a.ecl", backbone=moved) as learner:
        before = {path: path.read_bytes() for path in (moved, *(tmp_path / "app").iterdir())}
        refused: list[Callable[[], object]] = [
            lambda: learner.export(tmp_path / "b.onnx", card=tmp_path / "b.onnx"),
            lambda: learner.export(tmp_path / "app", "split", card=tmp_path / "app" / "head.onnx"),
            lambda: learner.export(tmp_path / "app", "split", card=tmp_path / "app" / "backbone.onnx"),
            lambda: learner.export(moved),
            lambda: learner.export(tmp_path / "app" / "backbone.onnx"),
            lambda: learner.export(tmp_path / "a.ecl-wal"),
            lambda: learner.export(tmp_path / "a.ecl-shm", "head"),
            lambda: learner.export(tmp_path / ("x" * 300), "head"),
            lambda: learner.export(tmp_path / "a\0b", "head"),
        ]
        for attempt in refused:
            with pytest.raises(ExportError) as caught:
                attempt()
            assert "\n" not in str(caught.value)
        (tmp_path / "link.onnx").symlink_to(tmp_path / "real.onnx")
        learner.export(tmp_path / "link.onnx", "head")
        assert (tmp_path / "link.onnx").is_symlink()
        assert (tmp_path / "real.onnx").is_file()
    assert {path: path.read_bytes() for path in before} == before
    assert not (tmp_path / "b.onnx").exists()


def test_head_and_delta_do_without_the_backbones_file(tmp_path: Path, photos: Photos, backbone: Path) -> None:
    seeing(tmp_path / "a.ecl", photos("x", "y"), backbone).close()
    backbone.unlink()
    with Learner.open(tmp_path / "a.ecl", check=False) as learner:
        learner.export(tmp_path / "head.onnx", "head")
        learner.export(tmp_path / "d.onnx", delta_from=0)
        assert learner.verify(tmp_path / "head.onnx").n_classes == 2


@pytest.mark.parametrize("options", [{}, {"kind": "live"}, {"cam": True, "top_k": 2, "features": True}])
def test_an_export_is_cut_at_its_features_when_it_is_a_backbone_again(
    tmp_path: Path, photos: Photos, options: dict[str, Any]
) -> None:
    folder = photos("x", "y")
    with seeing(tmp_path / "a.ecl", folder) as learner:
        learner.export(tmp_path / "a.onnx", **options)
        learner.export(tmp_path / "app", "split")
        assert learner.backbone is not None
        images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
        want = learner.backbone.extract(list(images)).features
    for path in (tmp_path / "a.onnx", tmp_path / "app" / "backbone.onnx"):
        with Learner.create(":memory:", backbone=path) as again:
            assert again.backbone is not None
            np.testing.assert_allclose(again.backbone.extract(list(images)).features, want, atol=1e-5)
            again.learn_folder(folder)
            again.export(tmp_path / "again.onnx", cam=True, top_k=1)


def _reverse_kernels(path: Path) -> None:
    """Turn the largest weights around: a sound graph of another function."""
    model = onnx.load(path)
    for weight in model.graph.initializer:
        value = numpy_helper.to_array(weight)
        if value.ndim == 4:
            weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value[::-1, ::-1]), weight.name))
    onnx.save(model, path)


@pytest.mark.parametrize("options", [{}, {"fp16": True}, {"int8": True}])
def test_a_backbone_that_was_tampered_with_does_not_verify(
    tmp_path: Path, photos: Photos, options: dict[str, Any]
) -> None:
    folder = photos("x", "y", n_images=8)
    with seeing(tmp_path / "a.ecl", folder) as learner:
        given: dict[str, Any] = {"images": folder, "max_loss": 1} if options else {}
        learner.export(tmp_path / "a.onnx", **options, **given)
        assert learner.verify(tmp_path / "a.onnx", images=folder).n_samples == 16
        assert learner.verify(tmp_path / "a.onnx").n_samples == 2
        _reverse_kernels(tmp_path / "a.onnx")
        with pytest.raises(ExportError, match="does not agree"):
            learner.verify(tmp_path / "a.onnx", images=folder)
        learner.export(tmp_path / "app", "split", **options, **given)
        _reverse_kernels(tmp_path / "app" / "backbone.onnx")
        for use in (lambda: learner.export(tmp_path / "app", "split", **options), lambda: Predictor(tmp_path / "app")):
            with pytest.raises(ExportError, match=r"backbone\.onnx: damaged: its checksum"):
                use()


def test_small_values_of_a_regression_are_held_to_their_own_size(tmp_path: Path) -> None:
    x, _ = clusters(4, 10, DIM)
    learner = Learner.create(":memory:", head="regression")
    learner.learn(x, x[:, 0] * 1e-5)
    learner.export(tmp_path / "a.onnx")
    learner.verify(tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    model.graph.initializer.append(numpy_helper.from_array(np.array([5e-6], np.float32), "other"))
    gemm.input[2] = "other"
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(ExportError, match="values in onnxruntime differ"):
        learner.verify(tmp_path / "a.onnx")


def test_answers_to_unknown_classes_count_as_agreement(tmp_path: Path, photos: Photos) -> None:
    """Of names that no class has, accuracy would be 0 before and after, and nothing could be refused."""
    with seeing(tmp_path / "a.ecl", photos("x", "y")) as learner:
        report = learner.export(tmp_path / "a.onnx", fp16=True, images=photos("u", "v", folder="unknown"))
    assert report.backbone_loss is not None
    assert report.backbone_loss.before == 1.0
    with Learner.create(tmp_path / "t.ecl", backbone="tiny") as learner:
        learner.learn_folder(tmp_path / "photos", task="front")
        report = learner.export(tmp_path / "t.onnx", fp16=True, images=tmp_path / "photos")
        assert report.backbone_loss is not None
        assert report.backbone_loss.before == 1.0


def test_photos_that_are_none_are_named(tmp_path: Path, photos: Photos) -> None:
    with seeing(tmp_path / "a.ecl", photos("x", "y")) as learner:
        (tmp_path / "photos" / "x" / "0.png").write_text("no image")
        for options in ({}, {"preprocess": True}, {"int8": True}):
            with pytest.raises(InputError, match=r"0\.png: not an image"):
                learner.export(tmp_path / "a.onnx", images=tmp_path / "photos", **options)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="images: expected a folder or paths; found int"):
            learner.export(tmp_path / "a.onnx", images=5)  # type: ignore[arg-type]
    assert not (tmp_path / "a.onnx").exists()


WATCHING = """
import os, sys, time
from edge_cl import Predictor
os.setgid(65534)
os.setuid(65534)
with Predictor(sys.argv[1], poll_seconds=0.02) as predictor:
    print(predictor.version, flush=True)
    limit = time.monotonic() + 60
    while predictor.version < 4 and time.monotonic() < limit:
        time.sleep(0.01)
    print(predictor.version, predictor.refused, flush=True)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user for a while")
def test_who_may_only_read_sees_what_is_learnt(tmp_path: Path) -> None:
    """An app of another user, beside the service that learns: SQLite gives it a view that stands still."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    with Learner.create(tmp_path / "a.ecl") as learner:
        learner.learn(*clusters(2, 5, DIM))
    watching = subprocess.Popen(
        [sys.executable, "-c", WATCHING, str(tmp_path / "a.ecl")], stdout=subprocess.PIPE, text=True
    )
    assert watching.stdout is not None
    assert watching.stdout.readline() == "1\n"
    for n in range(3):
        with Learner.open(tmp_path / "a.ecl") as learner:
            learner.learn(asked(), [f"new{n}"] * 40, min_retention=0)
    out, _ = watching.communicate(timeout=90)
    assert out == "4 None\n"


def test_what_was_refused_is_looked_at_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A state that is copied slowly into its place is damaged until it is whole, and then it is taken."""
    with Learner.create(tmp_path / "a.ecl") as learner:
        learner.learn(*clusters(2, 5, DIM))
        learner.learn(asked(), ["new"] * 40, min_retention=0)
    shutil.copy(tmp_path / "a.ecl", tmp_path / "b.ecl")
    with Learner.open(tmp_path / "a.ecl") as learner:
        learner.rollback(1)
    data = (tmp_path / "b.ecl").read_bytes()
    with Predictor(tmp_path / "a.ecl", poll_seconds=0.01) as predictor, caplog.at_level("WARNING", "edge_cl"):
        assert int(predictor.version) == 3
        (tmp_path / "a.ecl").unlink()
        for end in (100, 20_000, len(data) // 2):
            (tmp_path / "a.ecl").write_bytes(data[:end])
            time.sleep(0.1)
        assert int(predictor.version) == 3
        assert str(predictor.refused) != "None"
        shutil.copy(tmp_path / "b.ecl", tmp_path / "a.ecl")  # in place, under the same inode
        limit = time.monotonic() + 20
        while predictor.version != 2 and time.monotonic() < limit:
            time.sleep(0.01)
        assert int(predictor.version) == 2
        assert str(predictor.refused) == "None"
        assert len(caplog.records) <= 6  # each reason once, and not at every look


def test_a_large_jpeg_is_proven_with_all_its_pixels(tmp_path: Path, photos: Photos) -> None:
    """The learner decodes it at a quarter; the graph sees the whole photo, and is right to answer otherwise."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (900, 1200, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.jpg", quality=90)
    with seeing(tmp_path / "a.ecl", photos("x", "y")) as learner:
        learner.export(tmp_path / "a.onnx", preprocess=True, images=[tmp_path / "large.jpg"])
        assert learner.verify(tmp_path / "a.onnx", images=[tmp_path / "large.jpg"]).n_samples == 1


def test_a_state_whose_files_stand_still_is_not_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Learner.create(tmp_path / "a.ecl") as learner:
        learner.learn(*clusters(2, 5, DIM))
    opened: list[str] = []
    real = StateFile.open

    def counted(path: str, **options: Any) -> StateFile:
        opened.append(path)
        return real(path, **options)

    monkeypatch.setattr(StateFile, "open", counted)
    with Predictor(tmp_path / "a.ecl", poll_seconds=0) as predictor:
        with Learner.open(tmp_path / "a.ecl") as learner:
            for n in range(5):
                learner.learn(asked(), [f"new{n}"] * 40, min_retention=0)
                assert predictor.refresh()
            del opened[:]
            assert not any(predictor.refresh() for _ in range(10))
            assert opened == []
        for _ in range(10):  # the log was folded in: the files changed, the version did not
            assert not predictor.refresh()
        assert len(opened) <= 2


def test_tensors_in_another_file_are_refused_and_the_watcher_lives(tmp_path: Path) -> None:
    learner = FORMS["linear"]()
    learner.export(tmp_path / "a.onnx", "head")
    model = onnx.load(tmp_path / "a.onnx")
    with Predictor(tmp_path / "a.onnx", poll_seconds=0.01) as predictor:
        onnx.save(model, tmp_path / "b.onnx", save_as_external_data=True, location="b.data", size_threshold=0)
        os.replace(tmp_path / "b.onnx", tmp_path / "a.onnx")
        limit = time.monotonic() + 20
        while predictor.refused is None and time.monotonic() < limit:
            time.sleep(0.01)
        assert "its tensors are in another file" in str(predictor.refused)
        assert [thread for thread in threading.enumerate() if thread.name == "edge_cl-watch"]
        learner.learn(asked(), ["new"] * 40, min_retention=0)
        learner.export(tmp_path / "a.onnx", "head")
        while predictor.version != 2 and time.monotonic() < limit:
            time.sleep(0.01)
        assert predictor.version == 2


def test_random_features_are_not_drawn_anew_for_each_head(tmp_path: Path) -> None:
    learner = FORMS["randomised"]()
    learner.export(tmp_path / "a.onnx", "head")
    with Predictor(tmp_path / "a.onnx", poll_seconds=0) as predictor:
        drawn = predictor._served.feature_map._drawn
        learner.learn(asked(), ["new"] * 40, min_retention=0)
        learner.export(tmp_path / "a.onnx", "head")
        assert predictor.refresh()
        assert predictor._served.feature_map._drawn is drawn


def test_metadata_that_are_out_of_range_are_refused(tmp_path: Path) -> None:
    learner = FORMS["linear"]()
    for key, value in (
        ("edge_cl.version", "1" + "0" * 22),
        ("edge_cl.feature_map", json.dumps({"n_inputs": 10**11})),
        ("edge_cl.feature_map", json.dumps({"n_inputs": DIM, "constant": "q"})),
        ("edge_cl.feature_map", "[]"),
        ("edge_cl.options", "{"),
        ("edge_cl.classes", json.dumps(["c0", "c0", "c2", "c3"])),
        ("edge_cl.head", "magic"),
    ):
        learner.export(tmp_path / "a.onnx")
        model = onnx.load(tmp_path / "a.onnx")
        next(entry for entry in model.metadata_props if entry.key == key).value = value
        onnx.save(model, tmp_path / "a.onnx")
        for use in (lambda: learner.verify(tmp_path / "a.onnx"), lambda: Predictor(tmp_path / "a.onnx")):
            with pytest.raises(EdgeClError, match="damaged") as caught:
                use()
            assert "\n" not in str(caught.value)


def test_a_version_and_its_head_are_of_one_commit(tmp_path: Path) -> None:
    """While another process commits, each export verifies: its number and its rows belong together."""
    with Learner.create(tmp_path / "a.ecl") as learner:
        learner.learn(*clusters(3, 5, DIM))
    code = (
        "import sys, numpy as np\nfrom edge_cl import Learner\n"
        "with Learner.open(sys.argv[1]) as learner:\n"
        "    for n in range(40):\n"
        "        learner.learn(np.random.default_rng(n).normal(size=(4, 12)), ['c0'] * 4, min_retention=0)\n"
    )
    writing = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a.ecl")])
    found: set[int] = set()
    with Learner.open(tmp_path / "a.ecl", read_only=True) as learner:
        while writing.poll() is None:
            report = learner.export(tmp_path / "a.onnx", "head")
            found.add(report.version)
            learner.verify(tmp_path / "a.onnx")
            want = learner._current.state.read_memory(report.version)
            assert want is not None
            np.testing.assert_allclose(
                run(tmp_path / "a.onnx", "logits", features=asked())[0],
                want.head.logits(learner._current.settings.feature_map(DIM).apply(asked())),
                atol=1e-4,
            )
    assert writing.returncode == 0
    assert len(found) > 1
