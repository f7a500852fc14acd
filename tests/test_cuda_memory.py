"""How much memory the CUDA kernels take beyond inputs and outputs, however many samples there are."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from edge_kernels import cuda, reference
from edge_kernels.cuda import target
from edge_kernels.cuda.launch import Place

if not target.IS_SIMULATED:
    pytest.skip("counts numpy arrays: test_cuda_simulator runs it in the simulator", allow_module_level=True)

N, D, K, H = 20_000, 2048, 1000, 2048


class Count:
    """Bytes of the arrays that a call has made: at present, and at most."""

    def __init__(self) -> None:
        self.now = self.peak = 0

    def follow(self, made: Any) -> Any:
        self.change(made.nbytes)
        weakref.finalize(made, self.change, -made.nbytes)
        return made

    def change(self, n_bytes: int) -> None:
        self.now += n_bytes
        self.peak = max(self.peak, self.now)


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Count:
    """Count what is allocated, and start no kernel: sizes do not depend on numbers."""
    counted, allocate = Count(), target.allocate
    monkeypatch.setattr(target, "allocate", lambda shape, dtype: counted.follow(allocate(shape, dtype)))
    monkeypatch.setattr(Place, "start", lambda *_: None)
    return counted


def zeros(*shape: int, dtype: str) -> Any:
    """Return an array that takes no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def outputs(made: Any) -> int:
    """Return the bytes of what a call has returned; views of one array count once."""
    parts = made if isinstance(made, tuple) else (made,)
    owners = [part if getattr(part, "base", None) is None else part.base for part in parts]
    return sum({id(owner): getattr(owner, "nbytes", 0) for owner in owners}.values())


def calls(dtype: str) -> dict[str, Callable[[], Any]]:
    """Return calls of every kernel, of the largest sizes that they are made for."""

    def of(*shape: int, kind: str = dtype) -> Any:
        return zeros(*shape, dtype=kind)

    x, p, y, w, square = of(N, D), of(N, K), of(N, kind="int64"), of(K, D), of(D, D)
    wide = "float64" if dtype == "float64" else "float32"
    state = of(K, kind="int64"), of(K, D, kind=wide), of(D, D, kind=wide)
    other = {"other_counts": state[0], "other_means": w, "other_scatter": square}
    hidden = {"slopes": of(N, H), "probabilities": p, "weights": of(K, H)}
    books, codes, scales = of(128, 256, D // 128), of(N, D, kind="uint8"), of(N, kind="float16")
    part = reference.Projection(
        zeros(D, D, dtype="float32"), zeros(D, dtype="float32"), zeros(D, dtype="float32"), np.full(D, 8, np.uint8)
    )
    return {
        "softmax": lambda: cuda.softmax(p),
        "fisher_true": lambda: cuda.fisher_true(x, p, has_bias=True),
        "fisher_empirical": lambda: cuda.fisher_empirical(x, p, y, has_bias=True),
        "fisher_sampled": lambda: cuda.fisher_sampled(x, p, of(N), has_bias=True),
        "fisher_mse": lambda: cuda.fisher_mse(x, has_bias=True),
        "fisher_hidden_true": lambda: cuda.fisher_hidden_true(x, of(N, H), **hidden),
        "fisher_hidden_empirical": lambda: cuda.fisher_hidden_empirical(x, of(N, H), **hidden, labels=y),
        "second_moment": lambda: cuda.second_moment(x),
        "label_covariance": lambda: cuda.label_covariance(p),
        "kronecker_product": lambda: cuda.kronecker_product(w, label_factor=of(K, K), feature_factor=square),
        "rls_update": lambda: cuda.rls_update(state[1], state[2], features=x[:200], targets=p[:200]),
        "add_samples": lambda: cuda.add_samples(*state, features=x, labels=y),
        "merge_statistics": lambda: cuda.merge_statistics(*state, **other),
        "cross_entropy_delta": lambda: cuda.cross_entropy_delta(p, y, sample_weights=of(N)),
        "ewc_step": lambda: cuda.ewc_step(of(K, D, kind="float32"), w, fisher=w, anchor=w, lr=1, lam=1),
        "encode_int8": lambda: cuda.encode_int8(x),
        "decode_int8": lambda: cuda.decode_int8(codes, scales, y),
        "encode_int4": lambda: cuda.encode_int4(x),
        "decode_int4": lambda: cuda.decode_int4(codes[:, : D // 2], scales, y, dim=D),
        "train_pq": lambda: cuda.train_pq(x, n_subspaces=128, n_steps=1),
        "encode_pq": lambda: cuda.encode_pq(x, books),
        "decode_pq": lambda: cuda.decode_pq(codes[:, :128], books, y),
        "encode_projection": lambda: cuda.encode_projection(x, part),
        "decode_projection": lambda: cuda.decode_projection(codes, part, y),
        "herd": lambda: cuda.herd(x, n_chosen=2),
    }


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("name", calls("float32"))
def test_a_call_takes_at_most_eight_mebibytes_beyond_what_it_is_given_and_returns(
    name: str, dtype: str, count: Count
) -> None:
    made = calls(dtype)[name]()
    assert count.peak - outputs(made) <= 8 << 20
