"""Answers for an app while heads are learnt or exported elsewhere: each new head is taken between two calls."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np

from edge_cl.answering import answer, check_top
from edge_cl.backbones import Extraction, Progress
from edge_cl.errors import EdgeClError, ExportError, InputError, first_line
from edge_cl.inputs import Samples, check_samples, sized
from edge_cl.reports import Predictions, check_none_skipped
from edge_cl.served import Served, as_served, open_source
from edge_cl.state import check_device
from edge_cl.tasks import clean_task, head_of

POLL_SECONDS = 0.1
log = logging.getLogger("edge_cl")


class Predictor:
    """A backbone that is opened once, and a head that is replaced whole between two calls.

    Any number of threads may call `predict`: it takes no lock, and each call answers with the names and the weights of
    one version. A new head that is damaged, or of another backbone, is refused, logged, and kept in `refused`; the old
    one goes on, and the new one is looked at again each time. A context manager that stops watching.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        backbone: str | os.PathLike[str] | None = None,
        device: str = "auto",
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        """Open the backbone and the head that is there now.

        Args:
            source: a state file (`cam.ecl`), also while it is learnt into; the folder of a `split` export; or an
                exported `.onnx` file, of any kind that has a head.
            backbone: where the state's backbone is now, if it was moved.
            device: `auto`, `cpu` or `cuda`, of the backbone.
            poll_seconds: between two looks at whether there is a new head; 0: only `refresh` looks.

        Raises:
            InputError: an argument is wrong.
            EdgeClError: there is no head that can be used.
        """
        check_device(device)
        is_number = isinstance(poll_seconds, int | float) and not isinstance(poll_seconds, bool)
        if not is_number or not 0 <= poll_seconds <= 86_400:
            raise InputError(f"poll_seconds: expected 0 to 86400; found {poll_seconds!r}")
        self._source = open_source(source, None if backbone is None else os.fspath(backbone), device)
        self._reading = threading.Lock()  # held by whoever looks for a new head, never by `predict`
        self._closed = threading.Event()
        self._refused: EdgeClError | None = None
        try:
            new, self._stamp = self._source.read()
            self._served = new.ready(None)
            if self._source.backbone is not None:
                self._source.backbone.session  # noqa: B018 - opened now, by one thread
        except BaseException:
            self._source.close()
            raise
        self._watcher: threading.Thread | None = None
        if poll_seconds:
            watch = threading.Thread(target=self._watch, args=(poll_seconds,), name="edge_cl-watch", daemon=True)
            self._watcher = watch
            watch.start()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, or outputs, of the head that answers now."""
        return self._served.head.classes

    @property
    def n_inputs(self) -> int:
        """Features of a sample, where samples are features; else of what the backbone makes of one."""
        return self._served.feature_map.n_inputs

    @property
    def version(self) -> int:
        """Version of the state that the head that answers now comes from."""
        return self._served.version

    @property
    def refused(self) -> EdgeClError | None:
        """Why the latest new head was refused; None if it was taken."""
        return self._refused

    def predict(
        self,
        samples: Samples,
        top: int = 1,
        *,
        task: str | None = None,
        strict: bool = True,
        on_progress: Progress = int,
    ) -> Predictions:
        """Return the most probable classes, or the values of a regression; see `Learner.predict`.

        Raises:
            InputError: a sample cannot be used, or the task is not known.
        """
        check_top(top)
        served, name = self._served, self._source.name  # read once: another thread may replace it now
        head = head_of(name, served.head, clean_task(task))
        samples, backbone = sized(samples), self._source.backbone
        checked = check_samples(samples, served.feature_map.n_inputs, has_backbone=backbone is not None)
        if isinstance(checked, np.ndarray) and checked.ndim == 2:
            extraction = Extraction(checked, np.arange(len(checked)), ())
        else:
            assert backbone is not None
            extraction = backbone.extract(checked, on_progress)
        if strict:
            check_none_skipped(extraction.skipped)
        seen = replace(extraction, features=served.feature_map.apply(extraction.features))
        return replace(answer(name, head, seen, top), version=served.version)

    def refresh(self) -> bool:
        """Look for a new head now, and return whether one was taken.

        Raises:
            EdgeClError: there is one, and it is refused.
            InputError: the predictor is closed.
        """
        with self._reading:
            self._check_open()
            try:
                if self._source.stamp() == self._stamp and self._refused is None:
                    return False
                new, stamp = self._source.read()
                new.origin.check_same(self._served.origin, self._source.name, "open another predictor for it")
            except EdgeClError as error:
                self._refused = error
                raise
            self._stamp = stamp
            return self._take(new)

    def patch(self, delta: str | os.PathLike[str]) -> int:
        """Take the head that a delta makes of the one that answers now, and return its version.

        Args:
            delta: path of what `edge-cl export --delta-from` wrote.

        Raises:
            ExportError: it is none, is damaged, or is one from another version; the old head goes on.
            InputError: the head comes from a state, which knows its changes itself.
        """
        from edge_cl.export.delta import apply_delta

        with self._reading:
            self._check_open()
            old = self._served.export
            if old is None:
                raise InputError(f"{self._source.name}: is a state, whose new heads are taken as they come; no delta")
            self._take(as_served(apply_delta(Path(delta), old)))
            return self._served.version

    def close(self) -> None:
        """Stop watching; `predict` goes on with the last head."""
        self._closed.set()
        if self._watcher is not None and self._watcher is not threading.current_thread():
            self._watcher.join()
        with self._reading:
            self._source.close()

    def __enter__(self) -> Predictor:
        """Return the predictor itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Stop watching."""
        self.close()

    def _check_open(self) -> None:
        """Refuse to look for heads after `close`.

        Raises:
            InputError: it was closed.
        """
        if self._closed.is_set():
            raise InputError(f"{self._source.name}: the predictor is closed")

    def _take(self, new: Served) -> bool:
        """Let a head answer from now on, and return whether it is another one."""
        self._refused = None
        if new.is_same(self._served):
            return False
        self._served = new.ready(self._served)  # one assignment: a call sees the old head whole, or the new one
        return True

    def _watch(self, seconds: float) -> None:
        said = ""
        while not self._closed.wait(seconds):
            try:
                self.refresh()
                said = ""
            except Exception as error:  # whatever a file does to its reader, thread and old head go on
                if not isinstance(error, EdgeClError):
                    self._refused = ExportError(f"{self._source.name}: cannot be read: {first_line(error)}")
                if str(error) != said and not self._closed.is_set():
                    said = str(error)
                    log.warning("%s; version %d goes on", first_line(error), self.version)
