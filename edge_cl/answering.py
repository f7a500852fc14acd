"""What a learner answers: classes, or values of a regression, and how right it is."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from edge_cl.backbones import Extraction, Progress
from edge_cl.errors import InputError, StateError
from edge_cl.head import Head
from edge_cl.inputs import Labels, Samples, clean_labels, clean_values, sized
from edge_cl.reports import Evaluation, Predictions, check_none_skipped, check_some_read
from edge_cl.revision import Revisable
from edge_cl.tasks import clean_task, head_of


def check_top(top: int) -> None:
    """Check how many classes to name.

    Raises:
        InputError: it is no such number.
    """
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise InputError(f"top: expected a whole number of at least 1; found {top!r}")


def answer(name: str, head: Head, extraction: Extraction, top: int) -> Predictions:
    """Return a head's answers to samples, whose features are as the head sees them.

    Args:
        name: of the state, for the error.
        head: that answers.
        extraction: of the samples.
        top: how many classes to name.

    Raises:
        StateError: it gives what is no number.
    """
    if not np.isfinite(head.logits(extraction.features)).all():
        raise StateError(f"{name}: damaged: a head that gives no numbers; restore a copy of it")
    return Predictions.rank(head, extraction, top)


class Answering(Revisable):
    """A learner that can be asked."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; the index of a name is its row in the head. Those of tasks are TASK/CLASS."""
        head = self._current.head
        return head.classes if head and head.kind != "regression" else ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks; none where classes belong to no task."""
        head = self._current.head
        return head.tasks if head else ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of a regression's outputs."""
        head = self._current.head
        return head.classes if head and head.kind == "regression" else ()

    @property
    def looks(self) -> dict[str, int]:
        """How many looks classes have been seen in; those of one look are left out."""
        head = self._current.head
        if head is None or head.looks is None:
            return {}
        counts = np.bincount(head.looks.owners, minlength=len(head.classes))
        return {name: int(1 + n) for name, n in zip(head.classes, counts, strict=True) if n}

    @property
    def head_kind(self) -> str:
        """`linear`, `cosine`, `mlp` or `regression`."""
        return self._current.settings.head

    @property
    def head(self) -> Head:
        """The head of the current version.

        Raises:
            StateError: nothing was learnt yet.
        """
        head, path = self._current.head, self._current.state.name
        if head is None or not head.classes:
            what = "values" if self.head_kind == "regression" else "classes"
            raise StateError(f"{path}: has no {what} yet; learn some: edge-cl learn {path} DIR")
        return head

    def predict(
        self,
        samples: Samples,
        top: int = 1,
        *,
        task: str | None = None,
        strict: bool = True,
        on_progress: Progress = int,
    ) -> Predictions:
        """Return the most probable classes, or the values of a regression.

        Args:
            samples: features (N, D), images (N, H, W, 3) uint8, or N paths of image files.
            top: how many classes to name for each sample.
            task: that the samples are of; its classes alone can be the answer, and are named without it.
            strict: raise if an image cannot be read, instead of leaving it out.
            on_progress: called with the number of samples that went through the backbone.

        Raises:
            InputError: a sample cannot be used, or the task is not known.
            StateError: nothing was learnt yet.
        """
        check_top(top)
        path, version = self._current.state.name, self._current.version
        head = head_of(path, self.head, clean_task(task))
        extraction = self._extract(sized(samples), on_progress)
        if strict:
            check_none_skipped(extraction.skipped)
        return replace(answer(path, head, extraction, top), version=version)

    def evaluate(
        self, samples: Samples, labels: Labels, *, task: str | None = None, on_progress: Progress = int
    ) -> Evaluation:
        """Return how many of the samples are given their own names; images that cannot be read are left out.

        Args:
            samples: as in `predict`.
            labels: N class names, where one that was never learnt counts as wrong; or values (N,) or (N, M).
            task: as in `predict`.
            on_progress: called with the number of samples that went through the backbone.

        Raises:
            InputError: an argument is wrong, or no sample can be read.
        """
        samples = sized(samples)
        head, n_samples = self.head, len(samples)
        if head.kind == "regression":
            values = clean_values(labels, n_samples, len(head.classes))
        else:
            names = clean_labels(labels, n_samples)
        start = time.perf_counter()
        predictions = self.predict(samples, task=task, strict=False, on_progress=on_progress)
        seconds = time.perf_counter() - start
        check_some_read(predictions, n_samples)
        if head.kind == "regression":
            return Evaluation.measure(values[predictions.rows], head.classes, predictions, seconds)
        return Evaluation.score([names[row] for row in predictions.rows], predictions, seconds)
