"""The replay store: a class-balanced sample of the past as codes, bounded in bytes, a slice held out from training.

A record is of 6 bytes and a code, little-endian. Beside each record a byte says whether the last update's head got the
sample right as if unseen. Records, these bytes and the codebook together never pass the limit; nothing else is stored.

| offset | size | type | name   | meaning |
|--------|------|------|--------|---------|
| 0      | 2    | u16  | label  | row of the class |
| 2      | 4    | u32  | number | bit 31: held out; below, the how-manieth sample of its class this was, |
|        |      |      |        | or by herding, unless held out, its place in line |
| 6      | n    | u8   | code   | see `edge_cl.codecs` |
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from edge_kernels.arrays import Bools, Codes, Floats, Ints
from numpy.typing import NDArray

from edge_cl.codecs import Codec, open_codec
from edge_cl.errors import InputError, StateError
from edge_cl.statistics import Statistics

SELECTIONS = ("reservoir", "herding")
UNKNOWN = 2  # of a hit: the sample was not asked, was trained on, or is the only one of its class
HELD_OUT_EVERY = 5  # one sample in five of each class, its second, seventh, ... is never trained on while stored
HELD_OUT = 1 << 31
MAX_CLASSES = 1 << 16
CODEBOOK_SHARE = 4  # a codebook takes at most a quarter of the bytes


def record_type(code_bytes: int) -> np.dtype[Any]:
    """Return the layout of one record."""
    return np.dtype([("label", "<u2"), ("number", "<u4"), ("code", "u1", (code_bytes,))])


def is_held_out(sequence: Ints) -> Bools:
    """Return whether the n-th sample of a class is kept from training while stored, (N,) for (N,)."""
    held: Bools = np.asarray(sequence) % HELD_OUT_EVERY == 1
    return held


@dataclass(frozen=True)
class Replay:
    """Records in slots 0 to M - 1; one that stays keeps its slot, unless the store shrinks.

    Attributes:
        limit_bytes: that `n_bytes` never passes.
        seed: of the draw that decides who stays.
        selection: who stays: `reservoir` (a uniform sample of each class) or `herding` (those whose mean follows the
            mean of their class).
        codec: of the codes.
        records: (M,) of `record_type`.
        hits: (M,) uint8: did the last update's head get it right as if unseen: 0 no, 1 yes, 2 unknown.
    """

    limit_bytes: int
    seed: int
    selection: str
    codec: Codec
    records: NDArray[np.void]
    hits: Codes

    @classmethod
    def empty(cls, limit_bytes: int, seed: int, codec: Codec, selection: str = "reservoir") -> Replay:
        """Return a store without a record."""
        records = np.zeros(0, record_type(codec.n_bytes))
        return cls(limit_bytes, seed, selection, codec, records, np.zeros(0, np.uint8))

    @property
    def record_bytes(self) -> int:
        """Bytes of one sample: label, number, code and hit."""
        return int(self.records.dtype.itemsize) + 1

    @property
    def capacity(self) -> int:
        """How many samples fit."""
        if not self.codec.n_bytes:
            return 0
        return max(0, self.limit_bytes - len(self.codec.codebook)) // self.record_bytes

    @property
    def n_bytes(self) -> int:
        """Bytes of all that is stored."""
        return self.records.nbytes + self.hits.nbytes + len(self.codec.codebook)

    def usage(self) -> dict[str, int]:
        """Return bytes (those of the codebook among them), limit, samples and bytes_per_sample."""
        used = {"bytes": self.n_bytes, "codebook_bytes": len(self.codec.codebook), "limit": self.limit_bytes}
        return {**used, "samples": len(self.records), "bytes_per_sample": self.record_bytes}

    @property
    def labels(self) -> Ints:
        """Return (M,) rows of the classes."""
        return self.records["label"].astype(np.int64)

    @property
    def held_out(self) -> Bools:
        """Return (M,), true where a record is kept from training."""
        held: Bools = self.records["number"] >= HELD_OUT
        return held

    def decode(self, statistics: Statistics, rows: Ints) -> Floats:
        """Return the features (B, D) float32 of some rows (B,), given the statistics of all samples so far.

        Raises:
            StateError: a record is damaged.
        """
        if not len(rows):
            return np.zeros((0, self.codec.dim), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            features = self.codec.decode(self.records["code"][rows], statistics)
        if not np.isfinite(features).all():
            raise StateError("a replay record decodes to numbers that are none")
        return features

    def panel(self, capacity: int) -> Ints:
        """Return the rows, ascending, that a store of that capacity would have kept."""
        return np.flatnonzero(self._stay(self.labels, self.records["number"], capacity))

    def offer(self, features: Floats, labels: Ints, sequence: Ints, statistics: Statistics) -> tuple[Replay, Ints]:
        """Return the store after a batch was offered, and where each of its records (M,) came from.

        Every class gets the same room; what a class does not need goes to the others. By `reservoir`, a draw that
        depends on seed and sequence alone decides within a class, which is a uniform sample of all ever
        offered (Vitter 1985) whatever the batches were. By `herding`, those of the class's stored and new samples come
        first whose running mean follows their mean (Rebuffi 2017, alg. 4); the held-out slice is drawn.

        Args:
            features: (N, D) float32.
            labels: (N,) rows of the classes.
            sequence: (N,) the how-manieth of its class each one is.
            statistics: of all samples so far; those of the batch too, where the codec has a codebook.

        Returns:
            The new store, and (M,) int64: the row in this store, or this store's length plus the row in the batch.

        Raises:
            InputError: there are too many classes, or too many samples of one.
        """
        if labels.max(initial=0) >= MAX_CLASSES or sequence.max(initial=0) >= HELD_OUT:
            raise InputError(f"labels: expected at most {MAX_CLASSES} classes of fewer than 2^31 samples; found more")
        n_old = len(self.records)
        store = self
        if self.limit_bytes and self.codec.is_stale(int(statistics.counts.sum()), features):
            store = self._refit(features, statistics)
        numbers: Ints = (sequence + np.where(is_held_out(sequence), HELD_OUT, 0)).astype(np.uint32)
        numbers_old = store.records["number"]
        if self.selection == "herding":
            numbers_old, numbers = store._line_up(features, labels, numbers, statistics)
        labels_all = np.concatenate([store.labels, labels])
        numbers_all = np.concatenate([numbers_old, numbers])
        stays = np.flatnonzero(store._stay(labels_all, numbers_all, store.capacity))
        origins = _place(stays, n_old)
        old, new = origins < n_old, origins >= n_old
        records = np.zeros(len(origins), store.records.dtype)
        records[old] = store.records[origins[old]]
        taken = origins[new] - n_old
        if len(taken):
            fresh = np.zeros(len(taken), records.dtype)
            fresh["label"], fresh["code"] = labels[taken], store.codec.encode(features[taken])
            records[new] = fresh
        records["number"] = numbers_all[origins]
        hits = np.full(len(origins), UNKNOWN, np.uint8)
        hits[old] = store.hits[origins[old]]
        return replace(store, records=records, hits=hits), origins

    def keep(self, rows: Ints, labels: Ints) -> Replay:
        """Return the store of some of its rows (M',), ascending, with new labels (M',)."""
        order = _place(rows, len(self.records))
        records, hits = self.records[order], self.hits[order]
        records["label"] = labels[np.searchsorted(rows, order)]
        return replace(self, records=records, hits=hits)

    def resize(self, limit_bytes: int, statistics: Statistics) -> Replay:
        """Return the store within another limit: of each class those stay that would have been kept all along.

        Args:
            limit_bytes: the new limit.
            statistics: of all samples so far, for a codebook that takes too much of it and is fitted anew.
        """
        store = replace(self, limit_bytes=limit_bytes)
        if len(self.codec.codebook) * CODEBOOK_SHARE > limit_bytes:
            return store.refit(statistics)
        return store._cut()

    def refit(self, statistics: Statistics) -> Replay:
        """Return the store with a codebook, where it has one, of what it holds and nothing else."""
        if not self.codec.codebook:
            return self
        return self._refit(np.zeros((0, self.codec.dim), np.float32), statistics)._cut()

    def mark(self, rows: Ints, hits: Codes) -> Replay:
        """Return the store with the hits (B,) of some rows (B,); of all others they are forgotten if codes are exact.

        What an exact sample is worth is asked anew in each update that sees it, and must be of the last head.
        """
        marks = np.full(len(self.hits), UNKNOWN, np.uint8) if self.codec.is_exact else self.hits.copy()
        marks[rows] = hits
        return replace(self, hits=marks)

    def _cut(self) -> Replay:
        """Return the store of those that fit."""
        rows = self.panel(self.capacity)
        return self.keep(rows, self.labels[rows])

    def _stay(self, labels: Ints, numbers: Ints, capacity: int) -> Bools:
        """Return which of the candidates (N,) stay, at most `capacity`, as many of each class as can be."""
        from edge_kernels.cpu import balanced_reservoir, draw_priority

        held, sequence = numbers >= HELD_OUT, numbers.astype(np.int64) % HELD_OUT
        drawn = draw_priority(np.zeros_like(labels), sequence, seed=self.seed)  # a class's row can change
        if self.selection == "herding":
            drawn = np.where(held, drawn, sequence.astype(np.uint64))
        order = np.lexsort((drawn, held, labels))
        role = labels[order] * 2 + held[order]
        rank = np.arange(len(order)) - np.searchsorted(role, role)
        share = 1 / HELD_OUT_EVERY  # of a class's room that the held-out slice gets, its first after one to train on
        turn = np.empty(len(labels))
        turn[order] = np.where(held[order], (rank + share) / share, rank / (1 - share))
        return balanced_reservoir(labels, turn, capacity=capacity)

    def _refit(self, features: Floats, statistics: Statistics) -> Replay:
        """Return the store with a codebook for its own samples and the batch (N, D), all that it holds coded anew.

        It may be more than its capacity: that depends on the codebook.
        """
        samples = np.concatenate([stored := self.decode(statistics, np.arange(len(self.records))), features])
        codec = open_codec(self.codec.name, self.codec.dim)
        if len(samples):
            codec = self.codec.fit(samples, statistics, self.limit_bytes // CODEBOOK_SHARE)
        if codec is self.codec:
            return self
        if not codec.n_bytes:
            return Replay.empty(self.limit_bytes, self.seed, codec, self.selection)
        records = np.zeros(len(self.records), record_type(codec.n_bytes))
        records["label"], records["number"] = self.records["label"], self.records["number"]
        if len(records):
            records["code"] = codec.encode(stored)
        return replace(self, codec=codec, records=records)

    def _line_up(self, features: Floats, labels: Ints, numbers: Ints, statistics: Statistics) -> tuple[Ints, Ints]:
        """Return numbers of the records (M,) and of the batch (N,), the classes of the batch herded anew."""
        from edge_kernels.cpu import herd

        stored: Ints = self.records["number"].copy()
        fresh: Ints = numbers.copy()
        asked = np.flatnonzero(np.isin(self.records["label"], labels) & ~self.held_out)
        decoded = self.decode(statistics, asked)
        everyone = np.concatenate([self.labels, labels]), np.concatenate([stored, fresh])
        room = np.bincount(everyone[0][self._stay(*everyone, self.capacity)])  # who stays changes, how many does not
        for label in np.unique(labels):
            own = self.records["label"][asked] == label
            batch = np.flatnonzero((labels == label) & (numbers < HELD_OUT))
            both = np.concatenate([decoded[own], features[batch]])
            line = np.full(len(both), len(both), np.uint32)
            mean = self._mean_with(features[labels == label], int(label), statistics)
            chosen = herd(both, n_chosen=min(len(both), int(room[label]) if label < len(room) else 0), mean=mean)
            line[chosen] = np.arange(len(chosen))
            stored[asked[own]], fresh[batch] = line[: int(own.sum())], line[int(own.sum()) :]
        return stored, fresh

    def _mean_with(self, batch: Floats, label: int, statistics: Statistics) -> Floats:
        """Return the mean (D,) of a class with its samples of the batch (n, D); see `offer` for the statistics."""
        mean: Floats = batch.mean(axis=0, dtype=np.float64)
        if self.codec.has_codebook:
            mean = statistics.means[label]
        elif label < len(statistics.counts):
            n_before = int(statistics.counts[label])
            mean += n_before / (n_before + len(batch)) * (statistics.means[label] - mean)
        return mean


def _place(stays: Ints, n_old: int) -> Ints:
    """Return the candidates (M,) in the order of their slots: an old one keeps its own where that is below M."""
    origins = np.full(len(stays), -1, np.int64)
    settled = stays[stays < min(n_old, len(stays))]
    origins[settled] = settled
    origins[origins < 0] = np.setdiff1d(stays, settled)
    return origins
