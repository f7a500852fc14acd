"""What the pages say of firmware runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from edge_firmware import SOURCES
from edge_firmware.keys import SigningKey

from edge_cl import Learner

from .c_builds import HOST, compile_c, sources
from .conftest import Photos
from .link_rigs import empty_device, load_tool
from .packed import write_key
from .test_readme import README, run_lines

BRIDGE = (Path(__file__).resolve().parents[1] / "firmware_bridge" / "README.md").read_text()
VENDOR = SOURCES.parent / "vendor" / "monocypher"

MAIN = """\
#include <stdint.h>
#include <stdio.h>
const char *name_of(const void *slot, uint32_t slot_bytes);
static uint8_t slot[1 << 18];
int main(int n_words, char **words)
{
    FILE *file = fopen(words[n_words - 1], "rb");
    size_t n_bytes = file ? fread(slot, 1, sizeof slot, file) : 0;
    return puts(name_of(slot, (uint32_t)n_bytes)) < 0;
}
"""


def test_every_line_of_the_firmware_section_runs(tmp_path: Path, photos: Photos, command: list[str]) -> None:
    photos("door", "mailbox")
    with Learner.create(tmp_path / "cam.ecl", backbone="tiny") as learner:
        learner.learn_folder(tmp_path / "photos")
        want = learner.predict([tmp_path / "photos" / "door" / "0.png"]).labels
        assert learner.backbone is not None
        features = learner.backbone.extract([tmp_path / "photos" / "door" / "0.png"]).features
    with empty_device(tmp_path) as (address, flash):
        assert run_lines("Firmware", command, tmp_path, address=address) == 6
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
    (tmp_path / "main.c").write_text(MAIN)
    for unit in VENDOR.glob("*.c"):
        subprocess.run([HOST[0], "-w", "-c", unit, "-o", tmp_path / f"{unit.stem}.o"], check=True)
    units = [tmp_path / "example.c", tmp_path / "main.c", *tmp_path.glob("*.o"), *sources("edge_head", "edge_sign")]
    program = compile_c(tmp_path / "program", units, HOST, f"-I{tmp_path}")
    rig, key = load_tool("link_rig"), SigningKey.open(tmp_path / "key.pem")
    said = []
    for n_classes, product in ((64, "cam"), (65, "cam"), (64, "gate")):  # room for 64 logits
        head = replace(rig.make_head(n_classes, 1280, key=key), product=product, scales=np.ones(n_classes, np.float32))
        (tmp_path / "blob").write_bytes(rig.make_blob(head, key))
        done = subprocess.run([program, tmp_path / "blob"], capture_output=True, text=True, check=True)
        said.append(done.stdout.strip())
    assert said[0].startswith("class ")
    assert said[1:] == ["no head", "no head"]
