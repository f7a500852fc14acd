"""The mean over all samples of a stream, from the means of its batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class RunningMean:
    """The exact mean over samples, whatever the batches were; its sums are float64.

    Attributes:
        mean: of every sample so far, float64, numpy's or torch's like what is averaged; 0.0 before the first.
        count: samples behind it.
    """

    mean: Any = 0.0
    count: int = 0

    def add(self, mean: Any, count: int) -> RunningMean:
        """Return the mean with a batch added.

        Args:
            mean: of the batch, such as its Fisher: an array of numpy or torch.
            count: its samples.
        """
        total = self.count + count
        wide = mean.astype(np.float64) if isinstance(mean, np.ndarray) else mean.double()
        return RunningMean(self.mean + (wide - self.mean) * (count / max(total, 1)), total)  # Chan 1983, eq. 2.1a
