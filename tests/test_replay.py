"""The replay store: bounded, balanced, the same whatever the batches were; of each class those stay that should."""

from __future__ import annotations

import numpy as np
import pytest
from edge_kernels.arrays import Bools, Floats, Ints
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_cl.codecs import CODECS, open_codec
from edge_cl.errors import InputError, StateError
from edge_cl.replay import HELD_OUT, SELECTIONS, UNKNOWN, Replay, is_held_out, record_type
from edge_cl.statistics import Statistics

DIM = 6
N_CLASSES = 6
BOOKS = ("eigen", "pq")
SIZE = Replay.empty(0, 0, open_codec("float32", DIM)).record_bytes

Members = set[tuple[int, int]]


class Course:
    """A store and what it was offered, with what must hold after each step."""

    def __init__(self, limit: int, *, codec: str = "float32", seed: int = 0, selection: str = "reservoir") -> None:
        self.store = Replay.empty(limit, seed, open_codec(codec, DIM), selection)
        self.statistics = Statistics.empty(DIM, has_scatter=True)
        self.rng = np.random.default_rng(0)
        self.check()

    def offer(self, labels: list[int] | Ints, features: Floats | None = None) -> None:
        """Offer samples (normal ones, where none are given); rows below the highest label are classes by then."""
        classes = np.array(labels, np.int64)
        x = self.rng.normal(size=(len(classes), DIM)).astype(np.float32) if features is None else features
        grown = self.statistics.grow(max(int(classes.max()) + 1, len(self.statistics.counts)))
        sequence = np.array([grown.counts[k] + np.count_nonzero(classes[:n] == k) for n, k in enumerate(classes)])
        before, self.statistics = self.statistics, grown.learn(x, classes, len(grown.counts))
        old = self.store
        self.store, origins = old.offer(x, classes, sequence, self.statistics if old.codec.has_codebook else before)
        self.check()
        is_old = origins < len(old.records)
        kept, taken = origins[is_old], origins[~is_old] - len(old.records)
        if len(origins) >= len(old.records):
            np.testing.assert_array_equal(kept, np.flatnonzero(is_old), "a kept record moved")
        new = self.store
        np.testing.assert_array_equal(new.labels, np.concatenate([old.labels, classes])[origins])
        np.testing.assert_array_equal(new.hits[is_old], old.hits[kept])
        assert (new.hits[~is_old] == UNKNOWN).all()
        np.testing.assert_array_equal(new.held_out[~is_old], is_held_out(sequence[taken]))
        if len(taken):
            assert new.records["code"][~is_old].tobytes() == new.codec.encode(x[taken]).tobytes()
        if new.codec.codebook == old.codec.codebook:
            assert new.records["code"][is_old].tobytes() == old.records["code"][kept].tobytes()

    def resize(self, limit: int) -> None:
        self.store = self.store.resize(limit, self.statistics)
        assert self.store.limit_bytes == limit
        self.check()

    def forget(self, label: int) -> None:
        others = np.flatnonzero(np.arange(len(self.statistics.counts)) != label)
        rows = np.flatnonzero(self.store.labels != label)
        wanted = np.sort(self.store.records["code"][rows].tolist(), axis=0).tolist()
        labels = self.store.labels[rows]
        self.store = self.store.keep(rows, labels - (labels > label))
        self.statistics = Statistics(
            self.statistics.counts[others], self.statistics.means[others], self.statistics.scatter
        )
        assert np.sort(self.store.records["code"].tolist(), axis=0).tolist() == wanted
        self.check()

    def mark(self) -> None:
        rows = np.flatnonzero(self.rng.random(len(self.store.records)) < 0.5)
        self.store = self.store.mark(rows, self.rng.integers(0, 3, len(rows)).astype(np.uint8))
        self.check()

    def check(self) -> None:
        store = self.store
        assert store.n_bytes == store.records.nbytes + len(store.hits) + len(store.codec.codebook)
        assert store.n_bytes <= store.limit_bytes
        assert len(store.hits) == len(store.records) <= store.capacity
        assert len(store.codec.codebook) <= store.limit_bytes / 4
        assert (self.stored() <= self.statistics.counts).all()
        usage = {"bytes": store.n_bytes, "codebook_bytes": len(store.codec.codebook), "limit": store.limit_bytes}
        assert store.usage() == {**usage, "samples": len(store.records), "bytes_per_sample": store.record_bytes}
        assert np.isfinite(self.decoded()).all()

    def stored(self) -> Ints:
        return np.bincount(self.store.labels, minlength=len(self.statistics.counts))

    def decoded(self) -> Floats:
        return self.store.decode(self.statistics, np.arange(len(self.store.records)))

    def members(self, rows: Ints | Bools | slice = slice(None)) -> Members:
        return set(self.store.records[["label", "number"]][rows].tolist())


