"""A thousand damaged files: each is refused by one line or works, and what `check` does not name has done no harm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_cl import Learner
from edge_cl.state.check import check_file

from .damage import Sample, commits_of, damaged
from .examine import FORMS, Examiner, content_of, teach

ROOT = Path(__file__).resolve().parents[1]
N_FILES = int(os.environ.get("EDGE_CL_FUZZ", "1000"))
N_WORKERS = 2
RECIPES: dict[str, dict[str, Any]] = {
    "edge with sketch": FORMS["edge"],
    "ewc with int8": {**FORMS["ewc"], "selection": "herding"},
    "edge with eigen": FORMS["eigen"],
    "cosine": FORMS["cosine"],
    "mlp": FORMS["mlp"],
    "regression": FORMS["regression"],
    "edge with sketch and a log": FORMS["edge"],
    "ewc with int8 and a log": FORMS["ewc"],
}
LEAVE_A_LOG = """
import os, signal, sys
from edge_cl import Learner
from tests.examine import teach
learner = Learner.open(sys.argv[1])
for seed in range(4):
    teach(learner, int(sys.argv[2]) + seed)
learner.rollback(6)
os.kill(os.getpid(), signal.SIGKILL)
"""


def make_sample(folder: Path, name: str, seed: int) -> Sample:
    """Return a file with a history in which all kinds of changes were made."""
    path = folder / f"{seed}.ecl"
    log = Path(f"{path}-wal")
    with Learner.create(path, device="cpu", replay_bytes=2_000, **RECIPES[name]) as learner:
        for n in range(3):
            teach(learner, seed + n)
        if learner.classes:
            learner.forget(learner.classes[0])
        else:  # a regression, of which no part can be forgotten
            learner.rollback(2)
        teach(learner, seed + 3)
    earlier = path.read_bytes()
    with Learner.open(path) as learner:
        learner.rollback(4)
        for n in range(4, 7):
            teach(learner, seed + n)
        learner.resize(replay_bytes=1_200)
        teach(learner, seed + 7)
    if name.endswith("log"):
        words = [sys.executable, "-c", LEAVE_A_LOG, str(path), str(seed + 8)]
        assert subprocess.run(words, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    data, left = path.read_bytes(), log.read_bytes() if name.endswith("log") else b""
    contents = []
    for length in commits_of(left):
        path.write_bytes(data)
        log.write_bytes(left[:length])
        contents.append(content_of(path))
    assert not list(check_file(str(path)))
    assert len(set(contents)) == (6 if left else 1)
    return Sample(name, data, left, earlier, frozenset(contents))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("samples")
    return [make_sample(folder, name, 100 * n) for n, name in enumerate(RECIPES)]


def verdict_of(found: dict[str, Any], sample: Sample) -> tuple[str, str]:
    """Return `named`, `harmless`, or what is wrong, and the lines that tell."""
    if "died" in found:
        return "died", found["died"]
    for act in ("check", "read", "learn"):
        if found[act][0] not in {"works", "refused"}:
            return found[act][0], f"{act}: {found[act][1]}"
    lines = found["check"][1]
    if found["check"][0] != "works" or any(len(line.splitlines()) != 1 for line in lines):
        return "not lines", repr(lines)
    if lines:
        return "named", lines[0]
    if found["content"] not in sample.contents:
        return "not noticed", "its content is another one"
    if found["read"][0] != "works" or found["learn"][0] != "works":
        return "check missed", f"{found['read']} {found['learn']}"
    return "harmless", ""


def put(path: Path, data: bytes, log: bytes) -> Path:
    path.write_bytes(data)
    if log:
        Path(f"{path}-wal").write_bytes(log)
    return path


def test_every_damaged_file_is_refused_by_a_line_or_has_lost_nothing(tmp_path: Path, samples: list[Sample]) -> None:
    def examine(worker: int) -> list[tuple[str, str]]:
        examiner, verdicts = Examiner(), []
        for sample in samples:
            path = put(tmp_path / f"{worker}-{sample.name}.ecl", sample.data, sample.log)
            assert verdict_of(examiner.examine(path), sample) == ("harmless", "")
        for n in range(worker, N_FILES, N_WORKERS):
            what, sample, data, log = damaged(samples, np.random.default_rng([20, n]))
            path = put(tmp_path / f"{n}.ecl", data, log)
            if log and n % 4 == 0:  # shared memory of whoever died is worth nothing
                Path(f"{path}-shm").write_bytes(np.random.default_rng(n).bytes(1 << 15))
            verdict, line = verdict_of(examiner.examine(path), sample)
            verdicts.append((verdict, f"{n}: {sample.name}: {what}: {verdict}: {line}"))
            for left in tmp_path.glob(f"{n}.ecl*"):
                left.unlink()
        examiner.close()
        return verdicts

    with ThreadPoolExecutor(N_WORKERS) as pool:
        verdicts = [verdict for part in pool.map(examine, range(N_WORKERS)) for verdict in part]
    counts = Counter(verdict for verdict, _ in verdicts)
    print(json.dumps(counts))
    wrong = [text for verdict, text in verdicts if verdict not in {"named", "harmless"}]
    assert not wrong, "\n".join(wrong)
    assert counts["named"] > len(verdicts) / 2  # else the damage was too gentle to prove anything
