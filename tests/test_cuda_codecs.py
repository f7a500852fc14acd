"""The CUDA kernels of codecs and selection against the reference, on a GPU or in the simulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from edge_kernels import cuda, reference
from edge_kernels.arrays import KernelError
from edge_kernels.cuda import launch, product, projection, selection, target
from edge_kernels.cuda.halves import read_row

from tests.cuda_arrays import FORMS, KINDS, get, halves, need_device, put, rng

need_device()

NUMBERS = ("int8", "int4")


def encoders(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    return getattr(cuda, f"encode_{name}"), getattr(reference, f"encode_{name}")


def decode(module: Any, name: str, code: Any, rows: Any, dim: int) -> Any:
    return getattr(module, f"decode_{name}")(*code, rows, **({"dim": dim} if name == "int4" else {}))


def test_float16_is_read_as_numpy_reads_it() -> None:
    edges = [0, 1, 0x3FF, 0x400, 0x7BFF, 0x7C00, 0x7E00]  # none, the least, without and with a leading bit, no number
    bits = np.array([*range(0, 1 << 16, 457), *edges, *(0x8000 + bit for bit in edges)])
    values = bits.astype(np.uint16).view(np.float16)
    place, (there,) = launch.settle(values=put(values, "others"))
    found = place.empty(len(values))
    place.launch(read_row, len(values), there, found)
    np.testing.assert_array_equal(get(found), values.astype(np.float32))


@pytest.mark.parametrize("name", NUMBERS)
def test_codes_and_scales_are_the_references_to_the_last_bit(name: str) -> None:
    encode, definition = encoders(name)
    top = 127 if name == "int8" else 7
    x = np.array(
        [
            [0.0, 0, 0, 0, 0],
            [-1.0, 0.5, 0.25, -0.125, 1],
            [-top, 0.5, 1.5, -2.5, -3.5],  # the scale is 1: ties go to the even code
            [1e-7, 3e-8, 0, 0, 0],  # the scale has no leading bit
            [1.0009765625 * top, -1, 0, 0, 0],  # the scale is float16 exactly, and has to stay
            [1.0009766 * top, -1, 0, 0, 0],  # a little more: the next one
            [-1e9, 1, 0, 0, 0],  # beyond float16
            [65504.0, 1, 0, 3, 5],
        ],
        np.float32,
    )
    codes, scales = encode(put(x))
    with np.errstate(over="ignore"):
        want_codes, want_scales = definition(x)
    np.testing.assert_array_equal(get(scales).view(np.uint16), want_scales.view(np.uint16))
    np.testing.assert_array_equal(get(codes), want_codes)
    assert get(scales).dtype == np.float16


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_codes_agree_whatever_holds_the_numbers_and_are_half_a_scale_off(name: str, form: str, kind: str) -> None:
    encode, definition = encoders(name)
    x = np.stack([halves(7), np.abs(halves(7))])
    there = encode(put(x, kind, form))
    codes, scales = map(get, there)
    for found, want in zip((codes, scales), definition(x), strict=True):
        np.testing.assert_array_equal(found, want)
    rows = np.array([1, 0, 1])
    found = decode(cuda, name, there, put(rows, kind), 7)
    np.testing.assert_array_equal(get(found), decode(reference, name, (codes, scales), rows, 7).astype(np.float32))
    assert (np.abs(get(found) - x[rows]) <= 0.5001 * np.abs(scales[rows].astype(float))[:, None]).all()
    assert target.is_tensor(found) == target.is_tensor(there[1]) == (kind == "tensors")


def codecs() -> dict[str, tuple[tuple[Any, ...], Callable[..., Any], Callable[..., Any]]]:
    """Return what each decoder takes before the rows, the decoder and its reference; codes are of four samples."""
    x = halves(4, 6)
    books = reference.train_pq(x, n_subspaces=3, n_codewords=4)
    fitted = reference.fit_projection(x[0], x.T @ x, n_bytes=2)
    there = reference.Projection(*map(put, fitted))

    def of_projection(module: Any, part: Any) -> Callable[..., Any]:
        return lambda codes, rows, **out: module.decode_projection(codes, part, rows, **out)

    return {
        "int8": (reference.encode_int8(x), cuda.decode_int8, reference.decode_int8),
        "int4": (
            reference.encode_int4(x),
            lambda *given, **out: cuda.decode_int4(*given, dim=6, **out),
            lambda *given: reference.decode_int4(*given, dim=6),
        ),
        "pq": ((reference.encode_pq(x, books), books.astype(np.float32)), cuda.decode_pq, reference.decode_pq),
        "projection": (
            (reference.encode_projection(x, fitted),),
            of_projection(cuda, there),
            of_projection(reference, fitted),
        ),
    }


@pytest.mark.parametrize("name", ["int8", "int4", "pq", "projection"])
def test_decoders_fill_what_they_are_given_and_put_nan_where_there_is_no_row(name: str) -> None:
    parts, decoder, definition = codecs()[name]
    there, rows = [put(part) for part in parts], np.array([3, 4, 0, -1, 3])
    out = put(np.zeros((5, 6), np.float32))
    assert decoder(*there, put(rows), out=out) is not None
    np.testing.assert_allclose(get(out)[[0, 2, 4]], definition(*parts, rows[[0, 2, 4]]), rtol=1e-5, atol=1e-6)
    assert np.isnan(get(out)[[1, 3]]).all()
    assert decoder(*there, put(rows[:0])).shape == (0, 6)
    with pytest.raises(KernelError, match=r"out: expected \(B, D\) with B = 5, D = 6; found shape \(5, 5\) float32"):
        decoder(*there, put(rows), out=out[:, :5])
    with pytest.raises(KernelError, match=r"codes: expected .* uint8; found shape .* int64"):
        decoder(there[0].long(), *there[1:], put(rows))


def test_scales_that_are_not_float16_are_refused() -> None:
    codes, scales = reference.encode_int8(halves(2, 3))
    with pytest.raises(KernelError, match=r"scales: expected \(N,\) float16; found shape \(2,\) float32"):
        cuda.decode_int8(put(codes), put(scales.astype(np.float32)), put(np.array([0])))


def test_no_samples_have_no_codes() -> None:
    none = put(np.zeros((0, 6), np.float32))
    books = put(np.zeros((3, 4, 2), np.float32))
    part = reference.Projection(*map(put, reference.fit_projection(np.zeros(6), np.eye(6), n_bytes=2)))
    assert [part.shape for part in cuda.encode_int8(none)] == [(0, 6), (0,)]
    assert [part.shape for part in cuda.encode_int4(none)] == [(0, 3), (0,)]
    assert cuda.encode_pq(none, books).shape == (0, 3)
    assert cuda.encode_projection(none, part).shape == (0, 2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_codebooks_and_their_codes_agree_whatever_holds_the_numbers(kind: str, form: str) -> None:
    x = halves(7, 4)
    books = cuda.train_pq(put(x, kind, form), n_subspaces=2, n_codewords=3, n_steps=2, seed=5)
    want = reference.train_pq(x, n_subspaces=2, n_codewords=3, n_steps=2, seed=5)
    np.testing.assert_allclose(get(books), want, rtol=1e-6)
    coarse = put(want.astype(np.float16), kind, "as it is" if form == "every other column" else form)
    codes = cuda.encode_pq(put(x, kind, form), coarse)
    np.testing.assert_array_equal(get(codes), reference.encode_pq(x, get(coarse)))
    rows = np.array([6, 0])
    found = cuda.decode_pq(codes, coarse, put(rows, kind))
    np.testing.assert_allclose(get(found), reference.decode_pq(get(codes), get(coarse), rows), rtol=1e-6)


def test_codebooks_are_the_same_bits_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = rng.normal(size=(9, 4)).astype(np.float32)
    found = []
    for n_bytes in (1 << 20, 2, 8):
        monkeypatch.setattr(product, "CODE_BYTES", n_bytes)
        found.append(get(cuda.train_pq(put(x), n_subspaces=2, n_codewords=3, n_steps=2, seed=1)))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_more_codewords_than_samples_repeat_and_are_not_used() -> None:
    x = halves(2, 2)
    books = cuda.train_pq(put(x), n_subspaces=1, n_codewords=5, n_steps=1)
    np.testing.assert_allclose(get(books), reference.train_pq(x, n_subspaces=1, n_codewords=5, n_steps=1), rtol=1e-6)
    assert get(cuda.encode_pq(put(x), books)).max() < 2  # of equally near codewords the first


def test_a_code_beyond_the_codewords_is_nan() -> None:
    books = put(np.ones((2, 3, 1), np.float32))
    found = cuda.decode_pq(put(np.array([[0, 3]], np.uint8)), books, put(np.array([0])))
    np.testing.assert_array_equal(get(found), [[1, np.nan]])


def test_parts_that_do_not_fit_are_refused() -> None:
    x = put(halves(2, 5))
    with pytest.raises(KernelError, match="n_subspaces: expected a divisor of D = 5; found 2"):
        cuda.train_pq(x, n_subspaces=2)
    with pytest.raises(KernelError, match="n_codewords: expected 1 to 256, the values of a byte; found 257"):
        cuda.train_pq(x, n_subspaces=1, n_codewords=257)
    with pytest.raises(KernelError, match="features: expected at least one row; found N = 0"):
        cuda.train_pq(x[:0], n_subspaces=1)
    with pytest.raises(KernelError, match=r"features: expected \(N, D\) with D = 6"):
        cuda.encode_pq(x, put(np.ones((2, 3, 3))))


@pytest.fixture(params=[1 << 20, 1])
def projection_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let kernels see their samples at once, and one by one."""
    monkeypatch.setattr(projection, "BLOCK_BYTES", request.param)


