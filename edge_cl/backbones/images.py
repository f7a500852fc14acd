"""One image file to RGB pixels, whatever is in the file; what cannot be read is a reason, never a crash."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from edge_cl.backbones.preprocessing import Preprocessing

MAX_PIXELS = 89_000_000  # 270 MB decoded; Pillow warns above it and refuses above twice of it


class UnreadableImageError(Exception):
    """The text is the reason that the user reads beside the path."""


def read_rgb(source: str | os.PathLike[str] | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (H', W', 3) uint8 RGB of the whole image, at its own size; see `read_image`.

    Raises:
        UnreadableImageError: it is no image, is cut short, or is too large.
    """
    return source if isinstance(source, np.ndarray) else np.asarray(_decode(source, None))


def read_image(source: str | os.PathLike[str] | NDArray[np.uint8], geometry: Preprocessing) -> NDArray[np.uint8]:
    """Return (H, W, 3) uint8 RGB at the backbone's size.

    The first frame of an animation; turned as EXIF says; transparency over white; CMYK, grey and 16 bits converted.

    Args:
        source: a path, or an image (H', W', 3) uint8.
        geometry: size and crop.

    Raises:
        UnreadableImageError: it is no image, is cut short, or is too large.
    """
    if isinstance(source, np.ndarray):
        return geometry.apply(Image.fromarray(source))
    return geometry.apply(_decode(source, geometry.input_size))


def _decode(source: str | os.PathLike[str], size: tuple[int, int] | None) -> Image.Image:
    """Return an RGB image, of a JPEG at least twice the size (H, W) where that is given.

    Raises:
        UnreadableImageError: see `read_image`.
    """
    try:
        if os.path.getsize(source) == 0:
            raise UnreadableImageError("empty file (0 bytes)")
        with Image.open(source) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImageError(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
            if size is not None:
                image.draft("RGB", (2 * size[1], 2 * size[0]))  # decodes at 1/2, 1/4 or 1/8 when that is plenty
            image.load()
            return _to_rgb(_turn(image))
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:
        raise UnreadableImageError("not an image that can be read") from None
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them trip over
        raise UnreadableImageError(f"cannot be decoded: {error or type(error).__name__}") from error


def _turn(image: Image.Image) -> Image.Image:
    """Return the image as EXIF turns it; broken EXIF is no reason to refuse sound pixels."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_to_bytes(np.asarray(image)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_bytes(grey: NDArray[Any]) -> NDArray[np.uint8]:
    """Return 8 bits of a grey image of 16 bits, of 32 bits, or of floats in 0 to 1."""
    top = 65535.0 if grey.dtype.kind in "iu" else 1.0
    if grey.dtype.kind == "f" and grey.max(initial=0) > 1:
        top = 255.0
    return np.asarray(np.clip(grey / top * 255, 0, 255).round(), dtype=np.uint8)
