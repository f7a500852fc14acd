"""onnxruntime-node, onnxruntime-web and the page in Chromium, all really run, answer as the learner does."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

from edge_cl import Learner

from .conftest import clusters, picture, shared
from .javascript_runtimes import PAGE, ROOT, browser, node, package, run_model, run_node, serve, visit

RUNTIMES = ("onnxruntime-node", "onnxruntime-web")
TOP = 5
SAME = 1e-3  # of probabilities
HOSTILE = "größe <b onclick=alert(1)>3</b> & \u202e"
ROWS = "[...document.querySelectorAll('#classes li')].map((li) => [li.firstChild.textContent, +li.dataset.probability])"


@dataclass(frozen=True)
class Taught:
    """A learner, and an image that it has not seen: a PNG, which every decoder decodes to the same pixels."""

    learner: Learner
    image: Path

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3)."""
        return np.asarray(Image.open(self.image))

    def answer(self) -> list[tuple[str, float]]:
        return list(self.learner.predict([self.image], top=TOP).top[0])


@pytest.fixture(params=["generated", "photos"])
def taught(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Taught]:
    make = teach_generated if request.param == "generated" else teach_photos
    made = make(tmp_path)
    with made.learner:
        yield made


def teach_generated(folder: Path) -> Taught:
    """Eight classes that overlap, so that all five probabilities are well above nothing."""
    rng, style = np.random.default_rng(0), np.random.default_rng(1)
    bases = [128 + style.integers(-60, 61, (4, 4, 3)) for _ in range(8)]
    learner = Learner.create(folder / "a.ecl", backbone="tiny")
    images = np.stack([picture(base, rng) for base in bases for _ in range(6)])
    learner.learn(images, [name for name in ("door", HOSTILE, *"cdefgh") for _ in range(6)])
    # of another size and shape than the backbone's, so that it is resized
    Image.fromarray(picture(np.mean(bases[:3], axis=0), rng)).resize((150, 97)).save(folder / "query.png")
    return Taught(learner, folder / "query.png")


def teach_photos(folder: Path) -> Taught:
    root = shared("data/caltech101")
    names = sorted(path.name for path in (root / "train").iterdir())[:8]
    paths = [(path, name) for name in names for path in sorted((root / "train" / name).glob("*.jpg"))[:4]]
    learner = Learner.create(folder / "a.ecl", backbone=shared("backbones/mobilenet_v2_imagenet.onnx"))
    learner.learn([path for path, _ in paths], [name for _, name in paths])
    photo = sorted((root / "test" / names[-1]).glob("*.jpg"))[0]
    Image.open(photo).convert("RGB").save(folder / "query.png")
    return Taught(learner, folder / "query.png")


def assert_same(found: dict[str, Any], classes: list[str], want: list[tuple[str, float]]) -> None:
    """One row of `probabilities` has the same five best, in that order, as far from the learner's as allowed."""
    values = np.array(found["probabilities"]["values"])
    assert found["probabilities"]["dims"] == [1, len(classes)]
    order = np.argsort(-values, kind="stable")[:TOP]
    assert [classes[k] for k in order] == [name for name, _ in want]
    np.testing.assert_allclose(values[order], [probability for _, probability in want], atol=SAME)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_image_through_the_preprocessing_inside(taught: Taught, tmp_path: Path, runtime: str) -> None:
    path = tmp_path / "cam.onnx"
    taught.learner.export(path, preprocess=True, top_k=TOP)
    said = run_model(runtime, path, {"image": taught.pixels[None]})
    (found,) = said["answers"]
    assert said["inputs"] == ["image"]
    assert said["classes"] == list(taught.learner.classes)
    assert_same(found, said["classes"], taught.answer())
    named = [said["classes"][k] for k in found["top_indices"]["values"]]
    assert named == [name for name, _ in taught.answer()]


