"""Time the kernels against what bounds them, and against what people write today, on this machine.

    python tools/bench_kernels.py             # every kernel over small, middle and large sizes
    python tools/bench_kernels.py --check     # the rows that have a limit; exit status 1 if one is past it
    python tools/bench_kernels.py --json

A row's bound is the least that the hardware needs for the work: the matrix products in it, by numpy's BLAS (or by
cuBLAS), or the bytes that it reads and writes at the measured bandwidth of a copy. Kernel, bound and rivals take turns
in one process; figures are medians, ratios are of medians. Rivals that are not installed are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from bench_cases import Call, Case, autograd_rivals, copy_of, matrices, measure
from bench_others import others
from edge_kernels import cpu
from edge_kernels.arrays import Floats
from rich.console import Console
from rich.table import Table


def fisher(n: int, d: int, k: int, limit: float | None = None) -> list[Case]:
    """The Fisher from probabilities, and from the weights on."""
    x, w, p = matrices(n, d, k)
    logits, product = np.empty((n, k), np.float32), np.empty((k, d), np.float32)

    def products() -> None:
        np.matmul(x, w.T, out=logits)
        np.matmul(p.T, x, out=product)

    sizes = {"N": n, "D": d, "K": k}
    words = "the products x w^T and p^T x"
    rivals = autograd_rivals(x, w) if n <= 4096 and k <= 100 else {}
    floor = 50.0 if limit else None
    return [
        Case("fisher_true", sizes, lambda: cpu.fisher_true(x, p), products, words, 1.0, limit, rivals, floor),
        Case("softmax, fisher_true", sizes, lambda: cpu.fisher_true(x, cpu.softmax(x @ w.T)), products, words),
    ]


def second_moment(n: int, d: int, k: int, limit: float | None = None) -> list[Case]:
    """The update of the statistics, and the second moment alone."""
    x, _, _ = matrices(n, d, 2)
    labels = np.random.default_rng(0).integers(0, k, n)
    state = np.zeros(k, np.int64), np.zeros((k, d), np.float32), np.zeros((d, d), np.float32)

    def add() -> None:
        cpu.add_samples(*state, features=x, labels=labels)

    sizes = {"N": n, "D": d, "K": k}
    return [
        Case("add_samples", sizes, add, lambda: x.T @ x, "numpy x^T x", 1.0, limit),
        Case("second_moment", {"N": n, "D": d}, lambda: cpu.second_moment(x), lambda: x.T @ x, "numpy x^T x"),
    ]


def ewc_step(d: int, k: int, limit: float | None = None) -> list[Case]:
    """The EWC step: four arrays read, one written."""
    rng = np.random.default_rng(0)
    w, g, f, a = (rng.random((k, d), np.float32) for _ in range(4))
    bound, words = copy_of(5 * w.nbytes)

    def step() -> None:
        cpu.ewc_step(w, g, fisher=f, anchor=a, lr=1e-6, lam=1.0)

    def written() -> None:  # as it is written with numpy
        pull = 1e-6 * f
        w[...] = (w - 1e-6 * g + pull * a) / (1 + pull)

    return [Case("ewc_step", {"D": d, "K": k}, step, bound, words, 1.0, limit, {"the equation in numpy": (written, 1)})]


def scalars(n: int, d: int, limit: float | None = None) -> list[Case]:
    """The codecs of one scale, gathered by index; faiss's twin where it is installed."""
    x, _, _ = matrices(n, d, 2)
    x = np.abs(x)
    rows, out = np.random.default_rng(1).permutation(n), np.empty((n, d), np.float32)
    cases = []
    for n_bits in (4, 8):
        encode, decode = getattr(cpu, f"encode_int{n_bits}"), getattr(cpu, f"decode_int{n_bits}")
        codes, scales = encode(x)
        options: dict[str, Any] = {"dim": d} if n_bits == 4 else {}
        bound, words = copy_of(codes.nbytes + scales.nbytes + rows.nbytes + out.nbytes)

        gather = partial(decode, codes, scales, rows, **options, out=out)
        rivals = faiss_scalar(x, n_bits) if n >= 256 else {}
        given = limit if n_bits == 4 else None
        cases.append(Case(f"decode_int{n_bits}", {"N": n, "D": d}, gather, bound, words, 1.0, given, rivals))
        whole, words = copy_of(x.nbytes + codes.nbytes)
        cases.append(Case(f"encode_int{n_bits}", {"N": n, "D": d}, partial(encode, x), whole, words))
    return cases