@pytest.mark.usefixtures("projection_blocks")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_projections_and_their_codes_agree_whatever_holds_the_numbers(kind: str, form: str) -> None:
    x = (rng.normal(size=(9, 5)) * [16, 4, 1, 0.25, 0.125]).astype(np.float16).astype(np.float64)
    centre, covariance = x.mean(axis=0).astype(np.float16), np.cov(x.T).astype(np.float16)
    want = reference.fit_projection(centre, covariance, n_bytes=2)
    fitted = cuda.fit_projection(put(centre, kind, form), put(covariance, kind, form), n_bytes=2)
    for found, expected in zip(fitted, want, strict=True):
        np.testing.assert_allclose(get(found), expected, rtol=1e-5, atol=1e-6)
        assert get(found).dtype == expected.dtype
    codes = cuda.encode_projection(put(x, kind, form), fitted)
    np.testing.assert_array_equal(get(codes), reference.encode_projection(x, want))
    rows = np.array([8, 0, 3])
    found = cuda.decode_projection(codes, fitted, put(rows, kind))
    wanted = reference.decode_projection(get(codes), want, rows)
    np.testing.assert_allclose(get(found), wanted, rtol=1e-5, atol=1e-5)


def test_values_beyond_the_levels_are_the_outermost_ones() -> None:
    bits, n = np.array([8, 1, 5, 7, 3], np.uint8), 5
    part = reference.Projection(np.eye(n, dtype=np.float32), np.zeros(n, np.float32), np.ones(n, np.float32), bits)
    x = np.array([[1e9, -1e9, 1e9, -1e9, 1e9], [-1.5, 0.5, -15.5, 63.5, -3.5]], np.float32)
    found = get(cuda.encode_projection(put(x), reference.Projection(*map(put, part))))
    np.testing.assert_array_equal(found, reference.encode_projection(x, part))


