"""From a learner to an export: what is gathered of its state, and what is written where."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from edge_kernels.arrays import Floats, Ints

from edge_cl.backbones import Backbone, BackboneInfo
from edge_cl.comparison import facts_of
from edge_cl.current import Current
from edge_cl.errors import ExportError, InputError
from edge_cl.export import ExportReport, Learnt, Options, export, export_delta
from edge_cl.export.card import write_card
from edge_cl.export.target import check_target, make_folder, write_target
from edge_cl.export.verify import VerifyReport, read_head_of, verify
from edge_cl.head import Head
from edge_cl.memory import Memory
from edge_cl.origin import BACKBONE, HEAD
from edge_cl.samples import list_images, read_folder

MAX_STORED = 512  # samples that int8 rows are asked about
Images = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Extras:
    """What an export needs beside its options, and what else it writes.

    Attributes:
        images: to calibrate and measure on.
        delta_from: the version that a delta begins with; None: the whole head is exported.
        card: path of a model card.
    """

    images: Images | None = None
    delta_from: int | None = None
    card: str | os.PathLike[str] | None = None

    def checked(self, options: Options) -> Extras:
        """Return the extras.

        Raises:
            InputError: they do not go with the options or with each other.
        """
        version = self.delta_from
        if version is not None and (isinstance(version, bool) or not isinstance(version, int) or version < 0):
            raise InputError(f"delta_from: expected the number of a version; found {version!r}")
        others = ("opset", "fp16", "preprocess", "top_k", "features", "cam")
        odd = [name for name in others if getattr(options, name)] + ["images"] * (self.images is not None)
        if version is not None and (odd or options.kind == "c"):
            raise InputError(f"delta_from: a delta is of a head's tensors alone; leave out {(odd or ['kind c'])[0]}")
        if self.images is not None and not options.has_images:
            raise InputError(f"images: an export of kind {options.kind!r} here has no backbone; leave them out")
        return self


@dataclass(frozen=True)
class Source:
    """What an export is made from.

    Attributes:
        current: the state.
        info: of its backbone; None where samples are features.
        backbone: opened; None where it is not needed.
        dim: features of a sample, as they come in.
    """

    current: Current
    info: BackboneInfo | None
    backbone: Backbone | None
    dim: int


def export_version(path: Path, source: Source, options: Options, extras: Extras) -> ExportReport:
    """Write the current version, and its card.

    Args:
        path: of the export.
        source: what it is made from.
        options: checked.
        extras: see there.

    Raises:
        InputError: the images cannot be read, or the version of a delta is not kept.
        ExportError: it cannot be written or made, or its answers differ; older files stay.
    """
    with source.current.state.reading():  # one version throughout, whatever another process commits meanwhile
        before = _head_before(source, extras.delta_from)
        learnt = gather(source, extras.images, is_int8=options.int8)
        has_card = extras.card is not None
        facts = facts_of(source.current.memory(source.dim)) if has_card else {}
        versions = source.current.state.versions() if has_card else ()
    if extras.card is not None:
        _check_card(Path(extras.card), path, options, source.info)
    if extras.delta_from is None:
        report = export(path, learnt, options)
    else:
        report = export_delta(path, learnt, options, before, extras.delta_from)
    if extras.card is not None:
        write_target(Path(extras.card), write_card(learnt, facts, versions, report).encode())
    return report


def _head_before(source: Source, version: int | None) -> Head | None:
    """Return the head of the version that a delta begins with; None of version 0.

    Raises:
        InputError: it is the current one, or not kept.
    """
    if not version:
        return None
    if version == source.current.version:
        raise InputError(f"delta_from: expected an earlier version; found {version}, which is current")
    memory = source.current.state.read_memory(version)
    assert memory is not None
    return memory.head


def _check_card(card: Path, target: Path, options: Options, info: BackboneInfo | None) -> None:
    """Refuse a card that would take the place of something else.

    Raises:
        ExportError: it would.
    """
    if options.kind == "split":
        make_folder(target)
    taken = [target, target / HEAD, target / BACKBONE] if options.kind == "split" else [target]
    if card.resolve() in [path.resolve() for path in taken]:
        raise ExportError(f"{card}: is the export itself; choose another name for the card, such as card.md")
    check_target(card, info)


def verify_export(path: Path, open_source: Callable[[bool], Source], images: Images | None = None) -> VerifyReport:
    """Return what of an export agrees with the version of the state that it came from, when all does.

    Args:
        path: of the file, or of the folder of a split export.
        open_source: gives the state, with its backbone or without.
        images: that both are asked about.

    Raises:
        ExportError: something differs, or the version is not kept any more.
        InputError: there are images, and no backbone to ask about them.
    """
    found = read_head_of(path)
    source = open_source(found.options.has_images)
    if images is not None and not found.options.has_images:
        raise InputError(f"images: an export of kind {found.options.kind!r} has no backbone; leave them out")
    with source.current.state.reading():
        learnt = gather(source, images)
        if found.version != learnt.version:
            try:
                memory = source.current.state.read_memory(found.version)
            except InputError as error:
                raise ExportError(f"{path}: is of version {found.version}; {error}") from None
            assert memory is not None
            learnt = replace(learnt, head=memory.head, version=found.version)
    return verify(path, found, learnt)


def gather(source: Source, images: Images | None = None, *, is_int8: bool = False) -> Learnt:
    """Return the current version as an export needs it.

    Args:
        source: the state.
        images: to calibrate and measure on.
        is_int8: whether the stored samples are asked what int8 rows cost.

    Raises:
        InputError: there is no image.
    """
    current = source.current
    memory, settings = current.memory(source.dim), current.settings
    head, number = memory.head, current.version
    line = next((line for line in current.state.versions() if line.version == number), None)
    training: dict[str, Any] = {"recipe": settings.recipe, "codec": settings.codec}
    if line is not None:
        training |= {"created": line.created, "samples": line.n_seen}
        training |= {"accuracy": round(line.accuracy_after, 4)} if line.kind == "learn" else {}
    training["samples_of_classes"] = [int(count) for count in memory.statistics.counts]
    paths, names = _read_images(images)
    rows = {name: row for row, name in enumerate(head.classes)}
    labels = tuple(rows.get(name, -1) for name in names)
    parent = line.parent if line is not None else number - 1
    feature_map = settings.feature_map(source.dim)
    of_source = (head, feature_map, source.info, source.backbone)
    return Learnt(*of_source, number, parent, training, _stored(memory, is_int8=is_int8), tuple(paths), labels)


def _stored(memory: Memory, *, is_int8: bool) -> tuple[Floats, Ints]:
    """Return some features as the head sees them, and their rows: of stored samples, or the class means.

    Lossy codes take a tenth of a second to decode, were it only one, and are worth it only where accuracy is measured.
    """
    replay, statistics = memory.replay, memory.statistics
    dim = memory.head.weights.shape[1]  # beside the features of a regression stand its values
    if not len(replay.records) or not (replay.codec.is_exact or is_int8):
        n_means = min(len(statistics.means), MAX_STORED)
        return statistics.means[:n_means, :dim], np.arange(n_means)
    rows = np.unique(np.linspace(0, len(replay.records) - 1, MAX_STORED).astype(np.int64))
    return replay.decode(statistics, rows)[:, :dim], replay.labels[rows]


def _read_images(images: Images | None) -> tuple[list[str], list[str]]:
    """Return paths, and the name of each where it is known.

    Raises:
        InputError: there is no image.
    """
    if images is None:
        return [], []
    if not isinstance(images, str | os.PathLike):
        try:
            return [os.fspath(image) for image in images], []
        except TypeError:
            raise InputError(f"images: expected a folder or paths; found {type(images).__name__}") from None
    root = Path(images)
    if root.is_dir() and any(entry.is_dir() and not entry.name.startswith(".") for entry in root.iterdir()):
        found = read_folder(images)
        return found.samples, found.labels
    return list_images(images).samples, []
