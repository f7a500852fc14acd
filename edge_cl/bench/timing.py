"""Work done again and again: how long each time took, and what the slow ones took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WARM_UP = 3  # calls at most that do not count: the first compiles kernels, opens sessions and fills caches
WARM_UP_SECONDS = 5.0  # after which one of them is enough
LEAST_REPEATS = 5  # however long they take
QUANTILES = (50, 95, 99)

Span = tuple[float, float]


def nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Work:
    """What is timed.

    Attributes:
        run: is timed.
        prepare: is called before each run, and is not.
        providers: of onnxruntime, that run it.
        part: where in a run's span its last part, which has a row of its own, begins; from the span and the result.
    """

    run: Callable[[], Any]
    prepare: Callable[[], object] = nothing
    providers: Sequence[str] = ()
    part: Callable[[Span, Any], float] | None = None


@dataclass(frozen=True)
class Effort:
    """How often a thing is done.

    Attributes:
        repeats: at most, and as many as fit the seconds.
        seconds: of timed work, after which at least five repeats are enough.
    """

    repeats: int
    seconds: float


def repeat(work: Work, effort: Effort) -> Iterator[tuple[Span, Any]]:
    """Give the span of each run, by `time.perf_counter`, and its result, after some runs that do not count."""
    start = time.perf_counter()
    for _ in range(min(WARM_UP, effort.repeats)):
        work.prepare()
        work.run()
        if time.perf_counter() - start > WARM_UP_SECONDS:
            break
    spent = 0.0
    for n in range(effort.repeats):
        if n >= LEAST_REPEATS and spent > effort.seconds:
            break
        work.prepare()
        begin = time.perf_counter()
        result = work.run()
        end = time.perf_counter()
        spent += end - begin
        yield (begin, end), result


def summarise(spans: Sequence[Span]) -> dict[str, float]:
    """Return n, and p50_ms, p95_ms and p99_ms: quantiles, between two neighbours in proportion."""
    taken = [1000 * (end - begin) for begin, end in spans]
    values = np.percentile(taken, QUANTILES)
    return {"n": len(spans)} | {f"p{q}_ms": round(float(ms), 4) for q, ms in zip(QUANTILES, values, strict=True)}
