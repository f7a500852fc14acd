"""The kernels on the CPU: numba loops around BLAS products, float32 in, a few MiB of scratch whatever N is."""

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
from edge_kernels.cpu.product import decode_pq, encode_pq, train_pq
from edge_kernels.cpu.projection import decode_projection, encode_projection, fit_projection
from edge_kernels.cpu.scalars import decode_int4, decode_int8, encode_int4, encode_int8
from edge_kernels.cpu.selection import balanced_reservoir, draw_priority, herd
from edge_kernels.cpu.statistics import add_samples, merge_statistics, remove_samples
from edge_kernels.cpu.steps import cross_entropy_delta, ewc_step
from edge_kernels.reference import HiddenFisher, Projection

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
