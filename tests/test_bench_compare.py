"""Two saved runs: what the second has of the first; and every file that is none ends in one line."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_cl.bench.compare import compare_runs, read_run, to_markdown

from .test_cli import as_json, run

MACHINE = {"board": "A", "cores": 2, "memory_bytes": 100, "clocks": {"governor": "x"}, "versions": {"numpy": "1"}}
SPEED: dict[str, Any] = {
    "kind": "speed",
    "format": 1,
    "settings": {"backbone": "tiny", "repeats": 9},
    "rows": [
        {
            "measure": "predict",
            "n": 9,
            "p50_ms": 2.0,
            "p95_ms": 3.0,
            "p99_ms": 4.0,
            "resident_peak_bytes": 100,
            "cuda_peak_bytes": "unavailable",
            "energy_j": 0.5,
            "temperature": "unavailable",
            "providers": ["CPUExecutionProvider"],
            **MACHINE,
        },
        {"measure": "export", "error": "no room"},
    ],
}
SHARES = {"final_accuracy": 0.9, "class_mean_accuracy": 0.8, "average_incremental_accuracy": 0.95, "forgetting": 0.0}
ACCURACY: dict[str, Any] = {
    "kind": "accuracy",
    "version": "1",
    "data": "digits",
    "rows": [
        {"recipe": "edge", "replay": "1MB", "error": "", "mean": {**SHARES, "seconds": 2.0, "state_bytes": 1000}},
        {"recipe": "ewc", "replay": "1MB", "error": "diverged", "mean": dict.fromkeys([*SHARES, "seconds"])},
    ],
}


def save(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_ratios_are_the_second_over_the_first_and_differences_are_named(tmp_path: Path, command: list[str]) -> None:
    other = deepcopy(SPEED)
    other["rows"][0] |= {"p50_ms": 6.0, "energy_j": "unavailable", "board": "B", "providers": ["CUDAExecutionProvider"]}
    other["rows"][0]["versions"] = {"numpy": "2"}
    other["settings"]["backbone"] = "net.onnx"
    other["rows"].append({**other["rows"][0], "measure": "decode"})
    files = save(tmp_path / "a.json", SPEED), save(tmp_path / "b.json", other)
    found = as_json([*command, "bench", "compare"], *files)
    rows = {row["row"]: row for row in found["rows"]}
    assert list(rows) == ["predict", "export", "decode"]
    predict = rows["predict"]
    assert predict["ratio"]["p50_ms"] == 3
    assert predict["ratio"]["p95_ms"] == predict["ratio"]["resident_peak_bytes"] == 1
    assert predict["ratio"]["energy_j"] is predict["ratio"]["cuda_peak_bytes"] is None
    assert set(rows["export"]["ratio"].values()) == set(rows["decode"]["ratio"].values()) == {None}
    assert {(d["what"], d["first"], d["second"]) for d in found["differences"]} == {
        ("board", "A", "B"),
        ("versions numpy", "1", "2"),
        ("settings backbone", "tiny", "net.onnx"),
        ("providers", "CPUExecutionProvider", "CUDAExecutionProvider"),
    }
    shown = run([*command, "bench", "compare"], *files).stdout
    assert "\n- board: A | B\n" in shown
    assert "\n| predict | 2 | 6 | 3 | 1 | 1 | 1 | - | - |\n" in shown


def test_accuracies_are_compared_in_points_and_costs_as_ratios(tmp_path: Path, command: list[str]) -> None:
    other = deepcopy(ACCURACY)
    other["rows"][0]["mean"] |= {"final_accuracy": 0.925, "seconds": 1.0}
    files = save(tmp_path / "a.json", ACCURACY), save(tmp_path / "b.json", other)
    found = as_json([*command, "bench", "compare"], *files)
    assert found["differences"] == []
    edge, ewc = found["rows"]
    assert edge["row"] == "edge 1MB"
    assert edge["points"]["final_accuracy"] == pytest.approx(2.5)
    assert edge["points"]["forgetting"] == 0
    assert edge["ratio"] == {"seconds": 0.5, "state_bytes": 1}
    assert set(ewc["points"].values()) == {None}
    shown = run([*command, "bench", "compare"], *files).stdout
    assert "machine and settings: no difference" in shown
    assert "| edge 1MB | 0.9 | 0.925 | +2.50 | +0.00 | +0.00 | +0.00 | 0.5 | 1 |" in shown


@given(st.floats(1e-3, 1e6), st.floats(1e-3, 1e6))
def test_compared_the_other_way_round_the_ratio_is_the_inverse(a: float, b: float) -> None:
    runs = []
    for value in (a, b):
        one = deepcopy(SPEED)
        one["rows"][0]["p50_ms"] = value
        runs.append(one)
    there, back = (compare_runs(*pair)["rows"][0]["ratio"]["p50_ms"] for pair in (runs, runs[::-1]))
    assert there * back == pytest.approx(1)
    assert there == pytest.approx(b / a)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "JSON of another kind"),
        ('{"kind": ["speed"]}', "JSON of another kind"),
        ('{"kind": "speed"}', "no rows"),
        ('{"kind": "speed", "rows": []}', "no rows"),
        ('{"kind": "speed", "rows": [1]}', "no rows"),
        ('{"kind": "speed", "rows": [{"p50_ms": 1}]}', "a row without its measure"),
        ('{"kind": "speed", "rows": [{"measure": "a"}]}', "a row without its p50_ms"),
        ('{"kind": "speed", "rows": [{"measure": "a", "p50_ms": NaN}]}', "no JSON"),
        ('{"kind": "speed", "rows": [{"measure": "a", "p50_ms": 1e999}]}', "no JSON"),
        (f'{{"kind": "speed", "rows": [{{"measure": "a", "p50_ms": 1{"0" * 400}}}]}}', "a row without its p50_ms"),
        ('{"kind": "speed", "rows": [{"measure": "a", "p50_ms": "1"}]}', "a row without its p50_ms"),
        ('{"kind": "accuracy", "rows": [{"recipe": "a"}]}', "a row without its recipe and replay"),
        ('{"kind": "accuracy", "rows": [{"recipe": "a", "replay": "", "mean": []}]}', "without its final_accuracy"),
    ],
)
def test_a_file_that_is_no_run_ends_in_one_line(tmp_path: Path, command: list[str], content: str, said: str) -> None:
    bad, good = save(tmp_path / "bad.json", content), save(tmp_path / "good.json", SPEED)
    done = run([*command, "bench", "compare"], good, bad, status=1)
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert "bad.json: expected speed.json or results.json" in done.stderr
    assert done.stderr.endswith(f"{said}\n")


def test_missing_files_folders_and_two_kinds_end_in_one_line(tmp_path: Path, command: list[str]) -> None:
    speed, accuracy = save(tmp_path / "a.json", SPEED), save(tmp_path / "b.json", ACCURACY)
    for first, said in (
        (tmp_path / "none.json", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (accuracy, "expected two runs of one kind; found accuracy and speed"),
    ):
        done = run([*command, "bench", "compare"], first, speed, status=1)
        assert (done.stdout, done.stderr.count("\n")) == ("", 1)
        assert done.stderr.endswith(f"{said}\n")


@pytest.mark.parametrize(
    "odd", [{"providers": 5}, {"clocks": "x", "versions": 3}, {"resident_peak_bytes": 0}, {"energy_j": 1e-320}]
)
def test_odd_values_beside_the_figures_do_no_harm(tmp_path: Path, odd: dict[str, Any]) -> None:
    other = deepcopy(SPEED)
    other["rows"][0] |= odd
    pair = [read_run(save(tmp_path / name, value)) for name, value in (("a.json", other), ("b.json", SPEED))]
    json.dumps(compare_runs(pair[0], pair[1]), allow_nan=False)
    assert "| predict | 2 | 2 | 1 |" in to_markdown(compare_runs(pair[0], pair[1]), ("a", "b"))
