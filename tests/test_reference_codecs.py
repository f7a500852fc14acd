"""The reference codecs: golden bytes of every layout, and how far what is decoded may be from what was encoded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise, product

import numpy as np
import pytest
from edge_kernels import reference
from edge_kernels.arrays import Codes, Floats, Ints
from edge_kernels.reference.projection import allocate_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

every_scalar_codec = pytest.mark.parametrize("n_bits", [8, 4])


def encode(n_bits: int, features: Floats) -> tuple[Codes, Floats]:
    return (reference.encode_int8 if n_bits == 8 else reference.encode_int4)(features)


def decode(encoded: tuple[Codes, Floats], rows: Ints, *, n_bits: int, dim: int, out: Floats | None = None) -> Floats:
    if n_bits == 8:
        return reference.decode_int8(*encoded, rows, out=out)
    return reference.decode_int4(*encoded, rows, dim=dim, out=out)


vectors = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.one_of(st.floats(-1e4, 1e4, width=32), st.floats(0, 1, width=32), st.just(0.0)),
)


@pytest.mark.parametrize(
    ("n_bits", "vector", "codes", "scale"),
    [
        (8, [-127, 0, 1, 126], "81 00 01 7e", "003c"),
        (8, [63.5, -63.5, -0.5], "7f 81 ff", "0038"),
        (8, [0, 255, 51, 1], "00 ff 33 01", "00bc"),
        (8, [2.5, 510, 3, 5], "01 ff 02 02", "00c0"),  # what lies between two codes goes to the even one
        (8, [-0.0, 0, 0], "00 00 00", "0080"),
        (4, [-7, 3, 0, 7, -1], "39 70 0f", "003c"),
        (4, [3.5, -0.5, -3, 1], "f7 2a", "0038"),
        (4, [15, 1, 0, 8, 2], "1f 80 02", "00bc"),
        (4, [30, 1, 3, 5], "0f 22", "00c0"),
        (4, [0, 0, 0], "00 00", "0080"),
    ],
)
def test_scalar_golden_bytes(n_bits: int, vector: list[float], codes: str, scale: str) -> None:
    found_codes, found_scales = encode(n_bits, np.array([vector], np.float32))
    assert found_codes.dtype == np.uint8
    assert found_scales.dtype == np.float16
    assert found_codes.tobytes() == bytes.fromhex(codes)
    assert found_scales.astype("<f2").tobytes() == bytes.fromhex(scale)


@pytest.mark.parametrize(
    ("n_bits", "codes", "scale", "want"),
    [
        (8, "ff 01 80 7f", 0.5, [-0.5, 0.5, -64, 63.5]),
        (8, "ff 01 80 7f", -0.5, [127.5, 0.5, 64, 63.5]),
        (4, "1f 78 f2", 0.5, [-0.5, 0.5, -4, 3.5, 1]),  # the last half byte is not part of the vector
        (4, "1f 78 f2", -0.5, [7.5, 0.5, 4, 3.5, 1]),
    ],
)
def test_codes_are_twos_complement_where_the_scale_is_positive_alone(
    n_bits: int, codes: str, scale: float, want: list[float]
) -> None:
    encoded = np.frombuffer(bytes.fromhex(codes), np.uint8)[None], np.array([scale], np.float16)
    np.testing.assert_array_equal(decode(encoded, np.array([0]), n_bits=n_bits, dim=len(want)), [want])


@every_scalar_codec
@given(features=vectors)
@settings(deadline=None)
def test_a_decoded_value_is_at_most_half_a_scale_off(n_bits: int, features: Floats) -> None:
    n, dim = features.shape
    codes, scales = encode(n_bits, features)
    assert codes.shape == (n, (dim * n_bits + 7) // 8)
    error = np.abs(decode((codes, scales), np.arange(n), n_bits=n_bits, dim=dim) - features)
    assert (error <= np.abs(scales.astype(np.float64))[:, None] / 2 * (1 + 1e-12)).all()  # rounding of the quotient


@every_scalar_codec
@given(features=vectors)
@settings(deadline=None)
def test_the_scale_is_the_smallest_float16_at_which_the_largest_value_has_a_code(n_bits: int, features: Floats) -> None:
    _, scales = encode(n_bits, features)
    for vector, scale in zip(features.astype(np.float64), scales, strict=True):
        has_negative = bool((vector < 0).any())
        assert np.signbit(scale) == (not has_negative)
        top = 2 ** (n_bits - 1) - 1 if has_negative else 2**n_bits - 1
        largest, size = np.abs(vector).max(), np.abs(scale)
        assert largest <= top * float(size) * (1 + 1e-15)  # rounding of the quotient
        if size > 0:
            assert largest > top * float(np.nextafter(size, np.float16(0))) * (1 - 1e-15)


@every_scalar_codec
def test_zero_vectors_decode_to_exact_zero_between_others(n_bits: int) -> None:
    features = np.array([[1, -2, 3], [0, 0, 0], [4, 5, 6]], np.float32)
    decoded = decode(encode(n_bits, features), np.arange(3), n_bits=n_bits, dim=3)
    np.testing.assert_array_equal(decoded[1], 0)
    assert np.abs(decoded[[0, 2]]).min() > 0.5


@every_scalar_codec
def test_a_vector_of_no_negative_value_has_half_the_error(n_bits: int) -> None:
    features = np.random.default_rng(0).uniform(0, 1, (50, 64))
    features[:, 0] = 1
    errors = []
    for x in (features, features * np.where(np.arange(64) == 1, -1e-9, 1)):
        decoded = decode(encode(n_bits, x), np.arange(50), n_bits=n_bits, dim=64)
        errors.append(np.abs(decoded - x).mean())
    assert 0.44 < errors[0] / errors[1] < 0.56  # 127 of 255, or 7 of 15, and the noise of 3200 errors


def check_gather(decode_rows: Callable[..., Floats], dim: int, n_rows: int) -> None:
    """Check that rows come in any order and repeated, and into `out` where it is given."""
    in_order = decode_rows(np.arange(n_rows))
    rows = np.array([n_rows - 1, 0, 2, 2, 0])
    np.testing.assert_array_equal(decode_rows(rows), in_order[rows])
    out = np.full((len(rows), dim), np.nan, np.float32)
    assert decode_rows(rows, out=out) is out
    np.testing.assert_array_equal(out, in_order[rows].astype(np.float32))


@every_scalar_codec
@pytest.mark.parametrize("dim", [1, 6, 7])
def test_scalar_codecs_gather_any_rows(n_bits: int, dim: int) -> None:
    features = np.random.default_rng(0).normal(size=(5, dim))
    features[2] = np.abs(features[2])
    check_gather(partial(decode, encode(n_bits, features), n_bits=n_bits, dim=dim), dim, 5)


def random_codebooks(n_samples: int, *, n_codewords: int, seed: int = 0) -> tuple[Floats, Floats]:
    """Return features (N, 6), and codebooks (3, C, 2) that have nothing to do with them."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_samples, 6)), rng.normal(size=(3, n_codewords, 2))


