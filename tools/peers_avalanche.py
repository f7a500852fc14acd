"""Avalanche's strategies as peers: its own classes, on a linear head that grows, as its users build it.

Each update is an experience of its own; no strategy sees a sample before its turn or after it, but in its own memory.
"""

from __future__ import annotations

import contextlib
import io
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np
import torch
from edge_kernels.arrays import Floats, Ints
from peers_course import Kind, Peer, Settings, Setup

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what it imports: old wandb, quadratic programs without a solver of their own
    from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline
    from avalanche.benchmarks.utils import _make_taskaware_tensor_classification_dataset as make_dataset
    from avalanche.models import IncrementalClassifier
    from avalanche.training import storage_policy
    from avalanche.training.plugins import ReplayPlugin
    from avalanche.training.supervised import AGEM, EWC, GEM, ICaRL, JointTraining, LwF, Naive, StreamingLDA

OPTIMISERS = ("sgd 1", "sgd 10", "sgd 0.1", "adam 0.01", "adam 0.1")
SCALINGS = ("one", "each")
SHRINKAGES = (1e-4, 1e-8, 1e-7, 1e-6, 1e-5, 1e-3, 1e-2, 1e-1)
SCHEDULES = ("100 x 32", "25 x 32", "300 x 32")  # steps of an update x samples of a step
TOLERANCE = 1.05  # how far iCaRL may go beyond the budget, since it rounds up
HIDDEN = 512  # of the layer that iCaRL may train before its means


class Strategy:
    """A strategy of Avalanche as a peer."""

    def __init__(self, setup: Setup, settings: Settings, model: Any, build: Callable[..., Any]) -> None:
        """Build it.

        Args:
            setup: what is known.
            settings: `optimiser` and `schedule`, where it has them.
            model: a torch module from features to logits.
            build: the strategy of keyword arguments `optimizer`, `train_mb_size`, ...
        """
        self.setup = setup
        self._n_steps, self._batch = map(int, settings.get("schedule", "1 x 1").split(" x "))
        common: dict[str, Any] = {"train_mb_size": self._batch, "evaluator": None}
        if "optimiser" in settings:
            name, rate = settings["optimiser"].split()
            common["optimizer"] = (
                torch.optim.Adam(model.parameters(), lr=float(rate))
                if name == "adam"
                else torch.optim.SGD(model.parameters(), lr=float(rate), momentum=0.9)
            )
        with _quiet():
            self.strategy = build(**common)

    def learn(self, features: Floats, labels: Ints) -> None:
        """See peers_course.Peer."""
        with _quiet():
            tensors = torch.from_numpy(features), torch.from_numpy(labels)
            dataset = make_dataset(*tensors, targets=labels.tolist(), task_labels=0)
            benchmark = with_classes_timeline(benchmark_from_datasets(train=[dataset]))
            experience = next(iter(benchmark.train_stream))
            experience.benchmark = self  # iCaRL asks it for the two attributes below
            self.strategy.train_epochs = ceil(self._n_steps * self._batch / max(len(labels), self._batch))
            self.strategy.train(experience)

    @property
    def n_classes_per_exp(self) -> list[int]:
        """New classes of each experience."""
        return list(self.setup.task_sizes)

    @property
    def classes_order(self) -> list[int]:
        """Classes in the order in which they come."""
        return list(range(self.setup.n_classes))

    def score(self, features: Floats) -> Floats:
        """See peers_course.Peer."""
        model = self.strategy.model.eval()
        with torch.no_grad():
            scores: Floats = model(torch.from_numpy(features)).numpy()
        return scores

    def count_bytes(self) -> dict[str, int]:
        """See peers_course.Peer."""
        found = {"head": _bytes_of(self.strategy.model.parameters()), "memory": 0}
        for plugin in self.strategy.plugins:
            for part, n in _COUNTS.get(type(plugin).__name__, lambda _: {})(plugin).items():
                found[part] = n * (self.setup.sample_bytes if part == "memory" else 1)
        return found


