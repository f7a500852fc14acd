"""What speed is measured on: photos, and a state file that has been learnt into before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from edge_kernels.arrays import Floats
from PIL import Image

from edge_cl.backbones import Backbone
from edge_cl.backbones.images import UnreadableImageError, read_image
from edge_cl.errors import InputError
from edge_cl.learner import Learner
from edge_cl.samples import list_images

PHOTO = (640, 480)  # of generated ones, width and height
N_PHOTOS = 200  # what the largest update takes; fewer are taken in turn
N_LIKE = 32  # photos whose features the state's are drawn around
PER_CLASS = 64  # samples drawn for each class
REPLAY_BYTES = 1_000_000


@dataclass(frozen=True)
class Workload:
    """A folder with all that is needed to measure.

    Attributes:
        photos: N_PHOTOS paths.
        state: a state of a backbone that has learnt.
        model: its classifier, exported.
        head: the same of a state without a backbone, features in.
        preprocessing: of the backbone, as JSON.
        settings: what the figures depend on, to be shown beside them.
    """

    photos: tuple[str, ...]
    state: Path
    model: Path
    head: Path
    preprocessing: str
    settings: dict[str, Any]


def generate_photos(folder: Path, n_photos: int = N_PHOTOS) -> list[str]:
    """Write JPEGs of large shapes and fine grain, as photos have them, the same ones each time; return their paths."""
    rng = np.random.default_rng(0)
    paths = []
    for n in range(n_photos):
        photo = Image.new("RGB", PHOTO, "grey")
        for cells, share in ((4, 0.7), (24, 0.35), (160, 0.25)):
            drawn = rng.integers(0, 256, (cells * 3 // 4, cells, 3)).astype(np.uint8)
            photo = Image.blend(photo, Image.fromarray(drawn).resize(PHOTO, Image.Resampling.BILINEAR), share)
        path = folder / f"{n:03}.jpg"
        photo.save(path, "JPEG", quality=90)
        paths.append(str(path))
    return paths


def find_photos(images: Path, backbone: Backbone) -> list[str]:
    """Return the paths of images below a folder that can be read, at most as many as are needed.

    Raises:
        InputError: there is none.
    """
    paths: list[str] = []
    reason = ""
    for path in list_images(images).samples:
        if len(paths) == N_PHOTOS:
            break
        try:
            read_image(path, backbone.info.preprocessing)
            paths.append(path)
        except UnreadableImageError as error:
            reason = reason or f"; the first: {path}: {error}"
    if not paths:
        raise InputError(f"{images}: expected at least one image that can be read; found none{reason}")
    return paths


def make_workload(folder: Path, backbone: str, device: str, *, n_classes: int, images: Path | None) -> Workload:
    """Return photos, a state and its exports.

    The state knows classes of samples that were drawn around the features of the photos, and its replay is full.

    Args:
        folder: an empty one to write into.
        backbone: as `Learner.create` takes it.
        device: `auto`, `cpu` or `cuda`.
        n_classes: that the state knows.
        images: a folder of the user's own; None generates some.

    Raises:
        InputError: there is no image that can be read.
    """
    state, model, head = folder / "speed.ecl", folder / "speed.onnx", folder / "head.onnx"
    with (
        Learner.create(state, backbone=backbone, device=device, replay_bytes=REPLAY_BYTES) as learner,
        Learner.create(folder / "head.ecl", device=device, replay_bytes=0) as alone,
    ):
        opened = learner.backbone
        assert opened is not None
        if images is None:
            (folder / "photos").mkdir()
            found = generate_photos(folder / "photos")
        else:
            found = find_photos(images, opened)
        like = opened.extract(found[:N_LIKE]).features
        for samples, labels in _draw_classes(like, n_classes):
            learner.learn(samples, labels, min_retention=0)
            alone.learn(samples, labels, min_retention=0)
        learner.export(model)
        alone.export(head)
        n_stored = learner.replay_usage()["samples"]
    info = opened.info
    settings = {
        "backbone": info.name,
        "backbone_sha256": info.sha256,
        "input_size": list(info.preprocessing.input_size),
        "dim": info.dim,
        "device": device,
        "classes": n_classes,
        "stored_samples": n_stored,
        "replay_bytes": REPLAY_BYTES,
        "photos": f"{len(found)} generated, {PHOTO[0]} x {PHOTO[1]}" if images is None else f"{len(found)} of {images}",
    }
    photos = tuple(found[n % len(found)] for n in range(N_PHOTOS))
    return Workload(photos, state, model, head, info.preprocessing.to_json(), settings)


def _draw_classes(like: Floats, n_classes: int) -> list[tuple[Floats, list[str]]]:
    """Return four batches of features and names: each class around a mixture of two rows of `like` (N, D)."""
    rng = np.random.default_rng(0)
    spread = 0.5 * like.std(0) + 1e-3 * float(np.abs(like).mean())
    batches = []
    for rows in np.array_split(rng.permutation(np.repeat(np.arange(n_classes), PER_CLASS)), 4):
        centres = np.stack([_mix(like, k) for k in range(n_classes)])
        drawn = centres[rows] + spread * rng.normal(size=(len(rows), like.shape[1]))
        if like.min() >= 0:  # as a ReLU leaves them
            drawn = np.maximum(drawn, 0)
        batches.append((drawn.astype(np.float32), [f"class {k}" for k in rows]))
    return batches


def _mix(like: Floats, k: int) -> Floats:
    rng = np.random.default_rng(k)
    share, (first, second) = rng.random(), like[rng.integers(0, len(like), 2)]
    mixed: Floats = share * first + (1 - share) * second
    return mixed
