"""Backbones from what a user names: tiny, an ONNX file, a torchvision name; each refused when it has changed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edge_cl import Learner
from edge_cl.backbones import backbone as backbone_module
from edge_cl.backbones import cache, open_backbone, reopen_backbone
from edge_cl.backbones.images import read_image
from edge_cl.backbones.locate import TINY_FILE
from edge_cl.errors import BackboneError, BackboneMismatchError, BackboneMissingError, InputError

from .conftest import Photos, shared
from .test_cut import PIXELS, gemm, model


def net(path: Path, metadata: dict[str, str] | None = None) -> Path:
    path.write_bytes(model(gemm(), metadata=metadata))
    return path


def test_tiny_ships_small_and_works_offline() -> None:
    assert TINY_FILE.stat().st_size <= 1_500_000
    backbone = open_backbone("tiny")
    assert backbone.info.dim == 256
    assert backbone.info.preprocessing.input_size == (64, 64)
    images = np.random.default_rng(0).integers(0, 256, (11, 50, 70, 3)).astype(np.uint8)
    found = backbone.extract(list(images))
    assert found.features.shape == (11, 256)
    assert np.isfinite(found.features).all()
    np.testing.assert_array_equal(found.rows, np.arange(11))


def test_features_do_not_depend_on_the_neighbours_in_the_batch() -> None:
    backbone = open_backbone("tiny")
    images = list(np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3)).astype(np.uint8))
    together = backbone.extract(images).features
    alone = np.concatenate([backbone.extract([image]).features for image in images])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "dim", "size"), [("mobilenet_v2_imagenet", 1280, (224, 224)), ("mobilenet_v1_025_128", 256, (128, 128))]
)
def test_real_classifiers_are_cut_by_themselves(name: str, dim: int, size: tuple[int, int]) -> None:
    path = shared(f"backbones/{name}.onnx")
    backbone = open_backbone(str(path))
    assert backbone.info.dim == dim
    assert backbone.info.preprocessing.input_size == size
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    features = backbone.extract([image]).features
    source = onnx.load(path)
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in source.graph.initializer}
    last = next(node for node in reversed(source.graph.node) if node.op_type == "Conv")
    logits = features @ weights[last.input[1]][:, :, 0, 0].T + weights[last.input[2]]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    output = session.run(
        None, {session.get_inputs()[0].name: (image[None].transpose(0, 3, 1, 2) - 127.5).astype("f4") / 127.5}
    )[0]
    if session.get_outputs()[0].name == "probabilities":
        logits = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(logits, output, rtol=1e-3, atol=1e-4)


def test_a_named_tensor_overrides(tmp_path: Path) -> None:
    path = net(tmp_path / "net.onnx")
    assert open_backbone(f"{path}#logits").info.dim == 10
    assert open_backbone(str(path)).info.dim == 6
    with pytest.raises(BackboneError, match="no tensor 'none'"):
        open_backbone(f"{path}#none")


def test_preprocessing_is_the_files_or_the_users(tmp_path: Path) -> None:
    path = net(tmp_path / "net.onnx")
    assert open_backbone(str(path)).info.preprocessing.input_size == (16, 16)
    assert open_backbone(str(path), {"mean": (0, 0, 0)}).info.preprocessing.mean == (0.0, 0.0, 0.0)
    path = net(tmp_path / "said.onnx", {"edge_cl.preprocessing": json.dumps({"scale": 0.25})})
    assert open_backbone(str(path)).info.preprocessing.scale == 0.25
    with pytest.raises(InputError, match="leave out --scale"):
        open_backbone(str(path), {"scale": 1.0})


def test_a_changed_file_is_refused_with_both_hashes(tmp_path: Path, photos: Photos) -> None:
    path = net(tmp_path / "net.onnx")
    root = photos("a", "b")
    with Learner.create(tmp_path / "a.ecl", backbone=path) as learner:
        learner.learn_folder(root)
    old = cache.sha256_of(path)
    net(path, {"note": "changed"})
    with pytest.raises(BackboneMismatchError) as caught:
        Learner.open(tmp_path / "a.ecl")
    assert old[:16] in str(caught.value)
    assert cache.sha256_of(path)[:16] in str(caught.value)
    assert "net.onnx" in str(caught.value)
    with Learner.open(tmp_path / "a.ecl", check=False) as learner:
        assert learner.classes == ("a", "b")
        with pytest.raises(BackboneMismatchError):
            learner.predict([str(root / "a" / "0.png")])


def test_a_moved_backbone_is_found_beside_the_state_or_where_the_user_says(tmp_path: Path, photos: Photos) -> None:
    root = photos("a", "b")
    (tmp_path / "old").mkdir()
    with Learner.create(tmp_path / "old" / "a.ecl", backbone=net(tmp_path / "old" / "net.onnx")) as learner:
        learner.learn_folder(root)
    shutil.move(tmp_path / "old", tmp_path / "new")
    photo = [str(root / "b" / "0.png")]
    with Learner.open(tmp_path / "new" / "a.ecl") as learner:
        assert learner.predict(photo).labels == ("b",)
    shutil.move(tmp_path / "new" / "net.onnx", tmp_path / "elsewhere.onnx")
    with (
        Learner.open(tmp_path / "new" / "a.ecl") as learner,
        pytest.raises(BackboneMissingError, match="--backbone FILE"),
    ):
        learner.predict(photo)
    with Learner.open(tmp_path / "new" / "a.ecl", backbone=tmp_path / "elsewhere.onnx") as learner:
        assert learner.predict(photo).labels == ("b",)


def test_what_is_no_backbone_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not onnx")
    for spec in (str(tmp_path / "bad.onnx"), str(tmp_path / "gone.onnx"), str(tmp_path / "folder" / "x")):
        with pytest.raises(BackboneError) as caught:
            open_backbone(spec)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "a.ecl").exists()
    with pytest.raises(BackboneError, match="device cuda"):
        open_backbone("tiny", device="cuda")


def test_a_damaged_cache_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_CL_CACHE", str(tmp_path / "cache"))
    path = net(tmp_path / "net.onnx")
    first = open_backbone(str(path))
    (cached,) = (tmp_path / "cache").iterdir()
    whole = cached.read_bytes()
    cached.write_bytes(whole[: len(whole) // 2])
    again = reopen_backbone(first.info, tmp_path)
    assert cached.read_bytes() == whole
    np.testing.assert_array_equal(
        again.session.run(None, {"pixels": PIXELS})[0], first.session.run(None, {"pixels": PIXELS})[0]
    )


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EDGE_CL_CACHE", str(tmp_path / "file" / "cache"))
    assert open_backbone(str(net(tmp_path / "net.onnx"))).info.dim == 6


def test_a_photo_whose_features_are_not_finite_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = open_backbone("tiny")

    def run(images: np.ndarray) -> np.ndarray:
        return np.where(images.reshape(len(images), -1)[:, :1] > 100, np.nan, 1).repeat(256, axis=1).astype("f4")

    monkeypatch.setattr(backbone, "_run", run)
    found = backbone.extract([np.full((64, 64, 3), grey, np.uint8) for grey in (50, 200, 60)])
    assert found.rows.tolist() == [0, 2]
    assert found.features.shape == (2, 256)
    assert [(s.path, "not finite" in s.reason) for s in found.skipped] == [("image 1", True)]


def test_a_copy_beside_the_state_counts_when_the_original_has_changed(tmp_path: Path, photos: Photos) -> None:
    (tmp_path / "a").mkdir()
    with Learner.create(tmp_path / "a" / "s.ecl", backbone=net(tmp_path / "a" / "net.onnx")) as learner:
        learner.learn_folder(photos("x", "y"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    net(tmp_path / "a" / "net.onnx", {"note": "changed"})
    with Learner.open(tmp_path / "b" / "s.ecl") as learner:
        assert learner.backbone is not None


def test_the_next_batch_is_decoded_while_this_one_is_extracted(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = open_backbone("tiny")
    next_was_read, read = threading.Event(), []
    real = read_image

    def spy(source: object, geometry: object) -> object:
        read.append(1)
        if len(read) > backbone_module.BATCH:
            next_was_read.set()
        return real(source, geometry)  # type: ignore[arg-type]

    def run(images: np.ndarray) -> np.ndarray:
        assert next_was_read.wait(20), "nothing of the next batch was read while this one ran"
        return np.zeros((len(images), 256), np.float32)

    monkeypatch.setattr(backbone_module, "read_image", spy)
    monkeypatch.setattr(backbone, "_run", run)
    assert len(backbone.extract([np.zeros((9, 9, 3), np.uint8)] * (2 * backbone_module.BATCH)).rows) == 16


def test_a_torchvision_name_is_exported_once_and_torch_is_not_needed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    weights = shared("backbones/mobilenet_v2_torchvision.pth")
    enum = torchvision.models.get_model_weights("mobilenet_v2").DEFAULT
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    shutil.copy(weights, tmp_path / "hub" / "checkpoints" / Path(enum.url).name)
    with Learner.create(tmp_path / "a.ecl", backbone="mobilenet_v2") as learner:
        info = learner.backbone_info
        assert learner.backbone is not None
        found = learner.backbone.extract([np.full((300, 400, 3), 90, np.uint8)]).features
    assert info is not None
    assert info.sha256 == cache.sha256_of(weights)
    net_ = torchvision.models.mobilenet_v2()
    net_.load_state_dict(torch.load(weights, weights_only=True))
    pixels = enum.transforms()(torch.full((3, 300, 400), 90, dtype=torch.uint8))[None]
    with torch.no_grad():
        want = net_.eval().features(pixels).mean((2, 3)).numpy()
    np.testing.assert_allclose(found, want, rtol=1e-3, atol=1e-3)
    script = (
        "import sys\nfrom edge_cl import Learner\n"
        f"with Learner.open({str(tmp_path / 'a.ecl')!r}) as l: print(l.backbone.info.dim)\n"
        f"with Learner.create({str(tmp_path / 'b.ecl')!r}, backbone='mobilenet_v2') as l: print(l.backbone.info.dim)\n"
        "print({'torch', 'torchvision', 'onnx'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1280", "1280", "set()"]


def test_a_name_that_torchvision_does_not_know_is_one_line() -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(BackboneError, match=r"no_such_net: expected 'tiny', an \.onnx file"):
        open_backbone("no_such_net")
