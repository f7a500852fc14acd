"""Memory as named parts of bytes, and back; the parts as chunks.

| part     | type and shape                  | chunk | meaning |
|----------|---------------------------------|-------|---------|
| classes  | JSON list of K texts, UTF-8     | 4,000 | names |
| weights  | f4 (K, D)                       | 64,000 | of the head |
| bias     | f4 (K,)                         | 4,000 | |
| counts   | i8 (K,)                         | 4,000 | samples seen |
| means    | f4 (K, D)                       | 4,000 | |
| scatter  | f4: the lower triangle of (D, D) row by row, or none | 64,000 | |
| fisher   | f4 (K, W) or none               | 64,000 | W = D + 1, or 2 (D + 1): see `edge_cl.ewc` |
| records  | (M,) of `edge_cl.replay`        | 4,000 | |
| hits     | u1 (M,)                         | 4,000 | |
| codebook | see `edge_cl.codecs`            | 64,000 | |
| frame    | f4 (2, D) or none               | 64,000 | of a cosine head |
| hidden   | f4 (H, D + 1), then (K, H), or none | 64,000 | units and rows of an `mlp` head; H by its bytes |
| hidden_fisher | f4 as many, or none        | 64,000 | of these |
| companion | see `edge_cl.companion`, or none | 64,000 | of a closed-form head |
| look_rows | see `edge_cl.look_rows`, or none | 64,000 | of the head, beside `weights` and `bias` |
| looks    | see `edge_cl.looks`, or none    | 64,000 | means of parts of the samples of classes |

A part's last chunk is as long as what is left. What changes in places has chunks of about a page.

Of a regression head, `classes` are the names of its M outputs, and the sums are those of one class whose samples are D
features with M values behind them: counts (1,), means (1, D + M), scatter of (D + M, D + M).
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from edge_kernels.arrays import Floats

from edge_cl.codecs import open_codec
from edge_cl.companion import Companion
from edge_cl.errors import InputError, StateError
from edge_cl.head import Head, split_name
from edge_cl.hidden import Hidden
from edge_cl.inputs import MAX_VALUE, clean_name
from edge_cl.look_rows import LookRows
from edge_cl.looks import Looks
from edge_cl.memory import Memory
from edge_cl.recipes import get_recipe
from edge_cl.replay import HELD_OUT, UNKNOWN, Replay, record_type
from edge_cl.state.schema import Settings
from edge_cl.statistics import Statistics

PAGE_LIKE, BULK = 4_000, 64_000
CHUNK_BYTES = {
    "classes": PAGE_LIKE,
    "weights": BULK,
    "bias": PAGE_LIKE,
    "counts": PAGE_LIKE,
    "means": PAGE_LIKE,
    "scatter": BULK,
    "fisher": BULK,
    "records": PAGE_LIKE,
    "hits": PAGE_LIKE,
    "codebook": BULK,
    "frame": BULK,
    "hidden": BULK,
    "hidden_fisher": BULK,
    "companion": BULK,
    "look_rows": BULK,
    "looks": BULK,
}
NEWER = (
    "frame",
    "hidden",
    "hidden_fisher",
    "companion",
    "look_rows",
    "looks",
)  # unknown to format 2; an empty one is not even named
BLOCK = 64  # rows and columns mirrored at a time

Parts = dict[str, bytes]


def to_parts(memory: Memory) -> Parts:
    """Return the parts of a memory, in the order of `CHUNK_BYTES`."""
    statistics, replay, frame, hidden = memory.statistics, memory.replay, memory.head.frame, memory.head.hidden
    return {
        "classes": encode_names(memory.head.classes),
        "weights": memory.head.weights.astype("<f4", copy=False).tobytes(),
        "bias": memory.head.bias.astype("<f4", copy=False).tobytes(),
        "counts": statistics.counts.astype("<i8", copy=False).tobytes(),
        "means": statistics.means.astype("<f4", copy=False).tobytes(),
        "scatter": pack_triangle(statistics.scatter).astype("<f4", copy=False).tobytes(),
        "fisher": memory.fisher.astype("<f4", copy=False).tobytes(),
        "records": replay.records.tobytes(),
        "hits": replay.hits.tobytes(),
        "codebook": replay.codec.codebook,
        "frame": b"" if frame is None else frame.astype("<f4", copy=False).tobytes(),
        "hidden": b"" if hidden is None else hidden.pack().astype("<f4", copy=False).tobytes(),
        "hidden_fisher": b"" if hidden is None else hidden.fisher.astype("<f4", copy=False).tobytes(),
        "companion": memory.companion.pack(),
        "look_rows": b"" if memory.head.looks is None else memory.head.looks.pack(),
        "looks": memory.looks.pack(),
    }


def head_from(parts: Parts, dim: int, settings: Settings) -> Head:
    """Return the head of the parts that are its own.

    Raises:
        StateError: they do not fit together.
    """
    classes = decode_names(parts["classes"])
    if settings.random_features and (dim != settings.random_features or not settings.input_dim):
        raise StateError(f"D = {dim}, and {settings.random_features} random features of {settings.input_dim} others")
    if settings.has_tasks and not all(all(split_name(name)) for name in classes):
        raise StateError("classes of no task beside those of tasks")
    weights, bias = _floats(parts, "weights", (len(classes), dim)), _floats(parts, "bias", (len(classes),))
    frame = hidden = None
    if bool(parts["frame"]) != (settings.head == "cosine" and bool(classes)):
        raise StateError(f"head {settings.head} of {len(classes)} classes with a frame of {len(parts['frame'])} bytes")
    if parts["frame"]:
        frame = _floats(parts, "frame", (2, dim))
    if bool(parts["hidden"]) != (settings.head == "mlp"):
        raise StateError(f"head {settings.head} with a hidden layer of {len(parts['hidden'])} bytes")
    if parts["hidden"]:
        packed = _floats(parts, "hidden", (len(parts["hidden"]) // 4,))
        fisher = _floats(parts, "hidden_fisher", (len(packed) if parts["hidden_fisher"] else 0,))
        if (fisher < 0).any():
            raise StateError("a Fisher below zero")
        try:
            hidden = Hidden.unpack(packed, fisher, len(classes), dim, n_first=settings.hidden_units)
        except ValueError as error:
            raise StateError(str(error)) from None
    elif parts["hidden_fisher"]:
        raise StateError("a Fisher of a hidden layer that is not there")
    looks = _look_rows_from(parts, (len(classes), dim), settings)
    return Head(classes, weights, bias, settings.head, settings.has_tasks, frame, hidden, looks)


def _look_rows_from(parts: Parts, shape: tuple[int, int], settings: Settings) -> LookRows | None:
    if not parts["look_rows"]:
        return None
    _check_parts(settings)
    try:
        return LookRows.unpack(parts["look_rows"], *shape)
    except ValueError as error:
        raise StateError(str(error)) from None


def memory_from(parts: Parts, dim: int, settings: Settings) -> Memory:
    """Return the memory of all parts.

    Raises:
        StateError: they do not fit together.
    """
    head = head_from(parts, dim, settings)
    n_classes, is_regression = len(head.classes), head.kind == "regression"
    if is_regression and not n_classes:
        raise StateError("a regression without an output")
    statistics = _statistics_from(parts, *((1, dim + n_classes) if is_regression else (n_classes, dim)))
    fisher = _fisher_from(parts, head, settings)
    largest = 1.01 * MAX_VALUE**2 * int(statistics.counts.sum())
    bounds = (1.01 * MAX_VALUE, -1.01 * MAX_VALUE), (4 * largest, -4 * largest), (largest, 0.0)
    sums = statistics.means, statistics.scatter, fisher[:, : dim + 1]
    for array, (most, least) in zip(sums, bounds, strict=True):
        if array is not None and array.size and not least <= array.min() <= array.max() <= most:
            raise StateError("sums that no samples have")
    with np.errstate(over="ignore", invalid="ignore"):
        weights, bias = head.rows
        answers = np.einsum("kd,kd->k", weights, np.broadcast_to(statistics.means[:, :dim], weights.shape)) + bias
        if head.hidden is not None:
            answers += np.einsum("kh,kh->k", head.hidden.activations(statistics.means), head.hidden.rows)
    if not np.isfinite(answers).all():
        raise StateError("a head that gives no numbers")
    try:
        companion = Companion.unpack(parts["companion"], n_classes, dim)
        looks = Looks.unpack(parts["looks"], statistics.counts, dim)
    except ValueError as error:
        raise StateError(str(error)) from None
    if parts["looks"]:
        _check_parts(settings)
    _check_looks(head, looks)
    return Memory(head, statistics, fisher, _replay_from(parts, settings, statistics), companion, looks)


def _check_parts(settings: Settings) -> None:
    if not get_recipe(settings.recipe).parts or settings.head != "linear":
        raise StateError(f"looks of classes beside a head {settings.head} of recipe {settings.recipe}")


def _check_looks(head: Head, looks: Looks) -> None:
    """Check that the further rows of a head are those of looks, and give numbers.

    Raises:
        StateError: they do not.
    """
    if np.abs(looks.means).max(initial=0) > 1.01 * MAX_VALUE:
        raise StateError("looks that no samples have")
    if head.looks is None:
        return
    known = looks.known
    if not np.array_equal(head.looks.owners, known.owners):
        raise StateError(f"{len(head.looks.owners)} rows of looks beside {known.n_known} looks, or of others")
    with np.errstate(over="ignore", invalid="ignore"):
        answers = (head.looks.weights * known.means).sum(axis=1) + head.looks.bias
    if not np.isfinite(answers).all():
        raise StateError("a head that gives no numbers")


def _fisher_from(parts: Parts, head: Head, settings: Settings) -> Floats:
    """Return the Fisher (K, W); one of format 2 pulls to the head, which was the only anchor then."""
    n_classes, width = len(head.classes), head.weights.shape[1] + 1
    n_fishers = max(1, get_recipe(settings.recipe).n_fishers)
    if n_fishers > 1 and len(parts["fisher"]) == 4 * n_classes * width:
        fisher = _floats(parts, "fisher", (n_classes, width))
        rows = np.concatenate([head.weights, head.bias[:, None]], axis=1)
        return np.concatenate([fisher, fisher * rows], axis=1)
    return _floats(parts, "fisher", (n_classes if parts["fisher"] else 0, n_fishers * width))


def _statistics_from(parts: Parts, n_rows: int, dim: int) -> Statistics:
    if len(parts["counts"]) != 8 * n_rows:
        raise StateError(f"counts of {len(parts['counts'])} bytes do not fit {n_rows} classes")
    counts = np.frombuffer(parts["counts"], "<i8").astype(np.int64)
    if (counts < 1).any() or (counts >= HELD_OUT).any():
        raise StateError("a class without samples, or of more than there can be")
    scatter = None
    if parts["scatter"]:
        scatter = unpack_triangle(_floats(parts, "scatter", (dim * (dim + 1) // 2,)), dim)
    return Statistics(counts, _floats(parts, "means", (n_rows, dim)), scatter)


def _replay_from(parts: Parts, settings: Settings, statistics: Statistics) -> Replay:
    counts, dim, has_scatter = statistics.counts, statistics.means.shape[1], statistics.scatter is not None
    codec = open_codec(settings.codec, dim, parts["codebook"])
    if codec.needs_scatter and not has_scatter:
        raise StateError(f"codec {codec.name} without a second moment")
    if not codec.n_bytes and parts["records"]:
        raise StateError(f"codec {codec.name} without a codebook")
    layout = record_type(codec.n_bytes)
    if len(parts["records"]) != len(parts["hits"]) * layout.itemsize:
        raise StateError(f"{len(parts['records'])} bytes of replay records do not fit {len(parts['hits'])} samples")
    records = np.frombuffer(parts["records"], layout).copy()
    hits = np.frombuffer(parts["hits"], np.uint8).copy()
    if len(records):
        stored = np.bincount(records["label"], minlength=len(counts))
        if len(stored) > len(counts) or (stored > counts).any() or hits.max() > UNKNOWN:
            raise StateError("replay records of classes or samples that are not there")
    return Replay(settings.replay_bytes, settings.seed, settings.selection, codec, records, hits)


def _floats(parts: Parts, name: str, shape: tuple[int, ...]) -> Floats:
    if len(parts[name]) != 4 * int(np.prod(shape, dtype=object)):
        raise StateError(f"{name} of {len(parts[name])} bytes does not have the shape {shape}")
    array: Floats = np.frombuffer(parts[name], "<f4").reshape(shape).astype(np.float32)
    if not np.isfinite(array).all():
        raise StateError(f"{name} of numbers that are none")
    return array


def encode_names(names: tuple[str, ...]) -> bytes:
    """Return the part `classes`."""
    return json.dumps(names).encode("ascii")


def decode_names(data: bytes) -> tuple[str, ...]:
    """Return the names of the part `classes`.

    Raises:
        StateError: they are none.
    """
    names = parse_json(data)
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise StateError("names of classes that are none")
    if len(set(names)) != len(names):
        raise StateError("two classes of one name")
    try:
        if any(clean_name(name) != name for name in names):
            raise StateError("names of classes that are none")
    except InputError:
        raise StateError("names of classes that are none") from None
    return tuple(names)


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        StateError: it is none.
    """
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        raise StateError("a text that is no JSON") from None


def pack_triangle(matrix: Floats | None) -> Floats:
    """Return the lower triangle of a symmetric (D, D) row by row, (D (D + 1) / 2,); nothing for None."""
    if matrix is None:
        return np.zeros(0, np.float32)
    return np.concatenate([row[: d + 1] for d, row in enumerate(matrix)])


def unpack_triangle(triangle: Floats, dim: int) -> Floats:
    """Return what `pack_triangle` took of a (dim, dim)."""
    full, start = np.zeros((dim, dim), np.float32), 0
    for d, row in enumerate(full):  # by rows: a boolean mask takes four times as long
        row[: d + 1] = triangle[start : start + d + 1]
        start += d + 1
    for top in range(0, dim, BLOCK):  # by blocks, for the whole transposed misses the cache at every value
        below = top + BLOCK
        full[top:below, below:] = full[below:, top:below].T
        full[top:below, top:below] += np.tril(full[top:below, top:below], -1).T
    return full
