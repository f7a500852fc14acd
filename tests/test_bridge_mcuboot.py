"""MCUboot images: imgtool verifies what was made, and the blob lies in it as it was."""

from __future__ import annotations

import importlib.util
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from edge_firmware.blob import read_blob
from edge_firmware.bundle import Bundle, sign_blob, write_bundle
from edge_firmware.mcuboot import Image, wrap

from edge_cl.errors import BundleError, ExportError, InputError, MissingPackageError

from .packed import key_of, small_blob, write_key

KEY = key_of(1)
MAGIC, SECURITY_COUNTER, ED25519 = 0x96F3B83D, 0x50, 0x24  # of MCUboot's bootutil/image.h


@pytest.fixture(autouse=True)
def imgtool() -> None:
    pytest.importorskip("imgtool", reason="needs imgtool: pip install 'edge_cl[mcuboot]'")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "out.edgehead"
    write_bundle(path, Bundle(sign_blob(small_blob(KEY), KEY)), KEY)
    return path


def verifies(path: Path, key: Path) -> bool:
    command = [sys.executable, "-m", "imgtool.main", "verify", "--key", str(key), str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def records(data: bytes, start: int) -> dict[int, bytes]:
    """Return MCUboot's records behind an image: those that its hash covers, and the others."""
    found = {}
    while start < len(data):
        magic, n_bytes = struct.unpack_from("<HH", data, start)
        assert magic in {0x6907, 0x6908}
        place, end = start + 4, start + n_bytes
        while place < end:
            kind, size = struct.unpack_from("<HH", data, place)
            found[kind] = data[place + 4 : place + 4 + size]
            place += 4 + size
        start = end
    return found


def test_an_image_is_mcuboots_header_the_blob_and_its_signature(bundle: Path, tmp_path: Path) -> None:
    key, target = tmp_path / "mcuboot.pem", tmp_path / "out.bin"
    write_key(key, 5)
    write_key(tmp_path / "other.pem", 6)
    image = Image(65_536, "1.2.3+4", header_bytes=512, depends="(0, 1.0.0)")
    report = wrap(bundle, target, image, key=KEY.public, signing_key=key)
    data, blob = target.read_bytes(), sign_blob(small_blob(KEY), KEY)
    magic, _, header_bytes, _, n_bytes, _, *version = struct.unpack_from("<IIHHIIBBHI", data)
    assert (magic, header_bytes, n_bytes, version) == (MAGIC, 512, len(blob), [1, 2, 3, 4])
    assert data[512 : 512 + len(blob)] == blob
    assert read_blob(data[report.blob_at :][:n_bytes]).version == 7
    found = records(data, 512 + len(blob))
    assert found[SECURITY_COUNTER] == struct.pack("<I", 2)
    assert len(found[ED25519]) == 64
    assert (report.version, report.counter, report.n_bytes, report.is_signed) == ("1.2.3+4", 2, len(data), True)
    assert verifies(target, key)
    assert not verifies(target, tmp_path / "other.pem")
    target.write_bytes(data[:600] + bytes([data[600] ^ 1]) + data[601:])
    assert not verifies(target, key)


def test_a_padded_image_fills_the_slot_and_its_version_is_the_heads(bundle: Path, tmp_path: Path) -> None:
    report = wrap(bundle, tmp_path / "out.bin", Image(16_384, is_padded=True))
    data = (tmp_path / "out.bin").read_bytes()
    assert (report.version, report.is_signed, report.blob_at, len(data)) == ("0.0.7", False, 32, 16_384)
    assert struct.unpack_from("<BBHI", data, 20) == (0, 0, 7, 0)
    # "Magic" of a slot that is to be tried, bootutil's boot_img_magic
    assert data.endswith(bytes.fromhex("77c295f360d2ef7f3552500f2cb67980"))


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "slot": ({"slot_bytes": 700}, {}, r"imgtool sign: Image size .* exceeds requested size"),
    "no slot": ({"slot_bytes": 32}, {}, "slot_bytes: expected more than the header's 32; found 32"),
    "version": ({"version": "1.2"}, {}, r"version: expected one as 1\.2\.3 or 1\.2\.3\+4; found '1\.2'"),
    "header": ({"header_bytes": 30}, {}, "header_bytes: expected a multiple of 4 from 32 on; found 30"),
    "align": ({"align": 3}, {}, "align: expected one of 1, 2, 4, 8, 16, 32; found 3"),
    "depends": ({"depends": "x"}, {}, "imgtool sign: .*dependency format is invalid"),
    "key": ({}, {"key": key_of(2).public}, "signed with another key"),
    "no signing key": ({}, {"signing_key": "none.pem"}, "imgtool sign: .*No such file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_wrapped_is_told_and_an_older_image_stays(bundle: Path, tmp_path: Path, name: str) -> None:
    options, keys, text = WRONG[name]
    target = tmp_path / "out.bin"
    older = struct.pack("<I", MAGIC) + b"older"
    target.write_bytes(older)
    with pytest.raises((InputError, BundleError), match=text) as caught:
        wrap(bundle, target, Image(**{"slot_bytes": 65_536, **options}), **keys)
    assert "\n" not in str(caught.value)
    assert target.read_bytes() == older


def test_a_damaged_bundle_a_large_version_and_a_bad_target_are_refused(bundle: Path, tmp_path: Path) -> None:
    write_bundle(bundle, Bundle(sign_blob(small_blob(KEY, version=70_000), KEY)), KEY)
    with pytest.raises(InputError, match=r"version: 70000 is too large for 0\.0\.70000; pass --version"):
        wrap(bundle, tmp_path / "out.bin", Image(65_536))
    with pytest.raises(ExportError, match="there is no folder"):
        wrap(bundle, tmp_path / "none" / "out.bin", Image(65_536, "1.0.0"))
    bundle.write_bytes(bundle.read_bytes()[:-1])
    with pytest.raises(BundleError, match="the file is cut short"):
        wrap(bundle, tmp_path / "out.bin", Image(65_536))
    assert not (tmp_path / "out.bin").exists()


def test_no_bundle_and_no_key_is_replaced(bundle: Path) -> None:
    before = bundle.read_bytes()
    with pytest.raises(ExportError, match="is no image for MCUboot, and would be replaced; choose another name"):
        wrap(bundle, bundle, Image(65_536))
    assert bundle.read_bytes() == before


def test_without_imgtool_it_says_what_to_install(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # noqa: ARG005
    with pytest.raises(MissingPackageError, match=r"imgtool is not installed; type: pip install 'edge_cl\[mcuboot\]'"):
        wrap(bundle, tmp_path / "out.bin", Image(65_536))
