"""Where an update is computed: the CPU, a GPU, or whichever of them is there; memory that runs out halves the batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_cl import Learner
from edge_cl.backbones import open_backbone
from edge_cl.backbones.session import halve, is_on_gpu, open_session
from edge_cl.devices import HOST, ChosenDevice, Device
from edge_cl.devices.choose import GPU_VALUES, has_gpu
from edge_cl.errors import DeviceError, EdgeClError, InputError, SessionError
from edge_cl.memory import Memory
from edge_cl.recipes import RECIPES
from edge_cl.refine import Objective
from edge_cl.update import propose

from .conftest import clusters

ROOT = Path(__file__).resolve().parents[1]
no_gpu = pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")


class SmallDevice(Device):
    """A device whose memory holds so many rows."""

    def __init__(self, n_rows: int) -> None:
        self.n_rows = n_rows

    def check(self, rows: slice) -> None:
        if rows.stop - rows.start > self.n_rows:
            raise MemoryError


@pytest.mark.parametrize(("n_rows", "room"), [(0, 1), (1, 1), (100, 100), (100, 7), (33, 1)])
def test_every_row_is_worked_on_once_however_little_fits(n_rows: int, room: int) -> None:
    device, done = SmallDevice(room), np.zeros(n_rows, int)

    def run(rows: slice) -> None:
        device.check(rows)
        done[rows] += 1

    device.each(n_rows, run)
    np.testing.assert_array_equal(done, 1)


def test_memory_that_does_not_hold_one_row_is_an_error() -> None:
    device = SmallDevice(0)
    with pytest.raises(MemoryError):
        device.each(10, device.check)


def test_loss_and_gradient_do_not_depend_on_the_batch() -> None:
    rng = np.random.default_rng(0)
    device = Device()
    device.batch = 7
    x, offsets, y = rng.normal(size=(30, 5)), rng.normal(size=(30, 4)), rng.integers(0, 4, 30)
    arrays = x.astype(np.float32), offsets.astype(np.float32), y, rng.random(30).astype(np.float32), 0.5
    shift = rng.normal(size=(4, 5)).astype(np.float32)
    loss, gradient = Objective(*arrays, device).value(shift)
    want_loss, want_gradient = Objective(*arrays, HOST).value(shift)
    assert loss == pytest.approx(want_loss, rel=1e-6)
    np.testing.assert_allclose(gradient, want_gradient, rtol=1e-4, atol=1e-5)


def test_auto_goes_on_without_the_gpu_when_it_fails() -> None:
    used: list[Device] = []

    class Broken(Device):
        pass

    def work(device: Device) -> int:
        used.append(device)
        if isinstance(device, Broken):
            raise DeviceError("device cuda: an illegal memory access was encountered; use device cpu")
        return 7

    chosen = ChosenDevice("auto")
    chosen._device = Broken()
    assert chosen.run(work, GPU_VALUES) == 7
    assert chosen.run(work, GPU_VALUES) == 7
    assert [isinstance(device, Broken) for device in used] == [True, False, False]
    chosen = ChosenDevice("cuda")
    chosen._device = Broken()
    with pytest.raises(DeviceError, match="illegal memory access"):
        chosen.run(work, GPU_VALUES)


def test_auto_does_not_even_look_for_a_gpu_for_a_few_samples() -> None:
    chosen = ChosenDevice("auto")
    assert chosen.run(lambda device: device is HOST, GPU_VALUES - 1)
    assert chosen._device is None


@no_gpu
def test_a_missing_gpu_is_one_line_that_says_what_to_use() -> None:
    x, names = clusters(3, 5, 8)
    with Learner.create(":memory:", device="cuda") as learner:
        with pytest.raises(DeviceError, match=r"device cuda: this machine has no driver .*; use device cpu"):
            learner.learn(x, names)
        assert learner.version == 0
    with pytest.raises(SessionError, match=r"device cuda: onnxruntime has only .*--device cpu"):
        Learner.create(":memory:", backbone="tiny", device="cuda")


@no_gpu
def test_a_state_made_for_a_gpu_is_used_without_one_by_an_option(tmp_path: Path, command: list[str]) -> None:
    x, names = clusters(3, 5, 8)
    np.savez(tmp_path / "x.npz", X=x, y=names)
    path = str(tmp_path / "cam.ecl")
    with Learner.create(path, device="cuda"):
        pass
    learn = [*command, "learn", path, str(tmp_path / "x.npz")]
    refused = subprocess.run(learn, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "use device cpu" in refused.stderr
    subprocess.run([*learn, "--device", "cpu"], check=True)
    with Learner.open(path, device="cpu") as learner:
        assert learner.predict(x[:1]).labels == (names[0],)
    with pytest.raises(InputError, match="device: expected one of auto, cpu, cuda; found 'gpu'"):
        Learner.open(path, device="gpu")


def constant(name: str, value: Any) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value), name))


def greedy_model(n_images: int) -> bytes:
    """Return a classifier of 4 x 4 pixels that needs terabytes as soon as it is given more than so many images."""
    nodes = [
        constant("first", np.array([0])),
        helper.make_node("Shape", ["pixels"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["n"]),
        constant("room", np.array([n_images])),
        helper.make_node("Sub", ["n", "room"], ["beyond"]),
        constant("zero", np.array([0])),
        helper.make_node("Max", ["beyond", "zero"], ["excess"]),
        constant("many", np.array([1 << 42])),
        helper.make_node("Mul", ["excess", "many"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["waste"]),
        helper.make_node("ReduceSum", ["waste"], ["nothing"], keepdims=0),
        helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("Add", ["flat", "nothing"], ["kept"]),
        constant("weights", np.eye(48, 5, dtype=np.float32)),
        helper.make_node("MatMul", ["kept", "weights"], ["logits"]),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, 4, 4])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])
    graph = helper.make_graph(nodes, "greedy", [pixels], [logits])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("room", [2, 3, 5])
def test_extraction_goes_on_with_smaller_batches_when_memory_runs_out(room: int, tmp_path: Path) -> None:
    path = tmp_path / "greedy.onnx"
    path.write_bytes(greedy_model(room))
    backbone = open_backbone(f"{path}#kept", {"input_size": [4, 4]}, "cpu")
    images = np.random.default_rng(0).integers(0, 255, (19, 4, 4, 3), dtype=np.uint8)
    done: list[int] = []
    found = backbone.extract(list(images), done.append)
    want = backbone.info.preprocessing.normalise(images).reshape(19, -1)
    np.testing.assert_allclose(found.features, want, rtol=1e-6)
    assert sum(done) == 19


def test_a_model_that_no_memory_holds_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "greedy.onnx"
    path.write_bytes(greedy_model(1))
    with pytest.raises(EdgeClError, match=r"^greedy.onnx: cannot be run with a batch of 2: [^\n]*$"):
        open_backbone(f"{path}#kept", {"input_size": [4, 4]}, "cpu")


def test_half_precision_keeps_features_and_their_type() -> None:
    backbone = open_backbone("tiny", None, "cpu")
    session = open_session(halve(backbone.model), "cpu")
    pixels = np.random.default_rng(0).normal(size=(4, 3, 64, 64)).astype(np.float32)
    want = backbone.session.run(["features"], {"pixels": pixels})[0]
    found = session.run(["features"], {"pixels": pixels})[0]
    assert found.dtype == np.float32
    assert (found != want).any()  # or nothing was halved
    assert np.linalg.norm(found - want) < 0.02 * np.linalg.norm(want)  # 11 bits through a few dozen layers


@no_gpu
def test_half_precision_is_for_a_gpu(tmp_path: Path, command: list[str]) -> None:
    with pytest.raises(InputError, match=r"precision: 16 bits need device cuda.*found device cpu"):
        Learner.create(":memory:", backbone="tiny", device="cpu", precision=16)
    with pytest.raises(InputError, match="precision: expected 32 or 16 bits; found 8"):
        Learner.create(":memory:", precision=8)
    path = str(tmp_path / "cam.ecl")
    subprocess.run([*command, "new", path, "--precision", "16"], check=True)
    with Learner.open(path) as learner:
        assert learner.backbone is not None
        assert not is_on_gpu(learner.backbone.session)  # auto: 32 bits on this machine, 16 where there is a GPU
        assert learner._current.settings.precision == 16


SIMULATED = """
import json
import sys
import traceback
import numpy as np
from edge_cl.devices import ChosenDevice
from edge_cl.devices.cuda import CudaDevice
from edge_cl.memory import Memory
from edge_cl.recipes import RECIPES
from edge_cl.update import propose
from tests.device_kernels import SimulatedKernels

