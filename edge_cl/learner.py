"""The learner: samples and names in, a grown head out, every update a transaction of the state file."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from edge_kernels.arrays import Floats

from edge_cl.backbones import (
    Backbone,
    BackboneInfo,
    Extraction,
    Progress,
    check_backbone,
    open_backbone,
    reopen_backbone,
)
from edge_cl.codecs import DEFAULT_CODEC
from edge_cl.current import Current
from edge_cl.devices import ChosenDevice
from edge_cl.errors import InputError, StateError
from edge_cl.head import Head
from edge_cl.inputs import Samples, check_samples, check_timeout, clean_labels, sized
from edge_cl.memory import Memory
from edge_cl.recipes import get_recipe
from edge_cl.reports import Evaluation, Predictions, UpdateReport, check_none_skipped, check_some_read
from edge_cl.revision import Revisable
from edge_cl.samples import LabelledSamples, read_folder
from edge_cl.state import HISTORY_BYTES, TIMEOUT, Settings, StateFile, check_device
from edge_cl.update import PANEL_PER_SAMPLE, Proposal, propose

STRICT = " (strict: nothing was learnt)"


class Learner(Revisable):
    """A classifier that learns. Make one with `create` or `open`; a context manager that closes its file."""

    def __init__(self, state: StateFile, backbone: Backbone | None, spec: str | None, device: str | None) -> None:
        super().__init__(Current(state))
        self._state = state
        settings = self._current.state.settings
        self._device = ChosenDevice(device or settings.device)
        try:
            self._info = BackboneInfo.from_json(settings.backbone) if settings.backbone else None
        except InputError as error:
            raise StateError(f"{state.name}: damaged: {error}; restore a copy of it") from None
        self._backbone = backbone
        self._backbone_spec = spec

    @classmethod
    def create(  # noqa: PLR0913 - the contract's arguments
        cls,
        path: str | os.PathLike[str],
        *,
        backbone: str | os.PathLike[str] | None = None,
        replay_bytes: int = 1_000_000,
        recipe: str = "edge",
        device: str = "auto",
        precision: int = 32,
        seed: int = 0,
        codec: str = DEFAULT_CODEC,
        selection: str = "reservoir",
        history_bytes: int = HISTORY_BYTES,
        timeout: float = TIMEOUT,
        preprocessing: Mapping[str, Any] | None = None,
    ) -> Learner:
        """Return a learner with a new state file.

        Args:
            path: of the state file; `:memory:` keeps nothing.
            backbone: None (samples are features (N, D), and the first batch fixes D), `tiny`, an .onnx classifier
                (`file.onnx#tensor` cuts at that tensor), or a torchvision name.
            replay_bytes: limit of the stored samples, with all that is needed to decode them; 0 stores none.
            recipe: `edge`, `slda`, `ewc`, `replay` or `finetune`.
            device: `auto`, `cpu` or `cuda`.
            precision: 16 extracts features in half precision, where that is done on a GPU.
            seed: of every draw.
            codec: of the stored samples: `auto` (`float16` below D = 512, else `sketch`), `sketch`, `eigen`, `pq`,
                `int4`, `int8`, `float16` or `float32`.
            selection: which samples stay: `reservoir` (any) or `herding` (those that stand for their class's mean).
            history_bytes: limit of what is kept of earlier versions, to roll back to.
            timeout: seconds to wait for another writer.
            preprocessing: `input_size`, `scale`, `mean`, `std`, `crop` of a backbone that does not say its own.

        Raises:
            InputError: an argument is wrong.
            BackboneError: the backbone cannot be used.
            DeviceError: `cuda` was asked for, and cannot be used.
            StateError: the path exists or cannot be written.
        """
        get_recipe(recipe)
        check_timeout(timeout)
        settings = Settings(
            "", recipe, replay_bytes, seed, device, precision, codec, selection, history_bytes
        ).checked()
        if preprocessing and backbone is None:
            raise InputError("preprocessing: needs a backbone; pass backbone=... too")
        opened = None
        if backbone is not None:
            opened = open_backbone(os.fspath(backbone), preprocessing, device, precision)
            settings = replace(settings, backbone=opened.info.to_json())
        state = StateFile.create(os.fspath(path), settings, timeout)
        return cls(state, opened, None, device)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        backbone: str | os.PathLike[str] | None = None,
        device: str | None = None,
        timeout: float = TIMEOUT,
        check: bool = True,
    ) -> Learner:
        """Return the learner of a state file.

        Args:
            path: of the state file.
            read_only: `learn` is refused; any number of readers go beside one writer.
            backbone: where the backbone's file is now, if it was moved.
            device: `auto`, `cpu` or `cuda` instead of what the state was made with.
            timeout: seconds to wait for another writer.
            check: compare the backbone's sha256 now, and not only at its first use.

        Raises:
            InputError: there is no such device, or the timeout is none.
            StateError: the file is missing, damaged, or no state.
            BackboneMismatchError: the backbone's file has changed.
        """
        spec = os.fspath(backbone) if backbone is not None else None
        check_device(device or "auto")
        check_timeout(timeout)
        state = StateFile.open(os.fspath(path), read_only=read_only, timeout=timeout)
        try:
            learner = cls(state, None, spec, device)
            if learner._info and check:
                check_backbone(learner._info, learner._folder, spec)
        except BaseException:
            state.close()
            raise
        return learner

    def close(self) -> None:
        """Close the state file."""
        self._state.close()

    def __enter__(self) -> Learner:
        """Return the learner itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the state file."""
        self.close()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; the index of a name is its row in the head."""
        head = self._current.head
        return head.classes if head else ()

    @property
    def version(self) -> int:
        """Number of the last committed change; 0 before the first."""
        return self._current.version

    @property
    def recipe(self) -> str:
        """Name of the recipe."""
        return self._current.recipe.name

    @property
    def head(self) -> Head:
        """The head of the current version.

        Raises:
            StateError: nothing was learnt yet.
        """
        head = self._current.head
        if head is None or not head.classes:
            raise StateError(
                f"{self._state.name}: has no classes yet; learn some: edge-cl learn {self._state.name} DIR"
            )
        return head

    @property
    def backbone_info(self) -> BackboneInfo | None:
        """What the state remembers of its backbone; None where samples are features."""
        return self._info

    @property
    def backbone(self) -> Backbone | None:
        """The backbone, opened at its first use; None where samples are features.

        Raises:
            BackboneError: it is missing, or another one.
        """
        if self._backbone is None and self._info is not None:
            precision = self._current.settings.precision
            self._backbone = reopen_backbone(
                self._info, self._folder, self._backbone_spec, device=self._device.name, precision=precision
            )
        return self._backbone

    def replay_usage(self) -> dict[str, int]:
        """Return bytes, codebook_bytes, limit, samples and bytes_per_sample of the replay."""
        return self._current.memory(self._info.dim if self._info else 1).replay.usage()

    def learn(
        self,
        samples: Samples,
        labels: Sequence[Any],
        *,
        min_retention: float = 0.95,
        strict: bool = False,
        on_progress: Progress = int,
    ) -> UpdateReport:
        """Learn new samples of new and old classes, and commit, or change nothing.

        Args:
            samples: features (N, D), images (N, H, W, 3) uint8, or N paths of image files.
            labels: N class names.
            min_retention: refuse the update if less of the accuracy on the old classes remains, by more than the
                standard error of what the replay can tell.
            strict: refuse the update if one image cannot be read, instead of leaving it out.
            on_progress: called with the number of samples that went through the backbone.

        Returns:
            What happened; `committed` is False if the update was refused for its retention.

        Raises:
            InputError: an argument is wrong, or no sample can be read.
            StateError: the state cannot be written; nothing was changed.
        """
        start = time.perf_counter()
        if not isinstance(min_retention, int | float) or not 0 <= min_retention <= 1:
            raise InputError(f"min_retention: expected 0 to 1; found {min_retention!r}")
        self._state.check_writable()
        samples = sized(samples)
        names = clean_labels(labels, len(samples))
        extraction = self._extract(samples, on_progress)
        if strict:
            check_none_skipped(extraction.skipped, STRICT)
        check_some_read(extraction, len(samples))
        extracted = time.perf_counter()
        names = [names[row] for row in extraction.rows]
        return self._commit(extraction, names, min_retention, (start, extracted))

    def _commit(
        self, extraction: Extraction, names: list[str], min_retention: float, times: tuple[float, float]
    ) -> UpdateReport:
        """Return the report of the update that was committed or refused, as one transaction."""
        start, extracted = times
        current = self._current
        with current.changing():
            if current.dim:  # another learner may have fixed D in the meantime
                check_samples(extraction.features, current.dim, has_backbone=False)
            memory = current.memory(extraction.features.shape[1])
            proposal = self._propose(memory, extraction.features, names)
            new_classes = proposal.memory.head.classes[len(memory.head.classes) :]
            figures = (proposal.accuracy_before, proposal.accuracy_after, proposal.retention)
            committed = not proposal.forgets(min_retention)
            if committed:
                version = replace(
                    current.next_version("learn", proposal.memory),
                    n_samples=len(names),
                    new_classes=new_classes,
                    accuracy_before=proposal.accuracy_before,
                    accuracy_after=proposal.accuracy_after,
                    retention=proposal.retention,
                    seconds=round(time.perf_counter() - extracted, 6),
                )
                current.commit(proposal.memory, version)
            number = current.version
        times = (time.perf_counter() - start, extracted - start)
        report = (committed, number, new_classes, len(names), *figures, *times, extraction.skipped)
        return UpdateReport(*report)

    def learn_folder(self, folder: str | os.PathLike[str], **options: Any) -> UpdateReport:
        """Learn a folder of class folders of images; see `learn` for the options."""
        return self.learn_samples(read_folder(folder), **options)

    def learn_samples(self, found: LabelledSamples, *, strict: bool = False, **options: Any) -> UpdateReport:
        """Learn what `edge_cl.samples` read; see `learn` for the options."""
        if strict:
            check_none_skipped(found.skipped, STRICT)
        report = self.learn(found.samples, found.labels, strict=strict, **options)
        return replace(report, skipped=(*found.skipped, *report.skipped))

    def predict(
        self, samples: Samples, top: int = 1, *, strict: bool = True, on_progress: Progress = int
    ) -> Predictions:
        """Return the most probable classes.

        Args:
            samples: features (N, D), images (N, H, W, 3) uint8, or N paths of image files.
            top: how many classes to name for each sample.
            strict: raise if an image cannot be read, instead of leaving it out.
            on_progress: called with the number of samples that went through the backbone.

        Raises:
            InputError: a sample cannot be used.
            StateError: nothing was learnt yet.
        """
        if isinstance(top, bool) or not isinstance(top, int) or top < 1:
            raise InputError(f"top: expected a whole number of at least 1; found {top!r}")
        head = self.head
        extraction = self._extract(sized(samples), on_progress)
        if strict:
            check_none_skipped(extraction.skipped)
        if not np.isfinite(head.logits(extraction.features)).all():
            raise StateError(f"{self._state.name}: damaged: a head that gives no numbers; restore a copy of it")
        return Predictions.rank(head, extraction, top)

    def evaluate(self, samples: Samples, labels: Sequence[Any], *, on_progress: Progress = int) -> Evaluation:
        """Return how many of the samples are given their own names; images that cannot be read are left out.

        Args:
            samples: as in `predict`.
            labels: N class names; one that was never learnt counts as wrong.
            on_progress: called with the number of samples that went through the backbone.

        Raises:
            InputError: an argument is wrong, or no sample can be read.
        """
        samples = sized(samples)
        names = clean_labels(labels, len(samples))
        start = time.perf_counter()
        predictions = self.predict(samples, strict=False, on_progress=on_progress)
        seconds = time.perf_counter() - start
        check_some_read(predictions, len(samples))
        return Evaluation.score([names[row] for row in predictions.rows], predictions, seconds)

    def export(self, path: str | os.PathLike[str], kind: str = "model") -> None:
        """Write the learnt classifier as ONNX, after it agreed with this learner in onnxruntime.

        Args:
            path: of the ONNX file; an older one stays until the new one is proven.
            kind: `model`: one file, images (N, 3, H, W) in, `logits` and `probabilities` out.

        Raises:
            InputError: there is no such kind.
            ExportError: it could not be written, or did not agree.
        """
        from edge_cl.export import export_model

        if kind != "model":
            raise InputError(f"kind: expected 'model'; found {kind!r}")
        export_model(Path(path), self.head, self.backbone, self.version)

    @property
    def _folder(self) -> Path:
        return Path(self._state.name).resolve().parent

    def _propose(self, memory: Memory, features: Floats, names: list[str]) -> Proposal:
        recipe = self._current.recipe
        try:
            n_values = features.size * (1 + PANEL_PER_SAMPLE)
            return self._device.run(lambda device: propose(memory, recipe, features, names, device), n_values)
        except np.linalg.LinAlgError:
            raise StateError(f"{self._state.name}: damaged: its second moment is none; restore a copy") from None
        except StateError as error:
            raise StateError(f"{self._state.name}: damaged: {error}; restore a copy of it") from None

    def _extract(self, samples: Samples, on_progress: Progress) -> Extraction:
        """Return the features of samples of any of the three kinds."""
        dim = self._info.dim if self._info else self._current.dim
        checked = check_samples(samples, dim, has_backbone=self._info is not None)
        if isinstance(checked, np.ndarray) and checked.ndim == 2:
            return Extraction(checked, np.arange(len(checked)), ())
        assert self.backbone is not None
        return self.backbone.extract(checked, on_progress)
