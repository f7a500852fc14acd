"""The kernels on the CPU: numba loops around BLAS products, float32 in, a few MiB of scratch whatever N is.

A kernel's module is imported at its first use, and with it numba, where it has a loop of its own: that takes a third
of a second and 90 MiB, which who only needs products should not pay for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_kernels.reference import HiddenFisher, Projection

if TYPE_CHECKING:
    from edge_kernels.cpu.curvature import kronecker_product, label_covariance, rls_update, second_moment
    from edge_kernels.cpu.fisher import (
        fisher_empirical,
        fisher_hidden_empirical,
        fisher_hidden_true,
        fisher_mse,
        fisher_sampled,
        fisher_true,
        softmax,
    )
    from edge_kernels.cpu.losses import cross_entropy_delta
    from edge_kernels.cpu.product import decode_pq, encode_pq, train_pq
    from edge_kernels.cpu.projection import decode_projection, encode_projection, fit_projection
    from edge_kernels.cpu.proximal import ewc_step
    from edge_kernels.cpu.scalars import decode_int4, decode_int8, encode_int4, encode_int8
    from edge_kernels.cpu.selection import balanced_reservoir, draw_priority, herd
    from edge_kernels.cpu.statistics import add_samples, merge_statistics, remove_samples

__all__ = [
    "HiddenFisher",
    "Projection",
    "add_samples",
    "balanced_reservoir",
    "cross_entropy_delta",
    "decode_int4",
    "decode_int8",
    "decode_pq",
    "decode_projection",
    "draw_priority",
    "encode_int4",
    "encode_int8",
    "encode_pq",
    "encode_projection",
    "ewc_step",
    "fisher_empirical",
    "fisher_hidden_empirical",
    "fisher_hidden_true",
    "fisher_mse",
    "fisher_sampled",
    "fisher_true",
    "fit_projection",
    "herd",
    "kronecker_product",
    "label_covariance",
    "merge_statistics",
    "remove_samples",
    "rls_update",
    "second_moment",
    "softmax",
    "train_pq",
]

_HOMES = {
    "curvature": ("kronecker_product", "label_covariance", "rls_update", "second_moment"),
    "fisher": (
        "fisher_empirical",
        "fisher_hidden_empirical",
        "fisher_hidden_true",
        "fisher_mse",
        "fisher_sampled",
        "fisher_true",
        "softmax",
    ),
    "losses": ("cross_entropy_delta",),
    "product": ("decode_pq", "encode_pq", "train_pq"),
    "projection": ("decode_projection", "encode_projection", "fit_projection"),
    "proximal": ("ewc_step",),
    "scalars": ("decode_int4", "decode_int8", "encode_int4", "encode_int8"),
    "selection": ("balanced_reservoir", "draw_priority", "herd"),
    "statistics": ("add_samples", "merge_statistics", "remove_samples"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a kernel at its first use.

    Raises:
        AttributeError: there is no such kernel.
    """
    if name not in _HOME_OF:
        raise AttributeError(f"module 'edge_kernels.cpu' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"edge_kernels.cpu.{_HOME_OF[name]}"), name)
