"""The rows of the kernels on a GPU; `bench_kernels.py` measures them where there is one.

What waits for no answer stands twice: as calls, of which Python's part is most where sizes are small, and as a CUDA
graph of the same. Rows with a limit are of sizes that fill a GPU. Sizes that its memory does not hold are left out,
and said; all of them together take less than 4 GiB.

With `NUMBA_ENABLE_CUDASIM=1` the same rows run in numba's simulator at toy sizes, to see that they run: no figure of
theirs says anything, and none has a limit.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from functools import cache, partial
from typing import Any

import bench_cases
import torch
from bench_cases import Call, Case, autograd_rivals
from edge_kernels import cuda
from edge_kernels.cuda.matrices import exact_products
from edge_kernels.cuda.target import IS_SIMULATED

DEVICE = torch.device("cpu" if IS_SIMULATED else "cuda")
SMALL = [(4, 16, 3)] if IS_SIMULATED else [(32, 256, 10), (32, 1280, 100)]  # N, D, K
MIDDLE = [] if IS_SIMULATED else [(4096, 1280, 100)]
FULL = (6, 16, 3) if IS_SIMULATED else (65536, 1280, 100)
HEADS = [(16, 3)] if IS_SIMULATED else [(256, 10), (1280, 100), (1280, 1000)]  # D, K
FULL_HEAD = (16, 4) if IS_SIMULATED else (1280, 16384)
CHOICE = (6, 16, 2) if IS_SIMULATED else (1000, 1280, 20)  # N, D, m
N_CODEWORDS = 4 if IS_SIMULATED else 256
LIMIT = None if IS_SIMULATED else 1.5
COPY_BYTES = 128 << 20  # of what is copied: more than any GPU's cache
SPAN_MS = 5.0  # that the events of one measurement lie apart at least
WIDTH = 8  # of a part of a product quantiser


class Replayed:
    """A call that is made once as it is, and then by a CUDA graph."""

    def __init__(self, call: Call) -> None:
        self._call, self._graph = call, torch.cuda.CUDAGraph()
        self._is_held = False

    def __call__(self) -> None:
        """Replay the graph, after making it where there is none."""
        if not self._is_held:
            self._call()  # compiles, which a graph cannot hold
            torch.cuda.synchronize()
            with torch.cuda.graph(self._graph):
                self._call()
            self._is_held = True
        self._graph.replay()


class Stopwatch:
    """Milliseconds of a call, by the GPU's events around as many as take some time."""

    def __init__(self) -> None:
        self._n_calls: dict[Call, int] = {}

    def __call__(self, call: Call) -> float:
        """Return what one call takes when others come before and after."""
        n_calls = self._n_calls.get(call, 1)
        taken = self._lasts(call, n_calls)
        while taken < SPAN_MS:
            n_calls *= 2
            taken = self._lasts(call, n_calls)
        self._n_calls[call] = n_calls
        return taken / n_calls

    @staticmethod
    def _lasts(call: Call, n_calls: int) -> float:
        event: Any = torch.cuda.Event
        start, end = event(enable_timing=True), event(enable_timing=True)
        start.record()
        for _ in range(n_calls):
            call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))


def measure(case: Case) -> dict[str, Any]:
    """Return the medians in milliseconds, taken in turns."""
    if IS_SIMULATED:
        return bench_cases.measure(case, device="simulator")
    with exact_products():  # torch's too: TF32 would be another bound
        return bench_cases.measure(case, device=torch.cuda.get_device_name(), time_ms=Stopwatch())


def with_graphs(cases: list[Case]) -> list[Case]:
    """Return rows, and after each the same as a graph, its bound too."""
    if IS_SIMULATED:
        return cases
    twins = [
        replace(case, run=Replayed(case.run), bound=Replayed(case.bound), kernel=f"{case.kernel}, graph")
        for case in cases
    ]
    for twin in twins:
        twin.limit, twin.rivals = None, {}
    return [each for pair in zip(cases, twins, strict=True) for each in pair]


def fits(n_rows: int, dim: int) -> bool:
    """Return whether a GPU has room for eight matrices of float32; say so where it has not."""
    if IS_SIMULATED or torch.cuda.mem_get_info()[0] >= 8 * 4 * n_rows * dim:
        return True
    print(f"left out, for want of memory on the GPU: rows of {n_rows} x {dim}", file=sys.stderr)
    return False


@cache
def features(n: int, d: int) -> Any:
    """Return normal numbers (n, d); rows of the same size share them."""
    return torch.randn(n, d, generator=torch.Generator(DEVICE).manual_seed(0), device=DEVICE)


@cache
def decoded(n: int, d: int) -> Any:
    """Return room (n, d) for what codecs decode."""
    return torch.empty(n, d, device=DEVICE)


@cache
def shuffled(n: int) -> Any:
    """Return the rows 0 to n - 1 in any order."""
    return torch.randperm(n, generator=torch.Generator(DEVICE).manual_seed(1), device=DEVICE)


