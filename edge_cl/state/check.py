"""Whether a state file is whole: its structure, its digests, its bounds, and that its parts agree."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from hashlib import blake2b

import numpy as np
from edge_kernels.arrays import Floats

from edge_cl.anchor import whiten
from edge_cl.backbones import BackboneInfo
from edge_cl.errors import EdgeClError, StateError
from edge_cl.memory import Memory
from edge_cl.recipes import get_recipe
from edge_cl.replay import HELD_OUT, is_held_out
from edge_cl.state import opening
from edge_cl.state.parts import NEWER, memory_from
from edge_cl.state.schema import FORMAT, OLDEST, RENAMED, Settings
from edge_cl.state.store import DIGEST_BYTES, MAX_KEPT, Kept, is_sealed, load_kept, load_parts, split_history
from edge_cl.state.versions import decode_line, n_lines

BLOCK = 1024  # samples, or class means, at a time


def check_file(path: str, timeout: float = opening.TIMEOUT) -> Iterator[str]:
    """Yield what is wrong with a state file, one line each; nothing where it is whole. It is not changed.

    Args:
        path: of the file.
        timeout: seconds to wait for another process.
    """
    try:
        connection, _ = opening.connect(path, read_only=True, timeout=timeout)
    except EdgeClError as error:
        yield str(error).removeprefix(f"{path}: ")
        return
    with contextlib.closing(connection):
        if opening.read_format(connection) < OLDEST:
            yield f"its format is older than {OLDEST}; open it once to upgrade it: edge-cl info {path}"
            return
        try:
            connection.execute("BEGIN")  # one version throughout
            opening.check_tables(connection, path)  # first: what follows would run the expressions of others
            yield from _check_database(connection)
            settings = opening.read_settings(connection)
            get_recipe(settings.recipe)
            if settings.backbone:
                BackboneInfo.from_json(settings.backbone)
            if not is_sealed(connection):
                yield "its settings, its log or its list of versions are altered"
            kept = load_kept(connection)
            yield from _check_format(connection, kept, settings)
            yield from _check_log(connection, kept, settings)
            yield from _check_chunks(connection, kept)
            yield from _check_bounds(connection, kept, settings)
            for version in kept:
                yield from _check_version(connection, version, settings, is_current=version is kept[-1])
        except sqlite3.Error as error:
            yield f"SQLite: {error}"
        except (EdgeClError, ValueError) as error:
            yield str(error).removeprefix(f"{path}: ")


def _check_database(connection: sqlite3.Connection) -> Iterator[str]:
    for (text,) in connection.execute("PRAGMA integrity_check(5)"):
        if text != "ok":
            yield "SQLite: " + " ".join(str(text).split())


def _check_format(connection: sqlite3.Connection, kept: list[Kept], settings: Settings) -> Iterator[str]:
    number = opening.read_format(connection)
    if number == OLDEST and settings.recipe in RENAMED.values():  # it had another name then
        settings = replace(settings, recipe="replay")
    needed = FORMAT if any(version.sizes[part] for version in kept for part in NEWER) else settings.format
    if number < needed:
        yield f"its format is {number}; what it holds is of format {needed}"


def _check_log(connection: sqlite3.Connection, kept: list[Kept], settings: Settings) -> Iterator[str]:
    rows = connection.execute("SELECT slot, line FROM log ORDER BY slot").fetchall()
    if len(rows) != n_lines(settings.history_bytes) or any(slot != n for n, (slot, _) in enumerate(rows)):
        yield f"log: expected {n_lines(settings.history_bytes)} slots; found {len(rows)}"
        return
    found = {}
    for slot, line in rows:
        fields = decode_line(line)
        if fields is not None:
            found[fields[0]] = fields
            if fields[0] % len(rows) != slot or not fields[1] < fields[0]:
                yield f"log: the line of version {fields[0]} is out of place"
    last = kept[-1].version if kept else 0
    first = min(found, default=last + 1)  # a log that was made longer does not know what was overwritten before
    if len(found) > len(rows) or any(n not in found for n in range(first, last + 1)) or len(found) != last - first + 1:
        yield f"log: expected the versions {first} to {last}; found {len(found)} others or fewer"
    elif kept and kept[-1].version in found:
        yield from _check_counts(connection, kept[-1], found[kept[-1].version][4])
    born = {version for (version,) in connection.execute("SELECT version FROM births")}
    if not born <= found.keys():
        yield "log: names of classes for versions that it does not have"


def _check_counts(connection: sqlite3.Connection, version: Kept, n_seen: int) -> Iterator[str]:
    counts = np.frombuffer(load_parts(connection, version, ("counts",))["counts"], "<i8")
    if min(int(counts.sum()), 0xFFFFFFFF) != n_seen:
        yield f"version {version.version}: {counts.sum()} samples; its log says {n_seen}"


def _check_chunks(connection: sqlite3.Connection, kept: list[Kept]) -> Iterator[str]:
    listed = {chunk: digest.tobytes() for v in kept for chunk, digest in zip(v.ids.tolist(), v.sums, strict=True)}
    seen = set()
    for chunk, data in connection.execute("SELECT id, data FROM chunks"):
        seen.add(chunk)
        if chunk not in listed:
            yield f"chunk {chunk} belongs to no version"
        elif not isinstance(data, bytes) or blake2b(data, digest_size=DIGEST_BYTES).digest() != listed[chunk]:
            yield f"chunk {chunk} is altered"
    if listed.keys() - seen:
        yield f"{len(listed.keys() - seen)} chunks are missing"


def _check_bounds(connection: sqlite3.Connection, kept: list[Kept], settings: Settings) -> Iterator[str]:
    dropped, _ = split_history(kept, settings.history_bytes)
    if dropped:
        yield f"history: {len(kept)} versions are more than {settings.history_bytes:,} bytes or {MAX_KEPT} allow"
    if connection.execute("SELECT count(*) FROM settings WHERE key = 'erasing'").fetchone()[0]:
        yield "what was forgotten is not erased yet; close all other users of the file and open it for writing"


def _check_version(
    connection: sqlite3.Connection, version: Kept, settings: Settings, *, is_current: bool
) -> Iterator[str]:
    """Yield what is wrong with a version; how its parts agree is looked at for the current one."""
    where = f"version {version.version}"
    try:
        memory = memory_from(load_parts(connection, version), version.dim, settings)
    except StateError as error:
        yield str(error) if str(error).startswith(where) else f"{where}: {error}"
        return
    if is_current:
        if memory.replay.n_bytes > settings.replay_bytes:
            yield f"{where}: {memory.replay.n_bytes:,} bytes of replay; the limit is {settings.replay_bytes:,}"
        yield from (f"{where}: {problem}" for problem in _disagreements(memory, settings))


def _disagreements(memory: Memory, settings: Settings) -> Iterator[str]:
    recipe = get_recipe(settings.recipe)
    statistics, replay, head = memory.statistics, memory.replay, memory.head
    if (recipe.fisher == "diagonal") != (len(memory.fisher) > 0) and head.classes:
        yield "its Fisher does not fit its recipe"
    if statistics.scatter is None and (recipe.has_scatter or replay.codec.needs_scatter):
        yield "its second moment is missing"
    elif statistics.scatter is not None and head.classes:
        yield from _check_moment(memory, is_anchored=recipe.anchor == "statistics")
    if head.frame is not None and not _fits(head.frame, memory):
        yield "its frame is not that of its rows"
    yield from _check_replay(memory)


def _fits(frame: Floats, memory: Memory) -> bool:
    """Return whether a frame is one of these rows: u x is about 1 or less, v about as long as they are."""
    common, shift = frame.astype(np.float64)
    rows = np.abs(memory.head.weights).max() + np.abs(memory.head.bias).max() * np.abs(common).max()
    seen = np.abs(memory.statistics.means @ common).max()
    return bool(seen < 100 and np.abs(shift).max() < 1e4 * (1 + rows + np.abs(common).max()))


def _check_replay(memory: Memory) -> Iterator[str]:
    statistics, replay = memory.statistics, memory.replay
    pairs = np.stack([replay.labels, replay.records["number"]], axis=1)
    if replay.selection == "reservoir":
        sequence = replay.records["number"].astype(np.int64) % HELD_OUT
        if len(np.unique(pairs, axis=0)) != len(pairs) or (sequence >= statistics.counts[replay.labels]).any():
            yield "its replay holds a sample twice, or one that was never seen"
        if (replay.held_out != is_held_out(sequence)).any():
            yield "its replay holds out others than it should"
    try:
        for start in range(0, len(replay.records), BLOCK):
            replay.decode(statistics, np.arange(start, min(start + BLOCK, len(replay.records))))
    except StateError as error:
        yield str(error)


def _check_moment(memory: Memory, *, is_anchored: bool) -> Iterator[str]:
    """Yield what is wrong with the second moment, or with a head that does not fit the means."""
    assert memory.statistics.scatter is not None
    if (memory.statistics.scatter.diagonal() < 0).any():
        yield "its second moment has negative squares"
        return
    try:
        whiten(memory.statistics)
    except np.linalg.LinAlgError:
        yield "its second moment is none"
        return
    if memory.head.kind == "regression":
        yield from _check_level(memory)
        return
    n_known, (owners, means) = 0, memory.looks.every(memory.statistics)
    if memory.head.kind == "mlp":  # for classes that planes do not tell apart, such as rings around one centre
        return
    for start in range(0, len(means), BLOCK):
        logits = memory.head.logits(means[start : start + BLOCK])
        own = logits[np.arange(len(logits)), owners[start : start + BLOCK]]
        n_known += int((own >= logits.max(axis=1) - 1e-3 * np.abs(logits).max(axis=1)).sum())
    if is_anchored and n_known < len(means) / 2:
        yield "its head does not know the means of its classes"


def _check_level(memory: Memory) -> Iterator[str]:
    """Yield what is wrong with a regression: at the mean of all samples it gives the mean of their values."""
    head, mean = memory.head, memory.statistics.means[0].astype(np.float64)
    dim = head.weights.shape[1]
    parts = head.weights * mean[:dim]
    size = np.abs(parts).sum(axis=1) + np.abs(head.bias) + np.abs(mean[dim:])
    if (np.abs(parts.sum(axis=1) + head.bias - mean[dim:]) > 1e-4 * size).any():
        yield "its head does not know the mean of its values"