def test_record_is_six_bytes_and_a_code() -> None:
    assert [record_type(n).itemsize for n in (0, 153, 1280)] == [6, 159, 1286]


def test_golden_records() -> None:
    store = Replay.empty(1000, 0, open_codec("float16", DIM))
    x = np.array([[0, 1, -2, 0.5, 0, 4], [0, 0, 0, 0, 0, 0]], np.float32)
    store, _ = store.offer(x, np.array([3, 258]), np.array([7, 11]), Statistics.empty(DIM, has_scatter=False))
    store = store.mark(np.array([1]), np.array([1], np.uint8))
    assert store.records.tobytes().hex() == (
        "030007000000" + "00008040" + "0000003400b800300000003c" + "02010b000080" + "0000803f" + "00" * 12
    )
    assert store.hits.tobytes().hex() == "0201"


steps = st.one_of(
    st.lists(st.integers(0, N_CLASSES - 1), min_size=1, max_size=30),
    st.integers(0, 1500).map(lambda limit: ("resize", limit)),
    st.integers(0, N_CLASSES - 1).map(lambda label: ("forget", label)),
    st.just(("mark", 0)),
)


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(steps, max_size=8), limit=st.integers(0, 1500), seed=st.integers(0, 2**63 - 1))
@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("codec", CODECS)
def test_bytes_never_pass_the_limit_whatever_is_done(
    codec: str, selection: str, steps: list[list[int] | tuple[str, int]], limit: int, seed: int
) -> None:
    course = Course(limit, codec=codec, seed=seed, selection=selection)
    for step in steps:
        n_classes = len(course.statistics.counts)
        if isinstance(step, list):
            course.offer([*range(n_classes, max(step) + 1), *step])  # a class has at least one sample
        elif step[0] == "resize":
            course.resize(step[1])
        elif step[0] == "mark":
            course.mark()
        elif step[1] < n_classes and n_classes > 1:
            course.forget(step[1])


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=30), max_size=6),
    capacity=st.integers(0, 40),
    seed=st.integers(0, 2**63 - 1),
)
@pytest.mark.parametrize("selection", SELECTIONS)
def test_classes_are_balanced(selection: str, batches: list[list[int]], capacity: int, seed: int) -> None:
    course = Course(capacity * SIZE, seed=seed, selection=selection)
    for batch in batches:
        course.offer(batch)
        stored, counts = course.stored(), course.statistics.counts
        assert stored.sum() == min(capacity, counts.sum())
        hungry = stored < np.minimum(counts, stored.max(initial=0) - 1)
        assert not hungry.any(), "a class has two records fewer than another, though it had more samples"


@pytest.mark.parametrize("codec", CODECS)
def test_the_draw_does_not_depend_on_the_batches(codec: str) -> None:
    """Of codecs with a codebook, too: what it is fitted to decides how a sample is coded, never which stays."""
    labels = np.random.default_rng(0).integers(0, 4, 200)
    whole, parts = (Course(3000, codec=codec, seed=5) for _ in range(2))
    whole.offer(labels)
    for block in np.split(labels, [50, 51, 120]):
        parts.offer(block)
    capacity = min(len(whole.store.records), len(parts.store.records))
    assert capacity > 20
    assert parts.members(parts.store.panel(capacity)) == whole.members(whole.store.panel(capacity))


def test_every_sample_is_as_likely_to_stay() -> None:
    stays = np.zeros(60)
    for seed in range(400):
        course = Course(20 * SIZE, seed=seed)
        course.offer([0] * 60)
        stays[course.store.records["number"] % HELD_OUT] += 1
    held = is_held_out(np.arange(60))
    for role in (held, ~held):
        expected = stays[role].mean()
        assert np.abs(stays[role] - expected).max() < 5 * np.sqrt(expected)


