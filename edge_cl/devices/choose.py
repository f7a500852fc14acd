"""From the name of a device to the device."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import TypeVar

from edge_cl.devices.host import HOST, Device
from edge_cl.errors import DeviceError, MissingPackageError

Result = TypeVar("Result")

GPU_VALUES = 10_000_000  # 8,000 samples of 1280: for fewer, importing torch takes longer than two cores need


class ChosenDevice:
    """A device by its name, opened at its first use.

    `auto` takes the GPU for large updates, where there is one, and goes on without it where that fails.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._device: Device | None = None

    def run(self, work: Callable[[Device], Result], n_values: int) -> Result:
        """Return what the work returns on the device.

        Args:
            work: changes nothing but its own arrays, so that it can be done again.
            n_values: that it works on.

        Raises:
            DeviceError: `cuda` was asked for, and is not there or failed.
        """
        if self.name == "auto" and n_values < GPU_VALUES:
            return work(HOST)
        if self._device is None:
            self._device = open_device(self.name)
        try:
            return work(self._device)
        except DeviceError:
            if self.name != "auto" or self._device is HOST:
                raise
        self._device = HOST
        return work(HOST)


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
