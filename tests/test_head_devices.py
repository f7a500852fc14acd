"""Heads of other kinds on torch's tensors: their code is the same, and so is what it comes to.

The kernels are the processor's, reached through the same memory: those of CUDA have tests of their own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_cl.devices import HOST, Device
from edge_cl.head import Head
from edge_cl.hidden import Hidden
from edge_cl.memory import Memory
from edge_cl.recipes import RECIPES
from edge_cl.update import propose

from .device_kernels import HostKernels

Array = NDArray[Any]


def torch_device() -> Device:
    """Return a device whose arrays are torch's, on the processor."""
    pytest.importorskip("torch")
    from edge_cl.devices.cuda import CudaDevice

    class TorchDevice(CudaDevice):
        kernels = HostKernels()

    return TorchDevice("cpu")


def problem(kind: str) -> tuple[Array, list[str]]:
    """Return samples in three classes; rings, which planes do not tell apart, for a hidden layer."""
    rng = np.random.default_rng(0)
    y = np.arange(240) % 3
    if kind == "mlp":
        angle, radius = rng.uniform(0, 2 * np.pi, 240), 1 + y + 0.1 * rng.normal(size=240)
        x = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(240, 2.0)], axis=1)
    else:
        x = 2 + rng.normal(size=(3, 3))[y] + 0.3 * rng.normal(size=(240, 3))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    if kind == "looks":
        x[150:] = x[150:, ::-1] * 3
    names = [f"{'ab'[n % 2]}/{k}" if kind == "tasks" else f"c{k}" for n, k in enumerate(y)]
    return x.astype(np.float32), names


@pytest.mark.parametrize(
    ("kind", "recipe"),
    [
        ("cosine", "slda"),
        ("cosine", "edge"),
        ("cosine", "replay"),
        ("mlp", "edge"),
        ("mlp", "replay"),
        ("mlp", "ewc-diagonal"),
        ("mlp", "joint"),
        ("tasks", "slda"),
        ("tasks", "edge"),
        ("tasks", "replay"),
        ("looks", "edge"),
    ],
)
def test_torch_tensors_come_to_the_same(kind: str, recipe: str) -> None:
    x, names = problem(kind)
    heads: list[Head] = []
    for device in (HOST, torch_device()):
        memory = Memory.empty(3, has_scatter=RECIPES[recipe].has_scatter, replay_bytes=10**5, seed=0)
        form = "linear" if kind in {"tasks", "looks"} else kind
        memory = replace(memory, head=Head.empty(3, form, has_tasks=kind == "tasks", hidden_units=16))
        for rows in (slice(0, 150), slice(150, 240)):
            memory = propose(memory, RECIPES[recipe], x[rows], names[rows], device).memory
        heads.append(memory.head)
    host, there = heads
    if kind == "mlp":  # not convex: what both must agree on is how well they do
        assert host.hidden is not None
        assert there.hidden is not None
        assert host.hidden.rows.any()
        assert len(there.hidden.fisher) == len(host.hidden.fisher)
        right = [np.mean([h.classes[k] == n for k, n in zip(h.logits(x).argmax(1), names, strict=True)]) for h in heads]
        assert min(right) > 0.9
    for task in host.tasks or ("",):  # across tasks, nothing says how loud one is beside the other
        both = [(head.of_task(task) if task else head).predict(x) for head in heads]
        if recipe == "slda":
            np.testing.assert_allclose(both[1], both[0], atol=1e-3)
        elif kind != "mlp":  # as near as the minimiser's tolerance, 1e-5 of the loss, brings them
            assert np.mean(both[0].argmax(axis=1) == both[1].argmax(axis=1)) > 0.97
    if kind == "looks":
        assert host.looks is not None
        assert there.looks is not None
        assert np.array_equal(host.looks.owners, there.looks.owners)
    if kind == "cosine":
        lengths = np.linalg.norm(there.rows[0], axis=1)
        np.testing.assert_allclose(lengths, lengths[0], rtol=1e-5)


def test_a_hidden_layer_of_tensors_gets_units_as_one_of_arrays_does() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    units, rows, fisher = (rng.random(shape).astype(np.float32) for shape in ((3, 5), (2, 3), (21,)))
    wide = Hidden(units, rows, fisher, n_first=2).widen(4)
    tensors: list[Any] = [torch.from_numpy(part) for part in (units, rows, fisher)]
    there = Hidden(tensors[0], tensors[1], tensors[2], n_first=2).widen(4)
    for found, want in ((there.units, wide.units), (there.rows, wide.rows), (there.fisher, wide.fisher)):
        assert isinstance(found, torch.Tensor)
        np.testing.assert_array_equal(np.asarray(found), want)
