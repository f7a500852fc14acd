"""All that differs between a GPU and numba's simulator: what is an array, its views, streams and sizes of blocks.

One thing cannot be settled here. Beside float32 a plain `0.0` is float64 to numba and float32 to numpy, with which the
simulator reckons: so kernels write `np.float64(0)` or `np.float32(0)`, whichever they mean.
"""

from __future__ import annotations

import sys
import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache
from typing import Any

import numba.cuda
import numpy as np

cuda: Any = numba.cuda  # whose stubs, where it has any, know neither the simulator nor what kernels call
config: Any = numba.config
IS_SIMULATED = bool(config.ENABLE_CUDASIM)

# The simulator starts a Python thread for each of the device's, so that its blocks are small and its grids too.
THREADS = 4 if IS_SIMULATED else 128  # of a block whose threads have nothing to do with each other
ROW_THREADS = 4 if IS_SIMULATED else 64  # of a block that works on one row together
TILE = 4 if IS_SIMULATED else 16  # rows and columns of a block in a matrix product
MAX_BLOCKS = 2 if IS_SIMULATED else 4096  # threads go round until the work is done


def is_tensor(array: Any) -> bool:
    """Return whether an array is torch's; without importing torch, which who passes a tensor has done."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def is_reachable(array: Any) -> bool:
    """Return whether kernels can use an array where it lies; the simulator's memory is the host's."""
    if IS_SIMULATED:
        return isinstance(array, np.ndarray) or (is_tensor(array) and array.device.type == "cpu")
    return hasattr(array.detach() if is_tensor(array) else array, "__cuda_array_interface__")


def hold(array: Any) -> Any:
    """Return an array that can be sliced: a tensor apart from autograd, or numba's view of another library's array."""
    if is_tensor(array):
        return array.detach()
    return array if IS_SIMULATED else cuda.as_cuda_array(array, sync=False)


def view(array: Any) -> Any:
    """Return what a kernel is given for an array, without a copy; float16 as its bits, see `halves`."""
    if not IS_SIMULATED:
        seen = cuda.as_cuda_array(array, sync=False)
        return seen.view(np.uint16) if seen.dtype == np.float16 else seen
    host = array.numpy() if is_tensor(array) else array
    wrap = cuda.devicearray.FakeCUDAArray  # a bare numpy array would be copied, and written back over its overlaps
    return wrap(host.view(np.uint16) if host.dtype == np.float16 else host)


def allocate(shape: tuple[int, ...], dtype: str) -> Any:
    """Return an array of numba's, or of numpy's in the simulator, with anything in it."""
    return np.empty(shape, dtype) if IS_SIMULATED else cuda.device_array(shape, dtype)


def to_device(host: Any) -> Any:
    """Return a copy of a numpy array as `allocate` would have made it."""
    return np.array(host) if IS_SIMULATED else cuda.to_device(host)


def to_host(array: Any) -> Any:
    """Return a copy as a numpy array; it waits for the device."""
    if is_tensor(array):
        return array.cpu().numpy()
    return np.array(array) if IS_SIMULATED else array.copy_to_host()


def stream_of(tensor: Any) -> Any:
    """Return the stream that torch works on at present, or numba's default stream where there is no tensor."""
    if IS_SIMULATED or tensor is None:
        return 0
    import torch

    return _stream(torch.cuda.current_stream(tensor.device).cuda_stream)


def device_of(tensor: Any) -> AbstractContextManager[Any]:
    """Return a context in which numba uses the tensor's device, or the one that it uses anyway."""
    if IS_SIMULATED or tensor is None:
        return nullcontext()
    context: AbstractContextManager[Any] = cuda.gpus[tensor.device.index]
    return context


def configured(kernel: Any, blocks: Any, threads: Any, stream: Any) -> Any:
    """Return a kernel that is ready to be called."""
    if IS_SIMULATED:  # whose kernels keep only the last configuration
        return kernel[blocks, threads]
    return _configured(kernel, blocks, threads, stream)


@cache
def _stream(pointer: int) -> Any:
    return cuda.external_stream(pointer) if pointer else cuda.legacy_default_stream()


@lru_cache(maxsize=4096)
def _configured(kernel: Any, blocks: Any, threads: Any, stream: Any) -> Any:
    with warnings.catch_warnings():  # by its text: numba and numba-cuda have a class of that name each
        warnings.filterwarnings("ignore", "Grid size")  # twenty photos do not fill a GPU, and nobody can change it
        return kernel[blocks, threads, stream]
