"""One update of a regression: memory, features and values in; the new memory and its measures out.

An accuracy here is R2, the share of the values' variance that is foretold. Stored samples are asked as if they had
never been learnt, which is free for ridge regression. They are not trained on: the sums hold them already.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from edge_kernels.arrays import Floats

from edge_cl.codecs import open_codec
from edge_cl.head import Head
from edge_cl.memory import Fitted, Memory
from edge_cl.replay import Replay
from edge_cl.reports import r2
from edge_cl.ridge import Ridge
from edge_cl.statistics import Statistics
from edge_cl.update import Proposal

PANEL = 1024  # stored samples that are asked
LEAST_R2 = -1.0  # of a report: how much worse than the mean does not matter


def propose_values(memory: Memory, features: Floats, values: Floats) -> Proposal:
    """Return the update that learning a batch would make; `memory` stays as it was.

    Args:
        memory: the state before.
        features: (N, D) float32, finite.
        values: (N, M) float32, finite.
    """
    dim, n_values = features.shape[1], values.shape[1]
    if not memory.head.classes:
        memory = _begin(memory, dim, n_values)
    batch, old = np.concatenate([features, values], axis=1), _asked(memory.replay, memory.statistics)
    n_before, labels = int(memory.statistics.counts.sum()), np.zeros(len(batch), np.int64)
    statistics = memory.statistics.learn(batch, labels, 1)
    replay, _ = memory.replay.offer(batch, labels, n_before + np.arange(len(batch)), memory.statistics)
    ridge = Ridge.fit(statistics, n_values, _asked(replay, statistics))
    weights, bias = ridge.head()
    head = replace(memory.head, weights=weights, bias=bias)
    fitted = Fitted(ridge, statistics, replay)
    after = replace(memory, head=head, statistics=statistics, replay=replay, fitted=fitted)
    asked = np.concatenate([old, batch])
    errors = ridge.unseen_errors(asked)
    if not n_before:
        return Proposal(after, 0.0, explained(errors, values), 1.0, 0.0)
    before = _fit_before(memory, n_values, old)
    errors_before = np.concatenate([before.unseen_errors(old), values - memory.head.logits(features)])
    if len(old) > 1:
        retention = _retain(errors_before[: len(old)], errors[: len(old)], old[:, dim:])
    else:
        retention = _retain_sums(before, ridge)
    figures = (explained(errors_before, asked[:, dim:]), explained(errors, asked[:, dim:]))
    return Proposal(after, *figures, *retention)


def _fit_before(memory: Memory, n_values: int, stored: Floats) -> Ridge:
    """Return the regression before an update, as the update before left it if it was of this process."""
    known = memory.fitted
    if known is not None and known.statistics is memory.statistics and known.replay is memory.replay:
        return known.ridge
    return Ridge.fit(memory.statistics, n_values, stored)


def explained(errors: Floats, values: Floats) -> float:
    """Return the mean of the outputs' R2, for a report: at least -1 each, for how much worse than that says nothing."""
    return float(np.maximum(r2(errors, values), LEAST_R2).mean())


def _begin(memory: Memory, dim: int, n_values: int) -> Memory:
    """Return the memory of a state that has learnt nothing, for M values."""
    head = Head.empty(dim, memory.head.kind).grow(("y",) if n_values == 1 else [f"y{m}" for m in range(n_values)])
    replay = Replay.empty(memory.replay.limit_bytes, memory.replay.seed, open_codec("float32", dim + n_values))
    return replace(memory, head=head, statistics=Statistics.empty(dim + n_values, has_scatter=True), replay=replay)


def _asked(replay: Replay, statistics: Statistics) -> Floats:
    """Return the stored samples (P, D + M) that are asked."""
    return replay.decode(statistics, replay.panel(PANEL))


def _retain(before: Floats, after: Floats, values: Floats) -> tuple[float, float]:
    """Return retention and its standard error, of the errors (P, M) of stored samples before and after.

    Retention is the ratio of the R2; where nothing was foretold before, nothing can be lost.
    """
    values = values.astype(np.float64)
    spread = np.square(values - values.mean(axis=0)).mean(axis=0)
    varies = spread > 0
    if not varies.any():
        return 1.0, 0.0
    first, second = (np.square(errors[:, varies]) / spread[varies] for errors in (before, after))
    known = 1 - float(first.mean())
    if known <= 0:
        return 1.0, 0.0
    change = (second - first).mean(axis=1)
    return max(0.0, 1 - float(change.mean()) / known), float(change.std(ddof=1) / np.sqrt(len(change)) / known)


def _retain_sums(before: Ridge, after: Ridge) -> tuple[float, float]:
    """Return retention and its standard error, where no sample is stored: of what the sums before say of both heads.

    Each head's mean square error on all old samples is exact; that it was fitted to them is made up for as
    generalised cross-validation does (Golub 1979).
    """
    varies = before.totals > 0
    if before.n_samples < 2 or not varies.any():
        return 1.0, 0.0
    first, second = before.mean_square(before)[varies], before.mean_square(after)[varies]
    spread = before.totals[varies] / before.n_samples
    known = 1 - float((first / spread).mean())
    if known <= 0:
        return 1.0, 0.0
    moved = np.sqrt(before.mean_square_move(after)[varies])
    error = 2 * np.sqrt(first / before.n_samples) * moved / spread  # of the difference, if errors are independent
    return max(0.0, 1 - float(((second - first) / spread).mean()) / known), float(error.mean()) / known
