"""Deltas, patches, verification and cards: what changed and nothing else, and whatever does not fit is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from edge_cl import Learner, Predictor
from edge_cl.errors import BackboneMismatchError, EdgeClError, ExportError, InputError
from edge_cl.export.delta import OLD, build_delta, rows_of
from edge_cl.export.patch import patch_file
from edge_cl.export.tensors import tensors_of

from .conftest import Photos, clusters
from .exported import DIM, FORMS, answers, asked, run

NEW = np.random.default_rng(77).normal(size=(20, DIM)).astype(np.float32)


def teach(learner: Learner, name: str = "new") -> None:
    """Let a learner of any form learn something more."""
    if learner.head_kind == "regression":
        learner.learn(NEW, NEW[:, :2], min_retention=0)
    else:
        task = "front" if learner.tasks else None
        learner.learn(np.abs(NEW), [name] * len(NEW), task=task, min_retention=0)


@pytest.mark.parametrize("is_int8", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_a_patched_file_is_the_whole_export_byte_for_byte(tmp_path: Path, form: str, is_int8: bool) -> None:
    learner = FORMS[form]()
    version, options = learner.version, {"int8": is_int8, "max_loss": 1.0}
    top: dict[str, Any] = {} if form == "regression" else {"top_k": 2}
    for kind in ("model", "head", "live"):
        learner.export(tmp_path / f"{kind}.onnx", kind, **options, **top)  # type: ignore[arg-type]
    teach(learner)
    learner.export(tmp_path / "d.onnx", delta_from=version, **options)  # type: ignore[arg-type]
    for kind in ("model", "head", "live"):
        patch_file(tmp_path / f"{kind}.onnx", tmp_path / "d.onnx", tmp_path / "patched.onnx")
        learner.export(tmp_path / "whole.onnx", kind, **options, **top)  # type: ignore[arg-type]
        assert (tmp_path / "patched.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()


def test_a_delta_carries_the_rows_that_changed_and_no_other() -> None:
    """Against the definition, for rows that changed, came, went and moved to other places."""
    rng = np.random.default_rng(0)
    old = {"head.weights": rng.normal(size=(30, 64)).astype(np.float32), "head.bias": np.zeros(30, np.float32)}
    weights = old["head.weights"][[3, 0, 1, 2, *range(8, 30)]].copy()
    weights[5] += 1
    new = {"head.weights": np.vstack([weights, weights[:1] * 2]), "head.bias": np.zeros(27, np.float32)}
    model = build_delta(old, new, {}, 1)
    assert rows_of(model) == 2
    rows = {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer}["head.weights.new"]
    np.testing.assert_array_equal(rows, new["head.weights"][[5, 26]])
    assert len(model.SerializeToString()) < new["head.weights"].nbytes / 3


def test_a_forgotten_class_leaves_the_rows_of_others(tmp_path: Path) -> None:
    learner = Learner.create(":memory:", recipe="replay")  # whose rows do not follow from shared sums
    learner.learn(*clusters(30, 5, 64))
    whole = learner.export(tmp_path / "a.onnx", "head")
    before = tensors_of(learner.head)
    learner.forget("c7")
    report = learner.export(tmp_path / "d.onnx", delta_from=0)
    assert report.n_rows == 29
    model = build_delta(before, tensors_of(learner.head), {}, 1)
    assert rows_of(model) == 0
    assert len(model.SerializeToString()) < whole.n_bytes / 3


@pytest.mark.parametrize("form", FORMS)
def test_a_delta_is_a_model_that_any_runtime_runs(tmp_path: Path, form: str) -> None:
    learner = FORMS[form]()
    before, version = tensors_of(learner.head), learner.version
    teach(learner)
    after = tensors_of(learner.head)
    learner.export(tmp_path / "d.onnx", delta_from=version)
    learner.export(tmp_path / "all.onnx", delta_from=0)
    for name, given in (("d.onnx", before), ("all.onnx", {})):
        session = onnxruntime.InferenceSession(str(tmp_path / name), providers=["CPUExecutionProvider"])
        assert {value.name for value in session.get_inputs()} <= {OLD + key for key in given}
        feeds = {value.name: given[value.name.removeprefix(OLD)] for value in session.get_inputs()}
        found = dict(zip([value.name for value in session.get_outputs()], session.run(None, feeds), strict=True))
        assert set(found) == set(after)
        for key, value in after.items():
            np.testing.assert_array_equal(found[key], value)
        reference: Any = ReferenceEvaluator(onnx.load(tmp_path / name)).run(list(after), feeds)
        for got, want in zip(reference, after.values(), strict=True):
            np.testing.assert_array_equal(got, want)


def test_a_live_session_goes_on_with_what_a_delta_gives(tmp_path: Path) -> None:
    """What an app in any language does: one session of the model, and a small one that makes the new tensors."""
    learner = FORMS["looking"]()
    learner.export(tmp_path / "live.onnx", "live")
    version = learner.version
    tensors: dict[str, Any] = dict(tensors_of(learner.head))
    for step in range(3):
        teach(learner, f"new{step}")
        learner.export(tmp_path / "d.onnx", delta_from=version)
        session = onnxruntime.InferenceSession(str(tmp_path / "d.onnx"), providers=["CPUExecutionProvider"])
        feeds = {value.name: tensors[value.name.removeprefix(OLD)] for value in session.get_inputs()}
        tensors = dict(zip([value.name for value in session.get_outputs()], session.run(None, feeds), strict=True))
        version = learner.version
        found = run(tmp_path / "live.onnx", "probabilities", features=asked(), **tensors)[0]
        np.testing.assert_allclose(found, answers(learner, asked()), atol=1e-5)


def _other_version(learner: Learner, path: Path) -> None:
    teach(learner, "one")
    teach(learner, "two")
    learner.export(path / "d.onnx", delta_from=learner.version - 1)


def _cut_short(learner: Learner, path: Path) -> None:
    learner.export(path / "whole.onnx", delta_from=0)
    (path / "d.onnx").write_bytes((path / "whole.onnx").read_bytes()[:400])


def _flipped(learner: Learner, path: Path) -> None:
    learner.export(path / "d.onnx", delta_from=0)
    model = onnx.load(path / "d.onnx")
    rows = next(weight for weight in model.graph.initializer if weight.name == "head.weights.new")
    rows.raw_data = bytes([rows.raw_data[0] ^ 1]) + rows.raw_data[1:]
    onnx.save(model, path / "d.onnx")


BROKEN: dict[str, tuple[Callable[[Learner, Path], object], str]] = {
    "of another version": (_other_version, "goes from version 2 to 3"),
    "cut short": (_cut_short, "d.onnx"),
    "a flipped bit": (_flipped, "damaged: its checksum"),
    "no delta": (lambda learner, path: learner.export(path / "d.onnx", "head"), "expected a delta; found an export"),
    "no onnx": (lambda _, path: (path / "d.onnx").write_text("hello"), "expected an ONNX model; found 5 bytes"),
    "nothing": (lambda *_: None, "cannot be read: No such file"),
    "of int8": (lambda learner, path: learner.export(path / "d.onnx", delta_from=0, int8=True), "int8"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_delta_that_does_not_fit_changes_nothing(tmp_path: Path, how: str) -> None:
    learner = FORMS["linear"]()
    learner.export(tmp_path / "a.onnx", "head")
    before = (tmp_path / "a.onnx").read_bytes()
    make, wanted = BROKEN[how]
    make(learner, tmp_path)
    with Predictor(tmp_path / "a.onnx", poll_seconds=0) as predictor:
        answer = predictor.predict(asked()).probabilities
        for use in (
            lambda: patch_file(tmp_path / "a.onnx", tmp_path / "d.onnx", tmp_path / "a.onnx"),
            lambda: predictor.patch(tmp_path / "d.onnx"),
        ):
            with pytest.raises(ExportError, match=wanted) as caught:
                use()
            assert "\n" not in str(caught.value)
        np.testing.assert_array_equal(predictor.predict(asked()).probabilities, answer)
    assert (tmp_path / "a.onnx").read_bytes() == before


def test_a_predictor_of_a_state_takes_no_delta(tmp_path: Path) -> None:
    with Learner.create(tmp_path / "a.ecl") as learner:
        learner.learn(*clusters(2, 5, DIM))
        learner.export(tmp_path / "d.onnx", delta_from=0)
        with Predictor(tmp_path / "a.ecl") as predictor, pytest.raises(InputError, match="no delta"):
            predictor.patch(tmp_path / "d.onnx")


@pytest.mark.parametrize("kind", ["model", "head", "live"])
@pytest.mark.parametrize("form", FORMS)
def test_every_export_verifies_and_an_older_one_against_its_own_version(tmp_path: Path, form: str, kind: str) -> None:
    learner = FORMS[form]()
    version = learner.version
    learner.export(tmp_path / "a.onnx", kind)
    assert learner.verify(tmp_path / "a.onnx").version == version
    teach(learner)
    assert learner.verify(tmp_path / "a.onnx").version == version
    learner.resize(history_bytes=0)
    with pytest.raises(ExportError, match=f"is of version {version}; .*expected {version + 1} to"):
        learner.verify(tmp_path / "a.onnx")


def _tamper(path: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


def _add_to_bias(model: onnx.ModelProto) -> None:
    """Change what the graph answers, and leave the head's own tensors as they are."""
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 0, 0, 0], np.float32), "other"))
    gemm.input[2] = "other"