def test_product_codes_are_the_nearest_codewords() -> None:
    features, codebooks = random_codebooks(30, n_codewords=7)
    want = np.zeros((30, 3), np.uint8)
    for n in range(30):
        for m in range(3):
            part = features[n, 2 * m : 2 * m + 2]
            want[n, m] = min(range(7), key=lambda c: float(np.sum((part - codebooks[m, c]) ** 2)))
    codes = reference.encode_pq(features, codebooks)
    assert codes.dtype == np.uint8
    np.testing.assert_array_equal(codes, want)


def test_of_equally_near_codewords_the_first_is_taken() -> None:
    codebooks = np.array([[[5, 5], [1, 0], [0, 1], [-1, 0], [1, 0]]], np.float32)
    codes = reference.encode_pq(np.array([[0, 0], [1, 0], [-1, -1]], np.float32), codebooks)
    np.testing.assert_array_equal(codes, [[1], [1], [3]])


def test_all_256_codewords_have_a_code() -> None:
    codebooks = np.arange(256.0).reshape(1, 256, 1)
    codes = reference.encode_pq(np.arange(256.0)[:, None], codebooks)
    np.testing.assert_array_equal(codes[:, 0], np.arange(256))
    np.testing.assert_array_equal(reference.decode_pq(codes, codebooks, np.arange(256))[:, 0], np.arange(256))