kernels = CudaDevice.kernels = SimulatedKernels()
y = np.repeat(np.arange(3), 9)

def samples(recipe):
    if recipe.anchor == "previous":  # trained from zero: compared where the minimum is sharp
        rng = np.random.default_rng(0)
        return (3 * rng.normal(size=(3, 6))[y] + rng.normal(size=(len(y), 6))).astype(np.float32)
    x = np.abs(np.random.default_rng(72).normal(size=(27, 3))) ** 3  # skewed: the refinement tells the classes apart
    x[:, 0] *= np.where(y == 0, 8, 1)  # better than the anchor does
    x[:, 1] *= np.where(y == 1, 8, 1)
    return x.astype(np.float32)

def learn(recipe, x, device):
    chosen = ChosenDevice(device)
    memory = Memory.empty(x.shape[1], has_scatter=recipe.has_scatter, replay_bytes=10**5, seed=0)
    for rows in (np.arange(len(y)) % 2 == 0, np.arange(len(y)) % 2 == 1):
        names = [f"c{k}" for k in y[rows]]
        memory = chosen.run(lambda device: propose(memory, recipe, x[rows], names, device), x.size).memory
    assert chosen._device.name == device
    return memory

def compare(recipe):
    kernels.calls.clear()
    x = samples(recipe)
    cpu, cuda = learn(recipe, x, "cpu"), learn(recipe, x, "cuda")
    assert kernels.calls["add_samples"] == 2
    assert (kernels.calls["cross_entropy_delta"] > 3) == recipe.trains
    for part in ("counts", "means", "scatter"):
        a, b = getattr(cpu.statistics, part), getattr(cuda.statistics, part)
        assert type(a) is type(b), part
        if a is not None:
            np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5, err_msg=part)
    if recipe.name == "edge":  # or only the anchors would be compared
        assert np.abs(cpu.head.predict(x) - learn(RECIPES["slda"], x, "cpu").head.predict(x)).max() > 0.01
    # where the head is trained, it ends anywhere that the minimiser's tolerance allows: 1e-5 of the loss
    tolerance = 1e-2 if recipe.trains else 1e-4
    np.testing.assert_allclose(cuda.head.predict(x), cpu.head.predict(x), atol=tolerance)
    np.testing.assert_allclose(cuda.fisher, cpu.fisher, rtol=0.1, atol=0.1)
    np.testing.assert_allclose(cuda.companion.rows, cpu.companion.rows, atol=0.1)
    assert (cpu.replay.records == cuda.replay.records).all()

