"""The mean over all samples of a stream, from the means of its batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_kernels.arrays import Floats


@dataclass(frozen=True)
class RunningMean:
    """The exact mean over samples, whatever the batches were; its sums are float64.

    Attributes:
        mean: of every sample so far, float64, in the shape of what is averaged.
        count: samples behind it.
    """

    mean: Floats
    count: int

    @classmethod
    def empty(cls, *shape: int) -> RunningMean:
        """Return the mean of no sample."""
        return cls(np.zeros(shape), 0)

    def add(self, mean: Floats, count: int) -> RunningMean:
        """Return the mean with a batch added.

        Args:
            mean: of the batch, such as its Fisher.
            count: its samples.
        """
        total = self.count + count
        return RunningMean(self.mean + (mean - self.mean) * (count / max(total, 1)), total)  # Chan 1983, eq. 2.1a
