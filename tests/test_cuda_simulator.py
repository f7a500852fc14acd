"""The laws of the CUDA kernels without a GPU: in numba's simulator, by a process of their own."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from edge_kernels import cuda, reference
from edge_kernels.arrays import KernelError
from edge_kernels.cuda import fisher, target

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", ["test_cuda_kernels.py", "test_cuda_codecs.py", "test_cuda_memory.py"])
def test_the_laws_of_the_cuda_kernels_hold_in_the_simulator(name: str) -> None:
    pytest.importorskip("torch")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ROOT / "tests" / name)]
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}  # read when numba is imported: too late in this process
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert re.search(r"^[1-9]\d* passed in ", said, re.MULTILINE), said  # and none skipped


def test_every_kernel_has_the_name_and_the_arguments_of_its_definition() -> None:
    assert cuda.__all__ == reference.__all__
    for name in reference.__all__:
        kernel, definition = getattr(cuda, name), getattr(reference, name)
        if isinstance(definition, type):
            assert kernel is definition
            continue
        found, want = (inspect.signature(function).parameters.values() for function in (kernel, definition))
        assert [(p.name, p.kind, p.default) for p in found] == [(p.name, p.kind, p.default) for p in want], name
        assert f"`reference.{name}`" in (kernel.__doc__ or "")


def test_numbers_in_the_hosts_memory_are_refused_with_what_to_type() -> None:
    text = (
        r"features: expected an array on the GPU; found shape \(2, 3\) float64 elsewhere; "
        r'pass torch.as_tensor\(features, device="cuda"\)'
    )
    with pytest.raises(KernelError, match=text):
        cuda.second_moment(np.zeros((2, 3)))
    torch = pytest.importorskip("torch")
    with pytest.raises(KernelError, match=text):
        cuda.second_moment(torch.zeros((2, 3), dtype=torch.float64, requires_grad=True))


def test_a_launch_of_few_threads_gives_no_warning() -> None:
    assert target.configured(fisher.spread, 1, 128, 0) is not None  # warnings are errors here; no GPU is asked


def test_without_numba_cuda_the_import_says_what_to_install() -> None:
    script = "import sys\nsys.modules['numba.cuda'] = None\nimport edge_kernels.cuda"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert last == "ImportError: edge_kernels.cuda: numba.cuda is missing; type: pip install numba-cuda"