def faiss_scalar(x: Floats, n_bits: int) -> dict[str, tuple[Call, float]]:
    """Decoding of all rows in order by faiss's scalar quantiser."""
    try:
        import faiss
    except ImportError:
        return {}
    kind = faiss.ScalarQuantizer.QT_4bit if n_bits == 4 else faiss.ScalarQuantizer.QT_8bit
    quantiser = faiss.ScalarQuantizer(x.shape[1], kind)
    quantiser.train(x)
    codes = quantiser.compute_codes(x)
    return {"faiss scalar quantiser": (lambda: quantiser.decode(codes), 1.0)}


def product(n: int, d: int, n_parts: int, limit: float | None = None) -> list[Case]:
    """Product quantisation with 256 codewords."""
    x, _, _ = matrices(n, d, 2)
    width = d // n_parts
    books = np.random.default_rng(1).standard_normal((n_parts, 256, width), np.float32)
    distances = np.empty((n, 256), np.float32)

    def products() -> None:
        for m in range(n_parts):
            np.matmul(x[:, m * width : (m + 1) * width], books[m].T, out=distances)

    rivals: dict[str, tuple[Call, float]] = {}
    try:
        import faiss
    except ImportError:
        pass
    else:
        quantiser = faiss.ProductQuantizer(d, n_parts, 8)
        faiss.copy_array_to_vector(books.ravel(), quantiser.centroids)
        rivals["faiss product quantiser"] = (lambda: quantiser.compute_codes(x), 1.0)
    sizes = {"N": n, "D": d, "M": n_parts}
    words = "the products of its distances"
    encode = Case("encode_pq", sizes, lambda: cpu.encode_pq(x, books), products, words, 1.0, limit, rivals)
    train = Case(
        "train_pq, one step",
        sizes,
        lambda: cpu.train_pq(x, n_subspaces=n_parts, n_steps=1),
        products,
        "the products of its distances",
    )
    codes, rows, out = cpu.encode_pq(x, books), np.random.default_rng(2).permutation(n), np.empty_like(x)
    bound, words = copy_of(codes.nbytes + out.nbytes + rows.nbytes)
    return [
        encode,
        train,
        Case("decode_pq", sizes, lambda: cpu.decode_pq(codes, books, rows, out=out), bound, words),
    ]


def projection(n: int, d: int, n_bytes: int) -> list[Case]:
    """Codes of the leading directions, 4 bits each."""
    x, _, _ = matrices(n, d, 2)
    n_directions = min(2 * n_bytes, d)
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((d, n_directions)))[0].T.astype(np.float32)
    bits, steps = np.full(n_directions, 4, np.uint8), np.full(n_directions, 0.3352, np.float32)
    fitted = cpu.Projection(np.ascontiguousarray(basis), np.zeros(d, np.float32), steps, bits)
    codes, rows, out = cpu.encode_projection(x, fitted), rng.permutation(n), np.empty_like(x)
    places = np.empty((n, n_directions), np.float32)
    sizes = {"N": n, "D": d, "R": n_directions}
    return [
        Case(
            "encode_projection",
            sizes,
            lambda: cpu.encode_projection(x, fitted),
            lambda: np.matmul(x, basis.T, out=places),
            "the product x basis^T",
        ),
        Case(
            "decode_projection",
            sizes,
            lambda: cpu.decode_projection(codes, fitted, rows, out=out),
            lambda: np.matmul(places, basis, out=out),
            "the product z basis",
        ),
    ]


def selection(n: int, d: int, n_chosen: int) -> list[Case]:
    """Herding: for each choice one pass over the features."""
    x, _, _ = matrices(n, d, 2)
    direction = np.ones(d, np.float32)

    def passes() -> None:
        for _ in range(n_chosen):
            x @ direction

    sizes = {"N": n, "D": d, "m": n_chosen}
    return [Case("herd", sizes, lambda: cpu.herd(x, n_chosen=n_chosen), passes, f"{n_chosen} products x v")]


def promised() -> list[Case]:
    """Return the rows that have a limit."""
    cases = [
        *fisher(4096, 1280, 100, 1.25),
        *second_moment(4096, 1280, 100, 1.15),
        *ewc_step(1280, 1000, 1.5),
        *scalars(4096, 1280, 2.0),
        *product(4096, 1280, 160, 1.5),
    ]
    return [case for case in cases if case.limit is not None]


