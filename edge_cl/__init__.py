"""Teach a deployed classifier on the device that runs it: new classes from a handful of samples, none forgotten.

>>> import numpy as np
>>> from edge_cl import Learner
>>> with Learner.create(":memory:") as learner:
...     report = learner.learn(np.eye(4, dtype=np.float32)[[0, 0, 1, 1]], ["door", "door", "window", "window"])
...     learner.predict(np.eye(4, dtype=np.float32)[:2]).labels
('door', 'window')
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_cl.errors import EdgeClError
    from edge_cl.learner import Learner
    from edge_cl.predictor import Predictor
    from edge_cl.reports import Evaluation, Predictions, UpdateReport

    __version__: str

__all__ = ["EdgeClError", "Evaluation", "Learner", "Predictions", "Predictor", "UpdateReport", "__version__"]

_HOMES = {
    "EdgeClError": "edge_cl.errors",
    "Learner": "edge_cl.learner",
    "Predictor": "edge_cl.predictor",
    "UpdateReport": "edge_cl.reports",
    "Predictions": "edge_cl.reports",
    "Evaluation": "edge_cl.reports",
}


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that the command line's help does not wait for numpy.

    Raises:
        AttributeError: there is no such name.
    """
    if name == "__version__":
        return version("edge_cl")
    if name not in _HOMES:
        raise AttributeError(f"module 'edge_cl' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
