"""What the pages say of firmware runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from edge_firmware import SOURCES

from edge_cl import Learner

from .c_builds import HOST, compile_c, sources
from .conftest import Photos
from .link_rigs import empty_device
from .packed import write_key
from .test_readme import README, run_lines

BRIDGE = (Path(__file__).resolve().parents[1] / "firmware_bridge" / "README.md").read_text()
VENDOR = SOURCES.parent / "vendor" / "monocypher"


def test_every_line_of_the_firmware_section_runs(tmp_path: Path, photos: Photos, command: list[str]) -> None:
    photos("door", "mailbox")
    with Learner.create(tmp_path / "cam.ecl", backbone="tiny") as learner:
        learner.learn_folder(tmp_path / "photos")
        want = learner.predict([tmp_path / "photos" / "door" / "0.png"]).labels
        assert learner.backbone is not None
        features = learner.backbone.extract([tmp_path / "photos" / "door" / "0.png"]).features
    with empty_device(tmp_path) as (address, flash):
        assert run_lines("Firmware", command, tmp_path, address=address) == 5
        assert b"mailbox" in flash.read_bytes()
    np.save(tmp_path / "features.npy", features)
    code = re.search(r"```python\n(from edge_cl import Predictor\nfrom edge_firmware.*?)```", README, re.DOTALL)
    assert code is not None
    asked = "import numpy as np\nprint(predictor.predict(np.load('features.npy')).labels[0])"
    line = [sys.executable, "-c", code[1] + asked]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(want)


def test_the_example_in_c_compiles(tmp_path: Path, command: list[str]) -> None:
    code = re.search(r"```c\n(.*?)```", BRIDGE, re.DOTALL)
    assert code is not None
    (tmp_path / "example.c").write_text(code[1])
    write_key(tmp_path / "key.pem")
    subprocess.run([*command, "keygen", "key.pem", "--c", "key.h"], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "main.c").write_text(
        "#include <stdint.h>\nconst char *name_of(const void *slot, uint32_t slot_bytes);\n"
        "int main(void) { return name_of(\"EDGH\", 4)[0] != 'n'; }\n"
    )
    for unit in VENDOR.glob("*.c"):
        subprocess.run([HOST[0], "-w", "-c", unit, "-o", tmp_path / f"{unit.stem}.o"], check=True)
    units = [tmp_path / "example.c", tmp_path / "main.c", *tmp_path.glob("*.o"), *sources("edge_head", "edge_sign")]
    program = compile_c(tmp_path / "program", units, HOST, f"-I{tmp_path}")
    assert subprocess.run([program], check=False).returncode == 0
