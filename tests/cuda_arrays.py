"""Arrays for the laws of the CUDA kernels: of every kind, on a GPU or in the simulator."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from edge_kernels.cuda import target

torch: Any = import_module("torch") if find_spec("torch") else None

KINDS = ("tensors", "others")  # torch's, and those of another library
FORMS = ("float32", "float64", "float16", "every other column")
rng = np.random.default_rng(0)


def need_device() -> None:
    """Skip a module of tests where there is neither a GPU nor the simulator of one."""
    if torch is None:
        pytest.skip("needs torch", allow_module_level=True)
    if not target.IS_SIMULATED and not (torch.cuda.is_available() and target.cuda.is_available()):
        pytest.skip("no GPU: test_cuda_simulator runs these in the simulator", allow_module_level=True)


def put(array: Any, kind: str = "tensors", form: str = "as it is") -> Any:
    """Return an array on the device, its floats in a form of FORMS."""
    if array.dtype.kind == "f" and form in {"float16", "float32", "float64"}:
        array = array.astype(form)
    elif array.dtype.kind == "f" and form == "every other column":
        return put(np.repeat(array.astype(np.float32), 2, axis=-1), kind)[..., ::2]
    if kind == "tensors":
        return torch.as_tensor(array.copy(), device="cpu" if target.IS_SIMULATED else "cuda")
    return target.to_device(array)


def get(array: Any) -> Any:
    """Return an array of the device as numpy's."""
    return target.to_host(array)


def halves(*size: int) -> Any:
    """Return numbers that float16 holds exactly, so that every form holds the same."""
    return rng.normal(size=size).astype(np.float16).astype(np.float64)