@pytest.mark.parametrize("label", [0, 1])
def test_old_samples_stay_as_likely_as_new_ones_after_another_class_was_forgotten(label: int) -> None:
    """The class of two is forgotten that comes before the other, so that the other's row becomes 0, or after it."""
    shares = []
    for seed in range(60):
        course = Course(20 * SIZE, seed=seed)
        course.offer([0, 1] * 100)
        course.resize(10 * SIZE)
        course.forget(label)
        course.offer([0] * 100)
        shares.append(np.mean(course.store.records["number"] % HELD_OUT < 100))
    # of a fair draw of 10, 5 are old, of which 5 at most were left: 4.2; 60 draws have a standard error of 0.011
    assert np.mean(shares) == pytest.approx(0.42, abs=0.045)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize(("n_stored", "n_held"), [(1, 0), (2, 1), (5, 1), (10, 2), (50, 10)])
def test_one_in_five_is_held_out_and_the_first_is_not(n_stored: int, n_held: int, selection: str) -> None:
    course = Course(n_stored * SIZE, seed=1, selection=selection)
    course.offer([0] * 100)
    assert int(course.store.held_out.sum()) == n_held


@pytest.mark.parametrize("codec", ["int4", "int8", "float16", "float32"])
def test_extreme_values_survive_the_code(codec: str) -> None:
    x = np.array([[1e12, -3e11, 1, 0, 0, 0], [1e-30, 5e-31, 0, 0, 0, 0], [0] * 6], np.float32)
    store, _ = Replay.empty(1000, 0, open_codec(codec, DIM)).offer(
        x, np.arange(3), np.zeros(3, np.int64), Statistics.empty(DIM, has_scatter=False)
    )
    error = np.abs(store.decode(Statistics.empty(DIM, has_scatter=False), np.arange(3)) - x).max(axis=1)
    half_a_step = {"int4": 1 / 14, "int8": 1 / 254, "float16": 2**-11, "float32": 0}[codec]  # of the largest value
    assert (error <= 1.01 * half_a_step * np.abs(x).max(axis=1)).all()  # a step itself is a float16


@pytest.mark.parametrize("codec", ["float32", "int4"])
def test_a_hit_is_of_the_last_update_or_of_codes_that_cannot_be_asked_again(codec: str) -> None:
    course = Course(1000, codec=codec)
    course.offer([0, 1, 0, 1])
    assert course.store.hits.tolist() == [2, 2, 2, 2]
    first = course.store.mark(np.array([0, 2]), np.array([1, 0], np.uint8))
    assert first.hits.tolist() == [1, 2, 0, 2]
    second = first.mark(np.array([3]), np.array([1], np.uint8))
    assert second.hits.tolist() == ([2, 2, 2, 1] if codec == "float32" else [1, 2, 0, 1])
    assert first.hits.tolist() == [1, 2, 0, 2]


def test_what_does_not_fit_a_record_is_refused() -> None:
    store, statistics = Replay.empty(1000, 0, open_codec("float32", DIM)), Statistics.empty(DIM, has_scatter=False)
    for label, number in ((1 << 16, 0), (0, HELD_OUT)):
        with pytest.raises(InputError, match="at most 65536 classes of fewer than"):
            store.offer(np.zeros((1, DIM), np.float32), np.array([label]), np.array([number]), statistics)
    whole, _ = store.offer(np.zeros((1, DIM), np.float32), np.array([0]), np.array([0]), statistics)
    whole.records["code"] = 255
    with pytest.raises(StateError, match="decodes to numbers that are none"):
        whole.decode(statistics, np.array([0]))


def distances(selection: str, n_batches: int, drift: float) -> float:
    """Return how far the mean of the stored samples to train on is from their class's, on average."""
    found = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        x = (rng.normal(size=(200, DIM)) + drift * np.linspace(0, 1, 200)[:, None]).astype(np.float32)
        course = Course(25 * SIZE, seed=seed, selection=selection)
        for rows in np.array_split(np.arange(200), n_batches):
            course.offer(np.zeros(len(rows), np.int64), x[rows])
        kept = course.decoded()[~course.store.held_out]
        found.append(np.linalg.norm(kept.mean(axis=0) - course.statistics.means[0]))
    return float(np.mean(found))


@pytest.mark.parametrize(("n_batches", "drift"), [(1, 0), (8, 0), (1, 3), (8, 3)])
def test_herding_keeps_samples_nearer_to_the_mean_of_their_class_than_a_draw_does(n_batches: int, drift: int) -> None:
    assert distances("herding", n_batches, drift) < distances("reservoir", n_batches, drift)


