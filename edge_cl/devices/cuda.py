"""A GPU: torch tensors, CUDA kernels, one copy from pinned memory for all that an update starts from."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from edge_kernels.arrays import Bools, Floats, Ints

from edge_cl.devices.host import Device
from edge_cl.errors import DeviceError, MissingPackageError, first_line


class CudaDevice(Device):
    """A GPU of NVIDIA's, or numba's simulator of one with torch tensors in ordinary memory."""

    name = "cuda"

    def __init__(self, torch_device: str) -> None:
        import torch

        self._torch = torch
        self._device = torch.device(torch_device)

    @property
    def kernels(self) -> Any:
        """The module of the CUDA kernels."""
        from edge_kernels import cuda

        return cuda

    def put(self, *arrays: Floats | Ints | Bools) -> tuple[Any, ...]:
        """Return all that an update starts from on the device: packed into one pinned buffer, moved by one copy."""
        torch, self.batch = self._torch, sys.maxsize
        sizes = [-(-array.nbytes // 16) * 16 for array in arrays]  # every array begins where any type may
        staging = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        start, bytes_of = 0, staging.numpy()
        for array, size in zip(arrays, sizes, strict=True):
            bytes_of[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            start += size
        moved, start, placed = staging.to(self._device, non_blocking=True), 0, []
        for array, size in zip(arrays, sizes, strict=True):
            dtype = getattr(torch, array.dtype.name)
            placed.append(moved[start : start + array.nbytes].view(dtype).reshape(array.shape))
            start += size
        return tuple(placed)

    def get(self, array: Any) -> Any:
        """Return a tensor of the device as numpy's."""
        return array.cpu().numpy()

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """See `Device.here`.

        Raises:
            DeviceError: the GPU failed, or its memory does not hold what is worked on.
        """
        from edge_kernels.cuda.matrices import exact_products

        try:
            with self._device, self._torch.no_grad(), exact_products():
                yield
        except self.out_of_memory as error:
            raise DeviceError(f"device cuda: out of memory: {first_line(error)}; use device cpu") from error
        except Exception as error:
            if not _is_cuda(error):
                raise
            raise DeviceError(f"device cuda: {first_line(error)}; use device cpu") from error

    @property
    def out_of_memory(self) -> type[BaseException]:
        """What torch raises where the GPU's memory runs out."""
        found: type[BaseException] = self._torch.cuda.OutOfMemoryError
        return found

    def free(self) -> None:
        """Give back what torch holds for later tensors."""
        if self._device.type == "cuda":
            self._torch.cuda.empty_cache()


def open_cuda() -> CudaDevice:
    """Return the GPU.

    Raises:
        DeviceError: there is none that torch and numba can use.
        MissingPackageError: torch or numba-cuda is not installed.
    """
    try:
        import torch
        from numba import config, cuda
    except ImportError as error:
        raise MissingPackageError(
            f"device cuda: learning on the GPU needs torch and numba-cuda ({error}); type: pip install torch "
            "numba-cuda (on a Jetson: its own torch wheel), or use device cpu"
        ) from None
    if config.ENABLE_CUDASIM:
        return CudaDevice("cpu")
    if not torch.cuda.is_available():
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise DeviceError(f"device cuda: torch {torch.__version__} ({build}) finds no GPU; use device cpu")
    try:
        cuda.current_context()
    except Exception as error:  # whatever the driver, or numba's search for its libraries, trips over
        raise DeviceError(f"device cuda: numba cannot use the GPU: {first_line(error)}; use device cpu") from error
    return CudaDevice("cuda")


def _is_cuda(error: Exception) -> bool:
    return type(error).__module__.startswith(("numba.cuda", "cuda.")) or (
        isinstance(error, RuntimeError) and "cuda" in str(error).lower()
    )
