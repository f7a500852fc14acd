"""The kernels of `reference` on a GPU: torch tensors, or whatever else has `__cuda_array_interface__`, without a copy.

Results live where the inputs do and are float32 (scales float16, codes uint8, chosen samples int64). Kernels run on
torch's current stream, or on numba's default stream where no tensor is involved. Only what returns numbers to Python
waits for them: `cross_entropy_delta`, `balanced_reservoir`, `fit_projection` and `encode_projection`. All arrays of a
call are tensors on one device, or none is a tensor.

Shapes and types are checked; values, which would have to be waited for, are not:

| what                              | becomes                                                             |
|-----------------------------------|---------------------------------------------------------------------|
| a label that is no class          | a sample left out; in a Fisher, the label of no class               |
| a row, or a codeword, not there   | NaN                                                                 |
| more samples removed than counted | a count of 0, and a scatter that means nothing                      |
| values beyond a float16 scale     | an infinite scale, and NaN when decoded                             |

Under `NUMBA_ENABLE_CUDASIM=1` the same kernels run on numpy arrays and CPU tensors.
"""

try:
    import numba.cuda  # noqa: F401
except ImportError as error:
    raise ImportError("edge_kernels.cuda: numba.cuda is missing; type: pip install numba-cuda") from error

from edge_kernels.cuda.curvature import kronecker_product, label_covariance, second_moment
from edge_kernels.cuda.fisher import fisher_empirical, fisher_mse, fisher_sampled, fisher_true, softmax
from edge_kernels.cuda.hidden import fisher_hidden_empirical, fisher_hidden_true
from edge_kernels.cuda.product import decode_pq, encode_pq, train_pq
from edge_kernels.cuda.projection import decode_projection, encode_projection, fit_projection
from edge_kernels.cuda.recursion import rls_update
from edge_kernels.cuda.scalars import decode_int4, decode_int8, encode_int4, encode_int8
from edge_kernels.cuda.selection import balanced_reservoir, draw_priority, herd
from edge_kernels.cuda.statistics import add_samples, merge_statistics, remove_samples
from edge_kernels.cuda.steps import cross_entropy_delta, ewc_step
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
