"""From a learner to a signed bundle: what is asked of it, what it becomes, and the proof of the result."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from edge_kernels.arrays import Floats

from edge_cl.backbones import Progress, Skipped
from edge_cl.errors import BundleError, InputError
from edge_cl.export import Learnt
from edge_cl.export.target import check_target, write_target
from edge_cl.exporting import gather
from edge_cl.learner import Learner
from edge_firmware.arithmetic import logits_float, quantise
from edge_firmware.blob import Blob
from edge_firmware.bundle import Bundle, from_bytes, is_bundle, sign_blob, to_bytes
from edge_firmware.canaries import check_canaries, logits_of, with_canaries
from edge_firmware.heads import Facts, Grid, check_head, float_blob, int8_blob
from edge_firmware.keys import SigningKey
from edge_firmware.onnx_head import check_onnx, head_onnx
from edge_firmware.ranges import features_of, given_grid, measure

N_CANARIES, MOST_CANARIES = 4, 256


@dataclass(frozen=True)
class Options:
    """What a bundle is asked to be.

    Attributes:
        product: id; None: the name of the state's file.
        counter: security counter.
        is_float32: whether rows are float32.
        n_canaries: at most.
        features: the grid on which a backbone of int8 gives them; None: it is measured.
    """

    product: str | None = None
    counter: int = 0
    is_float32: bool = False
    n_canaries: int = N_CANARIES
    features: Grid | None = None

    def checked(self) -> Options:
        """Return the options.

        Raises:
            InputError: one is out of its range.
        """
        if isinstance(self.n_canaries, bool) or not 1 <= self.n_canaries <= MOST_CANARIES:
            raise InputError(f"canaries: expected 1 to {MOST_CANARIES}; found {self.n_canaries!r}")
        if isinstance(self.counter, bool) or not isinstance(self.counter, int):
            raise InputError(f"counter: expected a whole number; found {self.counter!r}")
        return self


@dataclass(frozen=True)
class PackReport:
    """What was packed.

    Attributes:
        path: of the bundle.
        product: id.
        version: of the head.
        counter: security counter.
        rows: `int8` or `float32`.
        n_bytes: of the file.
        blob_bytes: of the blob in it.
        n_classes: K.
        n_rows: R.
        dim: D.
        n_canaries: in it.
        feature_scale: of int8 features.
        feature_zero: likewise.
        agreement: share of samples to which the blob gives the answer of the float32 head.
        n_samples: that were asked.
        key_id: of the key that signed.
        notes: what the user should know.
        skipped: samples that could not be read.
    """

    path: str
    product: str
    version: int
    counter: int
    rows: str
    n_bytes: int
    blob_bytes: int
    n_classes: int
    n_rows: int
    dim: int
    n_canaries: int
    feature_scale: float
    feature_zero: int
    agreement: float
    n_samples: int
    key_id: str
    notes: tuple[str, ...]
    skipped: tuple[Skipped, ...]


def pack(  # noqa: PLR0913 - what can be asked of a bundle
    source: Learner | str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    key: SigningKey | str | os.PathLike[str],
    product: str | None = None,
    counter: int = 0,
    float32: bool = False,
    canaries: int = N_CANARIES,
    samples: Any = None,
    feature_scale: float | None = None,
    feature_zero_point: int | None = None,
    backbone: str | os.PathLike[str] | None = None,
    on_progress: Progress = int,
) -> PackReport:
    """Write a learnt head as a signed bundle, after numpy and onnxruntime gave its canaries the right answers.

    Args:
        source: a learner, or the path of a state file.
        target: of the bundle, such as `out.edgehead`; an older one stays until the new one is proven.
        key: that signs, or the path of its PEM file.
        product: id of the devices it is for, at most 32 bytes; None: the name of the state's file.
        counter: security counter; devices refuse a lower one than they have.
        float32: rows of float32 instead of int8.
        canaries: how many features with known answers go along, at most one a class.
        samples: to measure the range of the features on, and to choose canaries from: images, features (N, D), or the
            path of a folder or an .npz; None: stored samples.
        feature_scale: of a backbone that gives int8 features, instead of a measured one.
        feature_zero_point: likewise.
        backbone: where the state's backbone is now, if it was moved.
        on_progress: called with the number of samples that went through the backbone.

    Raises:
        BundleError: no blob can hold the head, or no bundle can be made of it.
        ExportError: the target cannot be written, or is something else.
    """
    signing = key if isinstance(key, SigningKey) else SigningKey.open(key)
    options = Options(product, counter, float32, canaries, given_grid(feature_scale, feature_zero_point)).checked()
    check_bundle_target(Path(target))
    with contextlib.ExitStack() as stack:
        if not isinstance(source, Learner):
            source = stack.enter_context(Learner.open(source, read_only=True, backbone=backbone, check=False))
        learner, name = source, str(source._state.name)
        learner.head  # noqa: B018 - says what to type where nothing was learnt
        asked = None if samples is None else features_of(learner, samples, on_progress)
        told = learner._source(needs_backbone=False)
        with told.current.state.reading():
            learnt = gather(told, is_int8=True)
            check_head(learnt.head, learnt.feature_map, is_int8=not options.is_float32)
            features, grid, notes = measure(told, learnt, asked[0] if asked else None)
    facts = _facts_of(learnt, Path(name), options, signing)
    exact = (learnt.head, learnt.feature_map)
    make = float_blob if options.is_float32 else int8_blob
    blob = make(*exact, options.features or grid, facts)
    agreement = _agreement(blob, learnt, features)
    blob = with_canaries(blob, exact, features, options.n_canaries)
    data = _proven(blob, signing)
    write_target(Path(target), data)
    if options.features is not None or options.is_float32:
        notes = ()
    return _report(Path(target), data, signing, (agreement, len(features)), (notes, asked[1] if asked else ()))


def check_bundle_target(path: Path) -> None:
    """Refuse a path at which no bundle can be put, or at which something else lies.

    Raises:
        ExportError: there is none.
        BundleError: something else lies there.
    """
    check_target(path, None)
    if path.is_file() and path.stat().st_size and not is_bundle(path):
        raise BundleError(f"{path}: is no bundle, and would be replaced; choose another name, as out.edgehead")


def _facts_of(learnt: Learnt, state: Path, options: Options, key: SigningKey) -> Facts:
    """Return what the blob says of itself."""
    created = datetime.fromisoformat(learnt.training["created"]).timestamp() if "created" in learnt.training else 0
    backbone = bytes.fromhex(learnt.info.sha256) if learnt.info else bytes(32)
    product = state.stem if options.product is None else options.product
    numbers = (learnt.version, learnt.parent, options.counter)
    return Facts(product, *numbers, backbone, key.key_id, max(0, int(created)))


def _agreement(blob: Blob, learnt: Learnt, features: Floats) -> float:
    """Return the share of features (N, D) to which the blob gives the answer of the float32 head."""
    wanted = learnt.head.logits(learnt.feature_map.apply(features)).argmax(axis=1)
    found = logits_of(blob, quantise(blob, features)) if blob.is_int8 else logits_float(blob, features)
    return float((found.argmax(axis=1) == wanted).mean())


def _proven(blob: Blob, key: SigningKey) -> bytes:
    """Return the bytes of a bundle that was read back, and whose canaries got their answers.

    Raises:
        BundleError: one did not.
    """
    data = to_bytes(Bundle(sign_blob(blob, key)), key)
    found = from_bytes(data, key.public).head
    if found.to_be_signed() != blob.to_be_signed():
        raise BundleError("the bundle reads back as another one; report it")
    check_canaries(found, logits_of(found, found.canaries), "numpy")
    check_onnx(found, head_onnx(found))
    return data


def _report(
    path: Path,
    data: bytes,
    key: SigningKey,
    asked: tuple[float, int],
    said: tuple[tuple[str, ...], tuple[Skipped, ...]],
) -> PackReport:
    bundle = from_bytes(data, key.public)
    head = bundle.head
    return PackReport(
        path=str(path),
        product=head.product,
        version=head.version,
        counter=head.counter,
        rows="int8" if head.is_int8 else "float32",
        n_bytes=len(data),
        blob_bytes=len(bundle.blob),
        n_classes=len(head.classes),
        n_rows=len(head.rows),
        dim=head.dim,
        n_canaries=len(head.canaries),
        feature_scale=head.feature_scale,
        feature_zero=head.feature_zero,
        agreement=asked[0],
        n_samples=asked[1],
        key_id=head.key_id.hex(),
        notes=said[0],
        skipped=said[1],
    )
