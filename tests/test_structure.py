"""Imports run downwards only, and the heavy packages stay out of the paths that must be light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_cl import Learner

ROOT = Path(__file__).resolve().parents[1]

FLOORS = [  # a module may import from its own floor's package and from floors below
    {"edge_kernels"},
    {"edge_cl.errors", "edge_cl.files", "edge_cl.metrics", "edge_cl.charts"},
    {"edge_cl.devices", "edge_cl.quantities"},
    {
        "edge_cl.statistics",
        "edge_cl.refine",
        "edge_cl.feature_map",
        "edge_cl.hidden",
        "edge_cl.cholesky",
        "edge_cl.companion",
        "edge_cl.look_rows",
    },
    {"edge_cl.anchor", "edge_cl.ewc", "edge_cl.ridge", "edge_cl.head", "edge_cl.looks"},
    {"edge_cl.codecs"},
    {"edge_cl.replay"},
    {"edge_cl.memory"},
    {"edge_cl.recipes", "edge_cl.backbones", "edge_cl.inputs"},
    {"edge_cl.origin"},
    {"edge_cl.state"},
    {"edge_cl.learning"},
    {"edge_cl.export", "edge_cl.update", "edge_cl.samples", "edge_cl.reports"},
    {"edge_cl.current", "edge_cl.forgetting", "edge_cl.comparison", "edge_cl.regression", "edge_cl.tasks"},
    {"edge_cl.revision"},
    {"edge_cl.answering"},
    {"edge_cl.teaching", "edge_cl.exporting", "edge_cl.served"},
    {"edge_cl.learner", "edge_cl.predictor"},
    {"edge_cl.demo", "edge_cl.bench", "edge_firmware"},
    {"edge_cl.cli"},
]


def room_of(module: str) -> tuple[int, str]:
    for floor, rooms in enumerate(FLOORS):
        for room in rooms:
            if module == room or module.startswith(room + "."):
                return floor, room
    raise AssertionError(f"{module} is in no room: give it a floor")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if node.module == "edge_cl" else {node.module}
    return {name for name in found if name.startswith(("edge_cl.", "edge_kernels", "edge_firmware"))}


def modules() -> list[tuple[str, Path]]:
    files = [(p, ROOT) for p in (ROOT / "edge_cl").rglob("*.py")]
    for folder in ("kernels", "firmware_bridge"):
        files += [(p, ROOT / folder) for p in (ROOT / folder).rglob("*.py")]
    named = [(str(p.relative_to(base).with_suffix("")).replace("/", "."), p) for p, base in files]
    return sorted((name.removesuffix(".__init__"), p) for name, p in named)


@pytest.mark.parametrize(("module", "path"), [pair for pair in modules() if pair[0] != "edge_cl"])
def test_imports_run_downwards(module: str, path: Path) -> None:
    floor, room = room_of(module)
    for target in imports_of(path):
        below, other = room_of(target)
        assert below < floor or other == room, f"{module} imports {target} from beside or above"


def test_kernels_is_no_package_of_its_own() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert not (ROOT / "firmware_bridge" / "__init__.py").exists()


def test_no_room_is_past_400_lines() -> None:
    long = [str(path) for _, path in modules() if len(path.read_text().splitlines()) > 400]
    assert long == []


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import edge_cl", {"numpy", "torch", "numba", "onnx", "onnxruntime", "PIL"}),
        ("from edge_cl.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass", {"numpy", "rich", "torch"}),
        ("from edge_cl import Learner", {"torch", "numba", "onnx", "onnxruntime"}),
        (
            "import numpy as np\nfrom edge_cl import Learner\n"
            "with Learner.create(':memory:', backbone='tiny') as l:\n"
            "    x = np.zeros((4, 64, 64, 3), np.uint8); x[2:] = 200\n"
            "    l.learn(x, ['a', 'a', 'b', 'b'])",
            {"torch", "numba", "torchvision"},
        ),
    ],
)
def test_heavy_packages_are_not_imported(code: str, absent: set[str]) -> None:
    script = f"{code}\nimport sys\nprint(sorted({absent!r} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_predicting_imports_neither_torch_nor_numba(tmp_path: Path) -> None:
    images = np.zeros((4, 64, 64, 3), np.uint8)
    images[2:] = 200
    with Learner.create(tmp_path / "cam.ecl", backbone="tiny") as learner:
        learner.learn(images, ["a", "a", "b", "b"])
    test_heavy_packages_are_not_imported(
        "import numpy as np\nfrom edge_cl import Learner\n"
        f"with Learner.open({str(tmp_path / 'cam.ecl')!r}) as l: l.predict(np.zeros((1, 64, 64, 3), np.uint8))",
        {"torch", "numba", "torchvision"},
    )
