"""What an export is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from edge_kernels.arrays import Floats, Ints

from edge_cl.backbones import Backbone, BackboneInfo
from edge_cl.feature_map import FeatureMap
from edge_cl.head import Head

N_PROBES, N_IMAGES = 2, 16  # samples that are asked; of images that the user gave


@dataclass(frozen=True)
class Learnt:
    """A version of a state, and what its answers can be tried on.

    Attributes:
        head: of K classes, or M outputs.
        feature_map: what becomes of features (N, d) before the head.
        info: of the backbone; None where samples are features.
        backbone: opened; None where it is not needed.
        version: of the state.
        parent: the version it was made from.
        training: its summary, for the metadata.
        stored: features (M, D) as the head sees them, and their rows (M,): samples of the replay, or class means.
        images: paths that the user gave.
        labels: rows (n,) of these images, -1 for a class that is not known; empty where nothing is known of them.
    """

    head: Head
    feature_map: FeatureMap
    info: BackboneInfo | None
    backbone: Backbone | None
    version: int
    parent: int
    training: Mapping[str, Any]
    stored: tuple[Floats, Ints]
    images: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()

    def probe_features(self) -> Floats:
        """Return a few features (n, d) as they are before the map: of stored samples, where it can be inverted."""
        found = self.feature_map.invert(self.stored[0][:N_PROBES])
        if found is not None and len(found):
            return found
        rng = np.random.default_rng(0)
        return rng.normal(size=(N_PROBES, self.feature_map.n_inputs)).astype(np.float32)

    def probe_images(self) -> list[Any]:
        """Return a few images: the user's, or smooth random ones, as photos are, of the backbone's size."""
        assert self.backbone is not None
        if self.images:
            return [self.images[n] for n in np.unique(np.linspace(0, len(self.images) - 1, N_IMAGES).astype(int))]
        rng = np.random.default_rng(0)
        height, width = self.backbone.info.preprocessing.input_size
        coarse = rng.integers(0, 256, (N_PROBES, 8, 8, 3)).astype(np.uint8)
        return list(coarse[:, np.arange(height) * 8 // height][:, :, np.arange(width) * 8 // width])