def _rename(model: onnx.ModelProto) -> None:
    entry = next(entry for entry in model.metadata_props if entry.key == "edge_cl.classes")
    entry.value = entry.value.replace("c1", "c9")


TAMPERED: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "the graph": (_add_to_bias, "does not agree: logits in onnxruntime differ by"),
    "a name": (_rename, "damaged: its checksum"),
    "no metadata": (lambda model: model.ClearField("metadata_props"), "found an ONNX model without its metadata"),
    "a tensor": (lambda model: model.graph.initializer[0].dims.__setitem__(0, 3), "a.onnx"),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_what_was_tampered_with_does_not_verify(tmp_path: Path, how: str) -> None:
    learner = FORMS["linear"]()
    learner.export(tmp_path / "a.onnx")
    change, wanted = TAMPERED[how]
    _tamper(tmp_path / "a.onnx", change)
    with pytest.raises(ExportError, match=wanted) as caught:
        learner.verify(tmp_path / "a.onnx")
    assert "\n" not in str(caught.value)


def test_an_export_of_another_state_does_not_verify(tmp_path: Path, photos: Photos) -> None:
    learner, other = FORMS["linear"](), FORMS["raised"]()
    learner.export(tmp_path / "a.onnx")
    with pytest.raises(ExportError, match="is of head and feature map"):
        other.verify(tmp_path / "a.onnx")
    with Learner.create(tmp_path / "a.ecl", backbone="tiny") as seeing:
        seeing.learn_folder(photos("x", "y"))
        with pytest.raises(BackboneMismatchError, match="is of backbone none: features; expected"):
            seeing.verify(tmp_path / "a.onnx")
        seeing.export(tmp_path / "app", "split")
        assert seeing.verify(tmp_path / "app").kind == "split"
        seeing.export(tmp_path / "b.onnx", preprocess=True, fp16=True)
        assert seeing.verify(tmp_path / "b.onnx", images=photos("x", folder="more")).n_samples == 6
        os.replace(tmp_path / "a.onnx", tmp_path / "app" / "head.onnx")
        with pytest.raises(BackboneMismatchError, match="is of backbone none"):
            seeing.verify(tmp_path / "app")
        with pytest.raises(BackboneMismatchError, match="is of backbone none"):
            Predictor(tmp_path / "app")


