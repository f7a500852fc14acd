"""Times as a PNG: for each measure a bar to its median, and lines on to its slow ones, drawn with Pillow."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

WIDTH, ROW = 1200, 40
LEFT, TOP, RIGHT, BOTTOM = 470, 120, 230, 70
INK, GRID, PALE = "#222222", "#dddddd", "#777777"
COLOURS = ("#0b6e4f", "#c1440e")  # the bar, and what lies beyond it


@dataclass(frozen=True)
class Bar:
    """One row of the picture.

    Attributes:
        name: left of it.
        ms: p50, p95 and p99 in milliseconds; empty where there is none.
        note: instead of them.
    """

    name: str
    ms: tuple[float, ...]
    note: str = ""


def draw_bars(title: str, subtitle: str, bars: Sequence[Bar]) -> bytes:
    """Return a PNG of bars over milliseconds, a tenfold of which is always as long.

    Args:
        title: above the picture.
        subtitle: below the title.
        bars: from the top down.
    """
    image = Image.new("RGB", (WIDTH, TOP + ROW * len(bars) + BOTTOM), "white")
    draw = ImageDraw.Draw(image)
    small, large = ImageFont.load_default(16), ImageFont.load_default(22)
    found = [value for bar in bars for value in bar.ms if value > 0]
    low = math.floor(math.log10(min(found, default=1.0)))
    high = max(math.ceil(math.log10(max(found, default=1.0))), low + 1)
    end = WIDTH - RIGHT

    def place(ms: float) -> float:
        return LEFT + (math.log10(max(ms, 10.0**low)) - low) / (high - low) * (end - LEFT)

    draw.text((20, 24), title, INK, large)
    draw.text((20, 60), _fit(draw, subtitle, small, WIDTH - 40), PALE, small)
    bottom = TOP + ROW * len(bars)
    for power in range(low, high + 1):
        x = place(10.0**power)
        draw.line((x, TOP, x, bottom), GRID)
        draw.text((x, bottom + 8), f"{10.0**power:,g}", INK, small, anchor="ma")
    draw.text(((LEFT + end) / 2, bottom + 36), "milliseconds: bar p50, line p95, tick p99", INK, small, anchor="ma")
    for number, bar in enumerate(bars):
        y = TOP + ROW * number + ROW / 2
        draw.text((LEFT - 12, y), _fit(draw, bar.name, small, LEFT - 32), INK, small, anchor="rm")
        if not bar.ms:
            draw.text((LEFT + 8, y), _fit(draw, bar.note, small, WIDTH - LEFT - 28), COLOURS[1], small, anchor="lm")
            continue
        p50, p95, p99 = (place(value) for value in bar.ms)
        draw.rectangle((LEFT, y - 11, p50, y + 11), COLOURS[0])
        draw.line((p50, y, p95, y), COLOURS[1], 5)
        draw.line((p95, y, p99, y), COLOURS[1], 2)
        draw.line((p99, y - 9, p99, y + 9), COLOURS[1], 2)
        draw.text((end + 14, y), " / ".join(show_ms(value) for value in bar.ms), INK, small, anchor="lm")
    draw.line((LEFT, TOP, LEFT, bottom), INK, 2)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def show_ms(value: float) -> str:
    """Return milliseconds with three digits that count."""
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{min(digits, 4)}f}"


def _fit(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Return the text in one line, cut short where it is wider."""
    text = " ".join(text.split())
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "...", font) > width:
        text = text[:-1]
    return text + "..."
