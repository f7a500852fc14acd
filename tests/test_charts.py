"""Charts hold every point and name that they are given."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge_cl import charts
from edge_cl.charts import draw_curves


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_the_y_axis_holds_every_share_with_a_few_lines(shares: list[float]) -> None:
    step, floor, ceiling = charts.fit(shares)
    assert floor <= min(shares) + 1e-9
    assert ceiling >= max(shares) - 1e-9
    lines = (ceiling - floor) / step
    assert round(lines) == pytest.approx(lines)
    assert 1 <= round(lines) <= charts.MAX_LINES


@given(st.lists(st.floats(70, 540), min_size=1, max_size=26))
def test_names_do_not_cover_each_other(places: list[float]) -> None:
    apart = charts.spread(sorted(places))
    assert all(second - first >= charts.BESIDE - 1e-9 for first, second in pairwise(apart))
    assert apart[0] >= 0
    assert apart[-1] <= charts.SIZE[1]


def pixels(png: bytes) -> set[tuple[int, int, int]]:
    """Return the colours of a picture."""
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.size == charts.SIZE
        return {tuple(colour) for colour in np.unique(np.asarray(picture).reshape(-1, 3), axis=0).tolist()}


@pytest.mark.parametrize(("log_x", "fit_y"), [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("n_curves", [1, 12, 20])
def test_every_curve_has_its_colour(n_curves: int, log_x: bool, fit_y: bool) -> None:
    curves = {f"curve {n}": [(10.0**x, (n + 1) / 30) for x in range(1, 4)] for n in range(n_curves)}
    found = pixels(draw_curves("title", "x", curves, log_x=log_x, fit_y=fit_y))
    wanted = charts.COLOURS[:n_curves]
    assert {tuple(bytes.fromhex(colour[1:])) for colour in wanted} <= found


def test_one_point_or_none_is_a_picture_too() -> None:
    several: list[dict[str, list[tuple[float, float]]]] = [{}, {"a": []}, {"a": [(5.0, 0.5)]}]
    for curves in several:
        for log_x in (False, True):
            assert pixels(draw_curves("title", "x", curves, log_x=log_x, fit_y=True))
