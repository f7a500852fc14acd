"""Cut the power of a process that changes a state file, at random moments, and look whether its promises hold.

    python tools/power_cut.py                              # 500 states; exit status 1 if one breaks a promise
    python tools/power_cut.py --states 3000 --seed 1
    python tools/power_cut.py --synchronous NORMAL         # a control: updates are lost, and it has to say so

A real process (`power_cut_workload.py`) creates a state file, learns, rolls back, resizes, forgets, opens again and
upgrades a file of the format before, under strace; it says when an operation is finished. From its system calls states
are rebuilt that the disk may be left in by a power cut: what was written since the last fsync persists in any subset of
sectors of 512 bytes, sizes and names up to some change, as `power_cut_states.py` says. SQLite's `-shm` is in none of
them, as after a reboot. After Pillai 2014 (ALICE). Of each state it is asked that

- the file opens; before its creation was acknowledged it may be missing instead, and can be created then;
- its version, content and budgets are those after the last acknowledged operation, or after the one in flight;
- `check_file` finds nothing, but what is not erased or upgraded yet, until it has been opened for writing;
- what was forgotten is in no file of the folder: at once if that was acknowledged, else when it has been opened so;
- one more sample can be learnt; of an upgraded file a class can be forgotten, whatever was left beside it; and once
  closed it is one file.

Prints JSON; exit status 2 where nothing can be traced.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from power_cut_states import KINDS, Acknowledge, Disk, Op, Write
from power_cut_trace import TraceError, trace
from power_cut_workload import OLD, OLD_CLASSES, Mark, Told, draw, secrets_of, write_old_format
from rich.console import Console
from rich.progress import track

from edge_cl import Learner
from edge_cl.state.check import check_file

WORKLOAD = Path(__file__).with_name("power_cut_workload.py")
RANDOM_SHARE = 0.7  # of the states that are drawn; the others are the corners
BEFORE_WRITING = ("what was forgotten is not erased yet", "its format is older than")
MEMORY = Path("/dev/shm")  # states are opened there if it is there: what matters is what they hold


@dataclass(frozen=True)
class Expected:
    """What a state file may be, at a moment.

    Attributes:
        file: its name.
        last: the last operation on it that was acknowledged; None: the file as it was, or none.
        coming: the one in flight or after it.
        secrets: of all that was forgotten and acknowledged.
    """

    file: str
    last: Told | None
    coming: Told | None
    secrets: frozenset[bytes]


@dataclass(frozen=True)
class Violation:
    """A broken promise.

    Attributes:
        cut: after how many of the changes.
        after: the last of them.
        kind: of the state: random, or which corner.
        file: name of the state file.
        acknowledged: the last operation that was.
        reason: what was expected, and found.
    """

    cut: int
    after: str
    kind: str
    file: str
    acknowledged: str
    reason: str


class Timeline:
    """The operations that the process finished, and when."""

    def __init__(self, ops: list[Op]) -> None:
        self._told = [(n, Told.from_line(op.data)) for n, op in enumerate(ops) if isinstance(op, Acknowledge)]

    def expected(self, cut: int) -> Iterator[Expected]:
        """Yield what may be found after so many changes, for each file that was begun."""
        begun = -1
        for file in dict.fromkeys(told.file for _, told in self._told):
            if cut <= begun + 1:
                return
            own = [(n, told) for n, told in self._told if told.file == file]
            done = [told for n, told in own if n < cut]
            coming = [told for n, told in own if n >= cut]
            secrets: frozenset[bytes] = frozenset().union(*(told.secret_bytes for told in done))
            yield Expected(file, done[-1] if done else None, coming[0] if coming else None, secrets)
            begun = own[-1][0]

    def __len__(self) -> int:
        """Return how many operations were finished."""
        return len(self._told)


def judge(folder: Path, expected: Expected, *, checks_first: bool) -> str:
    """Return which promise a state breaks, or nothing; the state is changed.

    Args:
        folder: all that the power cut left.
        expected: what may be in it.
        checks_first: look at the state with `check_file` before it is opened for writing, too.
    """
    path = folder / expected.file
    if not path.exists():
        if expected.last is not None or expected.file == OLD:
            return "the file is missing"
        Learner.create(path).close()
        return ""
    if found := find(folder, expected.secrets):
        return f"forgotten and acknowledged, but left in {found}"
    if checks_first:
        lines = [line for line in check_file(str(path)) if not line.startswith(BEFORE_WRITING)]
        if lines:
            return f"check before opening: {'; '.join(lines)}"
    with Learner.open(path) as learner:
        reason = judge_open(folder, expected, learner)
    beside = [name for name in os.listdir(folder) if name.startswith(f"{expected.file}-")]
    return reason or (f"not one file once closed: {beside}" if beside else "")


def judge_open(folder: Path, expected: Expected, learner: Learner) -> str:
    """Return which promise a state breaks that was opened for writing, or nothing."""
    mark, secrets = Mark.of(learner), expected.secrets
    may_be = [told.mark for told in (expected.last, expected.coming) if told]
    if mark not in may_be:
        return f"expected {' or '.join(map(str, may_be))}; found {mark}"
    lines = list(check_file(str(folder / expected.file)))
    if lines:
        return f"check: {'; '.join(lines)}"
    if expected.coming and mark == expected.coming.mark:
        secrets |= expected.coming.secret_bytes
    if found := find(folder, secrets):
        return f"forgotten, opened for writing, and left in {found}"
    samples, labels = draw(np.random.default_rng(0), ("one more",))
    report = learner.learn(samples[:1], labels[:1], min_retention=0)
    if (report.committed, report.version) != (True, mark.version + 1):
        return f"learning one more made {report}"
    if expected.file == OLD:
        secrets = frozenset(secrets_of(learner, OLD_CLASSES[1]))
        learner.forget(OLD_CLASSES[1])
        if found := find(folder, secrets):
            return f"forgotten after the upgrade, and left in {found}"
    return ""


def find(folder: Path, secrets: frozenset[bytes]) -> str:
    """Return a file that has one of the secrets in its bytes, or nothing."""
    for path in sorted(folder.rglob("*") if secrets else ()):
        data = path.read_bytes() if path.is_file() else b""
        if any(secret in data for secret in secrets):
            return str(path.relative_to(folder))
    return ""


def draw_cuts(ops: list[Op], n_states: int, rng: random.Random) -> list[tuple[int, str]]:
    """Return after how many changes the power is cut, ascending, and the kind of each state.

    First among them, if so many are asked for: just after each acknowledgement, without all that was not synced. Of the
    others every second one is beside a change that is no write.
    """
    cuts = [(n + 1, "nothing") for n, op in enumerate(ops) if isinstance(op, Acknowledge)][:n_states]
    beside = [n for n in range(1, len(ops) + 1) if any(not isinstance(op, Write) for op in ops[n - 1 : n + 1])]
    for n in range(n_states - len(cuts)):
        cut = rng.choice(beside) if n % 2 else rng.randint(1, len(ops))
        cuts.append((cut, "random" if rng.random() < RANDOM_SHARE else rng.choice(KINDS[1:])))
    return sorted(cuts)


def try_states(before: list[Op], ops: list[Op], n_states: int, seed: int) -> tuple[list[Violation], Counter[str]]:
    """Return the broken promises among random states, and how many states there were of each kind."""
    disk, timeline, rng = Disk(), Timeline(ops), random.Random(seed)
    for op in before:
        disk.apply(op)
    n_applied, violations = 0, []
    console = Console(stderr=True)
    cuts = draw_cuts(ops, n_states, rng)
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as base:
        folder = Path(base) / "state"
        for cut, kind in track(cuts, "power cuts", console=console, transient=True, disable=not console.is_terminal):
            for op in ops[n_applied:cut]:
                disk.apply(op)
            n_applied = cut
            write_state(folder, disk.cut(rng, kind))
            checks_first = rng.random() < 0.5
            for expected in timeline.expected(cut):
                reason = judged(folder, expected, checks_first=checks_first)
                if reason:
                    last = expected.last.name if expected.last else ""
                    after = disk.describe(ops[cut - 1])
                    violations.append(Violation(cut, after, kind, expected.file, last, reason))
            shutil.rmtree(folder)
    return violations, Counter(kind for _, kind in cuts)


def judged(folder: Path, expected: Expected, *, checks_first: bool) -> str:
    """Return what `judge` does; whatever is raised is a broken promise as well."""
    try:
        return judge(folder, expected, checks_first=checks_first)
    except Exception as error:
        return f"{type(error).__name__}: {error}".replace(f"{folder}/", "")


def write_state(folder: Path, state: dict[str, bytes | None]) -> None:
    """Make a folder with the files of a state."""
    folder.mkdir()
    for path, data in state.items():
        if data is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(data)


def summary(n_states: int, seed: int, synchronous: str) -> dict[str, Any]:
    """Return what is printed.

    Raises:
        TraceError: the process cannot be traced.
    """
    with tempfile.TemporaryDirectory() as base:
        folder, told = Path(base).resolve() / "traced", Path(base).resolve() / "told"
        folder.mkdir()
        write_old_format(folder / OLD)
        start = time.perf_counter()
        command = [sys.executable, str(WORKLOAD), str(folder), str(told), synchronous]
        before, ops = trace(command, folder, told)
    traced = time.perf_counter()
    violations, n_of_kind = try_states(before, ops, n_states, seed)
    broken = Counter(violation.kind for violation in violations)
    return {
        "synchronous": synchronous,
        "sqlite": sqlite3.sqlite_version,
        "operations": len(Timeline(ops)),
        "changes": len(ops),
        "states": n_states,
        "seed": seed,
        "kinds": {kind: {"states": n_of_kind[kind], "violations": broken[kind]} for kind in KINDS},
        "seconds_tracing": round(traced - start, 2),
        "seconds": round(time.perf_counter() - traced, 2),
        "violations": [asdict(violation) for violation in violations],
    }


def main() -> int:
    """Print the summary; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="See the top of the file for what is modelled and asked."
    )
    parser.add_argument("--states", type=int, default=500, help="how many power cuts (500)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (0)")
    parser.add_argument("--synchronous", choices=["FULL", "NORMAL", "OFF"], default="FULL", help="of SQLite (FULL)")
    parser.add_argument("--json", action="store_true", help="on one line")
    options = parser.parse_args()
    try:
        found = summary(options.states, options.seed, options.synchronous)
    except TraceError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(found, indent=None if options.json else 2))
    return 1 if found["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
