"""What `edge-cl keygen --c` and `edge-cl pack` write is what the C runtime takes: key, answers, refusals."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_firmware import SOURCES
from edge_firmware.arithmetic import logits_float, logits_int8, quantise
from edge_firmware.bundle import read_bundle
from edge_firmware.formats import BLOB, ERRORS
from edge_firmware.keys import PublicKey, keygen, write_c_key
from edge_firmware.packing import pack

from .c_builds import HOST, compile_c, need, sources
from .packed import learnt, samples

VENDOR = SOURCES.parent / "vendor" / "monocypher"
PROGRAM = """
#include "door.h"
#include "edge_head.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static unsigned char blob[1 << 16];
static int8_t small[64], scratch[64];
static float features[64], logits[64];
int main(int argc, char **argv) {
    FILE *file = fopen(argv[1], "rb");
    uint32_t n_bytes = (uint32_t)fread(blob, 1, sizeof blob, file);
    edge_expected expected;
    edge_head head;
    edge_error error;
    int is_float = argc > 4;
    memset(&expected, 0, sizeof expected);
    expected.product = argv[2];
    expected.counter = (uint32_t)atoi(argv[3]);
    expected.verify = edge_verify_ed25519;
    expected.key = &door_public;
    error = edge_head_open(&head, blob, n_bytes, &expected);
    if (!error && !is_float)
        error = edge_head_check_i8(&head, scratch, logits);
    if (!error && is_float)
        error = edge_head_check_f32(&head, features, logits);
    if (error)
        return (int)error;
    while (fread(features, sizeof(float), head.dim, stdin) == head.dim) {
        if (is_float) {
            edge_head_logits_f32(&head, features, logits);
        } else {
            edge_head_quantise(&head, features, small);
            edge_head_logits_i8(&head, small, logits);
        }
        fwrite(logits, sizeof(float), head.n_classes, stdout);
    }
    return 0;
}
"""


@dataclass
class Device:
    """A program that knows a key.

    Attributes:
        program: its path.
        key: private, that it takes heads of.
    """

    program: Path
    key: Path

    def run(self, blob: bytes, product: str = "door cam", *more: str, features: Any = None) -> tuple[str, bytes]:
        """Return the name of what it finds, and what it prints."""
        path = self.program.with_name("blob.bin")
        path.write_bytes(blob)
        given = b"" if features is None else features.astype("<f4").tobytes()
        words = [str(self.program), str(path), product, *(more or ("0",))]
        done = subprocess.run(words, input=given, capture_output=True, check=False)
        return ERRORS[done.returncode][0], done.stdout


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Device:
    folder = tmp_path_factory.mktemp("device")
    need(HOST[0])
    write_c_key(folder / "door.h", keygen(folder / "key.pem"))
    (folder / "main.c").write_text(PROGRAM)
    objects = []
    for unit in ("monocypher", "sha512"):
        objects.append(folder / f"{unit}.o")
        subprocess.run([*HOST, "-w", "-O1", "-c", VENDOR / f"{unit}.c", "-o", objects[-1]], check=True)
    units = [folder / "main.c", *sources("edge_head", "edge_float", "edge_sign")]
    return Device(compile_c(folder / "program", [*units, *objects], HOST, f"-I{folder}"), folder / "key.pem")


@pytest.mark.parametrize("is_float", [False, True])
def test_a_packed_head_answers_in_c_as_it_does_here(device: Device, tmp_path: Path, is_float: bool) -> None:
    path, (features, _) = tmp_path / "a.edgehead", samples(6, seed=3)
    with learnt(n_classes=6) as learner:
        pack(learner, path, key=device.key, product="door cam", float32=is_float)
    bundle = read_bundle(path, PublicKey.open(device.key))
    found, printed = device.run(bundle.blob, "door cam", "0", *["float"] * is_float, features=features)
    assert found == "OK"
    logits = np.frombuffer(printed, "<f4").reshape(len(features), 6)
    if is_float:
        wanted = logits_float(bundle.head, features)
        np.testing.assert_allclose(logits, wanted, atol=1e-5 * np.abs(wanted).max())  # sums in another order
    else:
        np.testing.assert_array_equal(logits, logits_int8(bundle.head, quantise(bundle.head, features)))


def test_what_is_not_for_the_device_is_refused_there(device: Device, tmp_path: Path) -> None:
    keygen(tmp_path / "other.pem")
    blobs = {}
    with learnt() as learner:
        for name, key in (("ours", device.key), ("theirs", tmp_path / "other.pem")):
            pack(learner, tmp_path / "a.edgehead", key=key, product="door cam", counter=3)
            blobs[name] = read_bundle(tmp_path / "a.edgehead").blob
    ours = blobs["ours"]
    assert device.run(ours, "door cam", "3")[0] == "OK"
    assert device.run(ours, "door cam", "4")[0] == "COUNTER"
    assert device.run(ours, "gate cam")[0] == "PRODUCT"
    assert device.run(blobs["theirs"])[0] == "KEY"
    assert device.run(ours[:-1])[0] == "CUT"
    assert device.run(ours[:-1] + bytes([ours[-1] ^ 1]))[0] == "SIGNATURE"
    at = BLOB.size + 300
    assert device.run(ours[:at] + bytes([ours[at] ^ 1]) + ours[at + 1 :])[0] == "CRC"