wrong = {}
for name, recipe in RECIPES.items():
    try:
        compare(recipe)
    except Exception:
        wrong[name] = traceback.format_exc()
assert "torch" in sys.modules
json.dump(wrong, sys.stdout)
"""


@pytest.fixture(scope="module")
def wrong_on_a_gpu() -> dict[str, str]:
    """Return what is wrong with recipes on numba's simulator of a GPU, in a process of its own."""
    pytest.importorskip("torch")
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, "-c", SIMULATED]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_update_on_a_gpu_is_that_of_the_cpu(recipe: str, wrong_on_a_gpu: dict[str, str]) -> None:
    """Torch's tensors, the CUDA kernels, and the device's code."""
    assert recipe not in wrong_on_a_gpu, wrong_on_a_gpu[recipe]


def test_arrays_go_to_the_device_whole_and_come_back() -> None:
    pytest.importorskip("torch")
    from edge_cl.devices.cuda import CudaDevice

    device = CudaDevice("cpu")
    rng = np.random.default_rng(0)
    arrays: list[Any] = [
        rng.normal(size=(3, 5)).astype(np.float32),
        rng.normal(size=(5, 4))[:, ::2],
        np.arange(7),
        np.zeros((0, 4), np.float32),
        np.array([True, False, True]),
        np.asfortranarray(rng.normal(size=(2, 3)).astype(np.float32)),
    ]
    with device.here():
        for want, there in zip(arrays, device.put(*arrays), strict=True):
            found = device.get(there)
            assert found.dtype == want.dtype
            np.testing.assert_array_equal(found, want)


def test_memory_of_a_gpu_that_runs_out_halves_the_batch() -> None:
    torch = pytest.importorskip("torch")
    from edge_cl.devices.cuda import CudaDevice

    device, done = CudaDevice("cpu"), np.zeros(20, int)

    def run(rows: slice) -> None:
        if rows.stop - rows.start > 6:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        done[rows] += 1

    device.each(20, run)
    np.testing.assert_array_equal(done, 1)
    assert device.batch == 5


def test_an_update_goes_to_the_device_by_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[int] = []
    device = Device()

    def put(*arrays: Any) -> tuple[Any, ...]:
        copies.append(len(arrays))
        return arrays

    monkeypatch.setattr(device, "put", put)
    x, names = clusters(4, 10, 8)
    for recipe in RECIPES.values():
        copies.clear()
        has_scatter = recipe.has_scatter
        memory = Memory.empty(8, has_scatter=has_scatter, replay_bytes=10**5, seed=0)
        memory = propose(memory, recipe, x, names, device).memory
        propose(memory, recipe, x, names, device)
        assert len(copies) == 2, recipe.name


def test_failures_of_a_gpu_are_one_kind_of_error_and_others_stay_what_they_are() -> None:
    torch = pytest.importorskip("torch")
    from edge_cl.devices.cuda import CudaDevice

    device = CudaDevice("cpu")
    for raised, expected in (
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (RuntimeError("CUDA error: an illegal memory access was encountered\nmore"), "illegal memory access"),
    ):
        with pytest.raises(DeviceError, match=f"device cuda: .*{expected}.*; use device cpu"), device.here():
            raise raised
    with pytest.raises(ValueError, match="ours"), device.here():
        raise ValueError("ours")