@pytest.mark.parametrize("kind", ["model", "live"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_normalised_pixels(taught: Taught, tmp_path: Path, runtime: str, kind: str) -> None:
    info = taught.learner.backbone_info
    assert info is not None
    boxed = info.preprocessing.apply(Image.open(taught.image))
    path = tmp_path / "cam.onnx"
    taught.learner.export(path, kind=kind)
    said = run_model(runtime, path, {"pixels": info.preprocessing.normalise(boxed[None])})
    assert_same(said["answers"][0], said["classes"], taught.answer())


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_features_to_a_head_alone(taught: Taught, tmp_path: Path, runtime: str) -> None:
    assert taught.learner.backbone is not None
    features = taught.learner.backbone.extract([taught.image]).features
    taught.learner.export(tmp_path / "head.onnx", kind="head")
    said = run_model(runtime, tmp_path / "head.onnx", {"features": features})
    assert_same(said["answers"][0], said["classes"], taught.answer())


@pytest.mark.parametrize("kind", ["model", "live"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_learner_of_features(tmp_path: Path, runtime: str, kind: str) -> None:
    x, names = clusters(6, 10, 12, spread=2)
    with Learner.create(":memory:") as learner:
        learner.learn(x, names)
        learner.export(tmp_path / "h.onnx", kind=kind)
        want = learner.predict(x[:2], top=TOP).top
    said = run_model(runtime, tmp_path / "h.onnx", {"features": x[:1]}, {"features": x[1:2]})
    for found, answer in zip(said["answers"], want, strict=True):
        assert_same(found, said["classes"], list(answer))


def test_weights_of_live_cannot_be_replaced_in_javascript(tmp_path: Path) -> None:
    """What the page's README says; where a later onnxruntime can, it has to say so."""
    x, names = clusters(3, 10, 4)
    with Learner.create(":memory:") as learner:
        learner.learn(x, names)
        learner.export(tmp_path / "live.onnx", kind="live")
    (weights,) = (w for w in onnx.load(tmp_path / "live.onnx").graph.initializer if w.name == "head.weights")
    feed = {"features": x[:1]}
    feeds = (feed, {**feed, "head.weights": -onnx.numpy_helper.to_array(weights)})
    said = run_model("onnxruntime-node", tmp_path / "live.onnx", *feeds)
    assert said["inputs"] == ["features"]
    assert said["answers"][0] == said["answers"][1]
    said = run_model("onnxruntime-web", tmp_path / "live.onnx", *feeds)
    assert said["answers"][1] == {"error": "invalid input 'head.weights'"}


def site_of(folder: Path) -> Path:
    """Return a folder with the page and onnxruntime-web beside it, as the page's README says."""
    node(), browser()
    dist = package("onnxruntime-web") / "dist"
    shutil.copytree(PAGE, folder / "site", ignore=shutil.ignore_patterns("ort"))
    (folder / "site" / "ort").symlink_to(dist)
    return folder / "site"


def choose(selector: str, path: Path) -> dict[str, Any]:
    return {"choose": selector, "files": [str(path)]}


def answered(model: Path, image: Path) -> dict[str, Any]:
    """Return the step that waits for the answer of a model to an image."""
    status = f"document.querySelector('#status').textContent === '{model.name} on {image.name}'"
    return {"until": f"{status} && document.querySelector('#error').hidden && {ROWS}"}


def refused(path: Path) -> dict[str, Any]:
    """Return the step that waits for the line that says why a file is refused."""
    error = "document.querySelector('#error')"
    return {"until": f"!{error}.hidden && {error}.textContent.startsWith('{path.name}') && {error}.textContent"}


def test_the_page_shows_the_learners_answer_and_then_that_of_a_newer_model(taught: Taught, tmp_path: Path) -> None:
    site, first, second = site_of(tmp_path), tmp_path / "first.onnx", tmp_path / "second.onnx"
    taught.learner.export(first, preprocess=True)
    before = taught.answer()
    taught.learner.learn(np.full((4, 64, 64, 3), 255, np.uint8), ["white"] * 4, min_retention=0)
    taught.learner.export(second, preprocess=True, top_k=TOP)
    steps = [{"until": "document.body.dataset.ready"}, choose("#model", first), choose("#image", taught.image)]
    steps += [answered(first, taught.image), {"drop": [str(second)]}, answered(second, taught.image)]
    steps += [{"until": "document.querySelector('#version').textContent"}]
    with serve(site) as url:
        _, shown, swapped, version = visit(url, tmp_path / "profile", steps)
    assert_shown(shown, before)
    assert_shown(swapped, taught.answer())
    assert version == str(taught.learner.version)


def test_the_page_refuses_what_is_broken_and_goes_on_with_the_old_model(tmp_path: Path) -> None:
    site, taught = site_of(tmp_path), teach_generated(tmp_path)
    whole, other = tmp_path / "cam.onnx", tmp_path / "other.png"
    files = [tmp_path / name for name in ("pixels.onnx", "cut.onnx", "names.onnx", "text.png")]
    Image.fromarray(taught.pixels[:, ::-1]).save(other)
    with taught.learner:
        taught.learner.export(whole, preprocess=True)
        taught.learner.export(files[0])
        want = list(taught.learner.predict([other], top=TOP).top[0])
    files[1].write_bytes(whole.read_bytes()[:-100])
    renamed = onnx.load(whole)
    onnx.helper.set_model_props(renamed, {"edge_cl.classes": '["a", "b"]'})
    onnx.save(renamed, files[2])
    files[3].write_text("no image")
    steps = [{"until": "document.body.dataset.ready"}, choose("#model", whole), choose("#image", taught.image)]
    steps += [answered(whole, taught.image)]
    for path in files:
        steps += [choose("#model" if path.suffix == ".onnx" else "#image", path), refused(path)]
    steps += [choose("#image", other), answered(whole, other)]
    with serve(site) as url:
        _, _, *said, kept = visit(url, tmp_path / "profile", steps)
    export = "edge-cl export cam.ecl cam.onnx --preprocess"
    size = files[1].stat().st_size
    assert said[0] == f"pixels.onnx: expected the input image; found pixels; export it as in: {export}"
    assert re.fullmatch(
        rf"cut.onnx: expected a whole ONNX file; found {size} bytes of at least \d+; export it again", said[1]
    )
    assert said[2] == "names.onnx: expected 2 probabilities, one a class; found 8; export it again"
    assert said[3] == "text.png: expected an image; this browser cannot decode it"
    assert_shown(kept, want)


def assert_shown(rows: list[tuple[str, float]], want: list[tuple[str, float]]) -> None:
    assert [name for name, _ in rows] == [name for name, _ in want]
    np.testing.assert_allclose([value for _, value in rows], [value for _, value in want], atol=SAME)


def test_the_page_says_what_it_needs_where_the_runtime_is_missing(tmp_path: Path) -> None:
    node(), browser()
    shutil.copytree(PAGE, tmp_path / "site", ignore=shutil.ignore_patterns("ort"))
    error = "document.querySelector('#error')"
    with serve(tmp_path / "site") as url:
        (said,) = visit(
            f"{url}?ort=nowhere", tmp_path / "profile", [{"until": f"!{error}.hidden && {error}.textContent"}]
        )
    assert said.startswith(f"{url}nowhere/: expected the files of onnxruntime-web's dist; found ")
    assert "\n" not in said


def test_the_readmes_example_runs_as_it_stands(tmp_path: Path) -> None:
    example = re.search(r"```js\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    if example is None:
        pytest.skip("the README has no example of JavaScript")
    packages = {package(name).parent for name in re.findall(r'from "([a-z][a-z-]*)"', example[1])}
    taught = teach_generated(tmp_path)
    with taught.learner:
        taught.learner.export(tmp_path / "cam.onnx", preprocess=True, top_k=1)
        ((name, probability),) = taught.answer()[:1]
    taught.image.rename(tmp_path / "door.jpg")  # the suffix does not matter to the decoder
    shutil.copy(PAGE / "onnx_metadata.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(packages.pop())
    (tmp_path / "example.mjs").write_text(example[1])
    said = run_node("example.mjs", folder=tmp_path).strip()
    assert said.startswith(f"{name} ")
    assert float(said.removeprefix(name)) == pytest.approx(probability, abs=SAME)
