"""What the simulator hides: the compiler for GPUs takes every kernel, with the types of every launch; no GPU is needed.

As a script this file runs the wrappers over small arrays of every kind, compiles to PTX what they would launch, and
prints a row for each. It is a process of its own: what it puts in the place of a GPU must not stay for other tests.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

BOARD = (8, 7)  # compute capability of a Jetson Orin
FORMS = ("float32", "float64", "float16", "every other column", "column by column")
WIDE = re.compile(r"^\s+(?:@!?%p\d+\s+)?[a-z]\w*(?:\.\w+)*\.f64\b.*", re.MULTILINE)  # declarations start with a dot
SINGLE = [  # where float32 goes in, float32 is reckoned with: float64 is 64 times slower on small GPUs
    "fisher._square_empirical",
    "fisher._square_rows",
    "fisher.spread",
    "halves.read_row",
    "halves.read_rows",
    "hidden._square_empirical",
    "hidden._square_true",
    "matrices._add_kept",
    "matrices._multiply_tiles",
    "matrices.add_part",
    "product._assign",
    "product._decode",
    "scalars._decode_bytes",
    "scalars._decode_nibbles",
    "steps._ewc_step",
]


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """What the script found: rows of what it compiled, and the names of all kernels."""
    pytest.importorskip("torch")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA_")}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    if found["missing"]:
        pytest.skip(f"nothing compiles for a GPU here: {found['missing']}; type: pip install nvidia-nvvm")
    return found


def test_every_launch_compiles(report: dict[str, Any]) -> None:
    refused = [f"{row['kernel']}({row['types']}):\n{row['error']}" for row in report["rows"] if row["error"]]
    assert not refused, "\n\n".join(refused)


def test_every_kernel_is_launched(report: dict[str, Any]) -> None:
    assert report["kernels"], "no kernel was found"
    assert set(report["kernels"]) == {row["kernel"] for row in report["rows"]}


@pytest.mark.parametrize("kernel", SINGLE)
def test_no_float64_is_reckoned_with_where_all_is_float32(kernel: str, report: dict[str, Any]) -> None:
    rows = [row for row in report["rows"] if row["kernel"] == kernel and "float64" not in row["types"]]
    assert rows, f"{kernel} was not compiled for float32"
    for row in rows:
        assert row["wide"] == [], row["types"]


def explore() -> dict[str, Any]:
    """Return what `report` says."""
    missing = missing_library()
    if missing:
        return {"missing": missing}
    rows = compile_launches()
    return {"missing": None, "rows": rows, "kernels": names_of_kernels()}


def missing_library() -> str | None:
    """Return why a kernel without anything in it cannot be compiled, where it is for want of a library."""
    from numba import cuda

    try:
        cuda.compile_ptx(lambda: None, (), cc=BOARD)
    except (ImportError, OSError) as error:  # numba's NvvmSupportError, and libdevice
        return str(error)
    except RuntimeError as error:
        if type(error).__name__ == "DynamicLibNotFoundError":  # cuda.pathfinder's
            return str(error)
        raise
    return None


def compile_launches() -> list[dict[str, Any]]:
    """Return a row for each kernel and the types that it is launched with."""
    from edge_kernels import cuda
    from edge_kernels.cuda import target

    rows: dict[tuple[str, str], dict[str, Any]] = {}

    def configured(kernel: Any, *_: Any) -> Any:
        def compiled(*arguments: Any) -> None:
            types = tuple(kernel.typeof_pyval(each) for each in arguments)
            key = name_of(kernel), ", ".join(map(str, types))
            if key not in rows:
                rows[key] = dict(zip(("kernel", "types"), key, strict=True)) | compile_one(kernel, types)

        return compiled

    put_in_place_of_a_gpu(target, configured)
    for kind in ("tensors", "others"):
        for form in FORMS:
            launch_everything(cuda, Arrays(kind, form))
        for type_of_labels in ("int32", "uint8"):
            launch_everything(cuda, Arrays(kind, "float32", type_of_labels))
        cuda.matrices.SCRATCH_BYTES, before = 1, cuda.matrices.SCRATCH_BYTES
        launch_everything(cuda, Arrays(kind, "float32"))  # in blocks of a row
        cuda.matrices.SCRATCH_BYTES = before
    return list(rows.values())


def compile_one(kernel: Any, types: tuple[Any, ...]) -> dict[str, Any]:
    """Return the compiler's message, or None, and the instructions on float64."""
    from numba import cuda

    try:
        ptx, _ = cuda.compile_ptx(kernel.py_func, types, cc=BOARD)
    except Exception as error:  # whatever it is, the test shows it
        return {"error": f"{type(error).__name__}: {error}", "wide": []}
    return {"error": None, "wide": [line.strip() for line in WIDE.findall(ptx)]}


def put_in_place_of_a_gpu(target: Any, configured: Any) -> None:
    """Let the wrappers take the host's arrays, and start nothing."""

    def host(array: Any) -> Any:
        return array.numpy() if target.is_tensor(array) else array

    def view(array: Any) -> Any:
        return host(array).view(np.uint16) if host(array).dtype == np.float16 else host(array)

    replaced = {
        "allocate": np.zeros,
        "configured": configured,
        "device_of": lambda _: nullcontext(),
        "hold": lambda array: array,
        "is_reachable": lambda _: True,
        "stream_of": lambda _: 0,
        "to_device": np.array,
        "to_host": host,
        "view": view,
    }
    assert set(replaced) <= set(vars(target))
    vars(target).update(replaced)
    device = SimpleNamespace(compute_capability=BOARD)
    dispatcher = importlib.import_module("numba.cuda.dispatcher")
    vars(dispatcher)["get_current_device"] = lambda: device  # which the functions of kernels are compiled for


