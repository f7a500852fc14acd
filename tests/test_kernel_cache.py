"""Compiled loops are kept on disk: beside the source, else in the user's cache folder, else not at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import edge_kernels
import pytest

SCRIPT = """
import edge_kernels, numpy as np
from edge_kernels.cpu import proximal
assert edge_kernels.__file__.startswith({folder!r}), edge_kernels.__file__
w = np.ones((2, 3), np.float32)
proximal.ewc_step(w, w, fisher=w, anchor=w, lr=0.1, lam=1.0)
stats = getattr(proximal._ewc_rows, "stats", None)
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A copy of the package in a folder where no cache can be made, as in a read-only site-packages.

    Root may write to a read-only folder; nobody can make a folder whose name is taken by a file.
    """
    package = tmp_path / "site" / "edge_kernels"
    shutil.copytree(Path(edge_kernels.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [package, *(path for path in package.iterdir() if path.is_dir())]:
        (folder / "__pycache__").write_text("")
    return tmp_path / "site"


def run(site: Path, cache: Path) -> list[int]:
    """Return how often the loop was found in the cache, and how often it was not."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA_")}
    environment |= {"PYTHONPATH": str(site), "XDG_CACHE_HOME": str(cache), "HOME": str(cache)}
    command = [sys.executable, "-B", "-c", SCRIPT.format(folder=str(site))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [int(number) for number in done.stdout.split()]


def test_a_read_only_package_is_cached_in_the_users_folder_and_compiled_once(site: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    assert run(site, cache) == [0, 1]
    assert list(cache.rglob("*.nbc"))
    assert run(site, cache) == [1, 0]


def test_no_place_for_a_cache_is_no_error(site: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("")
    assert [run(site, taken) for _ in range(2)] == [[0, 1], [0, 1]]  # compiled anew in each process


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("n_bytes", [0, 50])
def test_a_cache_that_was_cut_short_is_made_anew(site: Path, tmp_path: Path, suffix: str, n_bytes: int) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    assert run(site, cache) == [0, 1]
    for path in cache.rglob(f"*.{suffix}"):
        path.write_bytes(path.read_bytes()[:n_bytes])
    assert run(site, cache) == [0, 1]
    assert run(site, cache) == [1, 0]
