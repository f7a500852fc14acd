"""The processors of this machine: arrays are numpy's, and nothing has to be copied."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from edge_kernels.arrays import Bools, Floats, Ints

from edge_cl.errors import DeviceError


class Device:
    """Where arrays live, and the kernels that run there. An array of it may be any that `namespace` knows.

    Attributes:
        name: `cpu` or `cuda`.
        batch: rows that are worked on at a time: all at the start of an update, half whenever memory runs out.
    """

    name = "cpu"
    batch = sys.maxsize

    @property
    def kernels(self) -> Any:
        """The module of the kernels, imported at its first use: numba costs a third of a second."""
        from edge_kernels import cpu

        return cpu

    def put(self, *arrays: Floats | Ints | Bools) -> tuple[Any, ...]:
        """Return all that an update starts from on the device, by one copy; here it is there already."""
        self.batch = sys.maxsize
        return arrays

    def get(self, array: Any) -> Any:
        """Return an array of the device as numpy's."""
        return array

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """Make new arrays on the device, and its failures one kind of error, within the context.

        Raises:
            DeviceError: the device failed, or its memory does not hold what is worked on.
        """
        try:
            yield
        except MemoryError as error:
            raise DeviceError(f"device cpu: out of memory: {error}; learn fewer samples at a time") from error

    def each(self, n_rows: int, run: Callable[[slice], object]) -> None:
        """Call `run` with slices that cover the rows; where memory runs out, half as many are tried.

        Args:
            n_rows: N.
            run: adds to its results at the end, so that it can be called again after it failed.

        Raises:
            MemoryError: there is not even enough for one row.
        """
        start = 0
        while start < n_rows:
            rows = slice(start, min(start + self.batch, n_rows))
            try:
                run(rows)
            except self.out_of_memory:
                if rows.stop - start == 1:
                    raise
                self.batch = (rows.stop - start + 1) // 2
                self.free()
            else:
                start = rows.stop

    @property
    def out_of_memory(self) -> type[BaseException]:
        """What is raised where memory runs out."""
        return MemoryError

    def free(self) -> None:
        """Give back memory that is held for later."""


HOST = Device()


def namespace(array: Any) -> Any:
    """Return the module that made an array: numpy, or torch, which has the same functions under the same names."""
    return np if isinstance(array, np.ndarray | np.generic) else sys.modules["torch"]
