"""What learns in parts in scikit-learn and river, and scikit-learn's softmax regression on everything at once."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from edge_kernels.arrays import Floats, Ints
from peers_course import Kind, Peer, Scaling, Settings, Setup

RATES = (1.0, 0.1, 10.0)
PASSES = (5, 1, 20)
DECAYS = (1e-6, 1e-4, 1e-8)
COSTS = tuple(10.0 ** (step / 2) for step in range(-2, 13))  # C of LogisticRegression, from the firmest on
N_FOLDS = 5


class Partial:
    """A classifier with `partial_fit`, which goes over an update several times; it has to be told all classes first."""

    def __init__(self, setup: Setup, model: Any, n_passes: int = 1) -> None:
        """Take a fresh classifier."""
        self._model, self._n_passes = model, n_passes
        self._classes = np.arange(setup.n_classes)
        self._rng = np.random.default_rng(setup.seed)

    def learn(self, features: Floats, labels: Ints) -> None:
        """See peers_course.Peer."""
        for _ in range(self._n_passes):
            order = self._rng.permutation(len(labels))
            self._model.partial_fit(features[order], labels[order], classes=self._classes)

    def score(self, features: Floats) -> Floats:
        """See peers_course.Peer."""
        scores: Floats = self._model.decision_function(features)
        return scores if scores.ndim == 2 else np.stack([-scores, scores], axis=1)

    def count_bytes(self) -> dict[str, int]:
        """See peers_course.Peer."""
        return {"head": self._model.coef_.nbytes + self._model.intercept_.nbytes}


class Bayes(Partial):
    """Gaussian naive Bayes: one mean and one variance of each feature in each class, the same in any order."""

    def learn(self, features: Floats, labels: Ints) -> None:
        """See peers_course.Peer."""
        with np.errstate(all="ignore"):
            super().learn(features, labels)

    def score(self, features: Floats) -> Floats:
        """See peers_course.Peer; classes not seen yet have no variance, and their scores are no numbers."""
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scores: Floats = self._model.predict_joint_log_proba(features)
        return scores

    def count_bytes(self) -> dict[str, int]:
        """See peers_course.Peer."""
        return {"statistics": self._model.theta_.nbytes + self._model.var_.nbytes + self._model.class_count_.nbytes}


class Softmax:
    """river's softmax regression, one sample at a time; it learns by itself and is asked by one matrix product."""

    def __init__(self, setup: Setup, rate: float) -> None:
        """Take a fresh model."""
        from river import linear_model, optim

        self._model = linear_model.SoftmaxRegression(optimizer=optim.SGD(rate))
        self._shape = (setup.n_classes, setup.n_features + 1)

    def learn(self, features: Floats, labels: Ints) -> None:
        """See peers_course.Peer; it has no bias, so a feature that is always 1 goes last; zeros teach it nothing."""
        for x, label in zip(_with_one(features), labels.tolist(), strict=True):
            places = np.flatnonzero(x)
            self._model.learn_one(dict(zip(places.tolist(), x[places].tolist(), strict=True)), label)

    def score(self, features: Floats) -> Floats:
        """See peers_course.Peer."""
        weights = np.zeros(self._shape)
        for label, row in self._model.weights.items():
            weights[label, list(row)] = list(row.values())
        scores: Floats = _with_one(features) @ weights.T
        return scores

    def count_bytes(self) -> dict[str, int]:
        """See peers_course.Peer; as arrays: its dictionaries are many times larger."""
        return {"head": 8 * sum(map(len, self._model.weights.values()))}


class Joint:
    """scikit-learn's LogisticRegression on everything at once."""

    def __init__(self, cost: float) -> None:
        """Take its C."""
        self._cost = cost
        self._model: Any = None
        self._sample_bytes = 0

    def learn(self, features: Floats, labels: Ints) -> None:
        """See peers_course.Peer."""
        self._model = _fit(_regression(self._cost), features, labels)
        self._sample_bytes = features.nbytes + labels.nbytes

    def score(self, features: Floats) -> Floats:
        """See peers_course.Peer."""
        scores: Floats = self._model.decision_function(features)
        return scores if scores.ndim == 2 else np.stack([-scores, scores], axis=1)

    def count_bytes(self) -> dict[str, int]:
        """See peers_course.Peer."""
        return {"head": self._model.coef_.nbytes + self._model.intercept_.nbytes, "samples": self._sample_bytes}