def test_decoded_parts_are_the_codewords_of_their_own_codebook() -> None:
    _, codebooks = random_codebooks(1, n_codewords=7)
    codes = np.array([[0, 1, 2], [6, 5, 4]], np.uint8)
    want = [np.concatenate([codebooks[m, row[m]] for m in range(3)]) for row in codes]
    np.testing.assert_array_equal(reference.decode_pq(codes, codebooks, np.arange(2)), want)


def test_product_codes_gather_any_rows() -> None:
    features, codebooks = random_codebooks(5, n_codewords=7)
    codes = reference.encode_pq(features, codebooks)
    check_gather(partial(reference.decode_pq, codes, codebooks), 6, 5)


def quantisation_error(features: Floats, codebooks: Floats) -> float:
    codes = reference.encode_pq(features, codebooks)
    return float(np.square(reference.decode_pq(codes, codebooks, np.arange(len(features))) - features).sum())


@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=20)
def test_no_step_of_training_increases_the_quantisation_error(seed: int) -> None:
    features, _ = random_codebooks(60, n_codewords=1, seed=seed)
    errors = [
        quantisation_error(features, reference.train_pq(features, n_subspaces=3, n_codewords=8, n_steps=n, seed=seed))
        for n in range(6)
    ]
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(errors))  # order of sums
    assert errors[-1] < errors[0]


def test_training_ends_where_every_codeword_is_the_mean_of_its_samples() -> None:
    features, _ = random_codebooks(60, n_codewords=1)
    codebooks = reference.train_pq(features, n_subspaces=3, n_codewords=8, n_steps=40)
    codes = reference.encode_pq(features, codebooks)
    for m in range(3):
        for c in range(8):
            parts = [features[n, 2 * m : 2 * m + 2] for n in range(60) if codes[n, m] == c]
            np.testing.assert_allclose(codebooks[m, c], sum(parts) / len(parts), atol=1e-14)  # order of sums


def test_the_seed_alone_decides_the_codebooks() -> None:
    features, _ = random_codebooks(60, n_codewords=1)
    first, again, other = (
        reference.train_pq(features, n_subspaces=2, n_codewords=8, n_steps=2, seed=seed) for seed in (1, 1, 2)
    )
    assert first.shape == (2, 8, 3)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("n_samples", "n_codewords"), [(1, 4), (5, 8), (8, 8), (20, 256)])
def test_no_more_samples_than_codewords_come_back_exactly(n_samples: int, n_codewords: int) -> None:
    features, _ = random_codebooks(n_samples, n_codewords=1)
    codebooks = reference.train_pq(features, n_subspaces=3, n_codewords=n_codewords)
    assert codebooks.shape == (3, n_codewords, 2)
    codes = reference.encode_pq(features, codebooks)
    np.testing.assert_array_equal(reference.decode_pq(codes, codebooks, np.arange(n_samples)), features)


def projection_of(*bits: int, steps: Floats | None = None, basis: Floats | None = None) -> reference.Projection:
    """Return a projection about zero; on the axes and of steps 1, where nothing else is given."""
    basis = np.eye(len(bits), dtype=np.float32) if basis is None else basis.astype(np.float32)
    steps = np.ones(len(bits), np.float32) if steps is None else steps.astype(np.float32)
    return reference.Projection(basis, np.zeros(basis.shape[1], np.float32), steps, np.array(bits, np.uint8))


@pytest.mark.parametrize(
    ("bits", "levels", "golden"),
    [
        ((1, 3, 8, 2), (1, 5, 167, 2), "7b 2a"),
        ((8,), (254,), "fe"),
        ((3, 3, 3), (1, 2, 4), "11 01"),
        ((1,) * 9, (1, 0, 0, 0, 0, 0, 0, 1, 1), "81 01"),
        ((5, 8), (31, 128), "1f 10"),
    ],
)
def test_projection_golden_bytes(bits: tuple[int, ...], levels: tuple[int, ...], golden: str) -> None:
    projection = projection_of(*bits)
    features = np.array([[level - 2 ** (b - 1) + 0.5 for level, b in zip(levels, bits, strict=True)]])
    codes = reference.encode_projection(features, projection)
    assert codes.dtype == np.uint8
    assert codes.tobytes() == bytes.fromhex(golden)
    np.testing.assert_array_equal(reference.decode_projection(codes, projection, np.array([0])), features)


