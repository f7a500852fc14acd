"""A process that does to damaged files what users do: check, predict, learn. One path a line in, one JSON a line out.

What is raised is an error with one line that begins with the file's name, or it counts as a crash; so does memory that
the size of the file does not justify. Warnings are errors.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import select
import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from edge_cl import Learner
from edge_cl.errors import EdgeClError, InputError
from edge_cl.state.check import check_file

SECONDS = 30.0  # after which a file counts as one that never ends
DIM, N_CLASSES = 16, 5
SPARE_BYTES, SPARE_SHARE = 48 << 20, 8  # memory for one file: so much, and so many times its size

FORMS: dict[str, dict[str, Any]] = {
    "edge": {"recipe": "edge", "codec": "sketch"},
    "ewc": {"recipe": "ewc-diagonal", "codec": "int8"},
    "eigen": {"recipe": "edge", "codec": "eigen"},
    "cosine": {"head": "cosine", "codec": "float16"},
    "mlp": {"head": "mlp", "recipe": "ewc-diagonal", "hidden_units": 6},
    "regression": {"head": "regression"},
    "random": {"recipe": "slda", "random_features": 24},
}

QUERIES = (
    "SELECT key, value FROM settings ORDER BY key",
    "SELECT id, data FROM chunks ORDER BY id",
    "SELECT version, header, ids, sums, digest FROM kept ORDER BY version",
    "SELECT slot, line FROM log ORDER BY slot",
    "SELECT version, name FROM births ORDER BY rowid",
)


def content_of(path: Path | str) -> str:
    """Return a digest of every row of every table.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.text_factory = bytes
        for query in QUERIES:
            digest.update(query.encode())
            for row in connection.execute(query):
                digest.update(repr(row).encode())
    return digest.hexdigest()


class Examiner:
    """A process that examines one file after another, and is started anew where it dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def examine(self, path: Path) -> dict[str, Any]:
        """Return what came of it, or how the process died of it."""
        if self._process is None:
            command = [sys.executable, "-W", "error", __file__]
            environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], SECONDS)
        line = self._process.stdout.readline() if ready else ""
        if line:
            found: dict[str, Any] = json.loads(line)
            return found
        code = self._process.poll()
        self.close()
        return {"died": "it never ends" if not ready else f"exit status {code}"}

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
            self._process = None


def batch(seed: int) -> tuple[np.ndarray[Any, np.dtype[np.float32]], list[str]]:
    """Return features (15, DIM) and names of some classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, N_CLASSES, 15)
    centres = np.random.default_rng(0).normal(size=(N_CLASSES, DIM)) * 2
    return (centres[labels] + rng.normal(size=(15, DIM))).astype(np.float32), [f"class-{k}" for k in labels]


def teach(learner: Learner, seed: int, task: str | None = None) -> Any:
    """Return the report of a batch, of its own task where there are tasks; of a regression, names end in its values."""
    features, names = batch(seed)
    if learner.head_kind == "regression":
        return learner.learn(features, [float(name[-1]) for name in names], min_retention=0)
    return learner.learn(features, names, task=task or task_of(learner), min_retention=0)


def task_of(learner: Learner) -> str | None:
    """Return a task of the state."""
    return learner.tasks[0] if learner.tasks else None


def attempt(path: str, act: Callable[[], Any]) -> tuple[str, Any]:
    """Return `works` and what came, `refused` and the line, `unnamed` where it blames what was passed, or `crashed`."""
    try:
        return "works", act()
    except EdgeClError as error:
        line = str(error)
        if line.startswith(f"{path}: ") and len(line.splitlines()) == 1 and "out of memory" not in line:
            return "refused", line
        if isinstance(error, InputError):
            return "unnamed", line
        return "crashed", f"not a line that begins with the file's name: {line!r}"
    except BaseException as error:
        places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
        return "crashed", f"{type(error).__name__}: {error} in {' '.join(places[-3:])}"


def read(path: str) -> int:
    """Return the version, all that reading offers having been used."""
    with Learner.open(path, read_only=True) as learner:
        learner.predict(batch(1)[0], task=task_of(learner))
        learner.versions()
        learner.replay_usage()
        _ = learner.state_bytes
        for version in learner.versions():
            if version.is_kept:
                learner.diff(version.version, learner.version)
        return learner.version


def learn(path: str) -> int:
    """Return the version after an update."""
    with Learner.open(path) as learner:
        return int(teach(learner, 2).version)


def examine(path: str) -> dict[str, Any]:
    """Return what came of each attempt, and a digest of the content where the check names nothing."""
    n_bytes = sum(os.path.getsize(name) for name in (path, f"{path}-wal") if os.path.isfile(name))
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (held + SPARE_BYTES + SPARE_SHARE * n_bytes, hard))
    try:
        found: dict[str, Any] = {"check": attempt(path, lambda: [*check_file(path)])}
        if found["check"] == ("works", []):
            found["content"] = content_of(path)
        return {**found, "read": attempt(path, lambda: read(path)), "learn": attempt(path, lambda: learn(path))}
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def warm_up() -> None:
    """Import and compile all that is used below: it is no file's memory."""
    for options in FORMS.values():
        with Learner.create(":memory:", device="cpu", **options) as learner:
            for seed in range(3):
                teach(learner, seed)
            learner.predict(batch(1)[0])
            learner.diff(1, 2)


if __name__ == "__main__":
    warm_up()
    for line in sys.stdin:
        print(json.dumps(examine(line.strip())), flush=True)
