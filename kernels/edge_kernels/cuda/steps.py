"""What a step of learning needs, on a GPU; see `reference.steps` for the arguments."""

from __future__ import annotations

import math

import numpy as np

from edge_kernels.arrays import KernelError, Shapes
from edge_kernels.cuda import target
from edge_kernels.cuda.fisher import write_exponentials
from edge_kernels.cuda.launch import HALF_BYTES, DeviceArray, is_half, settle, spans
from edge_kernels.cuda.target import ROW_THREADS, cuda

LOSS_ROWS = 1 << 16  # whose losses wait for their sum
LARGEST = float(np.finfo(np.float32).max)
ONE = np.float32(1)  # not 1, which would make float64 of float32: 64 times slower on small GPUs


def cross_entropy_delta(
    logits: DeviceArray, labels: DeviceArray, *, sample_weights: DeviceArray
) -> tuple[float, DeviceArray]:
    """See `reference.cross_entropy_delta`; it waits for the device, since the loss is a number of Python's."""
    loss, delta = cross_entropy_delta_there(logits, labels, sample_weights=sample_weights)
    return float(target.to_host(loss)[0]), delta


def cross_entropy_delta_there(
    logits: DeviceArray, labels: DeviceArray, *, sample_weights: DeviceArray
) -> tuple[DeviceArray, DeviceArray]:
    """Return the loss, (1,) float64, and the delta (N, K), both on the device, without waiting for it.

    A sample whose label is no class is left out of both.
    """
    place, (logits, labels, weights) = settle(logits=logits, labels=labels, sample_weights=sample_weights)
    shapes = Shapes()
    shapes.check("logits", logits, "N K")
    shapes.check("labels", labels, "N", "iu")
    shapes.check("sample_weights", weights, "N")
    (n_samples, n_classes), delta = logits.shape, place.empty(*logits.shape)
    loss = place.zeros(1, dtype="float64")
    row_bytes = 4 * max(n_classes, 1) if is_half(logits) else HALF_BYTES // LOSS_ROWS
    step = max(1, min(n_samples, LOSS_ROWS, HALF_BYTES // row_bytes))
    losses = place.empty(step, dtype="float64")
    for rows in spans(n_samples, step):
        size, x, w = rows.stop - rows.start, place.readable(logits[rows]), place.readable(weights[rows])
        place.launch_rows(_cross_entropy, size, x, labels[rows], w, delta[rows], losses[:size])
        place.start(_sum, 1, ROW_THREADS, losses[:size], loss)
    return loss, delta


def ewc_step(
    weights: DeviceArray, gradient: DeviceArray, *, fisher: DeviceArray, anchor: DeviceArray, lr: float, lam: float
) -> None:
    """See `reference.ewc_step`; the weights are float32, and the result lies between the step's and the anchor's.

    Raises:
        KernelError: `lr` or `lam` is negative or not finite.
    """
    place, (w, *others) = settle(weights=weights, gradient=gradient, fisher=fisher, anchor=anchor)
    shapes = Shapes()
    shapes.check("weights", w, "K D", "f4")
    for name, array in zip(("gradient", "fisher", "anchor"), others, strict=True):
        shapes.check(name, array, "K D")
    for name, value in (("lr", lr), ("lam", lam)):
        if not 0 <= value < math.inf:
            raise KernelError(f"{name}: expected a finite number of at least 0; found {value}")
    n_classes, dim = w.shape
    step = max(1, HALF_BYTES // (4 * max(dim, 1)) if any(map(is_half, others)) else n_classes)
    strength = np.float32(min(lr * lam, LARGEST))  # infinity times a Fisher of 0 would be no number
    for rows in spans(n_classes, step):
        parts = [place.readable(array[rows]) for array in others]
        place.launch(_ewc_step, (rows.stop - rows.start) * dim, w[rows], *parts, np.float32(lr), strength)


@cuda.jit
def _cross_entropy(logits, labels, weights, delta, losses):  # type: ignore[no-untyped-def]
    n, t, label = cuda.blockIdx.x, cuda.threadIdx.x, labels[cuda.blockIdx.x]
    weight = weights[n] if 0 <= label < logits.shape[1] else weights[n] * 0
    peak, total = write_exponentials(logits, delta, cuda.shared.array((2, ROW_THREADS), np.float64))
    scale = 1.0 / total  # float64: a confident label's p - 1 has no digits in float32
    for k in range(t, logits.shape[1], ROW_THREADS):
        delta[n, k] = weight * (delta[n, k] * scale - (1 if k == label else 0))
    if t == 0:
        losses[n] = 0.0
        if weight != 0:
            losses[n] = weight * (math.log(total) + (peak - logits[n, label]))


@cuda.jit
def _sum(terms, out):  # type: ignore[no-untyped-def]
    """Add the sum of some terms to `out`, by one block of threads, always in the same order."""
    shared = cuda.shared.array(ROW_THREADS, np.float64)
    total = np.float64(0)
    for n in range(cuda.threadIdx.x, terms.size, ROW_THREADS):
        total += terms[n]
    shared[cuda.threadIdx.x] = total
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        for s in range(ROW_THREADS):
            out[0] += shared[s]


@cuda.jit
def _ewc_step(weights, gradient, fisher, anchor, lr, strength):  # type: ignore[no-untyped-def]
    for t in range(cuda.grid(1), weights.size, cuda.gridsize(1)):
        k, d = divmod(t, weights.shape[1])
        stepped, kept = weights[k, d] - lr * gradient[k, d], anchor[k, d]
        keep = ONE / (ONE + strength * fisher[k, d])  # Parikh 2014, sec. 6.1.1; 0 where the product overflows
        mixed = keep * stepped + (ONE - keep) * kept
        weights[k, d] = min(max(mixed, min(stepped, kept)), max(stepped, kept))  # rounding does not leave the way
