"""The README's commands run as they stand."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

from edge_cl import Learner, Predictor
from edge_cl.backbones.preprocessing import Preprocessing
from edge_cl.recipes import RECIPES

from .conftest import Photos

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def test_the_two_commands_come_first() -> None:
    first = re.search(r"```sh\n(.*?)```", README, re.DOTALL)
    assert first is not None
    assert first[1].splitlines() == ['pip install ".[cpu]" && edge-cl demo', 'pip install -e ".[test]" && pytest']


def run_lines(section: str, command: list[str], folder: Path, *, address: str = "") -> int:
    """Run every line of a section that begins with `edge-cl`, and return how many they are.

    Args:
        section: its title.
        command: how `edge-cl` is started.
        folder: to start it in.
        address: of a device, instead of the one that the section names.
    """
    text = README.split(f"## {section}\n", 1)[1].split("\n## ", 1)[0].replace("127.0.0.1:4000", address)
    lines = [line for line in text.splitlines() if line.startswith("edge-cl ")]
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        done = subprocess.run([*command, *words], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stderr)
    return len(lines)


def test_every_edge_cl_line_of_the_use_section_runs(tmp_path: Path, photos: Photos, command: list[str]) -> None:
    root = photos("door", "mailbox")
    for name in ("door", "mailbox"):
        (root / name / "1.png").rename(root / name / "1.jpg")  # the suffix does not matter to the decoder
    assert run_lines("Use", command, tmp_path) >= 7
    assert (tmp_path / "cam.onnx").exists()


def test_every_line_of_the_export_section_runs(tmp_path: Path, photos: Photos, command: list[str]) -> None:
    photos("door", "mailbox")
    with Learner.create(tmp_path / "cam.ecl", backbone="tiny") as learner:
        learner.learn_folder(tmp_path / "photos")
        learner.export(tmp_path / "old.onnx")
        learner.learn_folder(photos("gate", folder="more"))
        wanted = learner.classes
    assert run_lines("Export", command, tmp_path) >= 7
    with Predictor(tmp_path / "old.onnx", poll_seconds=0) as predictor:
        assert predictor.classes == wanted


def test_the_example_without_edge_cl_answers_as_the_learner(tmp_path: Path, photos: Photos) -> None:
    door = photos("door", "mailbox") / "door" / "0.png"
    with Learner.create(tmp_path / "cam.ecl", backbone="tiny") as learner:
        learner.learn_folder(tmp_path / "photos")
        learner.export(tmp_path / "cam.onnx", preprocess=True, top_k=5)
        (want,) = learner.predict([door], top=5).top
    door.rename(tmp_path / "door.jpg")  # the suffix does not matter to the decoder
    code = re.search(r"```python\n(import json\n.*?)```", README, re.DOTALL)
    assert code is not None
    done = subprocess.run([sys.executable, "-c", code[1]], cwd=tmp_path, capture_output=True, text=True, check=True)
    found = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert [name for _, name in found] == [name for name, _ in want]
    for (probability, _), (_, wanted) in zip(found, want, strict=True):
        assert abs(float(probability) - wanted) <= 1.5e-3


def test_tables_name_what_the_code_has() -> None:
    for recipe in RECIPES:
        assert f"| `{recipe}` |" in README
    for key in Preprocessing.__dataclass_fields__:
        assert f"| `{key}`, `--{key.replace('_', '-')}` |" in README
