"""Curves of accuracy as a PNG, drawn with Pillow: a plotting library would double the install."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SIZE = (1000, 620)
MARGIN = (90, 70, 250, 80)  # left, top, right, bottom
INK, GRID = "#222222", "#dddddd"
COLOURS = (
    *("#0b6e4f", "#c1440e", "#3366aa", "#8a5fbf", "#b8860b", "#008b8b"),
    *("#c2185b", "#5d4037", "#6b8e23", "#455a64", "#d2691e", "#1a1a80"),
)
STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # between lines of the grid
MAX_LINES = 6
MAX_MARKS = 12  # below the x axis
BESIDE = 22  # pixels between names

Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class _Axes:
    """Where a point of the data lies in the picture.

    Attributes:
        low: least x (its logarithm where the axis is logarithmic).
        high: greatest x.
        floor: least y.
        ceiling: greatest y.
        is_log: whether the x axis is logarithmic.
    """

    low: float
    high: float
    floor: float
    ceiling: float
    is_log: bool

    left, top = MARGIN[0], MARGIN[1]
    right, bottom = SIZE[0] - MARGIN[2], SIZE[1] - MARGIN[3]

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixel of a point."""
        along = (math.log10(x) if self.is_log else x) - self.low
        up = (y - self.floor) / (self.ceiling - self.floor)
        return (
            self.left + along / (self.high - self.low) * (self.right - self.left),
            self.bottom - up * (self.bottom - self.top),
        )


def draw_curves(
    title: str,
    x_label: str,
    curves: Mapping[str, Curve],
    *,
    log_x: bool = False,
    fit_y: bool = False,
    in_bytes: bool = True,
) -> bytes:
    """Return a PNG of curves of shares, 0 to 1, shown in percent.

    Args:
        title: above the picture.
        x_label: below it.
        curves: points (x, y) by name, as many as one likes.
        log_x: a logarithmic x axis; every x is then greater than 0.
        fit_y: let the y axis run from the least y to the greatest instead of from 0 to 1.
        in_bytes: whether a logarithmic x axis is one of bytes.
    """
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    small = ImageFont.load_default(16)
    large = next(
        (f for f in map(ImageFont.load_default, range(22, 10, -1)) if f.getlength(title) <= SIZE[0] - 2 * MARGIN[0]),
        small,
    )
    points = [point for curve in curves.values() for point in curve] or [(1.0, 0.0)]
    xs = [math.log10(x) if log_x else x for x, _ in points]
    step, floor, ceiling = fit([y for _, y in points]) if fit_y else (0.2, 0.0, 1.0)
    margin = 0.2 if log_x else 0.0  # of a decade, so that one or two of the marks lie within
    low, high = min(xs) - margin, max(xs) + margin
    axes = _Axes(low, max(high, low + 0.4 if log_x else low + 1), floor, ceiling, log_x)
    for line in range(round((ceiling - floor) / step) + 1):
        share = floor + line * step
        y = axes.place(points[0][0], share)[1]
        draw.line((axes.left, y, axes.right, y), GRID)
        draw.text((axes.left - 12, y), f"{round(100 * share, 1):g} %", INK, small, anchor="rm")
    marked = _decades(axes) if log_x else sorted({x for x, _ in points})
    for x in _thin(marked, lambda x: axes.place(x, floor)[0]):
        text = _bytes(x) if log_x and in_bytes else f"{x:g}"
        draw.text((axes.place(x, floor)[0], axes.bottom + 10), text, INK, small, anchor="ma")
    draw.line((axes.left, axes.top, axes.left, axes.bottom, axes.right, axes.bottom), INK, 2)
    draw.text((axes.left, axes.top - 44), title, INK, large)
    draw.text(((axes.left + axes.right) / 2, axes.bottom + 40), x_label, INK, small, anchor="ma")
    _draw_all(draw, axes, curves, small)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _draw_all(draw: Any, axes: _Axes, curves: Mapping[str, Curve], font: Any) -> None:
    """Draw the curves, the first one on top, and their names beside their ends.

    From the thirteenth on, the colours come again, thinner.
    """
    ends = {}
    for number, (name, curve) in reversed(list(enumerate(curves.items()))):
        colour, width = COLOURS[number % len(COLOURS)], 2 if number >= len(COLOURS) else 4
        pixels = [axes.place(x, y) for x, y in curve]
        draw.line(pixels, colour, width, joint="curve")
        for x, y in pixels:
            draw.ellipse((x - width - 1, y - width - 1, x + width + 1, y + width + 1), colour)
        ends[name] = (pixels[-1][1] if pixels else axes.bottom, colour)
    order = sorted(ends, key=lambda name: ends[name][0])
    for name, y in zip(order, spread([ends[name][0] for name in order]), strict=True):
        draw.text((axes.right + 14, y), name if len(name) <= 30 else name[:29] + "…", ends[name][1], font, anchor="lm")


def fit(ys: Sequence[float]) -> tuple[float, float, float]:
    """Return the step of the grid and round ends below and above all y."""
    low, high = min(ys), max(ys)
    step = next((s for s in STEPS if high - low <= (MAX_LINES - 1) * s), STEPS[-1])
    floor = math.floor(low / step + 1e-9) * step
    return step, floor, max(math.ceil(high / step - 1e-9) * step, floor + step)


def _decades(axes: _Axes) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten along a logarithmic axis."""
    powers = range(math.floor(axes.low), math.ceil(axes.high) + 1)
    marks = [round(digit * 10.0**power, 12) for power in powers for digit in (1, 2, 5)]
    return [mark for mark in marks if axes.low - 1e-9 <= math.log10(mark) <= axes.high + 1e-9]


def _thin(xs: Sequence[float], place: Callable[[float], float]) -> list[float]:
    """Return the x to write below the axis: those that leave room for each other."""
    room = (SIZE[0] - MARGIN[0] - MARGIN[2]) / MAX_MARKS
    marks: list[float] = []
    for x in xs:
        if not marks or place(x) - place(marks[-1]) >= room:
            marks.append(x)
    return marks


def spread(places: Sequence[float]) -> list[float]:
    """Return the places of names, sorted downwards, moved apart so that none covers another or leaves the picture."""
    apart: list[float] = []
    for y in places:
        apart.append(max(y, apart[-1] + BESIDE) if apart else y)
    limit = SIZE[1] - BESIDE / 2
    for n in reversed(range(len(apart))):
        apart[n] = min(apart[n], limit)
        limit = apart[n] - BESIDE
    return apart


def _bytes(n_bytes: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.3g} {name}"
    return f"{n_bytes:.3g} B"