def test_a_projection_of_no_directions_decodes_to_its_centre() -> None:
    centre = np.arange(3.0)
    part = cuda.fit_projection(put(centre), put(np.zeros((3, 3))), n_bytes=2)
    codes = cuda.encode_projection(put(np.ones((2, 3))), part)
    assert codes.shape == (2, 0)
    found = cuda.decode_projection(codes, part, put(np.array([1, 5])))
    np.testing.assert_array_equal(get(found), [centre, [np.nan] * 3])


@pytest.mark.filterwarnings("ignore:overflow encountered in scalar:RuntimeWarning")  # uint64 wraps, as it must
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 7, -1])
def test_priorities_are_the_references_to_the_last_bit(kind: str, seed: int) -> None:
    labels, sequence = np.array([0, 1, 2**31, 5], np.int64), np.array([9, 0, 3, 2**32 - 1], np.uint32)
    found = cuda.draw_priority(put(labels, kind), put(sequence.astype(np.int64), kind), seed=seed)
    np.testing.assert_array_equal(get(found), reference.draw_priority(labels, sequence, seed=seed))
    assert get(found).dtype == np.uint64


@pytest.mark.filterwarnings("ignore:overflow encountered in scalar:RuntimeWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_the_reservoir_keeps_what_the_reference_keeps(kind: str) -> None:
    labels, order = np.array([0, 0, 1, 0, 1, 0]), rng.random(6)
    drawn = cuda.draw_priority(put(labels, kind), put(np.arange(6), kind), seed=3)
    for there, given in ((put(order, kind), order), (drawn, get(drawn))):
        found = cuda.balanced_reservoir(put(labels, kind), there, capacity=4)
        np.testing.assert_array_equal(get(found), reference.balanced_reservoir(labels, given, capacity=4))
        assert target.is_tensor(found) == (kind == "tensors")


@pytest.mark.parametrize(("kind", "form"), [("tensors", "float32"), ("others", "float16"), ("tensors", "float64")])
@pytest.mark.parametrize("n_candidates", [2, 256])
def test_herding_chooses_what_the_reference_does(
    kind: str, form: str, n_candidates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "MAX_CANDIDATES", n_candidates)
    monkeypatch.setattr(launch, "HALF_BYTES", 24)  # two rows of float16 at a time
    x = halves(5, 3)
    x[4] = x[1]  # of equals the first one is chosen first, whoever looks for it, and each only once
    found = cuda.herd(put(x, kind, form), n_chosen=5)
    np.testing.assert_array_equal(get(found), reference.herd(x, n_chosen=5))
    assert get(found).dtype == np.int64
    goal = halves(1, 3)[0]
    found = cuda.herd(put(x, kind, form), n_chosen=5, mean=put(goal, kind, form))
    np.testing.assert_array_equal(get(found), reference.herd(x, n_chosen=5, mean=goal))


def test_herding_more_than_there_are_is_refused_and_none_are_none() -> None:
    x = put(halves(2, 3))
    assert cuda.herd(x, n_chosen=0).shape == (0,)
    with pytest.raises(KernelError, match="n_chosen: expected 0 to 2, the samples; found 3"):
        cuda.herd(x, n_chosen=3)