def everything() -> list[Case]:
    """Return rows over the sizes that devices meet: a few samples, a session, a data set."""
    cases = []
    for n, d, k in ((32, 256, 10), (32, 1280, 100), (4096, 1280, 100), (4096, 2048, 1000), (65536, 1280, 10)):
        cases += fisher(n, d, k, 1.25 if (n, d, k) == (4096, 1280, 100) else None)
        cases += second_moment(n, d, k, 1.15 if (n, d, k) == (4096, 1280, 100) else None)
    for d, k in ((256, 10), (1280, 100), (1280, 1000), (2048, 1000)):
        cases += ewc_step(d, k, 1.5 if (d, k) == (1280, 1000) else None)
    for n, d in ((32, 256), (4096, 1280), (65536, 256)):
        cases += scalars(n, d, 2.0 if (n, d) == (4096, 1280) else None)
        cases += product(n, d, d // 8, 1.5 if (n, d) == (4096, 1280) else None)
        cases += projection(n, d, d // 8)
    return [*cases, *selection(1000, 1280, 20), *others(4096, 1280, 100)]


def rows_of_gpu(*, has_limit: bool) -> list[dict[str, Any]]:
    """Return the rows of a GPU, or of its simulator; none where there is neither."""
    if os.environ.get("NUMBA_ENABLE_CUDASIM") != "1":
        try:
            import torch
            from numba import cuda
        except ImportError:
            return []
        if not (torch.cuda.is_available() and cuda.is_available()):
            return []
    import cuda_cases

    cases = cuda_cases.promised() if has_limit else cuda_cases.everything()
    return [cuda_cases.measure(case) for case in cases]


FIRST_USE = """
import time
import numba
import numpy as np
from edge_kernels import cpu
begin = time.perf_counter()
x, y = np.random.default_rng(0).random((32, 16), np.float32), np.arange(32) % 4
p = cpu.softmax(x[:, :4])
cpu.fisher_true(x, p), cpu.fisher_empirical(x, p, y), cpu.fisher_sampled(x, p, p[:, 0])
cpu.fisher_hidden_true(x, x, slopes=x, probabilities=p, weights=x[:4])
many, state = np.tile(x, (20, 1)), (np.zeros(4, int), np.zeros((4, 16), np.float32), np.zeros((16, 16), np.float32))
cpu.add_samples(*state, features=many, labels=np.tile(y, 20))
cpu.ewc_step(x.copy(), x, fisher=x, anchor=x, lr=0.1, lam=1.0)
cpu.decode_int8(*cpu.encode_int8(x), y), cpu.decode_int4(*cpu.encode_int4(x), y, dim=16)
books = cpu.train_pq(x, n_subspaces=4, n_codewords=8, n_steps=1)
cpu.decode_pq(cpu.encode_pq(x, books), books, y)
fitted = cpu.fit_projection(x[0], np.eye(16), n_bytes=4)
cpu.decode_projection(cpu.encode_projection(x, fitted), fitted, y)
cpu.herd(x, n_chosen=3)
print(time.perf_counter() - begin)
"""


def first_use_seconds() -> float:
    """Return what the first calls take in a new process beyond importing numpy and numba, all code being cached."""
    times = [float(subprocess.check_output([sys.executable, "-c", FIRST_USE])) for _ in range(4)]
    return median(times[1:])


def show(rows: list[dict[str, Any]], first_use: float) -> None:
    """Print the table."""
    table = Table("kernel", "device", "sizes", "ms", "bound", "bound ms", "ratio", "at most", "others, times as long")
    for row in rows:
        sizes = " ".join(f"{letter}={row[letter]}" for letter in "NDKHMRm" if letter in row)
        others = "; ".join(f"{name}: {taken / row['kernel_ms']:.1f}" for name, taken in row["rivals_ms"].items())
        limit = "" if row["limit"] is None else f"{row['limit']:g}"
        numbers = f"{row['kernel_ms']:.3f}", row["bound"], f"{row['bound_ms']:.3f}", f"{row['ratio']:.2f}"
        table.add_row(row["kernel"], row["device"], sizes, *numbers, limit, others)
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)
    console.print(
        f"every kernel's first call in a new process, numpy and numba imported, cache warm: {first_use:.2f} s"
    )


def main() -> None:
    """Measure and print; exit status 1 if a promise is not kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only the rows with a limit; exit 1 if one is past it")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    args = parser.parse_args()
    rows = [measure(case) for case in (promised() if args.check else everything())]
    rows += rows_of_gpu(has_limit=args.check)
    first_use = first_use_seconds()
    past = [text for row in rows for text in row["past"]]
    if first_use > 1:
        past.append(f"first use of every kernel: {first_use:.2f} s, at most 1 s")
    if args.json:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        machine = {"machine": platform.machine(), "cores": cores, "python": platform.python_version()}
        machine |= {"numpy": np.__version__}
        print(json.dumps({"machine": machine, "rows": rows, "first_use_s": first_use, "past": past}, indent=1))
    else:
        show(rows, first_use)
    for text in past:
        print(f"past its bound: {text}", file=sys.stderr)
    sys.exit(1 if args.check and past else 0)


if __name__ == "__main__":
    main()