class Lda(Strategy):
    """Streaming LDA: it inverts its matrix for each mini-batch, so that a whole update is one."""

    def __init__(self, setup: Setup, settings: Settings) -> None:
        """See Strategy; `base` fits the first update as a whole, with a shrunk covariance (OAS), as its authors do."""

        def build(**common: Any) -> Any:
            options = {"input_size": setup.n_features, "num_classes": setup.n_classes}
            shrinkage = settings["shrinkage"]
            model, loss = torch.nn.Identity(), torch.nn.CrossEntropyLoss()
            return StreamingLDA(slda_model=model, criterion=loss, shrinkage_param=shrinkage, **options, **common)

        super().__init__(setup, {}, torch.nn.Identity(), build)
        self._fits_base = settings["first"] == "base"

    def learn(self, features: Floats, labels: Ints) -> None:
        """See peers_course.Peer."""
        if self._fits_base:
            with _quiet():
                self.strategy.fit_base(torch.from_numpy(features), torch.from_numpy(labels))
            self._fits_base = False
            return
        self.strategy.train_mb_size = len(labels)
        super().learn(features, labels)

    @property
    def shrinkage(self) -> float:
        """The share of the identity in what is inverted."""
        return float(self.strategy.shrinkage_param)

    @shrinkage.setter
    def shrinkage(self, value: float) -> None:
        self.strategy.shrinkage_param = value
        self.strategy.prev_num_updates = -1  # it keeps the inverse as long as it counts no update

    def score(self, features: Floats) -> Floats:
        """See peers_course.Peer."""
        scores: Floats = self.strategy.predict(torch.from_numpy(features)).numpy()
        return scores

    def count_bytes(self) -> dict[str, int]:
        """See peers_course.Peer; the inverse can be made anew and is not counted."""
        return {"means": _bytes_of([self.strategy.muK, self.strategy.cK]), "moment": _bytes_of([self.strategy.Sigma])}


def trained(
    build: Callable[..., Any], own: Callable[[Setup, Settings], Settings] = lambda _, __: {}
) -> Callable[[Setup, Settings], Peer]:
    """Return how to make a peer from a strategy that trains a linear head.

    Args:
        build: the strategy's class.
        own: its further arguments.
    """

    def make(setup: Setup, settings: Settings) -> Peer:
        _seed(setup.seed)
        model = IncrementalClassifier(setup.n_features, initial_out_features=setup.task_sizes[0])
        fixed = {"model": model, "criterion": torch.nn.CrossEntropyLoss(), **own(setup, settings)}
        return Strategy(setup, settings, model, lambda **common: build(**fixed, **common))

    return make


def make_lda(setup: Setup, settings: Settings) -> Peer:
    """Return StreamingLDA."""
    _seed(setup.seed)
    return Lda(setup, settings)


def make_joint(setup: Setup, settings: Settings) -> Peer:
    """Return JointTraining: all tasks' samples at once, with all tasks' steps."""
    n_steps, batch = map(int, settings["schedule"].split(" x "))
    every = {**settings, "schedule": f"{n_steps * len(setup.task_sizes)} x {batch}"}
    return trained(JointTraining)(replace(setup, task_sizes=(setup.n_classes,)), every)


def make_icarl(setup: Setup, settings: Settings) -> Peer:
    """Return iCaRL: means of herded samples, of the features as they are or behind a layer that is trained.

    Raises:
        ValueError: the budget has no room for one sample of each class, or classes come again.
    """
    size = setup.n_stored
    if ceil(size / setup.n_classes) * setup.n_classes > TOLERANCE * size:  # it rounds up, for each class
        size = size // setup.n_classes * setup.n_classes
    if setup.has_domains:
        raise ValueError("iCaRL needs new classes in every experience (it asks for classes_order)")
    if not size:
        needed = setup.n_classes * setup.sample_bytes
        raise ValueError(f"iCaRL keeps at least one sample of each class: {needed:,} bytes")
    _seed(setup.seed)
    layer = torch.nn.Sequential(torch.nn.Linear(setup.n_features, HIDDEN), torch.nn.ReLU())
    extractor = layer if settings["layer"] == "trained" else torch.nn.Identity()
    width = HIDDEN if settings["layer"] == "trained" else setup.n_features
    classifier = torch.nn.Linear(width, setup.n_classes)
    memory = {"memory_size": size, "fixed_memory": True, "buffer_transform": None}

    def build(**common: Any) -> Any:
        return ICaRL(feature_extractor=extractor, classifier=classifier, eval_mb_size=256, **memory, **common)

    return Strategy(setup, settings, torch.nn.Sequential(extractor, classifier), build)


