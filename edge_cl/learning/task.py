"""What an update learns from, and what it comes to.

Everything here lives on the device of the task: arrays are numpy's or torch's, and nothing is copied to or fro but
single numbers, and the losses of the held-out slice.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_kernels.arrays import Bools, Floats, Ints

from edge_cl.companion import Companion
from edge_cl.devices import Device, namespace
from edge_cl.hidden import Hidden
from edge_cl.look_rows import LookRows
from edge_cl.looks import Looks
from edge_cl.statistics import Statistics

ALL = slice(None)


@dataclass(frozen=True)
class Task:
    """What an update learns from.

    Attributes:
        features: (N, D) float32: the stored samples (S of them), then the batch.
        labels: (N,) rows of the grown head.
        held: (N,) kept from training.
        exact: (N,) what the statistics were given; what a lossy code was decoded to cannot be left out of them again.
        n_stored: S.
        statistics: of every sample, those of the batch too.
        weights: (K, D) of the grown head, before.
        bias: (K,) likewise.
        fisher: (K, W) likewise, of `edge_cl.ewc`, where the recipe has the diagonal one.
        groups: (K,) which classes are told from each other: those of one task of the user's; all 0 without tasks.
        device: where the arrays are.
        companion: of the grown head, before; its rows are on the device.
        n_old: classes that the head before knew; they are the first rows.
        coded: (N, D) the samples as the store gives them back.
        is_exact: whether that is what they are, to rounding.
        n_kept: samples that are stored after the update.
        is_whole: whether all that is stored is at hand, and not only a panel of it.
        before: the statistics without the batch, where the recipe has the Kronecker Fisher around the head before.
        hidden: the hidden layer of an `mlp` head, before.
        looks: of the classes before, with the batch among what came last; numpy's; None: each class has one.
    """

    features: Floats
    labels: Ints
    held: Bools
    exact: Bools
    n_stored: int
    statistics: Statistics
    weights: Floats
    bias: Floats
    fisher: Floats
    groups: Ints
    device: Device
    companion: Companion
    coded: Floats
    n_old: int = 0
    n_kept: int = 0
    is_whole: bool = False
    is_exact: bool = True
    before: Statistics | None = None
    hidden: Hidden | None = None
    looks: Looks | None = None

    def stand_in(self, asked: Bools) -> Floats:
        """Return for each of some samples (N,) how many of its class, of those seen, it stands for."""
        xp, labels, counts = namespace(self.features), self.labels[asked], self.statistics.counts
        found = xp.bincount(labels, minlength=len(counts))
        weights: Floats = xp.asarray(counts[labels] / found[labels], dtype=xp.float32)
        return weights

    def within(self, logits: Floats, rows: slice = ALL) -> Floats:
        """Return logits (B, K) of some samples, minus infinity for classes of other groups than the label's.

        The cross-entropy is then that among the classes of the group, and its gradient in all others is zero.
        """
        if not bool(self.groups.any()):
            return logits
        xp = namespace(logits)
        masked: Floats = xp.where(self.groups[self.labels[rows]][:, None] == self.groups, logits, -xp.inf)
        return masked


@dataclass(frozen=True)
class Learnt:
    """What a task came to.

    Attributes:
        weights: (K, D).
        bias: (K,).
        unseen: (N, K) logits of the task's samples, as if it had not seen them where `honest` says so.
        honest: (N,).
        comparable: (N,) where the answers of the head before can be compared with these.
        frame: (2, D) of a cosine head.
        hidden: of an `mlp` head.
        companion: of a closed-form head; its rows are on the device.
        looks: of the classes; None where the task has none.
        look_rows: of the head, on the device; None where each class has one look.
    """

    weights: Floats
    bias: Floats
    unseen: Floats
    honest: Bools
    comparable: Bools
    frame: Floats | None = None
    hidden: Hidden | None = None
    companion: Companion | None = None
    looks: Looks | None = None
    look_rows: LookRows | None = None
