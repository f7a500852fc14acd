"""Speed: every measure is real work in a process of its own; nothing here asks how long it took."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge_cl import Learner
from edge_cl.bench import measures, speed
from edge_cl.bench.bars import Bar, draw_bars, show_ms
from edge_cl.bench.board import ROOT, UNAVAILABLE, board_of
from edge_cl.bench.measures import MEASURES, Job
from edge_cl.bench.speed import Setup, run_alone, run_speed
from edge_cl.bench.speed_report import table, to_markdown, to_picture, write_report
from edge_cl.bench.timing import LEAST_REPEATS, WARM_UP, Effort, Work, repeat, summarise
from edge_cl.bench.workload import N_PHOTOS, PHOTO, Workload, generate_photos, make_workload

from .conftest import Photos
from .test_board import ORIN_NANO, plant
from .test_cli import run

NAMES = [name for _, names in MEASURES.values() for name in names]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, str]:
    """Return a run of all measures as the command prints it, its folder, and what it said."""
    import sys

    out = tmp_path_factory.mktemp("speed") / "new" / "folder"
    command = [sys.executable, "-c", "from edge_cl.cli import main; main()"]
    done = run([*command, "bench", "speed"], "--classes", 3, "--repeats", 1, "--device", "cpu", "--json", "--out", out)
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout), out, done.stderr


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    return make_workload(tmp_path_factory.mktemp("workload"), "tiny", "cpu", n_classes=3, images=None)


@pytest.fixture
def job(workload: Workload, tmp_path: Path) -> Job:
    files = {"state": workload.state, "model": workload.model, "head": workload.head}
    return Job(
        measure="predict",
        photos=workload.photos,
        preprocessing=workload.preprocessing,
        device="cpu",
        repeats=1,
        seconds=0,
        root=str(ROOT),
        result=str(tmp_path / "result.json"),
        **{name: str(file) for name, file in files.items()},
    )


def test_every_measure_runs_and_says_on_what(saved: tuple[dict[str, Any], Path, str]) -> None:
    result, _, _ = saved
    assert (result["kind"], [row["measure"] for row in result["rows"]]) == ("speed", NAMES)
    for row in result["rows"]:
        assert "error" not in row, row
        assert row["n"] == 1
        assert 0 < row["p50_ms"] == row["p95_ms"] == row["p99_ms"]
        assert row["resident_peak_bytes"] > 2 * 10**7
        assert row["cuda_peak_bytes"] == UNAVAILABLE
        assert row["board"] == board_of()
        assert row["versions"]["numpy"] == metadata.version("numpy")
        assert set(row) >= {"clocks", "temperature", "load", "providers", "energy_j", "cores", "memory_bytes"}
    by_name = {row["measure"]: row for row in result["rows"]}
    assert by_name["decode one photo"]["providers"] == []
    assert by_name["extract one decoded photo"]["providers"] == ["CPUExecutionProvider"]
    for n in (1, 20, 200):
        whole = by_name[f"learn {n}: decode, extract, update, commit"]
        assert by_name[f"learn {n}: update and commit alone"]["p50_ms"] < whole["p50_ms"]
    settings = result["settings"]
    assert (settings["backbone"], settings["dim"], settings["classes"]) == ("tiny", 256, 3)


def test_the_files_hold_the_same_run(saved: tuple[dict[str, Any], Path, str]) -> None:
    result, out, said = saved
    assert sorted(file.name for file in out.iterdir()) == ["speed.json", "speed.md", "speed.png"]
    assert result.pop("files") == [str(out / name) for name in ("speed.json", "speed.md", "speed.png")]
    assert json.loads((out / "speed.json").read_text()) == result
    markdown = (out / "speed.md").read_text()
    assert all(f"\n| {name} | 1 | " in markdown for name in NAMES)
    assert f"board: {board_of()}" in markdown
    with Image.open(out / "speed.png") as picture:
        assert picture.size[0] == 1200
    assert said == ""


def test_learning_starts_each_time_from_the_same_state(job: Job) -> None:
    before = Path(job.state).read_bytes()
    for work in measures._learn(40, replace(job, measure="learn-40")):
        reports = []
        for _ in range(3):
            work.prepare()
            reports.append(work.run())
    assert [report.new_classes for report in reports] == [("new 0", "new 1")] * 3
    assert all(report.committed and report.n_samples == 40 for report in reports)
    assert Path(job.state).read_bytes() == before


def test_the_exports_that_are_swapped_know_the_classes_of_the_state(workload: Workload) -> None:
    import onnxruntime

    for file, inputs in ((workload.model, ["pixels"]), (workload.head, ["features"])):
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        assert [taken.name for taken in session.get_inputs()] == inputs
        assert len(json.loads(session.get_modelmeta().custom_metadata_map["edge_cl.classes"])) == 3


def test_the_state_is_full_of_samples_like_those_of_the_photos(workload: Workload) -> None:
    with Learner.open(workload.state, read_only=True) as learner:
        usage = learner.replay_usage()
        assert usage["samples"] == min(3 * 64, usage["limit"] // usage["bytes_per_sample"])
        assert learner.predict(workload.photos[:2]).probabilities.shape == (2, 3)


def test_energy_is_that_of_the_total_rail_over_the_runs(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MEASURES, "wait", (lambda _: iter([Work(lambda: time.sleep(0.3))]), ("wait",)))
    root = plant(tmp_path / "root", ORIN_NANO)
    (row,) = measures.measure(replace(job, measure="wait", root=str(root)))
    assert row["energy_j"] == pytest.approx(6.3 * row["p50_ms"] / 1000, rel=1e-3)  # times are rounded
    assert row["temperature"] == {"celsius": 52.343, "zone": "tj-thermal"}
    assert row["clocks"]["nvpmodel"] == "25W (mode 1)"
    assert row["resident_peak_bytes"] == 123456 * 1024
    assert row["load"] == 1.52
    (row,) = measures.measure(replace(job, measure="wait"))
    if not (ROOT / "sys/class/hwmon").exists():
        assert row["energy_j"] == UNAVAILABLE


def test_a_measure_that_fails_costs_only_its_own_rows(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = run_alone(replace(job, state=str(Path(job.state).with_name("gone.ecl"))))
    assert row["measure"] == "predict one photo: decode, extract, head"
    assert "gone.ecl" in row["error"]
    monkeypatch.setattr(speed, "CHILD", "import os; os.kill(os.getpid(), 9)")
    assert [row["error"] for row in run_alone(replace(job, measure="learn-20"))] == ["ended by SIGKILL"] * 2
    monkeypatch.setattr(speed, "CHILD", "raise RuntimeError('no')")
    assert run_alone(job) == [{"measure": row["measure"], "error": "RuntimeError: no"}]


def test_a_failed_row_is_shown_with_its_error(saved: tuple[dict[str, Any], Path, str]) -> None:
    result = {**saved[0], "rows": [{"measure": "a", "error": "out | of\nmemory"}, *saved[0]["rows"][:1]]}
    assert "| a | failed: out \\| of memory |" in to_markdown(result)
    assert to_picture(result)[:4] == b"\x89PNG"
    only = {**result, "rows": result["rows"][:1]}
    assert "| a | failed: " in to_markdown(only)
    assert to_picture(only)[:4] == b"\x89PNG"


def test_a_folder_of_photos_of_the_users_own(photos: Photos) -> None:
    root = photos("door", "window", n_images=2)
    (root / "door" / "broken.jpg").write_bytes(b"x")
    found = run_speed(Setup("tiny", "cpu", str(root), classes=2, repeats=1), ("decode",))
    assert found["settings"]["photos"] == f"4 of {root}"
    assert [row["measure"] for row in found["rows"]] == ["decode one photo"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--images", "{tmp}/none"), "none: no such file or folder"),
        (("--images", "{tmp}/broken"), "expected at least one image that can be read; found none; the first: "),
        (("--backbone", "{tmp}/none.onnx"), "none.onnx: no such file"),
        (("--out", "{tmp}/broken/x.jpg"), "x.jpg: expected a folder that can be written"),
    ],
)
def test_what_cannot_be_measured_ends_in_one_line(
    tmp_path: Path, command: list[str], options: tuple[str, ...], said: str
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.jpg").write_bytes(b"x")
    done = run([*command, "bench", "speed"], *(text.format(tmp=tmp_path) for text in options), status=1)
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert said in done.stderr


def test_generated_photos_are_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = (generate_photos(tmp_path / name, 3) for name in ("a", "b"))
    contents = [Path(path).read_bytes() for path in first]
    assert contents == [Path(path).read_bytes() for path in second]
    assert len(set(contents)) == 3
    with Image.open(BytesIO(contents[0])) as photo:
        assert (photo.format, photo.size) == ("JPEG", PHOTO)
        pixels = np.asarray(photo, np.float64)
    assert pixels.std() > 20  # a picture, no grey
    assert 20_000 < len(contents[0]) < 300_000  # about what a camera makes of as many pixels


def test_photos_are_taken_in_turn(workload: Workload) -> None:
    assert len(workload.photos) == N_PHOTOS == len(set(workload.photos))


@pytest.mark.parametrize(
    ("repeats", "seconds", "n"), [(1, 1e9, 1), (3, 1e9, 3), (100, 0.0, LEAST_REPEATS), (40, 1e9, 40)]
)
def test_runs_are_repeated_after_a_warm_up_that_does_not_count(repeats: int, seconds: float, n: int) -> None:
    calls: list[str] = []

    def work_a_little() -> None:
        calls.append("run")
        time.sleep(1e-4)

    work = Work(work_a_little, lambda: calls.append("prepare"))
    found = list(repeat(work, Effort(repeats, seconds)))
    assert len(found) == n
    assert calls == ["prepare", "run"] * (min(WARM_UP, repeats) + n)
    spans = [span for span, _ in found]
    assert all(start < end for start, end in spans)
    assert all(spans[k][1] <= spans[k + 1][0] for k in range(n - 1))


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=300))
def test_quantiles_lie_between_their_neighbours_in_proportion(seconds: list[float]) -> None:
    found = summarise([(0.0, taken) for taken in seconds])
    ordered = sorted(seconds)
    for percent in (50, 95, 99):
        place = percent / 100 * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        want = ordered[low] + (place - low) * (ordered[high] - ordered[low])
        assert found[f"p{percent}_ms"] == pytest.approx(1000 * want, abs=1e-4)
    assert found["n"] == len(seconds)


@pytest.mark.parametrize("ms", [(), (0.0, 0.0, 0.0), (1e-4, 1.0, 1e7), (5.0, 5.0, 5.0)])
def test_bars_are_drawn_for_any_times(ms: tuple[float, ...]) -> None:
    picture = draw_bars("t" * 300, "s" * 300, [Bar("n" * 300, ms, "e" * 300)])
    with Image.open(BytesIO(picture)) as image:
        assert image.size == (1200, 230)
    with Image.open(BytesIO(draw_bars("", "", [Bar("a", (1.0, 2.0, 3.0)), Bar("b", (100.0, 200.0, 300.0))]))) as image:
        pixels = np.asarray(image)
    green = (pixels == (0x0B, 0x6E, 0x4F)).all(axis=2)
    short, long = (green[120 + 40 * n : 160 + 40 * n].any(axis=0).sum() for n in (0, 1))
    assert short < long / 2  # 1 ms lies at the axis, 100 ms two tenfolds beyond it


@pytest.mark.parametrize(
    ("ms", "shown"), [(0.0, "0"), (0.01234, "0.0123"), (1.2345, "1.23"), (99.99, "100.0"), (12345.6, "12,346")]
)
def test_milliseconds_show_three_digits(ms: float, shown: str) -> None:
    assert show_ms(ms) == shown


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path, saved: tuple[dict[str, Any], Path, str]) -> None:
    result = {**saved[0], "rows": [{**saved[0]["rows"][0], "p50_ms": float("nan")}]}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_report(tmp_path, result)
    assert list(tmp_path.iterdir()) == []


def test_cells_of_a_table_keep_to_their_columns() -> None:
    assert table(["a", "b"], [["x|y", "1\n2"]]) == ["| a | b |", "|---|---|", "| x\\|y | 1 2 |"]