@cache
def pages() -> tuple[Any, Any]:
    """Return what a copy is made of, and room for it."""
    source = torch.zeros(1 << 10 if IS_SIMULATED else COPY_BYTES, dtype=torch.uint8, device=DEVICE)
    return source, torch.empty_like(source)


def copy_of(*arrays: Any, n_times: int = 1) -> tuple[Call, str, float]:
    """Return a copy that moves the bytes of some arrays, half of them read and half of them written.

    Returns:
        The copy, what it is in words, and how many such copies it would take.
    """
    n_bytes = n_times * sum(array.numel() * array.element_size() for array in arrays)
    source, target = pages()
    n_copied = max(1, min(n_bytes // 2, len(source)))
    copy = partial(target[:n_copied].copy_, source[:n_copied])
    return copy, f"{n_bytes / 2**20:.1f} MiB at copy bandwidth", n_bytes / 2 / n_copied


def fisher(n: int, d: int, k: int, limit: float | None = None) -> list[Case]:
    """The Fisher from probabilities, and from the weights on."""
    x, w = features(n, d), features(k, d) / math.sqrt(d)
    p, logits, product = cuda.softmax(x @ w.T), torch.empty(n, k, device=DEVICE), torch.empty(k, d, device=DEVICE)

    def products() -> None:
        torch.mm(x, w.T, out=logits)
        torch.mm(p.T, x, out=product)

    def written() -> Any:
        return (p * (1 - p)).T @ (x * x) / len(x)

    sizes, words = {"N": n, "D": d, "K": k}, "torch x w^T and p^T x"
    rivals = autograd_rivals(x, w) | {"the equation in torch": (written, 1.0)}
    whole = partial(from_weights, x, w)
    return [
        Case("fisher_true", sizes, partial(cuda.fisher_true, x, p), products, words, 1.0, limit, rivals),
        Case("softmax, fisher_true", sizes, whole, products, words),
    ]


def from_weights(x: Any, w: Any) -> Any:
    """Return the Fisher of weights, their probabilities first."""
    return cuda.fisher_true(x, cuda.softmax(x @ w.T))


def second_moment(n: int, d: int, k: int, limit: float | None = None) -> list[Case]:
    """The update of the statistics, and the second moment alone."""
    x, gram = features(n, d), torch.empty(d, d, device=DEVICE)
    labels = shuffled(n) % k
    counts = torch.zeros(k, dtype=torch.int64, device=DEVICE)
    means, scatter = torch.zeros(k, d, device=DEVICE), torch.zeros(d, d, device=DEVICE)
    add = partial(cuda.add_samples, counts, means, scatter, features=x, labels=labels)
    square = partial(torch.mm, x.T, x, out=gram)
    words = "torch x^T x"
    return [
        Case("add_samples", {"N": n, "D": d, "K": k}, add, square, words, 1.0, limit),
        Case("second_moment", {"N": n, "D": d}, partial(cuda.second_moment, x), square, words, 1.0, limit),
    ]


def ewc_step(d: int, k: int, limit: float | None = None) -> list[Case]:
    """The EWC step: four arrays read, one written."""
    w, g, f, a = (torch.rand(k, d, device=DEVICE) for _ in range(4))
    bound, words, share = copy_of(w, n_times=5)

    def written() -> None:
        pull = 1e-6 * f
        w.copy_((w - 1e-6 * g + pull * a) / (1 + pull))

    step = partial(cuda.ewc_step, w, g, fisher=f, anchor=a, lr=1e-6, lam=1.0)
    rivals: dict[str, tuple[Call, float]] = {"the equation in torch": (written, 1.0)}
    return [Case("ewc_step", {"D": d, "K": k}, step, bound, words, share, limit, rivals)]


def scalars(n: int, d: int, limit: float | None = None) -> list[Case]:
    """The codecs of one scale, gathered by index."""
    x, rows, out, sizes = features(n, d).abs(), shuffled(n), decoded(n, d), {"N": n, "D": d}
    cases = []
    for n_bits in (4, 8):
        encode, decode = getattr(cuda, f"encode_int{n_bits}"), getattr(cuda, f"decode_int{n_bits}")
        codes, scales = encode(x)
        options: dict[str, Any] = {"dim": d} if n_bits == 4 else {}
        gather = partial(decode, codes, scales, rows, **options, out=out)
        rivals: dict[str, tuple[Call, float]] = {"the same in torch": (partial(read, codes, scales, rows, n_bits), 1.0)}
        bound, words, share = copy_of(codes, scales, rows, out)
        cases.append(Case(f"decode_int{n_bits}", sizes, gather, bound, words, share, limit, rivals))
        bound, words, share = copy_of(x, codes, scales)
        cases.append(Case(f"encode_int{n_bits}", sizes, partial(encode, x), bound, words, share))
    return cases


def read(codes: Any, scales: Any, rows: Any, n_bits: int) -> Any:
    """Return what torch decodes of codes without a sign, as those of features that are not negative are."""
    found = codes[rows]
    if n_bits == 4:
        found = torch.stack((found & 15, found >> 4), dim=2).flatten(1)
    return found.float() * scales[rows].abs()[:, None]


def product(n: int, d: int, limit: float | None = None) -> list[Case]:
    """Product quantisation."""
    x, rows, out = features(n, d), shuffled(n), decoded(n, d)
    n_parts = d // WIDTH
    books = torch.randn(n_parts, N_CODEWORDS, WIDTH, device=DEVICE)
    distances, parts = torch.empty(n, N_CODEWORDS, device=DEVICE), x.view(n, n_parts, WIDTH)
    codes, columns = cuda.encode_pq(x, books), torch.arange(n_parts, device=DEVICE)

    def products() -> None:
        for m in range(n_parts):
            torch.mm(parts[:, m], books[m].T, out=distances)

    def nearest() -> Any:
        return [torch.cdist(parts[:, m], books[m]).argmin(1) for m in range(n_parts)]

    def gathered() -> Any:
        return books[columns, codes[rows].long()].flatten(1)

    sizes, words = {"N": n, "D": d, "M": n_parts}, "torch's products of its distances"
    encode, decode = partial(cuda.encode_pq, x, books), partial(cuda.decode_pq, codes, books, rows, out=out)
    by_cdist: dict[str, tuple[Call, float]] = {"torch.cdist": (nearest, 1.0)}
    by_index: dict[str, tuple[Call, float]] = {"the same in torch": (gathered, 1.0)}
    bound, moved, share = copy_of(codes, out, rows)
    return [
        Case("encode_pq", sizes, encode, products, words, 1.0, limit, by_cdist),
        Case("decode_pq", sizes, decode, bound, moved, share, None, by_index),
    ]


def projection(n: int, d: int) -> tuple[Case, Case]:
    """Codes of a quarter of the directions, 4 bits each: what waits for the GPU, and what does not."""
    x, rows, out = features(n, d), shuffled(n), decoded(n, d)
    n_directions = d // 4
    basis = torch.linalg.qr(features(d, d)[:, :n_directions])[0].T.contiguous()
    steps, bits = torch.full((n_directions,), 0.3352), torch.full((n_directions,), 4, dtype=torch.uint8)
    parts: list[Any] = [basis, torch.zeros(d, device=DEVICE), steps.to(DEVICE), bits.to(DEVICE)]
    fitted = cuda.Projection(*parts)
    codes, places = cuda.encode_projection(x, fitted), x @ basis.T
    sizes = {"N": n, "D": d, "R": n_directions}
    forth, back = partial(torch.mm, x, basis.T, out=places), partial(torch.mm, places, basis, out=out)
    encode = partial(cuda.encode_projection, x, fitted)
    decode = partial(cuda.decode_projection, codes, fitted, rows, out=out)
    return (
        Case("encode_projection", sizes, encode, forth, "torch x basis^T"),
        Case("decode_projection", sizes, decode, back, "torch z basis"),
    )


def selection(n: int, d: int, n_chosen: int) -> list[Case]:
    """Herding: for each choice one pass over the features."""
    x, direction, along = features(n, d), torch.ones(d, device=DEVICE), torch.empty(n, device=DEVICE)

    def passes() -> None:
        for _ in range(n_chosen):
            torch.mv(x, direction, out=along)

    herd = partial(cuda.herd, x, n_chosen=n_chosen)
    return [Case("herd", {"N": n, "D": d, "m": n_chosen}, herd, passes, f"torch x v, {n_chosen} times")]


def of_samples(n: int, d: int, k: int, limit: float | None = None) -> list[Case]:
    """Return the rows of samples that a graph can hold."""
    return [
        *fisher(n, d, k, limit),
        *second_moment(n, d, k, limit),
        *scalars(n, d, limit),
        *product(n, d, limit),
    ]


def promised() -> list[Case]:
    """Return the rows that have a limit, and in the simulator those that would have one."""
    cases = of_samples(*FULL, LIMIT) if fits(*FULL[:2]) else []
    cases += ewc_step(*FULL_HEAD, LIMIT) if fits(FULL_HEAD[1], FULL_HEAD[0]) else []
    return [case for case in cases if IS_SIMULATED or case.limit is not None]


def everything() -> list[Case]:
    """Return rows over the sizes that devices meet: a few samples, a session, a data set."""
    cases = []
    for n, d, k in (*SMALL, *MIDDLE, FULL):
        if fits(n, d):
            encode, decode = projection(n, d)
            cases += with_graphs([*of_samples(n, d, k, LIMIT if (n, d, k) == FULL else None), decode])
            cases.append(encode)
    for d, k in (*HEADS, FULL_HEAD):
        if fits(k, d):
            cases += with_graphs(ewc_step(d, k, LIMIT if (d, k) == FULL_HEAD else None))
    return [*cases, *with_graphs(selection(*CHOICE))]