def test_a_card_says_how_right_each_class_is_and_what_was_learnt_when(tmp_path: Path) -> None:
    learner = Learner.create(":memory:")
    x, names = clusters(3, 20, DIM, spread=4)
    learner.learn(x, [name.replace("c1", "a|b `c` <i>") for name in names])
    teach(learner)
    learner.export(tmp_path / "a.onnx", card=tmp_path / "card.md", int8=True, max_loss=1)
    text = (tmp_path / "card.md").read_text()
    hits = {row.name: row.accuracy[1] for row in learner.diff(1, 2)}
    for row, name in enumerate(learner.classes):
        cell = name.replace("|", r"\|").replace("`", r"\`").replace("<", r"\<").replace(">", r"\>")
        accuracy = hits[name]
        assert accuracy is not None
        assert f"| {cell} | {row} | 20 | 20 | {100 * accuracy:.1f} % |" in text
    for version in learner.versions():
        assert f"| {version.version} | {version.created} | learn |" in text
    assert "head in int8" in text
    with pytest.raises(ExportError, match="found a folder"):
        learner.export(tmp_path / "b.onnx", card=tmp_path)
    assert not (tmp_path / "b.onnx").exists()


def test_the_metadata_say_what_was_learnt_and_what_goes_in(tmp_path: Path, photos: Photos) -> None:
    with Learner.create(tmp_path / "a.ecl", backbone="tiny") as learner:
        learner.learn_folder(photos("x", "y"))
        learner.learn_folder(photos("y", folder="more"))
        learner.export(tmp_path / "a.onnx")
        info = learner.backbone_info
        assert info is not None
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    training = json.loads(metadata["edge_cl.training"])
    assert (training["recipe"], training["samples"], training["samples_of_classes"]) == ("edge", 18, [6, 12])
    assert (metadata["edge_cl.version"], metadata["edge_cl.parent"]) == ("2", "1")
    assert metadata["edge_cl.backbone_sha256"] == info.sha256
    assert metadata["edge_cl.made_by"].startswith("edge_cl ")
    assert metadata["edge_cl.input"].startswith("pixels: (N, 3, 64, 64) float32, RGB")


