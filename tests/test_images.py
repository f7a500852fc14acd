"""Whatever is in an image file becomes RGB at the backbone's size, or a reason."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from edge_cl.backbones.images import UnreadableImageError, read_image
from edge_cl.backbones.preprocessing import Preprocessing, crop_of, resolve
from edge_cl.errors import InputError

SMALL = Preprocessing(input_size=(4, 6))
RED = (200, 30, 40)


def red(mode: str = "RGB", size: tuple[int, int] = (12, 8)) -> Image.Image:
    return Image.new("RGB", size, RED).convert(mode)


def read(path: Path, geometry: Preprocessing = SMALL) -> np.ndarray:
    return read_image(path, geometry)


def test_an_array_and_a_file_of_it_give_the_same_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (31, 17, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(pixels, SMALL), read(tmp_path / "a.png"))


@pytest.mark.parametrize(
    ("name", "mode", "tolerance"),
    [
        ("rgb.png", "RGB", 0),
        ("palette.png", "P", 60),
        ("opaque.png", "RGBA", 0),
        ("cmyk.tif", "CMYK", 1),
        ("cmyk.jpg", "CMYK", 6),
        ("rgb.jpg", "RGB", 6),
        ("rgb.webp", "RGB", 12),
        ("ycc.jpg", "YCbCr", 6),
    ],
)
def test_colour_survives_every_mode(tmp_path: Path, name: str, mode: str, tolerance: int) -> None:
    red(mode).save(tmp_path / name)
    found = read(tmp_path / name)
    assert found.shape == (4, 6, 3)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - RED).max() <= tolerance


def test_transparency_is_seen_over_white(tmp_path: Path) -> None:
    image = red("RGBA")
    image.putalpha(0)
    image.save(tmp_path / "clear.png")
    assert (read(tmp_path / "clear.png") == 255).all()
    Image.new("LA", (5, 5), (0, 0)).save(tmp_path / "grey.png")
    assert (read(tmp_path / "grey.png") == 255).all()


@pytest.mark.parametrize(("dtype", "value"), [(np.uint8, 100), (np.uint16, 100 * 257), (np.float32, 100 / 255)])
def test_grey_of_8_16_bits_and_floats_is_the_same_grey(tmp_path: Path, dtype: Any, value: float) -> None:
    Image.fromarray(np.full((9, 9), value, dtype)).save(tmp_path / "grey.tif")
    assert (read(tmp_path / "grey.tif") == 100).all()


def test_16_bit_png_keeps_its_shades(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 6).astype(np.uint16)
    Image.fromarray(np.tile(ramp, (4, 1))).save(tmp_path / "ramp.png")
    np.testing.assert_allclose(read(tmp_path / "ramp.png")[0, :, 0], [0, 51, 102, 153, 204, 255], atol=1)


def test_the_first_frame_of_an_animation_is_learnt(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read(tmp_path / "a.gif")[..., 0] > 200).all()


def test_a_photo_is_turned_as_exif_says(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 4), "black")
    image.paste("white", (0, 0, 4, 4))  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise: the left half comes to the top
    image.save(tmp_path / "turned.png", exif=exif)
    found = read(tmp_path / "turned.png", Preprocessing(input_size=(8, 4)))
    assert (found[:4] == 255).all()
    assert (found[4:] == 0).all()


def png(width: int, height: int) -> bytes:
    """Return a PNG that says it is of that size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def broken(tmp_path: Path) -> dict[str, bytes]:
    red(size=(300, 200)).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    return {
        "empty.jpg": b"",
        "text.jpg": b"this is no image",
        "cut.jpg": whole[: len(whole) // 2],
        "header.jpg": whole[:20],
        "huge.png": png(50_000, 50_000),
        "large.png": png(9_500, 9_400),
        "cut.png": png(30, 30),
    }


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty.jpg", "empty file"),
        ("text.jpg", "not an image"),
        ("cut.jpg", "cannot be decoded"),
        ("header.jpg", "not an image|cannot be decoded"),
        ("huge.png", "exceeds limit|more than"),
        ("large.png", "pixels, more than"),
        ("cut.png", "cannot be decoded"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_cannot_be_read_is_a_reason(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / name).write_bytes(broken(tmp_path)[name])
    with pytest.raises(UnreadableImageError, match=reason):
        read(tmp_path / name)


def test_a_file_that_is_gone_or_a_folder_is_a_reason(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.jpg", tmp_path):
        with pytest.raises(UnreadableImageError):
            read(path)


def test_crop_takes_the_middle_and_none_takes_all() -> None:
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 8:22] = 255  # the resampling filter reaches a pixel or two beyond the box
    assert (read_image(image, Preprocessing(input_size=(5, 5), crop=1.0)) == 255).all()
    assert 0 < read_image(image, Preprocessing(input_size=(5, 5))).mean() < 255
    assert crop_of(256, 224) == 0.875
    assert crop_of(224, 224) == 1.0


def resized(rows: np.ndarray, length: int, box: float) -> np.ndarray:
    """Return (length, M, 3) of (L, M, 3): means under a triangle in whole 2**-22, rounded to grey levels, halves up."""
    start = np.float32((len(rows) - box) / 2)
    step = float(np.float32((len(rows) + box) / 2) - start) / length
    centres = float(start) + step * (np.arange(length) + 0.5)
    distances = np.abs(np.arange(len(rows)) + 0.5 - centres[:, None])
    weights = np.maximum(1 - distances / max(step, 1), 0)
    units = np.floor(weights / weights.sum(1, keepdims=True) * 2**22 + 0.5).astype(np.int64)
    return (np.tensordot(units, rows.astype(np.int64), 1) + 2**21) >> 22


sides = st.integers(1, 50)


@settings(max_examples=60, deadline=None)
@given(found=st.tuples(sides, sides), wanted=st.tuples(sides, sides), crop=st.sampled_from([0.0, 1.0, 0.875, 0.3]))
@example(found=(40, 7), wanted=(8, 24), crop=0.0)
@example(found=(7, 40), wanted=(24, 8), crop=0.0)
@example(found=(301, 3), wanted=(12, 8), crop=0.0)
@example(found=(301, 3), wanted=(400, 8), crop=0.0)
def test_the_width_is_resized_first_whatever_the_version_of_pillow(
    found: tuple[int, int], wanted: tuple[int, int], crop: float
) -> None:
    """Both passes round, so that their order shows; only lines of pixels, which would become huge, go the other way."""
    image = np.random.default_rng(0).integers(0, 256, (*found, 3)).astype(np.uint8)
    side = crop * min(found[0] / wanted[0], found[1] / wanted[1])
    boxes = [side * length for length in wanted] if crop else list(found)
    want, axes = image, [1, 0]
    if found[0] > max(100 * found[1], wanted[0]):
        axes = [0, 1]
    for axis in axes:
        want = resized(want.swapaxes(0, axis), wanted[axis], boxes[axis]).swapaxes(0, axis)
    np.testing.assert_array_equal(Preprocessing(wanted, crop=crop).apply(Image.fromarray(image)), want)


def test_normalised_pixels_follow_the_formula() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3)).astype(np.uint8)
    geometry = Preprocessing((4, 6), 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    want = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(geometry.normalise(images), want.transpose(0, 3, 1, 2), atol=1e-5)
    default = Preprocessing((4, 6)).normalise(images)
    np.testing.assert_allclose(default, ((images - 127.5) / 127.5).transpose(0, 3, 1, 2), atol=1e-6)


STORED = '{"input_size": [8, 8], "scale": 0.5}'


def test_the_file_says_more_than_the_graph_and_options_fill_the_rest() -> None:
    assert resolve(None, None, None, "net") == Preprocessing()
    assert resolve(None, None, (64, 32), "net").input_size == (64, 32)
    found = resolve(STORED, {"mean": (0, 0, 0), "scale": None}, None, "net")
    assert found == Preprocessing((8, 8), 0.5, (0.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("stored", "given", "wanted"),
    [
        (STORED, {"scale": 1.0}, "leave out --scale"),
        (STORED, {"input_size": (9, 9)}, "leave out --input-size"),
        (None, {"input_size": (0, 5)}, "expected 1 to 4096"),
        (None, {"mean": (1, 2)}, "mean: expected 3 finite numbers"),
        (None, {"std": (1, 0, 1)}, "must not be 0"),
        (None, {"scale": float("nan")}, "scale: expected a finite number"),
        (None, {"crop": 2.0}, "crop: expected 0 to 1"),
        ("[1, 2]", None, "expected a JSON object"),
        ("{", None, "expected a JSON object"),
        ('{"size": 3}', None, "no key 'size'"),
        ('{"mean": "grey"}', None, "mean: expected 3 finite numbers"),
    ],
)
def test_wrong_preprocessing_is_one_line(stored: str | None, given: dict[str, Any] | None, wanted: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve(stored, given, None, "net.onnx")
    assert wanted in str(caught.value)
    assert str(caught.value).startswith("net.onnx: ")
