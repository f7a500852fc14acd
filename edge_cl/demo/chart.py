"""Curves of accuracy against classes as a PNG, drawn with Pillow: a plotting library would double the install."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

SIZE = (1000, 620)
MARGIN = (90, 70, 210, 80)  # left, top, right, bottom
INK, GRID = "#222222", "#dddddd"
COLOURS = ("#0b6e4f", "#c1440e", "#3366aa", "#8a5fbf")

Curve = Sequence[tuple[float, float]]


def draw_curves(title: str, x_label: str, curves: Mapping[str, Curve]) -> bytes:
    """Return a PNG of curves whose y run from 0 to 1.

    Args:
        title: above the picture.
        x_label: below it.
        curves: points (x, y) by name; at least one point in all.
    """
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    small, large = ImageFont.load_default(16), ImageFont.load_default(22)
    xs = [x for curve in curves.values() for x, _ in curve]
    low = min(xs)
    high = max(*xs, low + 1)
    left, top, right, bottom = MARGIN[0], MARGIN[1], SIZE[0] - MARGIN[2], SIZE[1] - MARGIN[3]

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (x - low) / (high - low) * (right - left), bottom - y * (bottom - top)

    for tenth in range(0, 11, 2):
        _, y = place(low, tenth / 10)
        draw.line((left, y, right, y), GRID)
        draw.text((left - 12, y), f"{10 * tenth} %", INK, small, anchor="rm")
    for x in sorted(set(xs)):
        draw.text((place(x, 0)[0], bottom + 10), f"{x:g}", INK, small, anchor="ma")
    draw.line((left, top, left, bottom, right, bottom), INK, 2)
    draw.text((left, top - 44), title, INK, large)
    draw.text(((left + right) / 2, bottom + 40), x_label, INK, small, anchor="ma")
    taken: list[float] = []
    for (name, curve), colour in zip(curves.items(), COLOURS, strict=False):
        points = [place(x, y) for x, y in curve]
        draw.line(points, colour, 4, joint="curve")
        for x, y in points:
            draw.ellipse((x - 5, y - 5, x + 5, y + 5), colour)
        beside = points[-1][1]
        while any(abs(beside - other) < 22 for other in taken):
            beside += 22
        taken.append(beside)
        draw.text((right + 14, beside), name, colour, small, anchor="lm")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
