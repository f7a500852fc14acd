"""Exported files in other runtimes: which of them each one runs, with the learner's answers, and which it does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image

from edge_cl import Learner

from .conftest import clusters, picture
from .other_runtimes import RUNTIMES, Process
from .run_onnx import open_onnxruntime
from .test_looks import seen
from .test_mlp import rings

Array = NDArray[Any]
N_CLASSES = 7
README = Path(__file__).resolve().parents[1] / "README.md"


@dataclass(frozen=True)
class Case:
    """An export, and the runtimes that do not run it.

    Attributes:
        what: as the README's table says it.
        state: of `STATES`.
        options: of `Learner.export`.
        fails: by runtime: what its error says (a part of it), or `wrong answers`.
        later: name of a state whose head is passed as inputs; empty: the file's own answers.
        near: how far probabilities may be off, and other answers in units of the largest one.
    """

    what: str
    state: str
    options: Mapping[str, Any] = field(default_factory=dict)
    fails: Mapping[str, str] = field(default_factory=dict)
    later: str = ""
    near: float = 1e-3


ROUNDED = 0.1  # sums of bytes fall to either side of a half, and every processor and runtime rounds at other places
NO_INT8 = {"ONNX reference": "No implementation for operator 'DequantizeLinear'"}  # before opset 19
NO_SHAPES = {"OpenCV 4.8": "isDynamicShape"}
CASES = [
    Case("`model` of images", "images"),
    Case("`model` of features", "features"),
    Case("`cosine` head", "cosine"),
    Case("`mlp` head", "mlp"),
    Case("classes of several looks", "looks"),
    Case("`--random-features`", "random"),
    Case("`regression`", "regression"),
    Case("`head`", "images", {"kind": "head"}),
    Case("`split`", "images", {"kind": "split"}),
    Case("`live`, its own head", "images", {"kind": "live"}, NO_SHAPES),
    Case(
        "`live`, a later head passed",
        "images",
        {"kind": "live"},
        {"OpenCV 5": "input 'head.weights' is not found", **NO_SHAPES},
        later="more images",
    ),
    Case("`--preprocess`", "images", {"preprocess": True}, {"OpenCV 5": "wrong answers", **NO_SHAPES}),
    Case("`--top-k 3`", "images", {"top_k": 3}, {"OpenCV 4.8": 'of type "TopK"'}),
    Case("`--features`", "images", {"features": True}),
    Case("`--cam`", "images", {"cam": True}, {"OpenCV 4.8": "cam.rows"}),
    Case("`--int8`", "features", {"int8": True}, NO_INT8),
    Case("`--int8 --images`", "images", {"int8": True, "images": "photos", "max_loss": 1.0}, NO_INT8, near=ROUNDED),
    Case("`--opset 13`", "features", {"opset": 13}),
    Case("`--opset 20`", "images", {"opset": 20}),
]


@pytest.fixture(scope="module")
def processes() -> Iterator[dict[str, Process]]:
    started = {name: Process(runtime) for name, runtime in RUNTIMES.items()}
    yield started
    for process in started.values():
        process.close()


def pictures(n_classes: int, n_samples: int, seed: int = 0, side: int = 64) -> tuple[Array, list[str]]:
    """Return images (N, side, side, 3), whose classes are alike enough to be mixed up, and their names."""
    rng, common = np.random.default_rng(seed), np.random.default_rng(99).integers(60, 190, (4, 4, 3))
    bases = [common + np.random.default_rng(k).integers(-8, 9, (4, 4, 3)) for k in range(n_classes)]
    images = [Image.fromarray(picture(bases[k], rng)) for k in range(n_classes) for _ in range(n_samples)]
    sized = np.stack([np.asarray(image.resize((side, side))) for image in images])
    return sized, [f"c{k}" for k in range(n_classes) for _ in range(n_samples)]


def teach(state: str) -> tuple[Learner, Array]:
    """Return a learner and samples to ask it for."""
    if state in {"images", "more images"}:
        learner = Learner.create(":memory:", backbone="tiny")
        learner.learn(*pictures(N_CLASSES + (state != "images"), 6))
        return learner, pictures(N_CLASSES, 2, 1)[0]
    if state == "looks":
        learner = Learner.create(":memory:")
        for look in (0, 1):
            learner.learn(*seen(look, 80), min_retention=0)
        return learner, seen(1, 40, 5)[0]
    if state == "mlp":
        learner = Learner.create(":memory:", head="mlp")
        learner.learn(*rings(100))
        return learner, rings(10, seed=1)[0]
    if state == "regression":
        learner = Learner.create(":memory:", head="regression")
        x = np.random.default_rng(0).normal(size=(60, 9)).astype(np.float32)
        learner.learn(x, x[:, :2] * 3 + 1)
        return learner, x
    head, n_random = ("cosine" if state == "cosine" else "linear"), (300 if state == "random" else 0)
    learner = Learner.create(":memory:", head=head, random_features=n_random)
    learner.learn(*clusters(N_CLASSES, 20, 24, spread=3.5))
    return learner, clusters(N_CLASSES, 3, 24, seed=1, spread=3.5)[0]


@pytest.fixture(scope="module")
def states() -> Iterator[dict[str, tuple[Learner, Array]]]:
    with ExitStack() as stack:
        taught = {state: teach(state) for state in {case.state for case in CASES} | {"more images"}}
        for learner, _ in taught.values():
            stack.enter_context(learner)
        yield taught


@dataclass(frozen=True)
class Exported:
    """Files, what they are asked and what they ought to answer.

    Attributes:
        models: in the order in which they are run.
        inputs: by name.
        wanted: by name.
    """

    models: tuple[Path, ...]
    inputs: Mapping[str, Any]
    wanted: Mapping[str, Array]


@pytest.fixture(scope="module")
def exports(
    states: dict[str, tuple[Learner, Array]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Exported | Exception]:
    """Return all exports by what they are; where one cannot be made, why."""
    made: dict[str, Exported | Exception] = {}
    for case in CASES:
        try:
            made[case.what] = make(case, states, tmp_path_factory.mktemp("export"))
        except Exception as error:  # a test of it raises it again
            made[case.what] = error
    return made


def make(case: Case, states: Mapping[str, tuple[Learner, Array]], folder: Path) -> Exported:
    learner, samples = states[case.state]
    path = folder / ("split" if case.options.get("kind") == "split" else "a.onnx")
    options = {**case.options, "images": save(folder / "photos")} if "images" in case.options else case.options
    learner.export(path, **options)
    models = (path / "backbone.onnx", path / "head.onnx") if path.is_dir() else (path,)
    inputs, answering = {}, learner
    (name,) = {value.name for value in onnx.load(models[0]).graph.input} & {"pixels", "features", "image"}
    if name == "image":
        samples = pictures(N_CLASSES, 2, 1, side=150)[0]
        inputs[name] = samples
    elif learner.backbone is None:
        inputs[name] = samples
    elif name == "features":
        inputs[name] = learner.backbone.extract(list(samples)).features
    else:
        inputs[name] = learner.backbone.info.preprocessing.normalise(samples)
    if case.later:
        answering = states[case.later][0]
        answering.export(folder / "later.onnx", **case.options)
        inputs |= passed(models[0], folder / "later.onnx")
    return Exported(models, inputs, wanted_of(case, answering, samples, models, inputs))


def save(folder: Path) -> Path:
    """Return a folder of class folders of pictures."""
    for n, (image, name) in enumerate(zip(*pictures(N_CLASSES, 6, 2), strict=True)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name / f"{n}.png")
    return folder


def passed(model: Path, later: Path) -> dict[str, Array]:
    """Return the tensors of a later file that are inputs of the model."""
    inputs = {value.name for value in onnx.load(model).graph.input}
    return {w.name: numpy_helper.to_array(w) for w in onnx.load(later).graph.initializer if w.name in inputs}


def wanted_of(
    case: Case, learner: Learner, samples: Array, models: tuple[Path, ...], inputs: Mapping[str, Array]
) -> dict[str, Array]:
    """Return the learner's own answers; onnxruntime's to rounded weights, and of what no learner says."""
    wanted = dict(inputs)
    for model in models:
        wanted = open_onnxruntime(str(model))(wanted)
    if case.options.get("int8"):
        return wanted
    predictions = learner.predict(samples)
    if learner.head_kind == "regression":
        return wanted | {"values": predictions.values}
    if "top_indices" in wanted:
        order = ranked(predictions.probabilities)
        wanted["top_indices"] = order[:, : wanted["top_indices"].shape[1]]
    return wanted | {"probabilities": predictions.probabilities}


def ranked(scores: Array) -> Array:
    """Return the rows of the five best classes, (N, 5)."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :5]


