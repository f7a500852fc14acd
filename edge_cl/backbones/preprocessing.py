"""How an image becomes the input of a backbone; part of the backbone, and never guessed twice.

Stored as JSON under `edge_cl.preprocessing` in the metadata of an ONNX file and in the state:

| key        | type      | default       | meaning |
|------------|-----------|---------------|---------|
| input_size | [H, W]    | the graph's own, else [224, 224] | |
| scale      | number    | 1 / 127.5     | RGB values 0 to 255 are multiplied by it |
| mean       | 3 numbers | [1, 1, 1]     | then it is subtracted |
| std        | 3 numbers | [1, 1, 1]     | then divided by: the defaults give -1 to 1 |
| crop       | number    | 0             | 0: the whole image, squeezed to H x W; else the largest box of that |
|            |           |               | shape in the middle, its sides times this |
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from edge_kernels.arrays import Floats
from numpy.typing import NDArray
from PIL import Image

from edge_cl.errors import InputError

METADATA_KEY = "edge_cl.preprocessing"


@dataclass(frozen=True)
class Preprocessing:
    """See the table of the module."""

    input_size: tuple[int, int] = (224, 224)
    scale: float = 1 / 127.5
    mean: tuple[float, float, float] = (1.0, 1.0, 1.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    crop: float = 0.0

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> Preprocessing:
        """Return the preprocessing of a mapping with any of the table's keys.

        Args:
            values: the mapping.
            where: what an error names.

        Raises:
            InputError: a key is unknown, or a value is of the wrong shape or out of range.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise InputError(f"{where}: preprocessing has no key {sorted(unknown)[0]!r}; see the README for the five")
        plain: dict[str, Any] = {}
        for key, n_values in (("input_size", 2), ("scale", 0), ("mean", 3), ("std", 3), ("crop", 0)):
            if values.get(key) is None:
                continue
            try:
                numbers = np.asarray(values[key], dtype=np.float64)
            except (TypeError, ValueError):
                numbers = np.full(1, np.nan)
            if numbers.shape != ((n_values,) if n_values else ()) or not np.isfinite(numbers).all():
                wanted = f"{n_values} finite numbers" if n_values else "a finite number"
                raise InputError(f"{where}: {key}: expected {wanted}; found {values[key]!r}")
            plain[key] = tuple(numbers.tolist()) if n_values else float(numbers)
        if "input_size" in plain:
            plain["input_size"] = tuple(int(side) for side in plain["input_size"])
            if min(plain["input_size"]) < 1 or max(plain["input_size"]) > 4096:
                raise InputError(f"{where}: input_size: expected 1 to 4096; found {values['input_size']!r}")
        if 0.0 in plain.get("std", ()) or plain.get("scale") == 0.0:
            raise InputError(f"{where}: std and scale must not be 0")
        if not 0 <= plain.get("crop", 0.0) <= 1:
            raise InputError(f"{where}: crop: expected 0 to 1; found {values['crop']!r}")
        return cls(**plain)

    def to_json(self) -> str:
        """Return the JSON of the table."""
        return json.dumps(asdict(self), sort_keys=True)

    def apply(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return the box of an RGB image that the backbone sees, (H, W, 3) uint8."""
        height, width = self.input_size
        box = (0.0, 0.0, float(image.width), float(image.height))
        if self.crop:
            side = self.crop * min(image.width / width, image.height / height)
            left, top = (image.width - side * width) / 2, (image.height - side * height) / 2
            box = (max(left, 0), max(top, 0), left + side * width, top + side * height)
        image = _resize(image, (width, height), box)
        return np.asarray(image)

    def normalise(self, images: NDArray[np.uint8]) -> Floats:
        """Return the backbone's input (N, 3, H, W) float32 of images (N, H, W, 3) uint8."""
        scale = np.array([self.scale / std for std in self.std], np.float32)
        offset = np.array([mean / std for mean, std in zip(self.mean, self.std, strict=True)], np.float32)
        pixels: Floats = images.transpose(0, 3, 1, 2).astype(np.float32, order="C")
        pixels *= scale[:, None, None]
        pixels -= offset[:, None, None]
        return pixels


def _resize(image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]) -> Image.Image:
    """Return the box (left, top, right, bottom) of an image at a size (width, height).

    Pillow rounds to grey levels after each of its two passes, so their order is seen in a pixel of five. Its versions
    choose it differently; two calls of one pass each give the features that learnt states were made with everywhere.
    """
    (left, top, right, bottom), (width, height) = box, size
    passes = ("across", "down")
    if image.height > max(100 * image.width, height):  # the width first would make gigabytes of a line of pixels
        passes = ("down", "across")
    for way in passes:
        if way == "across":
            shape, part = (width, image.height), (left, 0.0, right, float(image.height))
        else:
            shape, part = (image.width, height), (0.0, top, float(image.width), bottom)
        if (shape, part) != (image.size, (0, 0, *image.size)):
            image = image.resize(shape, Image.Resampling.BILINEAR, box=part)
    return image


def resolve(
    stored: str | None, given: Mapping[str, Any] | None, graph_size: tuple[int, int] | None, where: str
) -> Preprocessing:
    """Return the preprocessing of a backbone: what its file says, else what was given, else the defaults.

    Args:
        stored: the file's JSON, if it has one.
        given: the user's options; None where not given.
        graph_size: (H, W) of the graph's input where that is fixed.
        where: the backbone's name, for errors.

    Raises:
        InputError: a value is wrong, or given and stored disagree.
    """
    values: dict[str, Any] = {"input_size": graph_size}
    options = {key: value for key, value in (given or {}).items() if value is not None}
    if stored is not None:
        try:
            parsed = json.loads(stored)
        except json.JSONDecodeError:
            parsed = None
        if not isinstance(parsed, dict):
            raise InputError(f"{where}: metadata {METADATA_KEY}: expected a JSON object; found {stored[:60]!r}")
        values |= parsed
    wanted = Preprocessing.parse({**values, **options}, where)
    settled = Preprocessing.parse(values, where)
    for key in options:
        found, fixed = getattr(wanted, key), getattr(settled, key)
        is_fixed = values.get(key) is not None
        if is_fixed and not np.allclose(found, fixed, rtol=1e-6):
            option = "--" + key.replace("_", "-")
            raise InputError(f"{where}: the file says {key} {fixed}, but {found} was given; leave out {option}")
    return wanted


def crop_of(resized: int, cropped: int) -> float:
    """Return `crop` for "resize the short side to `resized`, then cut `cropped` from the middle"."""
    return 1.0 if math.isclose(resized, cropped) else cropped / resized
