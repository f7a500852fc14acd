"""The README's commands run as they stand."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

from edge_cl.backbones.preprocessing import Preprocessing
from edge_cl.recipes import RECIPES

from .conftest import Photos

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def test_the_two_commands_come_first() -> None:
    first = re.search(r"```sh\n(.*?)```", README, re.DOTALL)
    assert first is not None
    assert first[1].splitlines() == ['pip install ".[cpu]" && edge-cl demo', 'pip install -e ".[test]" && pytest']


def test_every_edge_cl_line_of_the_use_section_runs(tmp_path: Path, photos: Photos, command: list[str]) -> None:
    root = photos("door", "mailbox")
    for name in ("door", "mailbox"):
        (root / name / "1.png").rename(root / name / "1.jpg")  # the suffix does not matter to the decoder
    use = README.split("## Use", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in use.splitlines() if line.startswith("edge-cl ")]
    assert len(lines) >= 7
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        done = subprocess.run([*command, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stderr)
    assert (tmp_path / "cam.onnx").exists()


def test_tables_name_what_the_code_has() -> None:
    for recipe in RECIPES:
        assert f"| `{recipe}` |" in README
    for key in Preprocessing.__dataclass_fields__:
        assert f"| `{key}`, `--{key.replace('_', '-')}` |" in README