def _regression(cost: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=cost, max_iter=1000, tol=1e-4)


def _fit(model: Any, features: Floats, labels: Ints) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of steps that end before its tolerance, where C is large
        return model.fit(features, labels)


def choose_cost(features: Floats, labels: Ints, n_classes: int) -> Settings:
    """Return the C and the scaling that get most left-out samples right, in five folds of each class.

    Classes with a single sample are in the training part of no fold that asks about them, and cost every C the same.
    Each C starts where the last one ended; two in a row that are worse than the best end the search.
    """
    found = [(*_cross_validate(Scaling.of(features, how)(features), labels, n_classes), how) for how in ("one", "each")]
    _, cost, how = max(found, key=lambda row: row[0])
    return {"C": cost, "scaling": how}


def _cross_validate(x: Floats, labels: Ints, n_classes: int) -> tuple[float, float]:
    """Return the share of samples (N, D) that were right when they were left out, and the C with which most were."""
    from sklearn.model_selection import KFold, StratifiedKFold

    fewest = int(np.bincount(labels, minlength=n_classes)[np.unique(labels)].min())
    folds = (StratifiedKFold if fewest >= N_FOLDS else KFold)(N_FOLDS, shuffle=True, random_state=0)
    parts = list(folds.split(x, labels))
    models = [_regression(COSTS[0]).set_params(warm_start=True) for _ in parts]
    shares: list[float] = []
    for cost in COSTS:
        hits = 0
        for model, (train, held) in zip(models, parts, strict=True):
            _fit(model.set_params(C=cost), x[train], labels[train])
            hits += int((model.predict(x[held]) == labels[held]).sum())
        shares.append(hits / len(x))
        if len(shares) > int(np.argmax(shares)) + 2:
            break
    return max(shares), COSTS[int(np.argmax(shares))]


def make_sgd(setup: Setup, settings: Settings) -> Peer:
    """Return a one-against-all logistic regression."""
    from sklearn.linear_model import SGDClassifier

    model = SGDClassifier(
        loss="log_loss",
        alpha=settings["alpha"],
        learning_rate="constant",
        eta0=settings["rate"],
        random_state=setup.seed,
    )
    return Partial(setup, model, settings["passes"])


def make_perceptron(setup: Setup, settings: Settings) -> Peer:
    """Return a one-against-all perceptron."""
    from sklearn.linear_model import Perceptron

    return Partial(setup, Perceptron(random_state=setup.seed), settings["passes"])


def make_bayes(setup: Setup, settings: Settings) -> Peer:
    """Return Gaussian naive Bayes."""
    from sklearn.naive_bayes import GaussianNB

    return Bayes(setup, GaussianNB(var_smoothing=settings["smoothing"]))


def _with_one(features: Floats) -> Floats:
    return np.concatenate([features, np.ones((len(features), 1), features.dtype)], axis=1)


SCALING = {"scaling": ("one", "each")}

KINDS = (
    Kind(
        "sklearn-sgd",
        make_sgd,
        {"rate": RATES, "passes": PASSES, "alpha": DECAYS, **SCALING},
    ),
    Kind("sklearn-perceptron", make_perceptron, {"passes": PASSES, **SCALING}),
    Kind("sklearn-naive-bayes", make_bayes, {"smoothing": (1e-2, 1e-9, 1e-3, 0.03, 0.1, 0.3), **SCALING}),
    Kind("sklearn-joint", lambda _, s: Joint(s["C"]), is_joint=True, choose=choose_cost),
    Kind(
        "river-softmax",
        lambda u, s: Softmax(u, s["rate"]),
        {"rate": RATES, **SCALING},
        tuned_per_class=10,
    ),
)
