"""What the checks of arrays say of wrong ones, and the mean that runs over batches."""

from __future__ import annotations

from math import fsum
from typing import Any

import numpy as np
import pytest
from edge_kernels.arrays import KernelError, Shapes, check_labels, fill
from edge_kernels.running import RunningMean
from hypothesis import given, settings
from hypothesis import strategies as st


def refusal(name: str, array: Any, shape: str, kind: str = "f", **sizes: int) -> str:
    """Return what the error says of an array."""
    with pytest.raises(KernelError) as caught:
        Shapes(**sizes).check(name, array, shape, kind)
    return str(caught.value)


def test_a_kernel_error_is_a_value_error() -> None:
    assert issubclass(KernelError, ValueError)


@pytest.mark.parametrize(
    ("array", "shape", "text"),
    [
        (np.zeros(3), "N D", "x: expected (N, D); found shape (3,) float64"),
        (np.zeros((2, 3, 4), np.float32), "N D", "x: expected (N, D); found shape (2, 3, 4) float32"),
        (np.float32(1), "N", "x: expected (N,); found shape () float32"),
        (np.zeros((2, 3), np.float16), "N", "x: expected (N,); found shape (2, 3) float16"),
        (np.zeros((2, 3)), "D D", "x: expected (D, D); found shape (2, 3) float64"),
    ],
)
def test_a_wrong_shape_is_told_by_name_letters_shape_and_type(array: Any, shape: str, text: str) -> None:
    assert refusal("x", array, shape) == text


def test_a_size_that_differs_from_an_earlier_array_is_told_with_what_is_known() -> None:
    shapes = Shapes()
    shapes.check("features", np.zeros((4, 3)), "N D")
    with pytest.raises(KernelError) as caught:
        shapes.check("probabilities", np.zeros((5, 7), np.float32), "N K")
    assert str(caught.value) == "probabilities: expected (N, K) with N = 4; found shape (5, 7) float32"
    with pytest.raises(KernelError) as caught:
        shapes.check("out", np.zeros((3, 4), np.float32), "N D")
    assert str(caught.value) == "out: expected (N, D) with N = 4, D = 3; found shape (3, 4) float32"


def test_sizes_given_at_the_start_hold_too() -> None:
    text = refusal("weights", np.zeros((2, 3)), "K D", K=5)
    assert text == "weights: expected (K, D) with K = 5; found shape (2, 3) float64"


def test_sizes_are_learned_from_arrays_that_pass() -> None:
    shapes = Shapes(M=2)
    shapes.check("features", np.zeros((4, 3)), "N D")
    shapes.check("covariance", np.zeros((3, 3)), "D D")
    shapes.check("codes", np.zeros((4, 2), np.uint8), "N M", "u1")
    assert shapes.sizes == {"M": 2, "N": 4, "D": 3}


@pytest.mark.parametrize(
    ("dtype", "kind", "expected"),
    [
        (np.int64, "f", "float16, float32 or float64"),
        (np.bool_, "f", "float16, float32 or float64"),
        (np.complex64, "f", "float16, float32 or float64"),
        (np.longdouble, "f", "float16, float32 or float64"),
        (np.float32, "iu", "integers"),
        (np.bool_, "iu", "integers"),
        (np.float64, "f4", "float32"),
        (np.int32, "f4", "float32"),
        (np.int32, "i8", "int64"),
        (np.int8, "u1", "uint8"),
        (np.uint16, "u1", "uint8"),
        (np.dtype("U3"), "iu", "integers"),
    ],
)
def test_a_wrong_type_is_told_with_the_types_that_would_do(dtype: Any, kind: str, expected: str) -> None:
    array = np.zeros((2, 3), dtype)
    assert refusal("x", array, "N D", kind) == f"x: expected (N, D) {expected}; found shape (2, 3) {array.dtype}"


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        *((dtype, "f") for dtype in (np.float16, np.float32, np.float64)),
        *((dtype, "iu") for dtype in (np.int8, np.int32, np.int64, np.uint8, np.uint64)),
        (np.float32, "f4"),
        (np.float64, "f8"),
        (np.uint8, "u1"),
    ],
)
def test_a_right_type_passes(dtype: Any, kind: str) -> None:
    Shapes(N=2).check("x", np.zeros((2, 3), dtype), "N D", kind)


@pytest.mark.parametrize("array", [[[1.0, 2.0]], (1.0,), None, 3.0], ids=str)
def test_what_is_no_array_is_told_by_its_type(array: Any) -> None:
    assert refusal("x", array, "N D") == f"x: expected an array (N, D); found {type(array).__name__}"


def test_torch_tensors_pass_by_the_names_of_their_types() -> None:
    torch = pytest.importorskip("torch")
    shapes = Shapes(D=3)
    for dtype in (torch.float16, torch.float32, torch.float64):
        shapes.check("x", torch.zeros(2, 3, dtype=dtype), "N D")
    shapes.check("labels", torch.zeros(2, dtype=torch.int64), "N", "iu")
    assert shapes.sizes == {"D": 3, "N": 2}
    assert all(type(size) is int for size in shapes.sizes.values())


