"""Keys, small blobs and learnt heads that the tests of bundles, deployment and wrapping share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from edge_firmware.blob import Blob
from edge_firmware.keys import SigningKey

from edge_cl import Learner

from .conftest import clusters


def key_of(number: int) -> SigningKey:
    """Return always the same key of a number."""
    return SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([number] * 32)))


def write_key(path: Path, number: int = 1) -> Path:
    """Write the key of a number, and its public half beside it; return the path of the latter."""
    from cryptography.hazmat.primitives import serialization as s

    private = Ed25519PrivateKey.from_private_bytes(bytes([number] * 32))
    path.write_bytes(private.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))
    path.chmod(0o600)
    public = path.with_suffix(".pub.pem")
    public.write_bytes(key_of(number).public.to_pem())
    return public


def small_blob(key: SigningKey, **changes: Any) -> Blob:
    """Return a head of three classes of five features, one of them with a further look."""
    rows = np.array([[9, 0, 0, 0, 1], [0, 9, 0, 0, 2], [0, 0, 9, 0, 3], [0, 0, 0, 9, 4]], np.int8)
    blob = Blob(
        product="door cam",
        version=7,
        parent=6,
        counter=2,
        backbone=bytes(range(32)),
        key_id=key.key_id,
        created=1_700_000_000,
        classes=("door", "größe", "日"),
        rows=rows,
        scales=np.full(4, 0.25, np.float32),
        bias=np.array([0, 1, -2, 3], np.int32),
        owners=np.array([1]),
        canaries=np.array([[50, 0, 0, 0, 0], [0, 0, 50, 0, 0]], np.int8),
        answers=np.array([0, 2]),
        feature_scale=0.5,
        input_scale=0.5,
    )
    return replace(blob, **changes)


def learnt(
    path: Path | str = ":memory:", *, seed: int = 0, n_classes: int = 4, dim: int = 24, **options: Any
) -> Learner:
    """Return a learner of some clusters that are never below 0, so that features are raised."""
    learner = Learner.create(path, device="cpu", **options)
    features, names = samples(n_classes, dim, seed=seed)
    learner.learn(features, names, min_retention=0)
    return learner


def samples(n_classes: int = 4, dim: int = 24, *, seed: int = 0, n_samples: int = 20) -> tuple[Any, list[str]]:
    """Return features (N, D), none below 0, and their names."""
    features, names = clusters(n_classes, n_samples, dim, seed=seed, spread=0.4)
    return np.maximum(features, 0), names
