"""Runtimes that tests run exports in: where each is, and a process of it that answers.

Old versions are run by interpreters of their own, `$EDGE_CL_RUNTIMES/ort-1.17/bin/python` and so on; `RUNTIMES` says
what each needs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Runtime:
    """Where it is, and what is missing if it is not there.

    Attributes:
        engine: of `run_onnx.py`.
        version: what its version begins with.
        folder: of its interpreter in $EDGE_CL_RUNTIMES; empty: that of the tests.
        packages: that pip installs there.
        least: the first version, of numbers before and after the dot, that is worth asking.
    """

    engine: str
    version: str = ""
    folder: str = ""
    packages: str = ""
    least: tuple[int, int] = (0, 0)

    @property
    def python(self) -> Path:
        """Its interpreter; the test is skipped where there is none."""
        if not self.folder:
            return Path(sys.executable)
        python = Path(os.environ.get("EDGE_CL_RUNTIMES", "no-such-folder")) / self.folder / "bin" / "python"
        if not python.exists():
            pytest.skip(f"needs $EDGE_CL_RUNTIMES/{self.folder}, a virtual environment with {self.packages}")
        return python


RUNTIMES = {
    "onnxruntime": Runtime("onnxruntime"),
    "onnxruntime 1.17": Runtime("onnxruntime", "1.17.", "ort-1.17", "onnxruntime==1.17.3 'numpy<2'"),
    "onnxruntime 1.23": Runtime("onnxruntime", "1.23.", "ort-1.23", "onnxruntime==1.23.2"),
    # before 1.22 it resizes one pixel at a time: minutes for an image
    "ONNX reference": Runtime("reference", packages="onnx 1.22 or newer", least=(1, 22)),
    "OpenCV 5": Runtime("opencv", "5.", "", "opencv-python-headless 5"),
    "OpenCV 4.8": Runtime("opencv", "4.8.", "opencv-4.8", "opencv-python-headless==4.8.1.78 'numpy<2'"),
}


class Process:
    """A runtime that answers jobs, started again after a crash."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._process: subprocess.Popen[str] | None = None

    def ask(self, job: Mapping[str, Any]) -> str:
        """Return why a job was not done; empty if it was."""
        if self._process is None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        if answer is None:
            code = self._process.wait()
            self.close()
            return f"crashed with exit status {code}"
        return str(answer["error"])

    def close(self) -> None:
        if self._process is not None:
            with self._process as process:
                assert process.stdin is not None
                process.stdin.close()
                process.wait()
        self._process = None

    def _start(self) -> None:
        runtime, script = self._runtime, Path(__file__).with_name("run_onnx.py")
        self._process = subprocess.Popen(
            [runtime.python, script, runtime.engine],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # OpenCV says there in colour what it raises as well
            text=True,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        )
        greeting = self._read()
        version = str(greeting["version"]) if greeting else "none"
        is_old = tuple(map(int, re.findall(r"\d+", version)[:2])) < runtime.least
        if not greeting or not version.startswith(runtime.version) or is_old:
            self.close()
            pytest.skip(f"needs {runtime.packages or runtime.engine}; found {version}")

    def _read(self) -> dict[str, Any] | None:
        """Return the next line that is JSON; None where the process has ended."""
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        return None
