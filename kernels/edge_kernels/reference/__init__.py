"""The definition of every kernel, in numpy float64 and the fewest lines."""

from edge_kernels.reference.curvature import kronecker_product, label_covariance, rls_update, second_moment
from edge_kernels.reference.fisher import (
    HiddenFisher,
    fisher_empirical,
    fisher_hidden_empirical,
    fisher_hidden_true,
    fisher_mse,
    fisher_sampled,
    fisher_true,
    softmax,
)
from edge_kernels.reference.product import decode_pq, encode_pq, train_pq
from edge_kernels.reference.projection import Projection, decode_projection, encode_projection, fit_projection
from edge_kernels.reference.scalars import decode_int4, decode_int8, encode_int4, encode_int8
from edge_kernels.reference.selection import balanced_reservoir, draw_priority, herd
from edge_kernels.reference.statistics import add_samples, merge_statistics, remove_samples
from edge_kernels.reference.steps import cross_entropy_delta, ewc_step

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
