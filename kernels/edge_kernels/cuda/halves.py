"""float16 by its bits, in integers: kernels see it as uint16.

numba's float16 in kernels depends on its version, on the toolkit's headers and on the GPU; bits do not. They also round
up, which no conversion does.
"""

from __future__ import annotations

import math

import numpy as np

from edge_kernels.cuda.target import cuda

TINIEST = np.float32(2.0**-24)  # distance of the numbers without a leading bit
INFINITE = 0x7C00
NEGATIVE = 0x8000


@cuda.jit(device=True)
def half_value(bits):  # type: ignore[no-untyped-def]
    """Return the float32 that the bits of a float16 mean."""
    exponent, mantissa = (np.int64(bits) >> 10) & 31, np.int64(bits) & 1023
    value = np.float32(mantissa) * TINIEST
    if exponent == 31:
        value = np.float32(math.inf) if mantissa == 0 else np.float32(math.nan)
    elif exponent > 0:
        value = np.float32((mantissa + 1024) << (exponent - 1)) * TINIEST
    return -value if np.int64(bits) & NEGATIVE else value


@cuda.jit(device=True)
def half_above(value):  # type: ignore[no-untyped-def]
    """Return the bits of the least float16 that is not below a value, which is not negative."""
    if not value <= 65504.0:  # too large, or no number
        return np.int64(INFINITE)
    steps, exponent = np.float64(value) / TINIEST, np.int64(0)
    while steps > 2048.0:
        steps, exponent = steps / 2, exponent + 1
    return np.int64(math.ceil(steps)) + (exponent << 10)  # the leading bit of the mantissa adds 1 to the exponent


@cuda.jit
def read_row(bits, out):  # type: ignore[no-untyped-def]
    """Write the values (N,) of float16 (N,)."""
    for n in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[n] = half_value(bits[n])


@cuda.jit
def read_rows(bits, out):  # type: ignore[no-untyped-def]
    """Write the values (N, D) of float16 (N, D)."""
    for t in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        n, d = divmod(t, out.shape[1])
        out[n, d] = half_value(bits[n, d])
