"""Kernels of a simulated GPU for tests of whole updates: the simulator takes a third of a second for a call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge_cl.devices import HOST

SIMULATED_CALLS = 3  # of each kernel


class HostKernels:
    """The processor's kernels for torch's tensors, reached through the same memory."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        torch, kernel = pytest.importorskip("torch"), getattr(HOST.kernels, name)

        def numpy_of(value: Any) -> Any:
            return value.numpy() if isinstance(value, torch.Tensor) else value

        def tensor_of(value: Any) -> Any:
            if isinstance(value, tuple):
                made = [tensor_of(part) for part in value]
                return type(value)(*made) if hasattr(value, "_fields") else tuple(made)
            return torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value

        def run(*arguments: Any, **options: Any) -> Any:
            found = kernel(*map(numpy_of, arguments), **{key: numpy_of(value) for key, value in options.items()})
            return tensor_of(found)

        return run


class SimulatedKernels:
    """The CUDA kernels in numba's simulator for the first calls of each; then the processor's.

    Attributes:
        calls: of each kernel.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        from edge_kernels import cuda

        def run(*arguments: Any, **options: Any) -> Any:
            self.calls[name] += 1
            kernels = cuda if self.calls[name] <= SIMULATED_CALLS else HostKernels()
            return getattr(kernels, name)(*arguments, **options)

        return run