def compare(found: Mapping[str, Array], wanted: Mapping[str, Array], near: float) -> str:
    """Return what is wrong with the answers to all samples and to the first alone; empty if nothing is."""
    for name, want in wanted.items():
        scale = 1 if "probabilities" in name else np.abs(want).max()
        for prefix, rows in (("", slice(None)), ("first.", slice(1))):
            got = found[prefix + name]
            if got.shape != want[rows].shape:
                return f"wrong answers: {name} {got.shape}"
            difference = float(np.abs(got - want[rows]).max() / scale)
            if not difference <= near:
                return f"wrong answers: {name} differ by {difference:.2g}"
    for name in {"logits", "probabilities"} & set(wanted) if near < ROUNDED else ():
        if (ranked(found[name]) != ranked(wanted["probabilities"])).any():
            return f"wrong answers: {name} of another order"
    return ""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_it_answers_as_the_learner_or_fails_as_the_table_says(
    tmp_path: Path,
    runtime: str,
    case: Case,
    processes: dict[str, Process],
    exports: dict[str, Exported | Exception],
) -> None:
    exported = exports[case.what]
    if isinstance(exported, Exception):
        raise exported
    np.savez(tmp_path / "in.npz", **exported.inputs)
    paths = {"inputs": str(tmp_path / "in.npz"), "outputs": str(tmp_path / "out.npz")}
    job = {"models": [str(path) for path in exported.models], **paths}
    outcome = processes[runtime].ask(job)
    if not outcome:
        with np.load(tmp_path / "out.npz") as file:
            outcome = compare(dict(file), exported.wanted, case.near)
    expected = case.fails.get(runtime, "")
    assert expected in outcome
    assert bool(expected) == bool(outcome), outcome


def test_samples_tell_right_answers_from_wrong_ones(exports: dict[str, Exported | Exception]) -> None:
    for what, exported in exports.items():
        if isinstance(exported, Exported) and "probabilities" in exported.wanted:
            assert exported.wanted["probabilities"].max(axis=1).min() < 0.99, what
            assert len(set(exported.wanted["probabilities"].argmax(axis=1))) > 2, what


def cell_of(case: Case, runtime: str) -> str:
    """Return a cell of the README's table."""
    says = case.fails.get(runtime, "")
    if says:
        return "**wrong answers**" if says == "wrong answers" else "no"
    return f"within {case.near:.0%}" if case.near == ROUNDED and not runtime.startswith("onnxruntime") else "yes"


def support_table() -> str:
    """Return the README's table: a row for each kind of export, a column for each runtime."""
    rows = [["", *RUNTIMES], ["---"] * (len(RUNTIMES) + 1)]
    rows += [[case.what, *(cell_of(case, runtime) for runtime in RUNTIMES)] for case in CASES]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def test_the_readme_says_what_runs_where() -> None:
    assert support_table() in README.read_text(encoding="utf-8")
