"""What a row of the benchmarks is, and how one is measured, on whatever device."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
from edge_kernels import cpu
from edge_kernels.arrays import Floats

Call = Callable[[], object]
BUDGET = 3.0  # seconds that one row's repetitions may take beyond the first five


@dataclass
class Case:
    """One row to be measured.

    Attributes:
        kernel: name of it.
        sizes: of the arrays.
        run: the kernel.
        bound: what it is held to.
        bound_name: in words.
        bound_share: the bound is that many times what `bound` takes.
        limit: of the ratio to the bound; None where none is promised.
        rivals: by their names, and how many times their work the kernel does.
        floor: of the ratio of a rival to the kernel, where one is promised.
    """

    kernel: str
    sizes: dict[str, int]
    run: Call
    bound: Call
    bound_name: str
    bound_share: float = 1.0
    limit: float | None = None
    rivals: dict[str, tuple[Call, float]] = field(default_factory=dict)
    floor: float | None = None


def wall_ms(call: Call) -> float:
    """Return the milliseconds that a call takes by the clock."""
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def measure(case: Case, *, device: str = "cpu", time_ms: Callable[[Call], float] = wall_ms) -> dict[str, Any]:
    """Return the medians in milliseconds, taken in turns."""
    calls: dict[str, Call] = {"kernel": case.run, "bound": case.bound}
    calls |= {name: call for name, (call, _) in case.rivals.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # compiled, and in memory
    begin, n_turns = time.perf_counter(), 0
    while n_turns < 5 or (n_turns < 25 and time.perf_counter() - begin < BUDGET):
        for name, call in calls.items():
            if n_turns >= 3 and name in case.rivals:
                continue
            if name not in case.rivals:
                call()  # untimed: BLAS's threads wait actively for some time, at the cost of whoever comes next
            times[name].append(time_ms(call))
        n_turns += 1
    middle = {name: median(values) for name, values in times.items()}
    kernel, bound = middle["kernel"], case.bound_share * middle["bound"]
    rivals = {name: share * middle[name] for name, (_, share) in case.rivals.items()}
    row = {"kernel": case.kernel, "device": device, **case.sizes, "kernel_ms": kernel, "bound": case.bound_name}
    row |= {"bound_ms": bound, "ratio": kernel / bound, "limit": case.limit, "rivals_ms": rivals}
    row["past"] = past_of(case, kernel / bound, {name: taken / kernel for name, taken in rivals.items()})
    return row


def past_of(case: Case, ratio: float, faster: dict[str, float]) -> list[str]:
    """Return what a row promised and did not keep, in words."""
    where = f"{case.kernel} ({', '.join(f'{letter} {size}' for letter, size in case.sizes.items())})"
    past = []
    if case.limit is not None and ratio > case.limit:
        past.append(f"{where}: {ratio:.2f} x {case.bound_name}, at most {case.limit:g} x")
    if case.floor is not None and not faster:
        past.append(f"{where}: not compared with the autograd loop; type: pip install torch")
    elif case.floor is not None and faster["autograd loop"] < case.floor:
        past.append(f"{where}: the autograd loop takes {faster['autograd loop']:.0f} x, at least {case.floor:g} x")
    return past


def autograd_rivals(x: Any, w: Any) -> dict[str, tuple[Call, float]]:
    """What is written with torch today: the loop over samples, vmap over samples, and the batch squared (not exact).

    Args:
        x: (N, D) features, of numpy or a tensor on any device.
        w: (K, D) weights beside them.

    Returns:
        Calls by their names, and how many times their work all samples are; nothing where torch is missing.
    """
    try:
        import torch
    except ImportError:
        return {}
    n_loop = min(len(x), 4096)
    weights, features = torch.as_tensor(w).clone().requires_grad_(), torch.as_tensor(x)
    labels = torch.arange(len(x), device=features.device) % len(w)
    cross_entropy = torch.nn.functional.cross_entropy

    def loop() -> Any:
        total = torch.zeros_like(weights)
        for n in range(n_loop):
            loss = cross_entropy(features[n : n + 1] @ weights.T, labels[n : n + 1])
            total += torch.autograd.grad(loss, weights)[0] ** 2
        return total / n_loop

    def loss_of(one: Any, sample: Any, label: Any) -> Any:
        return cross_entropy((one @ sample)[None], label[None])

    per_sample = torch.func.vmap(torch.func.grad(loss_of), in_dims=(None, 0, 0))

    def vmap() -> Any:  # in pieces, or it would need N K D values at once
        total = torch.zeros_like(weights)
        for start in range(0, n_loop, 64):
            rows = slice(start, min(start + 64, n_loop))
            total += (per_sample(weights.detach(), features[rows], labels[rows]) ** 2).sum(0)
        return total / n_loop

    def batches() -> Any:  # as Avalanche's EWC does: the square of a mean gradient, which is no Fisher
        total = torch.zeros_like(weights)
        for start in range(0, len(x), 32):
            rows = slice(start, start + 32)
            loss = cross_entropy(features[rows] @ weights.T, labels[rows])
            total += torch.autograd.grad(loss, weights)[0] ** 2 * len(labels[rows])
        return total / len(x)

    share = len(x) / n_loop
    return {
        "autograd loop": (loop, share),
        "torch.func vmap": (vmap, share),
        "batch gradient squared, as Avalanche": (batches, 1.0),
    }


def matrices(n: int, d: int, k: int) -> tuple[Floats, Floats, Floats]:
    """Return features (n, d), weights (k, d) and the probabilities (n, k) that they give."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, d), np.float32)
    w = rng.standard_normal((k, d), np.float32) / np.float32(np.sqrt(d))
    return x, w, cpu.softmax(x @ w.T)


def copy_of(n_bytes: int) -> tuple[Call, str]:
    """Return a copy that moves that many bytes, half of them read and half of them written."""
    source = np.ones(max(n_bytes // 8, 1), np.float32)
    target = np.empty_like(source)
    return lambda: np.copyto(target, source), f"{n_bytes / 2**20:.1f} MiB at copy bandwidth"
