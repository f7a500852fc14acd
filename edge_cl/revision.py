"""What changes a state without learning: going back, forgetting a class, other budgets; and what changed."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from dataclasses import replace

from edge_cl.backbones import Extraction, Progress
from edge_cl.comparison import RowChange, compare
from edge_cl.current import Current
from edge_cl.errors import InputError, StateError
from edge_cl.forgetting import ForgetReport, without_class
from edge_cl.inputs import Samples, clean_labels, sized
from edge_cl.reports import check_none_skipped
from edge_cl.state import Version

CHANGEABLE = ("replay_bytes", "history_bytes", "shrinkage", "penalty")


class Revisable(ABC):
    """A learner whose state has versions; each change is one transaction."""

    def __init__(self, current: Current) -> None:
        self._current = current

    @abstractmethod
    def _extract(self, samples: Samples, on_progress: Progress) -> Extraction:
        """Return the features of samples of any of the three kinds."""

    @property
    def state_bytes(self) -> dict[str, int]:
        """Bytes of each part of the state: head, statistics, fisher, replay, versions."""
        return self._current.state.sizes()

    @property
    def history_bytes(self) -> int:
        """Limit of what is kept of earlier versions."""
        return self._current.settings.history_bytes

    def versions(self) -> tuple[Version, ...]:
        """Return every committed change that the log has a line of, the oldest first."""
        return self._current.state.versions()

    def rollback(self, version: int) -> Version:
        """Make a kept version current again, as a new version: head, Fisher, statistics and replay bit for bit.

        Only a replay that is larger than the budget of today is cut to it.

        Args:
            version: its number; `versions()` says which are kept.

        Returns:
            The new version.

        Raises:
            InputError: it is not kept.
            StateError: the state cannot be written; nothing was changed.
        """
        _check_number(version)
        current = self._current
        with current.changing():
            memory = current.state.read_memory(version)
            limit = current.state.settings.replay_bytes
            if memory is not None and memory.replay.n_bytes > limit:  # the budget was made smaller since
                smaller = replace(memory, replay=memory.replay.resize(limit, memory.statistics))
                return current.commit_change("rollback", smaller, restored=version)
            return current.commit_restored(memory, version)

    def forget(self, class_name: str, samples: Samples | None = None, *, on_progress: Progress = int) -> ForgetReport:
        """Remove a class: its row, mean and stored samples, from this version, all earlier ones, and the file's bytes.

        Args:
            class_name: that was learnt.
            samples: all that it was learnt from, so that its part of the shared second moment is removed too.
            on_progress: called with the number of samples that went through the backbone.

        Returns:
            What was removed, and what was not; the bytes are gone from the file by then, or it says so.

        Raises:
            InputError: there is no such class, or the samples are not its own.
            StateError: the state cannot be written; nothing was changed.
        """
        current = self._current
        current.state.check_writable()
        (class_name,) = clean_labels([class_name], 1)
        self._check_class(class_name)
        features = None
        if samples is not None:
            extraction = self._extract(sized(samples), on_progress)
            check_none_skipped(extraction.skipped, " (all samples of the class are needed: nothing was forgotten)")
            features = extraction.features
        with current.changing():
            self._check_class(class_name)
            memory = current.memory()
            row = memory.head.classes.index(class_name)
            n_kept = sum(version.is_kept for version in self.versions())
            made, remains = without_class(memory, class_name, current.recipe, features)
            version = current.commit_change("forget", made)
            current.state.forget_history((class_name,))
        try:
            current.state.erase()
        except StateError as error:
            text = str(error).removeprefix(f"{current.state.name}: ")
            remains = (*remains, f"its bytes in free space, until the file is next written to: {text}")
        n_samples, n_stored = int(memory.statistics.counts[row]), int((memory.replay.labels == row).sum())
        return ForgetReport(version.version, class_name, n_samples, n_stored, n_kept, remains)

    def resize(self, *, replay_bytes: int | None = None, history_bytes: int | None = None) -> dict[str, int]:
        """Change a budget, and shrink what is stored to it; a replay that has to shrink makes a version.

        Args:
            replay_bytes: of the stored samples.
            history_bytes: of earlier versions.

        Returns:
            `state_bytes` after it.

        Raises:
            InputError: a number is wrong, or there is none.
            StateError: the state cannot be written; nothing was changed.
        """
        if replay_bytes is None and history_bytes is None:
            raise InputError("resize: expected replay_bytes or history_bytes; found neither")
        changes = {"replay_bytes": replay_bytes, "history_bytes": history_bytes}
        self.change(**{key: value for key, value in changes.items() if value is not None})
        return self.state_bytes

    def change(self, **settings: float | None) -> None:
        """Change what may be changed later, all of it or nothing; what changes more than settings makes a version.

        Args:
            settings: `replay_bytes` and `history_bytes`, to which what is stored is shrunk at once; `shrinkage` and
                `penalty` (None: chosen by itself), by which the next update looks at all that is stored.

        Raises:
            InputError: a number is wrong, the recipe has no such strength, or it cannot be changed.
            StateError: the state cannot be written; nothing was changed.
        """
        if wrong := settings.keys() - set(CHANGEABLE):
            raise InputError(f"change: expected settings among {', '.join(CHANGEABLE)}; found {min(wrong)!r}")
        current = self._current
        with current.changing():
            memory = current.memory(1)
            current.change_settings(**settings)
            limit, made = current.settings.replay_bytes, memory
            if memory.replay.n_bytes > limit:
                made = replace(memory, replay=memory.replay.resize(limit, memory.statistics))
            if settings.keys() & {"shrinkage", "penalty"} and memory.companion.n_seen:
                made = replace(made, companion=memory.companion.due())
            if made is not memory:
                current.commit_change("set", made)
            current.forget_cache()

    def diff(self, before: int, after: int) -> tuple[RowChange, ...]:
        """Return what each class's row, samples and accuracy were in two kept versions.

        Args:
            before: number of a kept version.
            after: another one.

        Raises:
            InputError: one of them is not kept.
        """
        _check_number(before)
        _check_number(after)
        first, second = (self._current.state.read_memory(version) for version in (before, after))
        assert first is not None
        assert second is not None
        return compare(first, second)

    def _check_class(self, name: str) -> None:
        classes, path = self._current.head.classes if self._current.head else (), self._current.state.name
        if self._current.settings.head == "regression":
            raise InputError(
                f"{path}: forget: a regression's sums hold all samples alike; go back: edge-cl rollback {path}"
            )
        if name not in classes:
            near = difflib.get_close_matches(str(name), classes, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"see them: edge-cl info {path}"
            raise InputError(f"{path}: class: expected one of its {len(classes)}; found {name!r}; {hint}")


def _check_number(version: int) -> None:
    if isinstance(version, bool) or not isinstance(version, int) or not 0 <= version < 1 << 32:
        raise InputError(f"version: expected a whole number; found {version!r}")
