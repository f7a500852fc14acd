"""Kill a learner at random moments, again and again, and prove that its file is the version before or the one after.

    python tools/torture.py --kills 200

A child learns, rolls back, forgets and resizes, and is killed with SIGKILL. Every operation follows from the seed, its
number and the state before it, so that a mirror in memory, which nobody kills, knows what the file has to hold: what
the child acknowledged, or, where it had announced one operation more, what comes of that one. Prints JSON; exit 1 if
an acknowledged operation was lost, a state was neither of the two, or a file was not whole.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from edge_cl import Learner
from edge_cl.errors import EdgeClError
from edge_cl.state import MEMORY, StateFile, opening
from edge_cl.state.check import check_file
from edge_cl.state.parts import to_parts

DIM, BATCH = 32, 12
NAMES = [f"class-{k:02d}-{blake2b(bytes([k]), digest_size=6).hexdigest()}" for k in range(14)]
LIVES: tuple[dict[str, Any], ...] = (  # the settings of one file after another
    {"recipe": "edge", "codec": "sketch"},
    {"recipe": "ewc", "codec": "int8", "selection": "herding"},
    {"recipe": "edge", "codec": "eigen"},
    {"recipe": "replay", "codec": "float16"},
    {"head": "cosine", "codec": "float16"},
    {"head": "mlp", "recipe": "ewc-diagonal", "hidden_units": 8},
)
KILLS_PER_LIFE = 25
REPLAY_BYTES, HISTORY_BYTES = (1_500, 3_000, 6_000), (20_000, 60_000, 120_000)
WAL_BYTES = (opening.WAL_BYTES, 128 << 10, 512 << 10)  # small ones, so that the log is folded in during the test too
MOMENTS = ("any", "any", "acknowledged", "writing", "writing", "writing")
CACHE_PAGES = (
    -2_000,
    3,
)  # the default, and too few: a transaction is then written bit by bit, as that of a large state
CREATE_EVERY = 10  # one kill in ten hits the creation of another file
PATIENCE = 20.0  # seconds that a child may take for its next operation
WAL_HEADER, FRAME_HEADER = 32, 24


@dataclass(frozen=True)
class Content:
    """All that a file holds, but for when and how fast it was made.

    Attributes:
        version: current one.
        digest: of it, as the file says.
        memory: BLAKE2b of its parts, as they were read.
        kept: version and digest of all that can be restored.
        settings: as rows.
        log: every line, without time and seconds.
    """

    version: int
    digest: str
    memory: str
    kept: tuple[tuple[int, str], ...]
    settings: tuple[tuple[str, str], ...]
    log: tuple[Any, ...]

    @classmethod
    def read(cls, state: StateFile) -> Content:
        """Return the content of an open file."""
        memory = state.read_memory()
        parts = b"".join(to_parts(memory).values()) if memory else b""
        log = tuple(replace(version, created="", seconds=0.0) for version in state.versions())
        kept = state._connection.execute("SELECT version, digest FROM kept ORDER BY version").fetchall()
        return cls(
            state.current_version(),
            state.digest(),
            blake2b(parts, digest_size=16).hexdigest(),
            tuple((version, digest.hex()) for version, digest in kept),
            tuple(state.settings.to_rows()),
            log,
        )


@dataclass
class Tally:
    """What the kills came to."""

    kills: int = 0
    creations: int = 0
    created: int = 0
    acknowledged: int = 0
    inside_operations: int = 0
    one_later: int = 0
    unfolded_logs: int = 0
    torn_transactions: int = 0
    unfinished_erasures: int = 0
    lost: int = 0
    half: int = 0
    hit: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


def draw(seed: int, number: int) -> np.random.Generator:
    """Return the generator of an operation."""
    return np.random.default_rng([seed, number])


def operate(learner: Learner, seed: int, number: int) -> str:
    """Do the operation of that number, and return what it was."""
    rng = draw(seed, number)
    choice = rng.choice(["learn", "rollback", "forget", "resize"], p=[0.7, 0.1, 0.08, 0.12])
    if choice == "rollback" and learner.versions():
        kept = [version.version for version in learner.versions() if version.is_kept]
        learner.rollback(int(rng.choice(kept)))
    elif choice == "forget" and learner.classes:
        name = learner.classes[rng.integers(len(learner.classes))]
        learner.forget(name)
        return f"forget {name}"
    elif choice == "resize":
        learner.resize(replay_bytes=int(rng.choice(REPLAY_BYTES)), history_bytes=int(rng.choice(HISTORY_BYTES)))
    else:
        names = [NAMES[k] for k in rng.integers(0, len(NAMES), BATCH)]
        centres = np.random.default_rng(0).normal(size=(len(NAMES), DIM))
        features = centres[[NAMES.index(name) for name in names]] + rng.normal(size=(BATCH, DIM))
        learner.learn(features.astype(np.float32), names, min_retention=0)
        return "learn"
    return str(choice)


class Mirror:
    """A state in memory that does what the child does."""

    def __init__(self, seed: int, settings: dict[str, Any]) -> None:
        self.seed = seed
        self._learner = Learner.create(MEMORY, device="cpu", **settings)
        self.operations = ["create"]
        self.contents = [Content.read(self._learner._state)]

    def content(self, number: int) -> Content:
        """Return what a file has to hold after the operation of that number."""
        while len(self.contents) <= number:
            self.operations.append(operate(self._learner, self.seed, len(self.contents)))
            self.contents.append(Content.read(self._learner._state))
        return self.contents[number]


@dataclass(frozen=True)
class Child:
    """A process that is learning; what it says comes through the pipe."""

    process: int
    pipe: int

    @classmethod
    def start(cls, path: Path, seed: int, done: int, rng: np.random.Generator) -> Child:
        """Return a child that goes on after the operations `done`."""
        wal_bytes, cache_pages = int(rng.choice(WAL_BYTES)), int(rng.choice(CACHE_PAGES))
        readable, writable = os.pipe()
        process = os.fork()
        if process:
            os.close(writable)
            return cls(process, readable)
        try:
            os.close(readable)  # so that the end of the parent is the end of the child
            opening.WAL_BYTES = wal_bytes
            _work(path, seed, done, writable, cache_pages)
        except BaseException as error:  # a fork must not go on as its parent
            os.write(writable, f"failed {type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(1)

    def listen(self, seconds: float) -> str:
        """Return what the child said within some seconds."""
        ready, _, _ = select.select([self.pipe], [], [], seconds)
        return os.read(self.pipe, 1 << 16).decode() if ready else ""

    def kill(self) -> str:
        """Kill it, and return what it had still said."""
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        said = ""
        while part := os.read(self.pipe, 1 << 16):
            said += part.decode()
        os.close(self.pipe)
        return said


def _work(path: Path, seed: int, done: int, pipe: int, cache_pages: int) -> None:
    """Do one operation after the other, each announced and acknowledged, and open the file anew now and then."""
    learner = Learner.open(path)
    for number in range(done + 1, sys.maxsize):
        learner._state._connection.execute(f"PRAGMA cache_size = {cache_pages}")
        os.write(pipe, f"begin {number}\n".encode())
        operate(learner, seed, number)
        state = learner._current.state
        os.write(pipe, f"done {number} {state.current_version()} {state.digest()}\n".encode())
        if draw(seed, number).random() < 0.3:
            learner.close()
            learner = Learner.open(path)


def wait(child: Child, path: Path, rng: np.random.Generator, moment: str) -> str:
    """Wait for a moment to kill the child, and return what it said until then."""
    if moment == "any":
        time.sleep(rng.uniform(0, 0.08))
        return ""
    said, n_operations, deadline = "", int(rng.integers(0, 4)), time.monotonic() + PATIENCE
    word = "begin" if moment == "writing" else "done"
    while said.count(word) <= n_operations and "failed" not in said and time.monotonic() < deadline:
        said += child.listen(0.1)
    if moment == "acknowledged":
        time.sleep(rng.uniform(0, 0.002))
        return said
    before = _marks(path)
    while _marks(path) == before and time.monotonic() < deadline:
        pass
    if rng.random() < 0.6:  # else at once: what a transaction writes is written in a fraction of a millisecond
        time.sleep(10 ** rng.uniform(-5, -1.7))
    return said


def _marks(path: Path) -> tuple[int, ...]:
    """Return sizes and times of a file and its log."""
    found: list[int] = []
    for name in (path, f"{path}-wal"):
        try:
            status = os.stat(name)
        except FileNotFoundError:
            continue
        found += [status.st_size, status.st_mtime_ns]
    return tuple(found)


def is_torn(path: Path) -> bool:
    """Return whether the log ends within a transaction: frames of this round, and no commit after them."""
    try:
        data = Path(f"{path}-wal").read_bytes()
    except FileNotFoundError:
        return False
    if len(data) < WAL_HEADER:
        return len(data) > 0
    page_bytes, salt = struct.unpack_from(">I", data, 8)[0], data[16:24]
    torn = False
    for start in range(WAL_HEADER, len(data), FRAME_HEADER + page_bytes):
        if data[start + 8 : start + 16] != salt:
            break
        torn = data[start + 4 : start + 8] == bytes(4)
    return torn


def judge(path: Path, mirror: Mirror, done: int, begun: int, tally: Tally) -> int | None:
    """Return the number of the operation that the file holds, or None where something is wrong.

    Args:
        path: of the file, whose child was killed.
        mirror: knows what it has to hold.
        done: the last operation that was acknowledged.
        begun: the last one that was announced, at most one later.
        tally: is told.
    """
    complaints = list(check_file(str(path)))
    pending = [text for text in complaints if text.startswith("what was forgotten is not erased yet")]
    with Learner.open(path, read_only=True) as learner:
        found = Content.read(learner._state)
    number = next((n for n in range(begun, done - 1, -1) if mirror.content(n) == found), None)
    if number is None:
        earlier = [n for n in range(done) if mirror.contents[n] == found]
        tally.lost, tally.half = tally.lost + bool(earlier), tally.half + (not earlier)
        tally.violations.append(f"after {done} of {begun}: found {earlier or found}")
        return None
    tally.one_later += number > done
    tally.unfinished_erasures += bool(pending)
    if pending and not mirror.operations[number].startswith("forget "):
        tally.violations.append(f"after {done} of {begun}: {pending[0]}")
    Learner.open(path).close()  # finishes an erasure
    left = [*(text for text in complaints if text not in pending), *check_file(str(path))]
    with Learner.open(path, read_only=True) as learner:
        if Content.read(learner._state) != found:
            left.append("finishing the erasure changed what it holds")
    what, _, name = mirror.operations[number].partition(" ")
    if what == "forget" and name.encode() in path.read_bytes():
        left.append(f"{name} was forgotten and is still there")
    if os.path.exists(f"{path}-wal") or os.path.exists(f"{path}-shm"):
        left.append("closed, and still not one file")
    tally.violations += [f"after {done} of {begun}: {text}" for text in left]
    return None if left else number


def kill_once(path: Path, mirror: Mirror, done: int, rng: np.random.Generator, tally: Tally) -> int | None:
    """Let a child go on from the operation `done`, kill it, and return the number that the file holds, if any."""
    child = Child.start(path, mirror.seed, done, rng)
    said = wait(child, path, rng, str(rng.choice(MOMENTS)))
    lines = [line.split() for line in (said + child.kill()).splitlines()]
    failed = [" ".join(line) for line in lines if line[0] == "failed"]
    begun = max((int(line[1]) for line in lines if line[0] == "begin"), default=done)
    before, done = done, max((int(line[1]) for line in lines if line[0] == "done"), default=done)
    tally.kills += 1
    tally.acknowledged += done - before
    log = Path(f"{path}-wal")
    tally.unfolded_logs += log.exists() and log.stat().st_size > 0
    tally.torn_transactions += is_torn(path)
    wrong = [line for line in lines if line[0] == "done" and not _agrees(mirror, line)]
    tally.violations += [f"the child failed: {text}" for text in failed] + [f"told {line}" for line in wrong]
    if failed or wrong:
        return None
    if begun > done:
        mirror.content(begun)
        tally.inside_operations += 1
        tally.hit[mirror.operations[begun].partition(" ")[0]] += 1
    return judge(path, mirror, done, begun, tally)


def _agrees(mirror: Mirror, line: list[str]) -> bool:
    content = mirror.content(int(line[1]))
    return line[2:] == [str(content.version), *([content.digest] if content.digest else [])]


def kill_creation(path: Path, rng: np.random.Generator, tally: Tally) -> None:
    """Kill a child that makes a file: it is there and whole, or it is not there."""
    process = os.fork()
    if not process:
        try:
            Learner.create(path, device="cpu").close()
        finally:
            os._exit(0)
    time.sleep(rng.uniform(0, 0.12))
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    tally.kills += 1
    tally.creations += 1
    if path.exists():
        tally.created += 1
        tally.violations += [f"created: {text}" for text in check_file(str(path))]
        with Learner.open(path) as learner:
            tally.violations += [f"created: version {learner.version}"] * (learner.version != 0)
    for left in path.parent.glob(f".{path.name}.*"):
        shutil.rmtree(left)
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def torture(folder: Path, n_kills: int, seed: int) -> Tally:
    """Return what killing learners of files in a folder came to."""
    tally, rng, life = Tally(), np.random.default_rng(seed), 0
    while tally.kills < n_kills:
        settings = {"replay_bytes": REPLAY_BYTES[1], "history_bytes": HISTORY_BYTES[1], **LIVES[life % len(LIVES)]}
        path, mirror = folder / f"{life}.ecl", Mirror(seed * 1_000 + life, settings)
        Learner.create(path, device="cpu", **settings).close()
        last, done, life = tally.kills + KILLS_PER_LIFE, 0, life + 1
        while tally.kills < min(last, n_kills):
            if tally.kills % CREATE_EVERY == CREATE_EVERY - 1:
                kill_creation(folder / "new.ecl", rng, tally)
                continue
            try:
                found = kill_once(path, mirror, done, rng, tally)
            except EdgeClError as error:
                tally.violations.append(f"after {done}: {error}")
                break
            if found is None:
                break
            done = found
    return tally


def main() -> None:
    """Print the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="for the files; else a temporary one")
    options = parser.parse_args()
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":  # a process with threads must not be forked
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        tally = torture(Path(folder), options.kills, options.seed)
    seconds = round(time.perf_counter() - start, 1)
    print(json.dumps({**vars(tally), "hit": dict(tally.hit), "seconds": seconds}, indent=2))
    sys.exit(1 if tally.violations else 0)


if __name__ == "__main__":
    main()
