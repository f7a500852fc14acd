"""From the name of a device to the device."""

from __future__ import annotations

import ctypes
import os

from edge_cl.devices.host import HOST, Device
from edge_cl.errors import DeviceError, MissingPackageError


def open_device(name: str) -> Device:
    """Return the device to learn on.

    Args:
        name: `cpu`; `cuda`, or an error where there is none; `auto`: the GPU where everything for it is there.

    Raises:
        DeviceError: `cuda` was asked for and cannot be used.
        MissingPackageError: `cuda` was asked for and lacks a package.
    """
    if name == "cpu" or (name == "auto" and not has_gpu()):
        return HOST
    from edge_cl.devices.cuda import open_cuda

    try:
        if not has_gpu():
            raise DeviceError("device cuda: this machine has no driver of NVIDIA's with a GPU; use device cpu")
        return open_cuda()
    except (DeviceError, MissingPackageError):
        if name == "cuda":
            raise
        return HOST


def has_gpu() -> bool:
    """Return whether the driver knows a GPU, asked of it directly: importing torch to ask takes seconds."""
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        return True
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        count = ctypes.c_int()
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except (OSError, AttributeError):
        return False