@given(
    numbers=st.lists(st.integers(1, 8).flatmap(lambda b: st.tuples(st.just(b), st.integers(0, 2**b - 1))), min_size=1)
)
@settings(deadline=None)
def test_a_projection_code_is_one_little_endian_number(numbers: list[tuple[int, int]]) -> None:
    projection = projection_of(*(b for b, _ in numbers))
    features = np.array([[level - 2 ** (b - 1) + 0.5 for b, level in numbers]])
    number = offset = 0
    for b, level in numbers:
        number |= level << offset
        offset += b
    codes = reference.encode_projection(features, projection)
    assert codes.tobytes() == number.to_bytes((offset + 7) // 8, "little")
    np.testing.assert_array_equal(reference.decode_projection(codes, projection, np.array([0])), features)


def turned(seed: int) -> tuple[reference.Projection, Floats]:
    """Return a projection on 4 of 7 turned directions about a centre, and the basis (3, 7) of what lies outside."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(7, 7)))[0]
    projection = projection_of(5, 3, 2, 1, steps=rng.uniform(0.1, 2, 4), basis=directions[:4])
    return projection._replace(centre=rng.normal(size=7).astype(np.float32)), directions[4:]


@given(seed=st.integers(0, 2**32))
@settings(deadline=None)
def test_a_projected_vector_is_half_a_step_off_and_what_lies_outside_of_the_basis(seed: int) -> None:
    projection, outside = turned(seed)
    rng = np.random.default_rng(seed + 1)
    within = rng.uniform(-1, 1, (20, 4)) * projection.steps * 2.0 ** (projection.bits - 1.0)
    beyond = rng.normal(size=(20, 3)) @ outside
    features = within @ projection.basis + beyond + projection.centre
    codes = reference.encode_projection(features, projection)
    error = reference.decode_projection(codes, projection, np.arange(20)) - features
    assert (
        np.abs(error @ projection.basis.T) <= projection.steps / 2 + 1e-5
    ).all()  # a float32 basis is that orthonormal
    np.testing.assert_allclose(error @ outside.T @ outside, -beyond, atol=1e-5)


def test_out_of_range_coordinates_take_the_outermost_level() -> None:
    projection = projection_of(3, 8, 1)
    far = np.full((1, 3), 1e6)
    codes = reference.encode_projection(np.concatenate([far, -far]), projection)
    decoded = reference.decode_projection(codes, projection, np.arange(2))
    np.testing.assert_array_equal(decoded, [[3.5, 127.5, 0.5], [-3.5, -127.5, -0.5]])


def test_projection_codes_gather_any_rows() -> None:
    projection, _ = turned(0)
    codes = reference.encode_projection(np.random.default_rng(0).normal(size=(5, 7)), projection)
    check_gather(partial(reference.decode_projection, codes, projection), 7, 5)


@given(n_directions=st.integers(1, 12), n_bits=st.integers(0, 120), variance=st.floats(1e-6, 1e6))
@settings(deadline=None)
def test_equal_variances_share_the_bits_within_one(n_directions: int, n_bits: int, variance: float) -> None:
    bits = allocate_bits(np.full(n_directions, variance), n_bits=n_bits)
    assert bits.sum() == min(n_bits, 8 * n_directions)
    assert bits.max() - bits.min() <= 1


@given(
    variances=st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e6)), min_size=1, max_size=9),
    n_bits=st.integers(0, 80),
)
@settings(deadline=None)
def test_bits_are_spent_to_the_last_on_directions_that_vary(variances: list[float], n_bits: int) -> None:
    bits = allocate_bits(np.array(variances), n_bits=n_bits)
    n_varying = sum(variance > 0 for variance in variances)
    assert bits.sum() == min(n_bits, 8 * n_varying)
    assert bits.max() <= 8
    assert not bits[np.array(variances) == 0].any()


@pytest.mark.parametrize("n_bits", [1, 4, 7, 12])
def test_no_other_share_of_the_bits_leaves_less_error(n_bits: int) -> None:
    variances = np.array([9.0, 1.0, 100.0])
    found = allocate_bits(variances, n_bits=n_bits)
    shares = [bits for bits in product(range(9), repeat=3) if sum(bits) == n_bits]
    least = min(sum(variances / 4.0 ** np.array(bits)) for bits in shares)  # a bit halves the error
    np.testing.assert_allclose(sum(variances / 4.0**found), least, rtol=1e-12)


def gaussian(dim: int = 10) -> tuple[Floats, Floats, Floats]:
    """Return features (4000, D) of a Gaussian, its centre (D,) and covariance (D, D) of deviations 1, 1/2, 1/4, ..."""
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    deviations = 0.5 ** np.arange(dim)
    centre = rng.normal(size=dim)
    features = centre + rng.normal(size=(4000, dim)) * deviations @ directions
    return features, centre, (directions.T * deviations**2) @ directions


@pytest.mark.parametrize("n_bytes", [1, 2, 3, 5, 100])
def test_a_fitted_projection_has_orthonormal_directions_in_order_and_at_most_its_bytes(n_bytes: int) -> None:
    features, centre, covariance = gaussian()
    projection = reference.fit_projection(centre, covariance, n_bytes=n_bytes)
    assert [part.dtype for part in projection] == [np.float32, np.float32, np.float32, np.uint8]
    codes = reference.encode_projection(features, projection)
    assert codes.shape[1] == min(n_bytes, 10)
    np.testing.assert_allclose(
        projection.basis @ projection.basis.T, np.eye(len(projection.bits)), atol=1e-6
    )  # float32
    variances = np.einsum("rd,de,re->r", projection.basis, covariance, projection.basis)
    assert (np.diff(variances) < 0).all()
    assert (np.diff(projection.bits.astype(int)) <= 0).all()
    assert projection.bits.min() >= 1
    assert all(row[np.abs(row).argmax()] > 0 for row in projection.basis)  # the sign is no accident of the solver


def test_more_bytes_lose_less_of_a_gaussian_and_the_least_lose_less_than_its_mean() -> None:
    features, centre, covariance = gaussian()
    losses = [float(np.square(features - centre).sum())]
    for n_bytes in (1, 2, 3, 5, 8):
        projection = reference.fit_projection(centre, covariance, n_bytes=n_bytes)
        codes = reference.encode_projection(features, projection)
        decoded = reference.decode_projection(codes, projection, np.arange(len(features)))
        losses.append(float(np.square(decoded - features).sum()))
    assert all(more < 0.6 * less for less, more in pairwise(losses))


def test_the_fitted_steps_lose_least_of_a_gaussian() -> None:
    deviations = 0.5 ** np.minimum(np.arange(12), 7)  # each takes a bit less than the one before: 40 in all
    projection = reference.fit_projection(np.zeros(12), np.diag(deviations**2), n_bytes=5)
    assert projection.bits.tolist() == [8, 7, 6, 5, 4, 3, 2, 1, 1, 1, 1, 1]
    grid = np.linspace(-8, 8, 40001)
    density = np.exp(-(grid**2) / 2)
    for d in range(8):
        losses = []
        for factor in (0.97, 1.0, 1.03):
            one = projection_of(int(projection.bits[d]), steps=projection.steps[d : d + 1] * factor)
            x = grid[:, None] * deviations[d]
            decoded = reference.decode_projection(reference.encode_projection(x, one), one, np.arange(len(x)))
            losses.append(float(density @ np.square(decoded - x)[:, 0]))
        assert losses[1] == min(losses), f"{projection.bits[d]} bits"


def test_a_covariance_of_zero_needs_no_byte_and_gives_the_centre_back() -> None:
    centre = np.array([1.0, 2.0, 3.0])
    projection = reference.fit_projection(centre, np.zeros((3, 3)), n_bytes=4)
    codes = reference.encode_projection(np.repeat(centre[None], 2, axis=0), projection)
    assert codes.shape == (2, 0)
    np.testing.assert_array_equal(reference.decode_projection(codes, projection, np.arange(2)), [centre, centre])
