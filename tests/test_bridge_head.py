"""The C runtime computes what Python does, int8 to the bit, however it is compiled and wherever a blob lies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_firmware.arithmetic import dequantise, logits_float, logits_int8, quantise
from edge_kernels.arrays import Floats

from edge_cl.head import softmax

from .c_head import ANY, NONE, Runtime, draw_blob, whole

SHAPES: dict[str, dict[str, Any]] = {
    "one feature": {"dim": 1, "n_classes": 1},
    "odd": {"dim": 7, "n_classes": 3, "n_looks": 2},
    "five more than a turn": {"dim": 9, "n_classes": 2},
    "six": {"dim": 6, "n_classes": 5, "n_looks": 11},
    "many classes": {"dim": 12, "n_classes": 300, "n_looks": 33},
    "backbone": {"dim": 1280, "n_classes": 10, "n_looks": 3},
}
FLAGS = {
    "O0": ("-O0",),
    "O1": ("-O1", "-fsanitize=undefined", "-fno-sanitize-recover=all"),
    "O2": ("-O2", "-ffp-contract=fast"),
    "O3 with FMA": ("-O3", "-march=haswell", "-ffp-contract=fast"),
}


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    """Return the runtime, built as users would."""
    return Runtime(tmp_path_factory.mktemp("runtime"), "-Os")


@pytest.fixture(scope="module", params=FLAGS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    """Return the runtime, built in several ways."""
    if "haswell" in str(FLAGS[request.param]) and "fma" not in Path("/proc/cpuinfo").read_text().split():
        pytest.skip("needs a processor with FMA")
    return Runtime(tmp_path_factory.mktemp("runtime"), *FLAGS[request.param])


def int8_features(dim: int, *, n_samples: int = 20) -> np.ndarray[Any, np.dtype[np.int8]]:
    """Return int8 features, the extremes among them."""
    found = np.random.default_rng(dim).integers(-128, 128, (n_samples, dim)).astype(np.int8)
    found[:3] = np.array([[-128], [127], [0]])
    return found


def float_features(dim: int) -> Floats:
    """Return float features of all sizes, what is no number and infinities among them."""
    rng = np.random.default_rng(dim)
    found = rng.normal(size=(40, dim)) * 10.0 ** rng.integers(-6, 4, (40, 1))
    found[30:, 0] = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, -1e-45, 0, -0.0, 1e20]
    return np.asarray(found, np.float32)


def same_bits(found: Floats, wanted: Floats) -> bool:
    """Return whether numbers are the same, bit for bit; of what is no number any."""
    return bool(((found.view(np.uint32) == wanted.view(np.uint32)) | (np.isnan(found) & np.isnan(wanted))).all())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("has_table", [False, True], ids=["as they are", "table"])
def test_int8_logits_are_those_of_python_bit_by_bit_at_any_address(built: Runtime, shape: str, has_table: bool) -> None:
    table = np.random.default_rng(5).integers(-128, 128, 256).astype(np.int8) if has_table else None
    blob = draw_blob(1, **SHAPES[shape], table=table)
    features = int8_features(blob.dim)
    for at in range(4):
        opened = built.open(whole(blob), at=at)
        assert opened.error == "OK"
        assert same_bits(opened.logits(features), logits_int8(blob, features))
        assert opened.check("i8") == "OK"
        assert opened.check("f32") == "TYPE"


def test_sums_go_round_at_32_bits_as_in_python(built: Runtime) -> None:
    blob = draw_blob(0, dim=4096, n_classes=2)
    blob = replace(blob, rows=np.full((2, 4096), -128, np.int8), bias=np.array([2**31 - 1, -(2**31)], np.int32))
    features = np.repeat(np.array([[-128], [127]], np.int8), 4096, axis=1)
    wanted = logits_int8(blob, features)
    assert wanted[0, 0] < 0 < wanted[1, 1]
    assert same_bits(built.open(whole(blob)).logits(features), wanted)


def test_a_scale_that_is_no_number_or_infinite_stays_so_in_its_class(built: Runtime) -> None:
    blob = draw_blob(3, dim=5, n_classes=4, n_looks=4)
    blob = replace(
        blob, owners=np.arange(4), scales=np.array([1, np.nan, 1, np.inf, np.nan, 1, np.inf, 1e-45], np.float32)
    )
    features = int8_features(5)
    with np.errstate(invalid="ignore"):
        wanted = logits_int8(blob, features)
    assert np.isnan(wanted[:, :2]).all()
    assert same_bits(built.open(whole(blob)).logits(features), wanted)


@pytest.mark.parametrize("scale", [0.03, 1e-42, 0.0, -0.5, float("inf"), float("nan"), 3e38])
def test_floats_become_the_int8_that_they_become_in_python(built: Runtime, scale: float) -> None:
    blob = draw_blob(2, dim=16, n_classes=2, feature_scale=scale, feature_zero=-40)
    features = float_features(16)
    halves = (np.arange(-160, 160).reshape(-1, 16) + 0.5) * np.float32(0.03)
    for given in (features, np.asarray(halves, np.float32)):
        np.testing.assert_array_equal(built.open(whole(blob)).quantise(given), quantise(blob, given))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("feature_map", [(False, False), (True, False), (False, True), (True, True)], ids=str)
def test_float_logits_are_those_of_python(built: Runtime, shape: str, feature_map: tuple[bool, bool]) -> None:
    is_raised, is_unit = feature_map
    blob = draw_blob(4, **SHAPES[shape], is_int8=False, is_raised=is_raised, is_unit=is_unit)
    features = np.random.default_rng(6).normal(size=(20, blob.dim)).astype(np.float32) * 3
    features[0] = 0
    opened = built.open(whole(blob), at=3)
    assert opened.error == "OK"
    wanted = logits_float(blob, features)
    # sums of D products of float32 in another order
    np.testing.assert_allclose(opened.logits(features), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert opened.check("f32") == "OK"
    assert opened.check("i8") == "TYPE"


@pytest.mark.parametrize("is_raised", [False, True])
def test_floats_of_every_size_give_a_number_or_none_as_in_python(runtime: Runtime, is_raised: bool) -> None:
    blob = draw_blob(7, dim=1, n_classes=1, is_int8=False, is_raised=is_raised)
    features = float_features(1)
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = logits_float(blob, features)
    found = runtime.open(whole(blob)).logits(features)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-28)  # of what is below 1e-38 the root is 0
    assert np.isnan(found).any()


def test_a_root_is_right_to_three_units_of_its_last_place(runtime: Runtime) -> None:
    identity = draw_blob(0, dim=1, n_classes=1, is_int8=False, is_raised=True)
    identity = replace(identity, rows=np.ones((1, 1), np.float32), bias=np.zeros(1, np.float32))
    bits = np.random.default_rng(0).integers(0x00800000, 0x7F800000, 5000, dtype=np.uint32)
    features = bits.view(np.float32).reshape(-1, 1)
    wanted = features.astype(np.float64) ** 0.75
    np.testing.assert_allclose(runtime.open(whole(identity)).logits(features), wanted, rtol=3 * 2.0**-23)


def test_a_vector_of_nearly_no_length_is_not_blown_up(runtime: Runtime) -> None:
    blob = draw_blob(8, dim=3, n_classes=2, is_int8=False, is_unit=True)
    features = np.array([[0, 0, 0], [1e-13, 0, 0], [3e-12, 4e-12, 0], [3e11, 4e11, 0]], np.float32)
    wanted = logits_float(blob, features)
    assert np.abs(wanted[1] - wanted[0]).max() > 1e-3
    np.testing.assert_allclose(runtime.open(whole(blob)).logits(features), wanted, rtol=1e-5, atol=1e-6)


def test_the_highest_score_is_the_first_of_equal_ones_and_no_nan(runtime: Runtime) -> None:
    nan, inf = np.nan, np.inf
    for given, wanted in (
        ([1, 3, 3], 1),
        ([nan, 2, nan, 2], 1),
        ([nan, nan], NONE),
        ([], NONE),
        ([-inf, inf, inf], 1),
        ([0.0, -0.0], 0),
        ([-0.0, 0.0], 0),
    ):
        assert runtime.argmax(np.array(given, np.float32)) == wanted, given
    scores = np.array([0.2, 0.7, 0.7], np.float32)
    assert runtime.argmax(scores, float(np.float32(0.7))) == 1
    assert runtime.argmax(scores, 0.71) == NONE
    assert runtime.argmax(scores, nan) == NONE


def test_the_highest_n_are_those_of_a_stable_sort(runtime: Runtime) -> None:
    rng = np.random.default_rng(0)
    for n_scores in (0, 1, 2, 9, 300):
        scores = rng.integers(0, max(1, n_scores // 2), n_scores).astype(np.float32)
        scores[rng.random(n_scores) < 0.2] = np.nan
        scores[rng.random(n_scores) < 0.1] = -np.inf
        order = [int(k) for k in np.argsort(-scores, kind="stable") if not np.isnan(scores[k])]
        for n in (0, 1, 2, 5, n_scores, n_scores + 3):
            assert runtime.top(scores, n) == order[:n]


def test_probabilities_are_those_of_python_and_what_is_no_number_has_none(runtime: Runtime) -> None:
    rng = np.random.default_rng(0)
    for spread in (1e-3, 1, 30, 1000):
        logits = (rng.normal(size=50) * spread).astype(np.float32)
        wanted = softmax(logits[None].astype(np.float64))[0]
        # a difference of logits has the rounding of float32, which e^x makes one of its result
        np.testing.assert_allclose(runtime.softmax(logits), wanted, rtol=1e-6 + 1e-7 * spread, atol=1e-37)
    inf, nan = np.inf, np.nan
    for given, shares in (
        ([nan, 1, 1, -inf], [0, 0.5, 0.5, 0]),
        ([inf, 1, inf], [0.5, 0, 0.5]),
        ([nan, -inf], [0, 0]),
        ([-3e38, 3e38], [0, 1]),
    ):
        np.testing.assert_allclose(runtime.softmax(np.array(given, np.float32)), shares)


def test_a_changed_canary_is_found(runtime: Runtime) -> None:
    for kind, is_int8 in (("i8", True), ("f32", False)):
        blob = draw_blob(11, dim=9, n_classes=4, is_int8=is_int8)
        assert runtime.open(whole(blob)).check(kind) == "OK"
        wrong = blob.answers.copy()
        wrong[-1] = (wrong[-1] + 1) % 4
        assert runtime.open(whole(replace(blob, answers=wrong))).check(kind) == "CANARY"


def test_the_checksum_is_that_of_zlib(runtime: Runtime) -> None:
    crc = runtime.library.edge_crc32
    assert crc(0, b"123456789", 9) == 0xCBF43926  # the check value of CRC-32
    assert crc(crc(0, b"1234", 4), b"56789", 5) == 0xCBF43926
    assert crc(0, b"", 0) == 0


def test_canaries_of_a_float_head_are_its_int8_features(runtime: Runtime) -> None:
    blob = draw_blob(5, dim=6, n_classes=3, is_int8=False, feature_zero=-17)
    wanted = logits_float(blob, dequantise(blob, blob.canaries))
    np.testing.assert_array_equal(wanted.argmax(axis=1), blob.answers)
    found = runtime.open(whole(blob)).logits(dequantise(blob, blob.canaries))
    assert [runtime.argmax(logits) for logits in found] == list(blob.answers)
    assert runtime.argmax(found[0], float(found[0].max())) == blob.answers[0]
    assert float(found[0].max()) > ANY
