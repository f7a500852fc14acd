"""Where the arrays of a call live: allocation there, kernels in the order of what uses them, blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from edge_kernels.arrays import KernelError
from edge_kernels.cuda import target
from edge_kernels.cuda.halves import read_row, read_rows
from edge_kernels.cuda.target import cuda

DeviceArray: TypeAlias = Any  # a torch tensor, or whatever has __cuda_array_interface__

HALF_BYTES = 1 << 20  # of float32 that float16 is decoded into at a time


@dataclass(frozen=True)
class Place:
    """The device and the stream of one call.

    Attributes:
        like: a tensor of the call, or None where its arrays are not torch's.
        stream: kernels of the call are started on it.
    """

    like: Any
    stream: Any

    def empty(self, *shape: int, dtype: str = "float32") -> Any:
        """Return an array of the inputs' kind, with anything in it."""
        if self.like is None:
            return target.allocate(shape, dtype)
        import torch

        return self.like.new_empty(shape, dtype=getattr(torch, dtype))

    def zeros(self, *shape: int, dtype: str = "float32") -> Any:
        """Return an array of zeros, of one axis or two."""
        made = self.empty(*shape, dtype=dtype)
        if self.like is not None:
            return made.zero_()
        self.launch(_clear_row if len(shape) == 1 else _clear_rows, made.size, made)
        return made

    def send(self, host: Any) -> Any:
        """Return a copy of a numpy array."""
        if self.like is None:
            return target.to_device(host)
        import torch

        return torch.as_tensor(host, device=self.like.device)

    def launch(self, kernel: Any, n_threads: int, *arguments: Any) -> None:
        """Start a kernel whose threads go round until all that many are done."""
        blocks = min(-(-n_threads // target.THREADS), target.MAX_BLOCKS)
        self.start(kernel, blocks, target.THREADS, *arguments)

    def launch_rows(self, kernel: Any, n_rows: int, *arguments: Any) -> None:
        """Start a kernel with a block of threads for each row."""
        self.start(kernel, n_rows, target.ROW_THREADS, *arguments)

    def start(self, kernel: Any, blocks: Any, threads: Any, *arguments: Any) -> None:
        """Start a kernel; a grid of nothing is none."""
        if not blocks:
            return
        with target.device_of(self.like):
            views = [target.view(each) if hasattr(each, "shape") and each.shape else each for each in arguments]
            target.configured(kernel, blocks, threads, self.stream)(*views)

    def copy(self, source: Any, into: Any) -> Any:
        """Copy an array (N,) of float16, or (N, D) of any float, and return the copy."""
        if self.like is not None:
            return into.copy_(source)
        read = read_row if len(source.shape) == 1 else read_rows
        self.launch(read if is_half(source) else _copy_rows, into.size, source, into)
        return into

    def readable(self, array: Any, into: Any = None) -> Any:
        """Return an array (N,) or (N, D) as kernels read it: itself, or float16 decoded."""
        if not is_half(array):
            return array
        return self.copy(array, self.empty(*array.shape) if into is None else into)

    def single(self, array: Any, into: Any) -> Any:
        """Return an array (N, D) as float32: itself, or a copy."""
        return array if dtype_of(array) == "float32" else self.copy(array, into)

    def blocks(self, array: Any) -> Iterator[tuple[slice, Any]]:
        """Yield rows and what kernels read of them: all at once, but float16 decoded by and by."""
        n_rows, n_columns = array.shape
        step = max(1, HALF_BYTES // max(4 * n_columns, 1)) if is_half(array) else max(n_rows, 1)
        for rows in spans(n_rows, step):
            yield rows, self.readable(array[rows])


def settle(**arrays: Any) -> tuple[Place, list[Any]]:
    """Return the place of some arrays, by the names of the arguments, and the arrays as they can be sliced.

    Raises:
        KernelError: one is not on the GPU, or not where the first one is.
    """
    given = {name: array for name, array in arrays.items() if array is not None}
    first_name, first = next(iter(given.items()))
    for name, array in given.items():
        if not hasattr(array, "shape") or not hasattr(array, "dtype"):
            raise KernelError(f"{name}: expected an array on the GPU; found {type(array).__name__}; {_advice(name)}")
        found = f"found shape {tuple(array.shape)} {dtype_of(array)}"
        if not target.is_reachable(array):
            raise KernelError(f"{name}: expected an array on the GPU; {found} elsewhere; {_advice(name)}")
        if _home(array) != _home(first):
            expected = f"expected it where {first_name} is, {_home(first)}"
            raise KernelError(f"{name}: {expected}; {found}, {_home(array)}; {_advice(name)}")
    like = first.detach() if target.is_tensor(first) else None
    place = Place(like, target.stream_of(like))
    return place, [None if array is None else target.hold(array) for array in arrays.values()]


def dtype_of(array: Any) -> str:
    """Return the name of the type of an array's numbers."""
    return str(array.dtype).removeprefix("torch.")


def is_half(array: Any) -> bool:
    """Return whether an array is float16, which kernels see as bits."""
    return dtype_of(array) == "float16"


def check_writable(**arrays: Any) -> None:
    """Check that statistics can be kept in arrays.

    Raises:
        KernelError: one is float16, in which sums lose what is added.
    """
    for name, array in arrays.items():
        if array is not None and is_half(array):
            raise KernelError(f"{name}: expected float32 or float64; found shape {tuple(array.shape)} float16")


def spans(n_rows: int, step: int) -> Iterator[slice]:
    """Yield slices of at most `step` rows that follow each other."""
    for first in range(0, n_rows, step):
        yield slice(first, min(first + step, n_rows))


def _home(array: Any) -> str:
    return f"a torch tensor on {array.device}" if target.is_tensor(array) else "an array of another library than torch"


def _advice(name: str) -> str:
    return f'pass torch.as_tensor({name}, device="cuda")'


@cuda.jit
def _clear_row(out):  # type: ignore[no-untyped-def]
    for n in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[n] = 0


@cuda.jit
def _clear_rows(out):  # type: ignore[no-untyped-def]
    for t in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        n, d = divmod(t, out.shape[1])
        out[n, d] = 0


@cuda.jit
def _copy_rows(source, out):  # type: ignore[no-untyped-def]
    for t in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        n, d = divmod(t, out.shape[1])
        out[n, d] = source[n, d]
