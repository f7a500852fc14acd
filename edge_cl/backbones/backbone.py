"""A frozen backbone run by onnxruntime: decoding and resizing of the next batch go on while this one is extracted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from edge_kernels.arrays import Floats, Ints
from numpy.typing import NDArray

from edge_cl.backbones.images import UnreadableImageError, read_image
from edge_cl.backbones.preprocessing import Preprocessing
from edge_cl.backbones.session import is_on_gpu, is_out_of_memory, open_session
from edge_cl.errors import BackboneError, InputError, SessionError, first_line

BATCH = 8  # images at a time: no slower than 32 on a CPU, and MobileNetV2 stays below 200 MiB resident

Progress = Callable[[int], object]
Source = str | os.PathLike[str] | NDArray[np.uint8]


@dataclass(frozen=True)
class BackboneInfo:
    """What a state remembers of its backbone.

    Attributes:
        name: `tiny`, a torchvision name, or the file's name.
        path: where the file was, absolute; empty for the other two.
        tensor: where the user cut it; empty if the place was found.
        sha256: of the file, or of the weights' file for a torchvision name.
        dim: D.
        preprocessing: how images become its input.
    """

    name: str
    path: str
    tensor: str
    sha256: str
    dim: int
    preprocessing: Preprocessing

    def to_json(self) -> str:
        """Return all of it as JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> BackboneInfo:
        """Return what `to_json` wrote.

        Raises:
            InputError: it is something else.
        """
        try:
            values = json.loads(text)
            preprocessing = Preprocessing.parse(values.pop("preprocessing"), "state")
            info = cls(**values, preprocessing=preprocessing)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise InputError(f"backbone: expected its description; found {text[:60]!r}") from None
        return info


@dataclass(frozen=True)
class Skipped:
    """A sample that was not used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Extraction:
    """What became of a list of samples.

    Attributes:
        features: (N, D) float32 of those that could be read.
        rows: (N,) their places in the list.
        skipped: the others.
    """

    features: Floats
    rows: Ints
    skipped: tuple[Skipped, ...]


class Backbone:
    """An opened backbone.

    Attributes:
        info: what a state remembers of it.
        model: the cut ONNX model, a path or its bytes.
    """

    def __init__(self, info: BackboneInfo, model: Path | bytes, device: str, precision: int = 32) -> None:
        self.info = info
        self.model = model
        self._device = device
        self._precision = precision
        self._batch = BATCH

    @cached_property
    def session(self) -> Any:
        """The onnxruntime session, opened at the first use."""
        return open_session(self.model, self._device, self._precision)

    def extract(self, sources: Sequence[Source], on_done: Progress = int) -> Extraction:
        """Return the features of images.

        Args:
            sources: paths, or images (H, W, 3) uint8.
            on_done: called with the number of images after each batch; `int` does nothing with it.
        """
        batches = [sources[start : start + BATCH] for start in range(0, len(sources), BATCH)]
        blocks, rows, skipped = [np.zeros((0, self.info.dim), np.float32)], [], []
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            try:
                ahead = self._submit(pool, batches[0]) if batches else []
                for number, batch in enumerate(batches):
                    reading = ahead
                    ahead = self._submit(pool, batches[number + 1]) if number + 1 < len(batches) else []
                    images, places = [], []
                    for place, (source, future) in enumerate(zip(batch, reading, strict=True)):
                        try:
                            images.append(future.result())
                            places.append(number * BATCH + place)
                        except UnreadableImageError as error:
                            skipped.append(Skipped(_name_of(source, number * BATCH + place), str(error)))
                    found = self._run(np.stack(images)) if images else blocks[0]
                    sound = np.isfinite(found).min(axis=1)
                    blocks.append(found[sound])
                    for place, is_sound in zip(places, sound.tolist(), strict=True):
                        if is_sound:
                            rows.append(place)
                        else:
                            reason = "the backbone's features of it are not finite"
                            skipped.append(Skipped(_name_of(sources[place], place), reason))
                    on_done(len(batch))
            finally:
                pool.shutdown(cancel_futures=True)
        return Extraction(np.concatenate(blocks), np.array(rows, np.int64), tuple(skipped))

    def pixels(self, sources: Sequence[Source]) -> Floats:
        """Return the input (N, 3, H, W) that the backbone is given for images.

        Raises:
            InputError: one cannot be read.
        """
        images = []
        for place, source in enumerate(sources):
            try:
                images.append(read_image(source, self.info.preprocessing))
            except UnreadableImageError as error:
                raise InputError(f"{_name_of(source, place)}: {error}") from None
        return self.info.preprocessing.normalise(np.stack(images))

    def measure_dim(self) -> int:
        """Return D, found by running one black image.

        Raises:
            BackboneError: the backbone does not run at its input size.
        """
        height, width = self.info.preprocessing.input_size
        try:
            return int(self._run(np.zeros((1, height, width, 3), np.uint8)).shape[1])
        except Exception as error:  # onnxruntime's exceptions derive from Exception alone
            if isinstance(error, SessionError):
                raise
            raise BackboneError(f"{self.info.name}: does not run at {height} x {width}: {first_line(error)}") from None

    def _submit(self, pool: ThreadPoolExecutor, batch: Sequence[Source]) -> list[Future[NDArray[np.uint8]]]:
        return [pool.submit(read_image, source, self.info.preprocessing) for source in batch]

    def _run(self, images: NDArray[np.uint8]) -> Floats:
        """Return the features (N, D); where memory runs out, half as many images are tried at a time.

        Raises:
            SessionError: the GPU failed, and `auto` was not asked for.
        """
        blocks: list[Floats] = []
        start = 0
        while start < len(images):
            part = images[start : start + self._batch]
            try:
                pixels = self.info.preprocessing.normalise(part)
                blocks.append(self.session.run(["features"], {"pixels": pixels})[0])
                start += len(part)
            except Exception as error:  # onnxruntime's exceptions derive from Exception alone
                if is_out_of_memory(error) and len(part) > 1:
                    self._batch = len(part) // 2
                elif not is_on_gpu(self.session):
                    raise
                elif self._device == "auto":
                    self.session = open_session(self.model, "cpu")
                else:
                    raise SessionError(f"device cuda: {first_line(error)}; use --device cpu") from error
        return np.concatenate(blocks)


def _name_of(source: Source, place: int) -> str:
    return f"image {place}" if isinstance(source, np.ndarray) else os.fspath(source)