class Arrays:
    """Makes the arrays of calls, all of a kind and in a form of FORMS."""

    def __init__(self, kind: str, form: str, type_of_labels: str = "int64") -> None:
        self.kind, self.form, self.type_of_labels = kind, form, type_of_labels
        self.rng = np.random.default_rng(0)

    def floats(self, *shape: int) -> Any:
        """Return numbers between 0 and 1."""
        return self.place(self.rng.random(shape))

    def kept(self, *shape: int) -> Any:
        """Return numbers that sums are kept in, which float16 is too narrow for."""
        return self.place(self.rng.random(shape), {"float16": "float32", "sums in float64": "float64"}.get(self.form))

    def single(self, *shape: int) -> Any:
        """Return numbers that must be float32."""
        return self.place(self.rng.random(shape), "float32" if self.form.startswith("float") else self.form)

    def labels(self, n_samples: int) -> Any:
        """Return labels of three classes."""
        return self.place(self.rng.integers(0, 3, n_samples).astype(self.type_of_labels))

    def place(self, array: Any, form: str | None = None) -> Any:
        """Return an array in a form, or in the one of all."""
        form = form or self.form
        if array.dtype.kind == "f":
            array = array.astype(form if form.startswith("float") else "float32")
        if form == "every other column":
            array = np.repeat(array, 2, axis=-1)[..., ::2]
        elif form == "column by column":
            array = np.asfortranarray(array)
        if self.kind == "others":
            return array
        import torch

        return torch.from_numpy(array)


def launch_everything(cuda: Any, make: Arrays) -> None:
    """Call what starts kernels: N = 6 samples, D = 4 or 5 features, K = 3 classes, H = 4 hidden units."""
    x, p, y = make.floats(6, 5), make.floats(6, 3), make.labels(6)
    cuda.softmax(p)
    for has_bias in (False, True):
        cuda.fisher_true(x, p, has_bias=has_bias)
    cuda.fisher_empirical(x, p, y)
    cuda.fisher_sampled(x, p, make.floats(6))
    cuda.fisher_mse(x)
    head = {"slopes": make.floats(6, 4), "probabilities": p, "weights": make.floats(3, 4)}
    cuda.fisher_hidden_true(x, make.floats(6, 4), **head)
    cuda.fisher_hidden_empirical(x, make.floats(6, 4), **head, labels=y)
    cuda.second_moment(x)
    cuda.label_covariance(p)
    cuda.kronecker_product(make.floats(3, 5), label_factor=make.floats(3, 3), feature_factor=make.floats(5, 5))
    launch_learning(cuda, make)
    launch_codecs(cuda, make)


def launch_learning(cuda: Any, make: Arrays) -> None:
    """Call what changes weights and statistics, and what chooses samples."""
    x, y = make.floats(6, 5), make.labels(6)
    cuda.cross_entropy_delta(make.floats(6, 3), y, sample_weights=make.floats(6))
    step = {"fisher": make.floats(3, 5), "anchor": make.floats(3, 5)}
    cuda.ewc_step(make.single(3, 5), make.floats(3, 5), **step, lr=0.1, lam=1.0)
    cuda.rls_update(make.kept(3, 5), make.kept(5, 5), features=x, targets=make.floats(6, 3))
    for scatter, other in ((make.kept(5, 5), make.floats(5, 5)), (None, None)):
        counts, means = make.labels(3), make.kept(3, 5)
        cuda.add_samples(counts, means, scatter, features=x, labels=y)
        cuda.remove_samples(counts, means, scatter, features=x, labels=y)
        others = {"other_counts": make.labels(3), "other_means": make.floats(3, 5), "other_scatter": other}
        cuda.merge_statistics(counts, means, scatter, **others)
    cuda.draw_priority(y, make.labels(6), seed=3)
    cuda.herd(x, n_chosen=2)


def launch_codecs(cuda: Any, make: Arrays) -> None:
    """Call what makes codes, and what reads them."""
    x, rows = make.floats(6, 4), make.labels(3)
    cuda.decode_int8(*cuda.encode_int8(x), rows)
    cuda.decode_int4(*cuda.encode_int4(x), rows, dim=4)
    cuda.train_pq(x, n_subspaces=2, n_codewords=3, n_steps=1)
    codebooks = make.floats(2, 3, 2)
    cuda.decode_pq(cuda.encode_pq(x, codebooks), codebooks, rows)
    bits = make.place(np.array([4, 3], np.uint8))
    projection = cuda.Projection(make.single(2, 4), make.single(4), make.single(2), bits)
    cuda.decode_projection(cuda.encode_projection(x, projection), projection, rows)


def names_of_kernels() -> list[str]:
    """Return the names of the package's kernels; the functions that they call are compiled with them."""
    return sorted(name_of(each) for each in kernels_of_modules() if not each.targetoptions.get("device"))


def kernels_of_modules() -> Iterator[Any]:
    """Yield what is compiled for GPUs, each by the module that defines it."""
    from edge_kernels import cuda

    for found in pkgutil.iter_modules(cuda.__path__):
        module = importlib.import_module(f"{cuda.__name__}.{found.name}")
        for value in vars(module).values():
            if hasattr(value, "py_func") and value.py_func.__module__ == module.__name__:
                yield value


def name_of(kernel: Any) -> str:
    """Return the names of the module and of the kernel."""
    return f"{kernel.py_func.__module__.split('.')[-1]}.{kernel.py_func.__name__}"


if __name__ == "__main__":
    print(json.dumps(explore()))
