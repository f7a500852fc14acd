"""All that a state remembers, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from edge_kernels.arrays import Floats

from edge_cl.codecs import DEFAULT_CODEC, open_codec
from edge_cl.companion import Companion
from edge_cl.head import Head
from edge_cl.looks import Looks
from edge_cl.replay import Replay
from edge_cl.ridge import Ridge
from edge_cl.statistics import Statistics


@dataclass(frozen=True)
class Fitted:
    """A regression with what it was fitted to: an update asks the one before it, which costs as much as the update.

    Attributes:
        ridge: the regression.
        statistics: its sums.
        replay: its stored samples.
    """

    ridge: Ridge
    statistics: Statistics
    replay: Replay


@dataclass(frozen=True)
class Memory:
    """What an update starts from, and what it leaves.

    Attributes:
        head: K classes.
        statistics: of every sample learnt.
        fisher: (K, D + 1) float32 summed diagonal Fisher, or (0, D + 1) where the recipe has none.
        replay: stored samples.
        companion: of a closed-form head.
        looks: of its classes.
        fitted: of a regression, what the sums come to, if that was worked out already; it is not in a file.
    """

    head: Head
    statistics: Statistics
    fisher: Floats
    replay: Replay
    companion: Companion
    looks: Looks
    fitted: Fitted | None = None

    @classmethod
    def empty(
        cls,
        dim: int,
        *,
        has_scatter: bool,
        replay_bytes: int,
        seed: int,
        codec: str = DEFAULT_CODEC,
        selection: str = "reservoir",
    ) -> Memory:
        """Return the memory of a state that has learnt nothing; it has a scatter, too, where the codec needs one."""
        opened = open_codec(codec, dim)
        return cls(
            Head.empty(dim),
            Statistics.empty(dim, has_scatter=has_scatter or opened.needs_scatter),
            np.zeros((0, dim + 1), np.float32),
            Replay.empty(replay_bytes, seed, opened, selection),
            Companion.empty(dim),
            Looks.empty(dim),
        )