def _replay(setup: Setup, settings: Settings) -> Settings:
    size = _at_least_one(setup.n_stored, "one sample", setup)
    policy = getattr(storage_policy, settings["buffer"])(max_size=size)
    return {"plugins": [ReplayPlugin(mem_size=size, storage_policy=policy)]}


def _per_experience(setup: Setup) -> int:
    return _at_least_one(setup.n_stored // len(setup.task_sizes), "one sample of each experience", setup)


def _at_least_one(n: int, what: str, setup: Setup) -> int:
    if not n:
        raise ValueError(f"keeps at least {what}; the budget has room for {setup.n_stored} samples")
    return n


def _seed(seed: int) -> None:
    """Set the seeds of the global generators, which are the ones that Avalanche draws from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # its products are small: with more threads they wait for each other


def _bytes_of(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep its prints out of stdout and its deprecations out of stderr."""
    with warnings.catch_warnings(record=True), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # it sets its own filters for some, which are recorded then
        yield


def _importances(plugin: Any) -> dict[str, int]:
    parts = [p.data for group in plugin.importances.values() for p in group.values()]
    parts += [p.data for group in plugin.saved_params.values() for p in group.values()]
    return {"importances": _bytes_of(parts)}


_COUNTS: dict[str, Callable[[Any], dict[str, int]]] = {
    "EWCPlugin": _importances,
    "LwFPlugin": lambda p: {"last model": _bytes_of(p.lwf.prev_model.parameters())},
    "ReplayPlugin": lambda p: {"memory": len(p.storage_policy.buffer)},
    "GEMPlugin": lambda p: {"memory": sum(map(len, p.memory_x.values()))},
    "AGEMPlugin": lambda p: {"memory": sum(map(len, p.buffers))},
    "_ICaRLPlugin": lambda p: {"memory": sum(map(len, p.x_memory))},
    "ICaRLLossPlugin": lambda p: {"last model": _bytes_of(p.old_model.parameters())},
}


def _axes(**own: tuple[Any, ...]) -> dict[str, tuple[Any, ...]]:
    """Return the settings of a strategy that trains, its own before the longest trials."""
    return {"optimiser": OPTIMISERS, "scaling": SCALINGS, **own, "schedule": SCHEDULES}


_LAMBDAS = (10.0, 0.1, 1.0, 100.0, 1e3, 1e4, 1e5, 1e6)

KINDS = (
    Kind("avalanche-naive", trained(Naive), _axes()),
    Kind(
        "avalanche-ewc",
        trained(EWC, lambda _, s: {"ewc_lambda": s["lambda"], "mode": "separate"}),
        _axes(**{"lambda": _LAMBDAS}),
    ),
    Kind(
        "avalanche-ewc-online",
        trained(EWC, lambda _, s: {"ewc_lambda": s["lambda"], "mode": "online", "decay_factor": s["decay"]}),
        _axes(**{"lambda": _LAMBDAS}, decay=(1.0, 0.9, 0.5)),
    ),
    Kind(
        "avalanche-lwf",
        trained(LwF, lambda _, s: {"alpha": s["alpha"], "temperature": s["temperature"]}),
        _axes(alpha=(1.0, 0.1, 10.0, 100.0), temperature=(2.0, 1.0)),
    ),
    Kind(
        "avalanche-replay",
        trained(Naive, _replay),
        _axes(buffer=("ExperienceBalancedBuffer", "ClassBalancedBuffer", "ReservoirSamplingBuffer")),
        stores=True,
    ),
    Kind(
        "avalanche-gem",
        trained(GEM, lambda u, s: {"patterns_per_exp": _per_experience(u), "memory_strength": s["strength"]}),
        _axes(strength=(0.5, 0.0)),
        stores=True,
    ),
    Kind(
        "avalanche-a-gem",
        trained(AGEM, lambda u, s: {"patterns_per_exp": _per_experience(u), "sample_size": s["drawn"]}),
        _axes(drawn=(64, 256)),
        stores=True,
    ),
    Kind("avalanche-icarl", make_icarl, _axes(layer=("none", "trained")), stores=True),
    Kind(
        "avalanche-slda",
        make_lda,
        {"shrinkage": SHRINKAGES, "first": ("stream", "base"), "scaling": SCALINGS},
        late="shrinkage",
    ),
    Kind("avalanche-joint", make_joint, _axes(), is_joint=True),
)
