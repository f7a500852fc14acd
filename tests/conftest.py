"""What several tests share: the data beside the project, a cache of their own, small pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared(relative: str) -> Path:
    """Return a path below the shared folder, or skip the test."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"needs {relative} in a folder `shared` beside the project")
    return path


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the user's cache out of the tests, and theirs out of the user's; children inherit it."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_CL_CACHE", str(folder))
        yield folder


@pytest.fixture
def command() -> list[str]:
    """Return how to start `edge-cl` as a process of this interpreter."""
    return [sys.executable, "-c", "from edge_cl.cli import main; main()"]


Photos = Callable[..., Path]


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    """Return a function that makes a folder of class folders of pictures, one colour and pattern a class."""

    def make(*names: str, n_images: int = 6, folder: str = "photos", seed: int = 0) -> Path:
        rng = np.random.default_rng(seed)
        for name in names:
            (tmp_path / folder / name).mkdir(parents=True)
            style = np.random.default_rng(sum(map(ord, name)))
            base = style.integers(0, 256, (4, 4, 3))
            for n in range(n_images):
                Image.fromarray(picture(base, rng)).save(tmp_path / folder / name / f"{n}.png")
        return tmp_path / folder

    return make


def picture(base: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return (64, 64, 3) uint8: 4 x 4 coloured squares with noise."""
    large = np.kron(base, np.ones((16, 16, 1)))
    return np.clip(large + rng.normal(0, 25, large.shape), 0, 255).astype(np.uint8)


def clusters(
    n_classes: int, n_samples: int, dim: int, *, seed: int = 0, spread: float = 1.0
) -> tuple[NDArray[np.float32], list[str]]:
    """Return features (n_classes * n_samples, dim) around one centre a class, and their names c0, c1, ..."""
    centres = np.random.default_rng(1234).normal(size=(n_classes, dim)) * 3 / np.sqrt(dim) * 2
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_classes), n_samples)
    features = centres[labels] + spread * rng.normal(size=(len(labels), dim)) / np.sqrt(dim) * 2
    return features.astype(np.float32), [f"c{label}" for label in labels]
