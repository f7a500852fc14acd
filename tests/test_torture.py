"""Two hundred kills at random moments: no acknowledged change is lost, and no file is anything but before or after."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).resolve().parents[1] / "tools"
COMMIT_IN_TWO_HALVES = """
import sys
from edge_cl.state import file
def add_version(connection, *version):
    real(connection, *version)
    connection.execute("COMMIT")
    connection.execute("BEGIN IMMEDIATE")
real, file.add_version = file.add_version, add_version
sys.path.insert(0, sys.argv.pop(1))
import torture
torture.main()
"""


def start(folder: Path, *command: str, kills: int, seed: int) -> subprocess.Popen[str]:
    folder.mkdir()
    words = [sys.executable, *command, "--kills", str(kills), "--seed", str(seed), "--folder", str(folder)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def summary_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate()
    assert not err, err
    found: dict[str, Any] = json.loads(out)
    assert process.returncode == bool(found["violations"])
    return found


def test_two_hundred_kills_lose_nothing_and_leave_nothing_in_between(tmp_path: Path) -> None:
    both = [start(tmp_path / str(seed), str(TOOLS / "torture.py"), kills=100, seed=seed) for seed in (0, 1)]
    found = [summary_of(process) for process in both]
    assert [text for summary in found for text in summary["violations"]] == []
    total = {key: sum(summary[key] for summary in found) for key, n in found[0].items() if isinstance(n, int)}
    assert total["kills"] == 200
    assert total["lost"] == total["half"] == 0
    assert total["inside_operations"] >= 100  # were these few, the kills would prove nothing
    assert total["one_later"] >= 10
    assert total["unfolded_logs"] >= 50
    assert len({kind for summary in found for kind in summary["hit"]}) >= 3  # of learn, rollback, forget, resize


def test_a_commit_in_two_halves_would_be_noticed(tmp_path: Path) -> None:
    sabotaged = start(tmp_path / "a", "-c", COMMIT_IN_TWO_HALVES, str(TOOLS), kills=60, seed=2)
    assert summary_of(sabotaged)["half"] > 0