def test_the_held_out_slice_is_a_draw_by_herding_too() -> None:
    """Were it herded, it would say how the head does on samples near to their mean."""
    drawn, herded = (Course(40 * SIZE, seed=3, selection=selection) for selection in SELECTIONS)
    for course in (drawn, herded):
        for _ in range(4):
            course.offer(np.arange(100) % 3)
    assert herded.members(herded.store.held_out) == drawn.members(drawn.store.held_out)
    assert herded.members() != drawn.members()


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_panel_is_what_a_smaller_store_would_have_kept_and_panels_are_nested(selection: str) -> None:
    labels = np.random.default_rng(2).integers(0, 4, 120)
    blocks = np.array_split(labels, 3 if selection == "reservoir" else 1)  # herding depends on what was there
    large = Course(60 * SIZE, seed=7, selection=selection)
    for block in blocks:
        large.offer(block)
    inner: set[int] = set()
    for capacity in range(0, 61, 4):
        small = Course(capacity * SIZE, seed=7, selection=selection)
        for block in blocks:
            small.offer(block)
        panel = large.store.panel(capacity)
        assert (np.diff(panel) > 0).all()
        assert large.members(panel) == small.members()
        assert inner <= set(panel.tolist())
        inner = set(panel.tolist())
    assert large.store.panel(1000).tolist() == list(range(60))


@pytest.mark.parametrize("selection", SELECTIONS)
def test_when_a_class_arrives_the_others_give_up_room_evenly(selection: str) -> None:
    course, stored = Course(60 * SIZE, selection=selection), []
    for label in range(5):
        before = course.members()
        course.offer([label] * 100)
        stored.append(course.stored().tolist())
        assert {pair for pair in course.members() if pair[0] < label} <= before
    assert stored == [[60], [30] * 2, [20] * 3, [15] * 4, [12] * 5]


@pytest.mark.parametrize("codec", ["sketch", "int4", "float32"])
def test_resizing_keeps_what_the_smaller_store_would_have_kept_all_along(codec: str) -> None:
    labels = np.random.default_rng(4).integers(0, 5, 150)
    large, small = Course(2500, codec=codec, seed=9), Course(700, codec=codec, seed=9)
    for course in (large, small):
        for block in np.array_split(labels, 4):
            course.offer(block)
        course.mark()
    before = dict(zip([r.tobytes() for r in large.store.records], large.store.hits.tolist(), strict=True))
    large.resize(700)
    assert large.members() == small.members()
    after = dict(zip([r.tobytes() for r in large.store.records], large.store.hits.tolist(), strict=True))
    assert after.items() < before.items()
    large.resize(2500)
    assert large.members() == small.members()


@pytest.mark.parametrize("codec", BOOKS)
def test_resizing_fits_a_codebook_anew_only_where_it_takes_too_much(codec: str) -> None:
    course = Course(20_000, codec=codec, seed=2)
    x = course.rng.normal(size=(2100, DIM)).astype(np.float32) + 3
    course.offer(np.arange(2100) % 3, x)
    book, members = course.store.codec.codebook, course.members()
    course.resize(4 * len(book))
    assert course.store.codec.codebook == book
    assert course.members() < members
    members = course.members()
    course.resize(4 * len(book) - 1)
    assert 0 < len(course.store.codec.codebook) < len(book)
    assert course.members() <= members
    assert len(course.store.records) > 20
    rows = 3 * (course.store.records["number"].astype(np.int64) % HELD_OUT) + course.store.labels
    # a direction of six, or a codeword of 256, is lost: a seventh of the whole, of which the mean is 0.95
    assert np.linalg.norm(course.decoded() - x[rows]) < 0.2 * np.linalg.norm(x[rows])
    course.resize(20)
    assert (course.store.n_bytes, course.store.capacity) == (0, 0)
    course.resize(20_000)
    course.offer([0, 1, 2])
    assert len(course.store.records) == 3


@pytest.mark.parametrize("codec", BOOKS)
def test_a_codebook_fitted_anew_to_what_is_stored_keeps_the_limit(codec: str) -> None:
    """As after a class was forgotten: the codebook must know nothing of it."""
    course = Course(400, codec=codec)
    course.offer(np.arange(200) % 2)
    course.resize(2000)
    course.offer(np.arange(190) % 2)
    course.store = course.store.refit(course.statistics)
    course.check()