def test_bfloat16_and_other_types_that_numpy_does_not_have_are_refused() -> None:
    torch = pytest.importorskip("torch")
    text = refusal("x", torch.zeros(2, 3, dtype=torch.bfloat16), "N D")
    assert text == "x: expected (N, D) float16, float32 or float64; found shape (2, 3) bfloat16"
    text = refusal("x", torch.zeros(2, 3, dtype=torch.int64), "N D")
    assert text == "x: expected (N, D) float16, float32 or float64; found shape (2, 3) int64"


def test_bfloat16_is_refused_even_where_a_package_has_taught_it_to_numpy() -> None:
    types = pytest.importorskip("ml_dtypes")
    assert "bfloat16" in refusal("x", np.zeros((2, 3), types.bfloat16), "N D")


def test_no_rows_are_refused_only_where_rows_are_needed() -> None:
    shapes = Shapes()
    shapes.check("features", np.zeros((0, 3)), "N D")
    with pytest.raises(KernelError) as caught:
        shapes.need_rows("features")
    assert str(caught.value) == "features: expected at least one row; found N = 0"
    shapes.need_rows("features", "D")


@pytest.mark.parametrize("labels", [[0, 4, 2], [4], []])
def test_labels_below_the_number_of_classes_pass(labels: list[int]) -> None:
    check_labels(np.array(labels, np.int64), 5)


@pytest.mark.parametrize(("labels", "found"), [([0, 5], "0 to 5 in shape (2,)"), ([-1, 0, 2], "-1 to 2 in shape (3,)")])
def test_labels_that_are_no_class_are_told(labels: list[int], found: str) -> None:
    with pytest.raises(KernelError) as caught:
        check_labels(np.array(labels), 5)
    assert str(caught.value) == f"labels: expected 0 to 4; found {found}"


def test_labels_in_torch_are_checked_too() -> None:
    torch = pytest.importorskip("torch")
    check_labels(torch.tensor([0, 4]), 5)
    with pytest.raises(KernelError, match=r"labels: expected 0 to 4; found 0 to 5 in shape \(2,\)"):
        check_labels(torch.tensor([0, 5]), 5)


def test_values_are_returned_as_they_are_or_in_the_array_that_is_given() -> None:
    values = np.array([1.0, 2.0])
    assert fill(None, values) is values
    out = np.zeros(2, np.float32)
    assert fill(out, values) is out
    np.testing.assert_array_equal(out, [1, 2])


@given(
    samples=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50),
    cuts=st.lists(st.integers(0, 50), max_size=8),
)
@settings(deadline=None)
def test_the_running_mean_is_the_mean_over_all_samples_whatever_the_batches(
    samples: list[float], cuts: list[int]
) -> None:
    running = RunningMean()
    for batch in np.split(np.array(samples), sorted(min(cut, len(samples)) for cut in cuts)):
        mean = batch.mean() if len(batch) else 0.0
        running = running.add(np.array([mean, -2 * mean]), len(batch))
    want = fsum(samples) / len(samples)
    assert running.count == len(samples)
    np.testing.assert_allclose(running.mean, [want, -2 * want], atol=1e-8)  # rounding of sums of 50 times 1e6


def test_a_batch_weighs_as_many_samples_as_it_has() -> None:
    running = RunningMean().add(np.array(1.0), 3).add(np.array(5.0), 1)
    assert (float(running.mean), running.count) == (2.0, 4)


def test_the_mean_of_no_sample_is_zero() -> None:
    running = RunningMean()
    assert (running.mean, running.count) == (0.0, 0)
    assert not running.add(np.zeros((2, 3), np.float32), 0).mean.any()


def test_tensors_are_averaged_where_they_are() -> None:
    torch = pytest.importorskip("torch")
    running = RunningMean().add(torch.tensor([1.0]), 3).add(torch.tensor([5.0]), 1)
    assert running.mean.dtype == torch.float64
    assert float(running.mean[0]) == 2.0


def test_adding_leaves_the_old_mean_as_it_was() -> None:
    before = RunningMean().add(np.array([1.0, 2.0]), 1)
    before.add(np.array([9.0, 9.0]), 1)
    np.testing.assert_array_equal(before.mean, [1, 2])
    assert before.count == 1


def test_float32_batches_are_summed_in_float64() -> None:
    running = RunningMean().add(np.array([1.0], np.float32), 2**25).add(np.array([2.0], np.float32), 1)
    assert running.mean.dtype == np.float64
    np.testing.assert_allclose(running.mean - 1, 1 / (2**25 + 1), rtol=1e-7)  # eps over 3e-8


def test_ten_million_samples_cost_no_more_than_the_rounding_of_float64() -> None:
    rng = np.random.default_rng(0)
    means, running = rng.uniform(0.5, 1.5, 1000), RunningMean()
    for mean in means:
        running = running.add(np.array(mean), 10_000)
    assert running.count == 10_000_000
    # a thousand steps, each rounding to a relative 2^-53, most of which cancel
    np.testing.assert_allclose(running.mean, fsum(means) / 1000, rtol=1e-14)
    one_more = running.add(np.array(running.mean + 1e7), 1)
    np.testing.assert_allclose(one_more.mean - running.mean, 1e7 / 10_000_001, rtol=1e-14)
