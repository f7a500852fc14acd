"""The C runtime of head blobs inside this process."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from ctypes import byref, c_char_p, c_float, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from edge_firmware.formats import ERRORS
from edge_kernels.arrays import Floats
from numpy.typing import NDArray

from .c_builds import HOST, compile_c, sources

TOOLS = Path(__file__).resolve().parents[1] / "tools"
sys.path.append(str(TOOLS))

from mutated_blobs import draw_blob, mended, whole  # noqa: E402 - tools are no package

__all__ = ["TOOLS", "draw_blob", "mended", "whole"]
UNITS = ("edge_head", "edge_float", "edge_text")
PLACES = ("blob", "rows", "scales", "bias", "owners", "answers", "canaries", "names")
NAMES = [name for name, _ in ERRORS]
VERIFY = ctypes.CFUNCTYPE(ctypes.c_int, c_void_p, c_void_p, c_uint32)
NONE, ANY = 0xFFFFFFFF, -3.4028234663852886e38


class Expected(ctypes.Structure):
    """`edge_expected`."""

    _fields_ = (
        ("product", c_char_p),
        ("backbone", c_char_p),
        ("dim", c_uint32),
        ("n_classes", c_uint32),
        ("counter", c_uint32),
        ("verify", VERIFY),
        ("key", c_void_p),
    )


class CHead(ctypes.Structure):
    """`edge_head`."""

    _fields_ = (
        *((name, c_void_p) for name in PLACES),
        *((name, c_uint32) for name in ("dim", "n_classes", "n_rows")),
    )


class Runtime:
    """The runtime, built as a library of this machine."""

    def __init__(self, folder: Path, *options: str, compiler: Sequence[str] = HOST) -> None:
        """Build it with the options."""
        target = compile_c(folder / "head.so", sources(*UNITS), compiler, "-shared", "-fPIC", *options)
        self.library: Any = ctypes.CDLL(str(target))
        lib = self.library
        lib.edge_head_name.restype = lib.edge_error_text.restype = c_char_p
        lib.edge_argmax.argtypes = [c_void_p, c_uint32, c_float]
        for name in ("edge_crc32", "edge_argmax", "edge_top", "edge_head_version", "edge_head_counter"):
            getattr(lib, name).restype = c_uint32

    def open(self, data: bytes, expected: Expected | None = None, *, n_bytes: int | None = None, at: int = 0) -> Opened:
        """Return what opening these bytes gives; they lie `at` bytes behind an aligned place, in flash of n_bytes."""
        return Opened(self.library, data, expected or Expected(), n_bytes, at)

    def argmax(self, scores: Floats, least: float = ANY) -> int:
        """Return what `edge_argmax` says."""
        return int(self.library.edge_argmax(scores.ctypes.data, len(scores), least))

    def top(self, scores: Floats, n: int) -> list[int]:
        """Return what `edge_top` says."""
        classes = (c_uint32 * (n + 1))(*[NONE] * (n + 1))
        n_found = self.library.edge_top(c_void_p(scores.ctypes.data), len(scores), classes, n)
        assert classes[n] == NONE
        return list(classes)[:n_found]

    def softmax(self, logits: Floats) -> Floats:
        """Return probabilities (K,)."""
        found = logits.astype(np.float32)
        self.library.edge_softmax(c_void_p(found.ctypes.data), len(found))
        return found


class Opened:
    """A blob that the runtime has opened, or the name of the error."""

    def __init__(self, library: Any, data: bytes, expected: Expected, n_bytes: int | None, at: int) -> None:
        """Open it."""
        self.library, self.c_head = library, CHead()
        self.buffer = ctypes.create_string_buffer(bytes(at) + data, at + len(data))
        place = ctypes.addressof(self.buffer) + at
        size = len(data) if n_bytes is None else n_bytes
        code = library.edge_head_open(byref(self.c_head), c_void_p(place), c_uint32(size), byref(expected))
        self.error = NAMES[code]

    @property
    def pointer(self) -> Any:
        """The address of the `edge_head`."""
        return byref(self.c_head)

    def name_of(self, class_index: int) -> bytes:
        """Return the name of a class."""
        return bytes(self.library.edge_head_name(self.pointer, c_uint32(class_index)))

    def quantise(self, features: Floats) -> NDArray[np.int8]:
        """Return int8 features (N, D) of float32 ones."""
        found = np.empty(features.shape, np.int8)
        for x, q in zip(features.astype(np.float32), found, strict=True):
            self.library.edge_head_quantise(byref(self.c_head), c_void_p(x.ctypes.data), c_void_p(q.ctypes.data))
        return found

    def logits(self, features: NDArray[Any]) -> Floats:
        """Return logits (N, K) of int8 or float32 features (N, D), by their type."""
        function = {"i": self.library.edge_head_logits_i8, "f": self.library.edge_head_logits_f32}[features.dtype.kind]
        found = np.full((len(features), self.c_head.n_classes), np.float32(7))
        for x, logits in zip(features.copy(), found, strict=True):
            code = function(byref(self.c_head), c_void_p(x.ctypes.data), c_void_p(logits.ctypes.data))
            assert NAMES[code] == "OK"
        return found

    def check(self, kind: str = "i8") -> str:
        """Return the name of what asking the canaries gives."""
        scratch, logits = (c_float * self.c_head.dim)(), (c_float * self.c_head.n_classes)()
        code: int = getattr(self.library, f"edge_head_check_{kind}")(self.pointer, scratch, logits)
        return NAMES[code]
