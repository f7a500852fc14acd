"""What only a GPU can show of the CUDA kernels: they follow torch's streams, and a CUDA graph can hold them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from edge_kernels import cuda, reference
from edge_kernels.cuda import target

from tests.cuda_arrays import get, halves, need_device, put, torch

need_device()

if target.IS_SIMULATED:
    pytest.skip("the simulator has neither streams nor graphs", allow_module_level=True)


def test_kernels_wait_for_what_their_stream_does_before() -> None:
    x, p = put(halves(300, 64), form="float32"), put(reference.softmax(halves(300, 10)), form="float32")
    want = get(cuda.fisher_true(x, p))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        late = torch.zeros_like(x)
        torch.cuda._sleep(50_000_000)  # tens of milliseconds: a kernel on another stream would find zeros
        late.copy_(x)
        found = cuda.fisher_true(late, p)
    stream.synchronize()
    np.testing.assert_array_equal(get(found), want)


def test_a_graph_replays_a_step_of_learning() -> None:
    x, p = put(halves(40, 16), form="float32"), put(reference.softmax(halves(40, 5)), form="float32")
    logits, y = put(halves(40, 5), form="float32"), put(np.arange(40) % 5)
    start, anchor = put(halves(5, 16), form="float32"), put(halves(5, 16), form="float32")
    codes, scales = cuda.encode_int8(x)
    weights, out, ones = start.clone(), torch.empty_like(x), torch.ones(40, device=x.device)

    def learn() -> Any:
        cuda.decode_int8(codes, scales, y, out=out)
        loss, delta = cuda.steps.cross_entropy_delta_there(logits, y, sample_weights=ones)
        fisher = cuda.fisher_true(out, p)
        cuda.ewc_step(weights, delta.T @ out, fisher=fisher, anchor=anchor, lr=0.1, lam=2.0)
        return loss

    learn()  # compiles, which a capture forbids
    want = get(weights)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        learn()
    weights.copy_(start)
    graph.replay()
    np.testing.assert_array_equal(get(weights), want)
