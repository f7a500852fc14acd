"""A bundle's head as an image for MCUboot, which then verifies, swaps and takes it back as it does with firmware.

It is a second image beside the application: MCUboot's header, the blob as it is, and MCUboot's own hash and signature
behind it. The application opens the blob behind the header, where it lies in flash. imgtool, MCUboot's own, does it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edge_cl.errors import BundleError, ExportError, InputError, MissingPackageError
from edge_cl.export.target import check_target, write_target
from edge_firmware.bundle import read_bundle
from edge_firmware.keys import PublicKey

VERSION = re.compile(r"\d{1,3}\.\d{1,3}\.\d{1,5}(\+\d{1,10})?")
MAGIC = (0x96F3B83D).to_bytes(4, "little")  # an image begins with it
MOST_REVISION = 0xFFFF
HEADER_BYTES = 32
ALIGNMENTS = (1, 2, 4, 8, 16, 32)
SECONDS = 120


@dataclass(frozen=True)
class Image:
    """What an image is asked to be.

    Attributes:
        slot_bytes: of MCUboot's slot.
        version: such as 1.2.3 or 1.2.3+4; "": 0.0 and the head's version.
        header_bytes: of MCUboot's header, as the application expects it; the blob begins behind it.
        align: what the flash writes at once.
        is_padded: to the whole slot, with the mark that makes MCUboot try it.
        depends: imgtool's `--dependencies`, such as "(0, 1.2.0)"; "": on nothing.
    """

    slot_bytes: int
    version: str = ""
    header_bytes: int = HEADER_BYTES
    align: int = 4
    is_padded: bool = False
    depends: str = ""

    def checked(self) -> Image:
        """Return it.

        Raises:
            InputError: a number is out of its range.
        """
        if self.version and not VERSION.fullmatch(self.version):
            raise InputError(f"version: expected one as 1.2.3 or 1.2.3+4; found {self.version!r}")
        if self.align not in ALIGNMENTS:
            raise InputError(f"align: expected one of {', '.join(map(str, ALIGNMENTS))}; found {self.align!r}")
        if not HEADER_BYTES <= self.header_bytes <= 1 << 16 or self.header_bytes % 4:
            raise InputError(
                f"header_bytes: expected a multiple of 4 from {HEADER_BYTES} on; found {self.header_bytes}"
            )
        if self.slot_bytes <= self.header_bytes:
            raise InputError(
                f"slot_bytes: expected more than the header's {self.header_bytes}; found {self.slot_bytes}"
            )
        return self


@dataclass(frozen=True)
class WrapReport:
    """What was wrapped.

    Attributes:
        path: of the image.
        version: for MCUboot.
        counter: security counter, in both.
        n_bytes: of the image.
        blob_at: where the blob begins in it.
        is_signed: whether MCUboot's own signature is in it.
    """

    path: str
    version: str
    counter: int
    n_bytes: int
    blob_at: int
    is_signed: bool


def wrap(
    bundle: str | os.PathLike[str],
    target: str | os.PathLike[str],
    image: Image,
    *,
    key: PublicKey | str | os.PathLike[str] | None = None,
    signing_key: str | os.PathLike[str] | None = None,
) -> WrapReport:
    """Write a bundle's head as an image for MCUboot, after imgtool verified it.

    Args:
        bundle: path of `edge-cl pack`'s file.
        target: of the image; an older one stays until the new one is verified.
        image: what it is asked to be.
        key: public, that the bundle has to be signed with; None: its signature is left to the device.
        signing_key: MCUboot's, in PEM, as `imgtool keygen` makes it; None: the image has a hash alone.

    Raises:
        BundleError: there is no such bundle, or imgtool refuses.
        InputError: a number is out of its range.
        ExportError: the target cannot be written, or is something else.
        MissingPackageError: imgtool is not installed.
    """
    if importlib.util.find_spec("imgtool") is None:
        raise MissingPackageError("imgtool is not installed; type: pip install 'edge_cl[mcuboot]'")
    image = image.checked()
    found = read_bundle(bundle, key if key is None or isinstance(key, PublicKey) else PublicKey.open(key))
    check_image_target(Path(target))
    if not image.version and found.version > MOST_REVISION:
        raise InputError(f"version: {found.version} is too large for 0.0.{found.version}; pass --version 1.2.3")
    version = image.version or f"0.0.{found.version}"
    with tempfile.TemporaryDirectory(prefix="edge_cl.") as folder:
        blob, made = Path(folder) / "blob.bin", Path(folder) / "image.bin"
        blob.write_bytes(found.blob)
        key_options = [] if signing_key is None else ["--key", os.fspath(signing_key)]
        _imgtool("sign", *key_options, *_options(image, version, found.counter), str(blob), str(made))
        _imgtool("verify", *key_options, str(made))
        data = made.read_bytes()
    if data[image.header_bytes :][: len(found.blob)] != found.blob:
        raise BundleError(f"{target}: imgtool changed the blob; use another version of it")
    write_target(Path(target), data)
    return WrapReport(str(target), version, found.counter, len(data), image.header_bytes, signing_key is not None)


def check_image_target(path: Path) -> None:
    """Refuse a path at which no image can be put, or at which something else lies, such as the bundle or a key.

    Raises:
        ExportError: there is none, or it does.
    """
    check_target(path, None)
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(MAGIC)) not in {b"", MAGIC}:
                raise ExportError(f"{path}: is no image for MCUboot, and would be replaced; choose another name")


def _options(image: Image, version: str, counter: int) -> list[str]:
    """Return imgtool's options."""
    values = {
        "--version": version,
        "--header-size": image.header_bytes,
        "--slot-size": image.slot_bytes,
        "--align": image.align,
        "--security-counter": counter,
    }
    words = [word for name, value in values.items() for word in (name, str(value))]
    words += ["--dependencies", image.depends] if image.depends else []
    return [*words, "--pad-header", *(["--pad"] if image.is_padded else [])]


def _imgtool(*words: str) -> None:
    """Run imgtool.

    Raises:
        BundleError: it refuses.
    """
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and a module of this interpreter
            [sys.executable, "-m", "imgtool.main", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            start_new_session=True,  # so that it has no terminal to ask for a passphrase
        )
    except subprocess.TimeoutExpired:
        raise BundleError(f"imgtool {words[0]}: expected an answer within {SECONDS:g} s; found none") from None
    if done.returncode:
        told = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        raise BundleError(f"imgtool {words[0]}: {told[-1].removeprefix('Error: ')[:200]}")
