"""How a learner is taught: each update is one transaction, committed whole or not at all."""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from edge_kernels.arrays import Floats

from edge_cl.answering import Answering
from edge_cl.backbones import Extraction, Progress
from edge_cl.current import Current
from edge_cl.devices import ChosenDevice
from edge_cl.errors import InputError, StateError
from edge_cl.feature_map import FeatureMap
from edge_cl.inputs import Labels, Samples, clean_labels, clean_values, sized
from edge_cl.memory import Memory
from edge_cl.regression import propose_values
from edge_cl.reports import UpdateReport, check_none_skipped, check_some_read
from edge_cl.samples import LabelledSamples, read_folder
from edge_cl.tasks import check_task, clean_task, name_rows
from edge_cl.update import PANEL_PER_SAMPLE, Proposal, propose

STRICT = " (strict: nothing was learnt)"


@dataclass(frozen=True)
class _Batch:
    """What a `learn` learns.

    Attributes:
        extraction: of N samples.
        feature_map: that their features went through.
        answers: names of N rows, or values (N, M).
        task: that the rows are of.
    """

    extraction: Extraction
    feature_map: FeatureMap
    answers: list[str] | Floats
    task: str | None


class Teaching(Answering):
    """A learner that can be taught."""

    def __init__(self, current: Current, device: ChosenDevice) -> None:
        super().__init__(current)
        self._device = device

    @abstractmethod
    def _extract_inputs(self, samples: Samples, on_progress: Progress) -> tuple[Extraction, FeatureMap]:
        """Return the features of samples as the head sees them, and what made them so."""

    def _extract(self, samples: Samples, on_progress: Progress) -> Extraction:
        return self._extract_inputs(samples, on_progress)[0]

    def learn(
        self,
        samples: Samples,
        labels: Labels,
        *,
        task: str | None = None,
        min_retention: float = 0.95,
        strict: bool = False,
        on_progress: Progress = int,
    ) -> UpdateReport:
        """Learn new samples of new and old classes, and commit, or change nothing.

        Args:
            samples: features (N, D), images (N, H, W, 3) uint8, or N paths of image files.
            labels: N class names; of a regression, values (N,) or (N, M).
            task: that the classes are of; its classes are told apart from each other, not from those of other tasks.
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
        self._current.state.check_writable()
        samples, task = sized(samples), clean_task(task)
        check_task(self._current.state.name, self._current.head, task)
        answers = self._answers(labels, len(samples), task)
        extraction, feature_map = self._extract_inputs(samples, on_progress)
        if strict:
            check_none_skipped(extraction.skipped, STRICT)
        check_some_read(extraction, len(samples))
        extracted = time.perf_counter()
        answers = answers[extraction.rows] if isinstance(answers, np.ndarray) else [answers[n] for n in extraction.rows]
        batch = _Batch(extraction, feature_map, answers, task)
        return self._commit(batch, min_retention, (start, extracted))

    def _commit(self, batch: _Batch, min_retention: float, times: tuple[float, float]) -> UpdateReport:
        """Return the report of the update that was committed or refused, as one transaction."""
        start, extracted = times
        current, features = self._current, batch.extraction.features
        with current.changing():
            self._settle(batch)
            memory = current.memory(features.shape[1])
            proposal = self._propose(memory, features, batch.answers)
            new_classes = proposal.memory.head.classes[len(memory.head.classes) :]
            if proposal.memory.head.kind == "regression":
                new_classes = ()
            figures = (proposal.accuracy_before, proposal.accuracy_after, proposal.retention)
            committed = not proposal.forgets(min_retention)
            if committed:
                version = replace(
                    current.next_version("learn", proposal.memory),
                    n_samples=len(features),
                    new_classes=new_classes,
                    accuracy_before=proposal.accuracy_before,
                    accuracy_after=proposal.accuracy_after,
                    retention=proposal.retention,
                    seconds=round(time.perf_counter() - extracted, 6),
                )
                current.commit(proposal.memory, version)
            number = current.version
        times = (time.perf_counter() - start, extracted - start)
        report = (committed, number, new_classes, len(features), *figures, *times, batch.extraction.skipped)
        return UpdateReport(*report)

    def _answers(self, labels: Labels, n_samples: int, task: str | None) -> list[str] | Floats:
        """Return the names of the rows of N samples, or their values (N, M)."""
        if self.head_kind == "regression":
            if self._current.dim:
                self._current.memory()  # a damaged state says so before the labels are blamed
            return clean_values(labels, n_samples, len(self.outputs))
        return name_rows(clean_labels(labels, n_samples), task)

    def _settle(self, batch: _Batch) -> None:
        """Put what the first update decides into the open transaction; another learner may have been the first.

        Raises:
            InputError: that one decided otherwise.
        """
        current = self._current
        settings = current.settings
        check_task(self._current.state.name, current.head, batch.task)
        expected = settings.input_dim or (0 if settings.random_features else current.dim)
        made = batch.feature_map
        if expected and made.n_inputs != expected:
            raise InputError(f"samples: expected features (N, {expected}); found {made.n_inputs} in each")
        if current.dim and (made.is_raised, made.constant) != (settings.is_raised, settings.random_constant):
            raise InputError("samples: extracted before another learner taught this state first; learn them again")
        if isinstance(batch.answers, np.ndarray):
            clean_values(batch.answers, len(batch.answers), len(self.outputs))
        changes: dict[str, float] = {
            "input_dim": made.n_inputs if settings.random_features else 0,
            "has_tasks": batch.task is not None,
            "is_raised": made.is_raised,
            "random_constant": made.constant,
        }
        if any(getattr(settings, key) != value for key, value in changes.items()):
            current.change_settings(**changes)

    def learn_folder(self, folder: str | os.PathLike[str], **options: Any) -> UpdateReport:
        """Learn a folder of class folders of images; see `learn` for the options."""
        return self.learn_samples(read_folder(folder), **options)

    def learn_samples(self, found: LabelledSamples, *, strict: bool = False, **options: Any) -> UpdateReport:
        """Learn what `edge_cl.samples` read; see `learn` for the options."""
        if strict:
            check_none_skipped(found.skipped, STRICT)
        report = self.learn(found.samples, found.labels, strict=strict, **options)
        return replace(report, skipped=(*found.skipped, *report.skipped))

    def _propose(self, memory: Memory, features: Floats, answers: list[str] | Floats) -> Proposal:
        recipe, path = self._current.recipe, self._current.state.name
        try:
            if isinstance(answers, np.ndarray):
                return propose_values(memory, features, answers)
            n_values = features.size * (1 + PANEL_PER_SAMPLE)
            return self._device.run(lambda device: propose(memory, recipe, features, answers, device), n_values)
        except np.linalg.LinAlgError:
            raise StateError(f"{path}: damaged: its second moment is none; restore a copy") from None
        except StateError as error:
            raise StateError(f"{path}: damaged: {error}; restore a copy of it") from None
