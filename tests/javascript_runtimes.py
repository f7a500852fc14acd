"""Node, its packages and a headless browser, as the tests start them; what is missing skips the test."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "tests" / "javascript"
PAGE = ROOT / "tools" / "web_demo"
BROWSERS = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")
LIMIT_S = 180


def node() -> str:
    """Return the path of node, or skip the test."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("needs node")
    return found


def package(name: str) -> Path:
    """Return the folder of an npm package, or skip the test."""
    folder = os.environ.get("EDGE_CL_NODE_MODULES")
    if folder is None:
        pytest.skip("needs EDGE_CL_NODE_MODULES, a folder with node_modules in it")
    path = Path(folder).resolve() / "node_modules" / name
    if not path.is_dir():
        pytest.skip(f"needs {name} in EDGE_CL_NODE_MODULES: npm install --ignore-scripts {name}")
    return path


def browser() -> str:
    """Return the path of a Chromium, or skip the test."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"needs one of {', '.join(BROWSERS)}")
    return found


def run_node(*words: str | Path, text: str = "", folder: Path | None = None) -> str:
    """Return what node prints of a script and its arguments."""
    done = subprocess.run(
        [node(), *map(str, words)], input=text, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_model(name: str, model: Path, *feeds: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Return what a package of onnxruntime says of a model and gives for feeds, in node."""
    package(name)
    texts = [{key: _encode(value) for key, value in feed.items()} for feed in feeds]
    found: dict[str, Any] = json.loads(run_node(SCRIPTS / "run_model.mjs", name, model, text=json.dumps(texts)))
    return found


def visit(url: str, profile: Path, steps: list[dict[str, Any]]) -> list[Any]:
    """Return what was waited for on a page, see tests/javascript/browser.mjs; nothing may be thrown on the page."""
    words = (SCRIPTS / "browser.mjs", browser(), profile, url)
    said = json.loads(run_node(*words, text=json.dumps(steps)))
    assert said["problems"] == []
    return [found for found in said["found"] if found is not None]


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Give the address of a server of a folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        pass


def _encode(value: NDArray[Any]) -> dict[str, Any]:
    return {"type": value.dtype.name, "dims": value.shape, "base64": base64.b64encode(value.tobytes()).decode()}
