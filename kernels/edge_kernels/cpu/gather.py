"""What every codec checks of what it is given."""

from __future__ import annotations

import numpy as np

from edge_kernels.arrays import Floats, HostShapes, Ints, KernelError


def check_finite(features: Floats, bad: Ints) -> None:
    """Check that there are no rows that cannot be encoded.

    Args:
        features: (N, D).
        bad: the rows that cannot.

    Raises:
        KernelError: there is one.
    """
    if len(bad):
        where = f"features: row {bad[0]} of shape {features.shape} {features.dtype}"
        raise KernelError(f"{where}: expected finite numbers whose squares are finite; found others")


def check_gather(shapes: HostShapes, rows: Ints, out: Floats | None) -> tuple[Ints, Floats]:
    """Return the rows as int64, and where to decode to, (B, D) float32.

    Args:
        shapes: that know N and D.
        rows: (B,) to be gathered.
        out: (B, D) float32, or None for a new array.

    Raises:
        KernelError: rows or `out` cannot be used.
    """
    shapes.check("rows", rows, "B", "iu")
    n_rows = shapes.sizes["N"]
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < n_rows:
        raise KernelError(f"rows: expected 0 to {n_rows - 1}; found {rows.min()} to {rows.max()} in shape {rows.shape}")
    places = rows.astype(np.int64, copy=False)
    if out is None:
        return places, np.empty((len(rows), shapes.sizes["D"]), np.float32)
    shapes.check("out", out, "B D", "f4")
    if not (out.flags.writeable and out.dtype.isnative):
        raise KernelError(
            f"out: expected a writeable array of this machine's float32; found shape {out.shape} {out.dtype}"
        )
    return places, out
