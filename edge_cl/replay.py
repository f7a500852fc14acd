"""The replay store: a class-balanced sample of the past, bounded in bytes, a slice of it held out from training.

One record, little-endian, 16 + 2 D bytes, and nothing else counts towards the limit:

| offset | size | type    | name     | meaning |
|--------|------|---------|----------|---------|
| 0      | 4    | u32     | label    | row of the class |
| 4      | 4    | u32     | sequence | the how-manieth sample of its class this was, from 0 |
| 8      | 4    | f32     | scale    | values are multiplied by it |
| 12     | 1    | u8      | hit      | did the last update's head get it right as if unseen: 0 no, 1 yes, 2 unknown |
| 13     | 3    | u8 x 3  | zero     | 0: unaligned values decode at half the speed |
| 16     | 2 D  | f16 x D | values   | features / scale |
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from edge_kernels.arrays import Bools, Floats, Ints
from numpy.typing import NDArray

UNKNOWN = 2  # of `hit`: the sample was trained on, or is the only one of its class
HELD_OUT_EVERY = 5  # one sample in five of each class, its second, seventh, ... is never trained on while stored


def record_type(dim: int) -> np.dtype[Any]:
    """Return the layout of one record for features of D values."""
    header = [("label", "<u4"), ("sequence", "<u4"), ("scale", "<f4"), ("hit", "u1"), ("zero", "u1", (3,))]
    return np.dtype([*header, ("values", "<f2", (dim,))])


def is_held_out(sequence: Ints) -> Bools:
    """Return whether the n-th sample of a class is kept from training while stored, (N,) for (N,)."""
    held: Bools = np.asarray(sequence) % HELD_OUT_EVERY == 1
    return held


@dataclass(frozen=True)
class Replay:
    """Records in fixed slots.

    Attributes:
        limit_bytes: the records' bytes never pass it.
        seed: of the draw that decides who stays.
        records: (M,) of `record_type(D)`.
        slots: (M,) int64 where each record lies, ascending; a kept record never moves.
    """

    limit_bytes: int
    seed: int
    records: NDArray[np.void]
    slots: Ints

    @classmethod
    def empty(cls, limit_bytes: int, dim: int, seed: int) -> Replay:
        """Return a store without a record."""
        return cls(limit_bytes, seed, np.zeros(0, record_type(dim)), np.zeros(0, np.int64))

    @property
    def capacity(self) -> int:
        """How many records fit."""
        return int(self.limit_bytes // self.records.dtype.itemsize)

    def usage(self) -> dict[str, int]:
        """Return bytes, limit, samples and bytes_per_sample."""
        size = self.records.dtype.itemsize
        used = {"bytes": self.records.nbytes, "limit": self.limit_bytes}
        return {**used, "samples": len(self.records), "bytes_per_sample": size}

    @property
    def labels(self) -> Ints:
        """Return (M,) rows of the classes."""
        return self.records["label"].astype(np.int64)

    @property
    def held_out(self) -> Bools:
        """Return (M,), true where a record is kept from training."""
        return is_held_out(self.records["sequence"])

    def decode(self) -> Floats:
        """Return the features (M, D) float32."""
        features: Floats = self.records["values"].astype(np.float32) * self.records["scale"][:, None]
        return features

    def offer(self, features: Floats, labels: Ints, sequence: Ints) -> tuple[Replay, Ints]:
        """Return the store after a batch was offered, and where each of its records (M,) came from.

        Every class gets the same room; what a class does not need goes to the others. Within a class, a draw that
        depends on seed, class and sequence alone decides, which is a uniform sample of all ever offered (Vitter
        1985) whatever the batches were.

        Args:
            features: (N, D) float32.
            labels: (N,) rows of the classes.
            sequence: (N,) the how-manieth of its class each one is.

        Returns:
            The new store, its records in the order of their slots, and (M,) int64: the row in this store, or this
            store's length plus the row in the batch.
        """
        n_old = len(self.records)
        labels_all = np.concatenate([self.labels, labels])
        sequence_all = np.concatenate([self.records["sequence"].astype(np.int64), sequence])
        origins = np.flatnonzero(_draw(labels_all, sequence_all, self.capacity, self.seed))
        taken = origins[origins >= n_old] - n_old
        old = origins[origins < n_old]
        free = np.setdiff1d(np.arange(len(origins)), self.slots[old])[: len(taken)]
        slots = np.concatenate([self.slots[old], free])
        fresh = _encode(features[taken], labels[taken], sequence[taken])
        order = np.argsort(slots)
        records = np.concatenate([self.records[old], fresh])[order]
        return replace(self, records=records, slots=slots[order]), origins[order]

    def mark(self, hits: Bools, known: Bools) -> Replay:
        """Return the store with `hit` set to hits (M,) where they are known (M,)."""
        records = self.records.copy()
        records["hit"] = np.where(known, hits, UNKNOWN)
        return replace(self, records=records)


def _encode(features: Floats, labels: Ints, sequence: Ints) -> NDArray[np.void]:
    """Return records (N,) of features (N, D), each scaled so that its largest value is 1."""
    records = np.zeros(len(features), record_type(features.shape[1]))
    scale = np.abs(features).max(axis=1, initial=0)
    scale[scale == 0] = 1
    records["label"], records["sequence"], records["scale"] = labels, sequence, scale
    records["values"] = features / scale[:, None]
    return records


def _draw(labels: Ints, sequence: Ints, capacity: int, seed: int) -> Bools:
    """Return which of the candidates (M,) stay, at most `capacity`, as many of each class as can be."""
    from edge_kernels.cpu import balanced_reservoir, draw_priority

    held = is_held_out(sequence)
    order = np.lexsort((draw_priority(labels, sequence, seed=seed), held, labels))
    role = labels[order] * 2 + held[order]
    rank = np.arange(len(order)) - np.searchsorted(role, role)
    share = 1 / HELD_OUT_EVERY  # of a class's room that the held-out slice gets, its first after one to train on
    turn = np.empty(len(labels))
    turn[order] = np.where(held[order], (rank + share) / share, rank / (1 - share))
    return balanced_reservoir(labels, turn, capacity=capacity)
