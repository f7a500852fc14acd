"""Disks that are full, broken or read-only, and clocks that go back: one clear line, and no change or a whole one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_cl import Learner, current
from edge_cl.state.check import check_file

from .examine import batch
from .failing_disk import CHANGES, Outcome

TESTS = Path(__file__).parent
DONE = "done"


def start(kind: str, folder: Path, *before: str, **environment: str) -> subprocess.Popen[str]:
    folder.mkdir()
    command = [*before, sys.executable, "-W", "error", "-m", "tests.failing_disk", kind, str(folder)]
    variables = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        command, cwd=TESTS.parent, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def result_of(process: subprocess.Popen[str]) -> Any:
    out, err = process.communicate()
    assert process.returncode == 0, err
    return json.loads(out)


def outcomes_of(process: subprocess.Popen[str]) -> list[Outcome]:
    return [Outcome(**fields) for fields in result_of(process)]


def assert_before_or_after(outcomes: list[Outcome]) -> None:
    """Assert that what was said is what was found: `done` and the change, or a line and, if it says so, no change."""
    wrong = []
    for outcome in outcomes:
        said, found = outcome.said, outcome.found
        is_line = re.match(r"\S+/a\.ecl: ", said) is not None and len(said.splitlines()) == 1
        allowed = [outcome.after] if said == DONE else [outcome.before]
        if said != DONE and "nothing was changed" not in said:  # it cannot tell, or only what follows the commit failed
            allowed.append(outcome.after)
        if not (said == DONE or is_line) or outcome.complaints or outcome.later != 1 or found not in allowed:
            wrong.append(f"{outcome}")
    assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="module")
def namespace() -> list[str]:
    """Return how to start a process that may mount file systems which nobody else sees."""
    words = ["unshare", "-m"]
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    tried = subprocess.run(
        [*words, "mount", "-t", "tmpfs", "tmpfs", str(TESTS)], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        pytest.skip(f"cannot mount a file system in a namespace of its own: {tried.stderr.strip()}")
    return words


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[Outcome]]]:
    """Return what came of calls that failed, by the error's name; both kinds are tried at once."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler (cc)")
    folder = tmp_path_factory.mktemp("failures")
    options = ["-shared", "-fPIC", "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    shim = folder / "failing_writes.so"
    subprocess.run([compiler, *options, "-o", str(shim), str(TESTS / "failing_writes.c"), "-ldl"], check=True)
    started = {kind: start(kind, folder / kind, LD_PRELOAD=str(shim)) for kind in ("EIO", "ENOSPC")}
    yield {kind: outcomes_of(process) for kind, process in started.items()}
    shutil.rmtree(folder)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ["EIO", "ENOSPC"])
def test_a_call_that_fails_leaves_the_version_before_or_the_one_after(
    kind: str, change: str, failures: dict[str, list[Outcome]]
) -> None:
    found = [outcome for outcome in failures[kind] if outcome.what.startswith(change)]
    assert_before_or_after(found)
    n_said = sum(outcome.said != DONE for outcome in found)
    assert len(found) > 20  # calls of a change, each of which failed once
    assert n_said > 8
    assert any(
        outcome.said == DONE for outcome in found
    )  # what fails in folding in the log is no failure of the change


def test_a_limit_of_file_sizes_changes_nothing_and_learning_goes_on_without_it(tmp_path: Path) -> None:
    outcomes = outcomes_of(start("limit", tmp_path / "limit"))
    assert_before_or_after(outcomes)
    said = {outcome.said for outcome in outcomes}
    assert len(said - {DONE}) >= 1
    assert all("the disk is full or broken" in line for line in said - {DONE})
    for change in CHANGES:
        lines = {outcome.said == DONE for outcome in outcomes if outcome.what.startswith(change)}
        assert lines == {True, False}  # some limits were hit, by the log, in folding it in or in closing; others not


def test_a_full_disk_changes_nothing_and_learning_goes_on_with_room(tmp_path: Path, namespace: list[str]) -> None:
    outcomes = outcomes_of(start("full", tmp_path / "full", *namespace))
    assert_before_or_after(outcomes)
    for change in CHANGES:
        said = [outcome.said for outcome in outcomes if outcome.what.startswith(change)]
        assert sum("the disk is full or broken" in line for line in said) >= 3
        assert said.count(DONE) >= 3


def test_a_read_only_file_system_is_read_and_named(tmp_path: Path, namespace: list[str]) -> None:
    folder = tmp_path / "still"
    said = result_of(start("read-only", folder, *namespace))
    for state in ("closed", "log", "bare"):
        assert said[f"{state}, read_only=True"] == said[f"{state}, read_only=False"] == DONE
        assert said[f"{state}, check"] == []
        for change in CHANGES:
            assert said[f"{state}, {change}"].startswith(f"{folder / state}.ecl: read-only; ")
    assert said["create"] == f"{folder / 'new.ecl'}: cannot be created: Read-only file system"
    assert [name for name in said["files"] if name.startswith((".", "new"))] == []


def test_a_clock_that_goes_back_changes_no_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, years = tmp_path / "a.ecl", (2031, 2030, 1999, 2040, 1970)
    for n, year in enumerate(years):
        monkeypatch.setattr(current, "utc_now", lambda year=year: f"{year}-01-02T03:04:05+00:00")
        with Learner.open(path) if n else Learner.create(path, device="cpu") as learner:
            assert learner.learn(*batch(n), min_retention=0).version == n + 1
    with Learner.open(path) as learner:
        versions = learner.versions()
        assert [version.version for version in versions] == [1, 2, 3, 4, 5]
        assert [version.parent for version in versions] == [0, 1, 2, 3, 4]
        assert [int(version.created[:4]) for version in versions] == list(years)
        digest = learner._state.digest()
        third = learner._state.read_memory(3)
        assert learner.rollback(3).version == 6
        assert learner.versions()[-1].restored == 3
        assert third is not None
        assert learner.head.weights.tobytes() == third.head.weights.tobytes()
        assert learner.rollback(5).version == 7
        assert learner._state.digest() == digest
        assert learner.forget(learner.classes[0]).version == 8
    assert list(check_file(str(path))) == []


def test_a_clock_before_1970_is_no_reason_not_to_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.ecl"
    monkeypatch.setattr(current, "utc_now", lambda: "1969-12-31T23:00:00+00:00")
    with Learner.create(path, device="cpu") as learner:
        learner.learn(*batch(0))
        assert len(learner.versions()) == 1
    assert list(check_file(str(path))) == []