def test_patch_and_verify_as_commands(tmp_path: Path, command: list[str]) -> None:
    def call(*arguments: object, status: int = 0) -> str:
        done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if status == 0 else done.stderr

    with Learner.create(tmp_path / "a.ecl") as learner:
        learner.learn(*clusters(3, 5, DIM))
        call("export", tmp_path / "a.ecl", tmp_path / "a.onnx", "--kind", "head", "--top-k", 2)
        teach(learner)
    call("export", tmp_path / "a.ecl", tmp_path / "d.onnx", "--delta-from", 1)
    found = json.loads(call("verify", tmp_path / "a.onnx", "--against", tmp_path / "a.ecl", "--json"))
    assert (found["version"], found["current_version"]) == (1, 2)
    patched = json.loads(call("patch", tmp_path / "a.onnx", tmp_path / "d.onnx", "--json"))
    assert (patched["version"], patched["delta_bytes"]) == (2, (tmp_path / "d.onnx").stat().st_size)
    assert json.loads(call("verify", tmp_path / "a.onnx", "--against", tmp_path / "a.ecl", "--json"))["version"] == 2
    (tmp_path / "b.onnx").write_bytes((tmp_path / "a.onnx").read_bytes())
    assert "expected a delta" in call("patch", tmp_path / "a.onnx", tmp_path / "b.onnx", status=1)
    assert "is the delta itself" in call(
        "patch", tmp_path / "a.onnx", tmp_path / "d.onnx", "--out", tmp_path / "d.onnx", status=1
    )
    (tmp_path / "x.onnx").write_text("no model")
    assert call("verify", tmp_path / "x.onnx", "--against", tmp_path / "a.ecl", status=1).count("\n") == 1


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from edge_cl import Learner
from edge_cl.errors import EdgeClError
with Learner.open(sys.argv[1], read_only=True) as learner:
    learner.predict([sys.argv[4]])
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    try:
        learner.export(sys.argv[2], sys.argv[3])
    except EdgeClError as error:
        sys.exit(str(error))
"""


@pytest.mark.parametrize("kind", ["model", "head", "c", "split"])
def test_a_disk_that_is_full_leaves_the_old_file(tmp_path: Path, photos: Photos, kind: str) -> None:
    """No file may grow beyond 2,000 bytes: the write fails in the middle, as on a full disk."""
    folder = photos("x", "y")
    with Learner.create(tmp_path / "a.ecl", backbone="tiny") as learner:
        learner.learn_folder(folder)
    out = tmp_path / "out"
    out.mkdir()
    target = out if kind == "split" else out / "a"
    old = out / "head.onnx" if kind == "split" else target
    old.write_bytes(b"old")
    arguments = [str(tmp_path / "a.ecl"), str(target), kind, str(folder / "x" / "0.png")]
    done = subprocess.run([sys.executable, "-c", LIMITED, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot be written: File too large; an older file was left as it is" in done.stderr
    assert done.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in out.iterdir()} == {old: b"old"}


def test_a_name_that_cannot_be_one_is_refused_in_a_file_too(tmp_path: Path) -> None:
    """A learner refuses such names; a file that has one is not what we wrote."""
    learner = FORMS["linear"]()
    for name in ("two\nlines", "x" * 10_000):
        with pytest.raises(InputError) as caught:
            learner.learn(asked(), [name] * 40)
        assert "\n" not in str(caught.value)
        learner.export(tmp_path / "a.onnx")

        def put(model: onnx.ModelProto, name: str = name) -> None:
            entry = next(entry for entry in model.metadata_props if entry.key == "edge_cl.classes")
            entry.value = json.dumps([name, *json.loads(entry.value)[1:]])

        _tamper(tmp_path / "a.onnx", put)
        with pytest.raises(EdgeClError) as refused:
            Predictor(tmp_path / "a.onnx")
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 400
