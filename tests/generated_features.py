"""Features of many shapes that no recipe was made for: whatever differs between backbones, sensors and domains.

Classes are clouds in a latent space, as far apart as a wanted error says; what they then go through makes the shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from edge_kernels.arrays import Bools, Floats, Ints
from hypothesis import strategies as st

from edge_cl.bench.data import DataSet

FORMS = ("signed", "rectified", "binary", "unit", "warped", "squashed")
SPECTRA = ("isotropic", "decaying", "low-rank")
MEANS = ("whitened", "raw", "leading", "few")


@dataclass(frozen=True)
class Shape:
    """What generated features are like.

    Attributes:
        seed: of every draw.
        n_classes: K.
        dim: D, with the dead features.
        per_class: samples of the most frequent class that are learnt.
        imbalance: how many times fewer the rarest class has; at least one.
        error: share of samples that the best linear head would get wrong if every class were a Gaussian of one
            covariance that is known, by the union bound.
        spectrum: of the covariance within the classes.
        means: where the classes lie apart: evenly after whitening, evenly as they are, along the directions of most
            variance, or within a space of few dimensions.
        spread: standard deviation of the logarithm of a feature's deviation from class to class.
        freedom: degrees of freedom of the noise (Student); 0: it is normal.
        n_modes: clusters of each class.
        form: what the features become: themselves, max(0, x - 0.3), 0 or 1, of unit length, x |x|, or tanh 2 x.
        offset: of each feature, in deviations.
        has_units: whether units go from 10^-3 to 10^4.
        dead: share of the features that are constant.
        repeated: share of the samples learnt that are copies of others.
        mislabelled: share of the samples learnt that have another label.
    """

    seed: int = 0
    n_classes: int = 10
    dim: int = 32
    per_class: int = 40
    imbalance: float = 1.0
    error: float = 0.15
    spectrum: str = "decaying"
    means: str = "whitened"
    spread: float = 0.0
    freedom: int = 0
    n_modes: int = 1
    form: str = "signed"
    offset: float = 0.0
    has_units: bool = False
    dead: float = 0.0
    repeated: float = 0.0
    mislabelled: float = 0.0

    @property
    def sizes(self) -> Ints:
        """Samples (K,) of each class that are learnt."""
        sizes = np.rint(self.per_class * np.geomspace(1, 1 / self.imbalance, self.n_classes)).clip(1)
        return np.random.default_rng((self.seed, 1)).permutation(sizes.astype(np.int64))


def generate(shape: Shape, n_test: int = 4000) -> DataSet:
    """Return samples to learn and, of every class as many, samples to be asked about; their labels are all right."""
    rng = np.random.default_rng((shape.seed, 0))
    train = np.repeat(np.arange(shape.n_classes), shape.sizes)
    labels = np.concatenate([train, np.arange(n_test) % shape.n_classes])
    is_train = np.arange(len(labels)) < len(train)
    features = _form(shape, _clouds(shape, labels, rng), is_train, rng)
    copies = np.flatnonzero(rng.random(len(train)) < shape.repeated)
    for n in copies:
        features[n] = features[rng.choice(np.flatnonzero(train == train[n]))]
    wrong = rng.random(len(train)) < shape.mislabelled
    wrong &= np.bincount(train)[train] > 1  # each class keeps one sample at least
    given = labels.copy()
    given[: len(train)][wrong] = rng.integers(0, shape.n_classes, int(wrong.sum()))
    for k in np.flatnonzero(np.bincount(given[: len(train)], minlength=shape.n_classes) == 0):
        given[np.flatnonzero(train == k)[0]] = k
    classes = tuple(f"c{k}" for k in range(shape.n_classes))
    return DataSet("generated", features.astype(np.float32), given, classes, is_train)


def _clouds(shape: Shape, labels: Ints, rng: np.random.Generator) -> Floats:
    """Return latent samples (N, d), where d leaves room for the dead features."""
    dim, n_classes = max(1, round(shape.dim * (1 - shape.dead))), shape.n_classes
    deviation = {
        "isotropic": np.ones(dim),
        "decaying": np.geomspace(1, 0.03, dim),
        "low-rank": np.where(np.arange(dim) < max(1, dim // 8), 1.0, 0.05),
    }[shape.spectrum]
    few = np.where(rng.permutation(dim) < min(dim, 2 + n_classes // 8), deviation, 0.0)
    profile = {"whitened": deviation, "raw": np.ones(dim), "leading": deviation**2, "few": few}[shape.means]
    apart = 2 * NormalDist().inv_cdf(1 - min(0.4, shape.error / max(n_classes - 1, 1)))
    profile = profile * (apart / (2 * np.square(profile / deviation).sum()) ** 0.5)
    means = rng.normal(size=(n_classes, shape.n_modes, dim)) * profile
    if shape.n_modes > 1:  # clusters of a class have as much in common as they have not
        means = (means + means.mean(axis=1, keepdims=True) * shape.n_modes**0.5) / 2**0.5
    noise = rng.normal(size=(len(labels), dim))
    if shape.freedom:
        scale = rng.chisquare(shape.freedom, (len(labels), 1)) / shape.freedom
        noise *= (1 - 2 / shape.freedom) ** 0.5 / scale**0.5
    noise *= deviation * np.exp(shape.spread * rng.normal(size=(n_classes, dim)) - shape.spread**2)[labels]
    turned, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    latent = (means[labels, rng.integers(0, shape.n_modes, len(labels))] + noise) @ turned
    clouds: Floats = latent / np.square(latent).mean() ** 0.5
    return clouds


def _form(shape: Shape, latent: Floats, is_train: Bools, rng: np.random.Generator) -> Floats:
    """Return features (N, D) of latent samples (N, d)."""
    features = latent
    if shape.form == "rectified":
        features = np.maximum(latent - 0.3, 0)
    elif shape.form == "binary":
        features = (latent > 0).astype(np.float64)
    elif shape.form == "warped":
        features = latent * np.abs(latent)
    elif shape.form == "squashed":
        features = np.tanh(2 * latent)
    elif shape.form == "unit":
        features = latent / np.linalg.norm(latent, axis=1, keepdims=True)
    features = features + shape.offset * features[is_train].std() * rng.normal(size=features.shape[1])
    constant = np.tile(rng.integers(0, 2, shape.dim - features.shape[1]), (len(features), 1))
    features = np.concatenate([features, constant], axis=1)[:, rng.permutation(shape.dim)]
    return features * 10 ** rng.uniform(-3, 4, shape.dim) if shape.has_units else features


def draw_shape(seed: int, most: int = 20_000_000) -> Shape:
    """Return a shape of any kind; K squared times D times the samples of a class is at most `most`, for time's sake."""
    rng = np.random.default_rng((seed, 2))

    def one_of(*options: Any) -> Any:
        return options[rng.integers(len(options))]

    n_classes, dim = one_of(2, 3, 5, 7, 10, 20, 40, 100, 200), one_of(4, 8, 16, 32, 64, 128, 256, 520, 600)
    return Shape(
        seed=seed,
        n_classes=n_classes,
        dim=dim,
        per_class=min(max(1, most // (n_classes**2 * dim)), int(np.exp(rng.uniform(0, np.log(201))))),
        imbalance=one_of(1.0, 1.0, 1.0, 10.0, 100.0, 1000.0),
        error=one_of(0.02, 0.1, 0.3),
        spectrum=one_of(*SPECTRA),
        means=one_of(*MEANS),
        spread=one_of(0.0, 0.0, 0.3, 0.6),
        freedom=one_of(0, 0, 3, 5),
        n_modes=one_of(1, 1, 2, 3),
        form=one_of("signed", *FORMS),
        offset=one_of(0.0, 0.0, 1.0, 30.0),
        has_units=one_of(False, False, False, True),
        dead=one_of(0.0, 0.0, 0.3),
        repeated=one_of(0.0, 0.0, 0.2),
        mislabelled=one_of(0.0, 0.0, 0.05),
    )


def shapes() -> st.SearchStrategy[Shape]:
    """Return shapes drawn by seed: hypothesis' own draws repeat each other too much for so few examples."""
    return st.integers(0, 2**31).map(draw_shape)
