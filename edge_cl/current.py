"""What a state file holds now: read at its first use, and again when another process has changed it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from edge_cl.errors import InputError, StateError
from edge_cl.head import Head
from edge_cl.memory import Memory
from edge_cl.recipes import Recipe
from edge_cl.state import Settings, StateFile, Version, utc_now


class Current:
    """The current version of an open state file.

    Attributes:
        state: the file.
        recipe: its recipe.
    """

    def __init__(self, state: StateFile) -> None:
        self.state = state
        self._settings = state.settings
        try:
            self.recipe: Recipe = self._settings.make_recipe()
        except InputError as error:
            raise StateError(f"{state.name}: damaged: {error}; restore a copy of it") from None
        self._head: Head | None = None
        self._memory: Memory | None = None
        self._version, self._change = 0, -1

    @property
    def settings(self) -> Settings:
        """The settings."""
        self._refresh()
        return self._settings

    @property
    def version(self) -> int:
        """Number of the last committed change; 0 before the first."""
        self._refresh()
        return self._version

    @property
    def head(self) -> Head | None:
        """The head; None before the first update, and when all classes were forgotten."""
        self._refresh()
        return self._head

    @property
    def dim(self) -> int:
        """D; 0 before the first update."""
        head = self.head
        return head.weights.shape[1] if head else 0

    def memory(self, dim: int = 0) -> Memory:
        """Return all that is remembered, empty and for D features before the first update.

        Raises:
            StateError: the file is damaged.
        """
        self._refresh()
        if self._memory is None and self._head is not None:
            self._memory = self.state.read_memory()
        if self._memory is None:
            return self._empty(dim)
        needs_scatter = self.recipe.has_scatter or self._memory.replay.codec.needs_scatter
        if (self._memory.statistics.scatter is not None) != needs_scatter:
            raise StateError(f"{self.state.name}: damaged: its second moment does not fit the recipe; restore a copy")
        return self._memory

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the only right to write; what is committed within is committed at the end, or nothing is."""
        try:
            with self.state.writing():
                yield
        except BaseException:
            self.forget_cache()  # an interrupt can come just after the commit: ask the file what holds
            raise

    def commit(self, memory: Memory, version: Version) -> None:
        """Put a new version into the open transaction."""
        self.state.write(memory, version)
        self._memory, self._head, self._version = memory, memory.head, version.version

    def commit_change(self, kind: str, memory: Memory, restored: int = 0) -> Version:
        """Put a version that learnt nothing into the open transaction, and return it."""
        version = self.next_version(kind, memory, restored=restored)
        self.commit(memory, version)
        return version

    def next_version(self, kind: str, memory: Memory, restored: int = 0) -> Version:
        """Return the version that would follow, of no samples."""
        settings, number = self._settings, self.state.current_version()
        n_seen = int(memory.statistics.counts.sum())
        names = (kind, settings.recipe, settings.seed)
        return Version(number + 1, number, utc_now(), *names, 0, n_seen, (), 0.0, 0.0, 1.0, 0.0, restored)

    def commit_restored(self, memory: Memory | None, restored: int) -> Version:
        """Put a version into the open transaction that is a kept one, whose memory this is, and return it."""
        assert memory is not None
        version = self.next_version("rollback", memory, restored=restored)
        self.state.restore(version)
        self._memory, self._head, self._version = memory, memory.head, version.version
        return version

    def change_settings(self, **changes: float | None) -> None:
        """Put other settings into the open transaction.

        Raises:
            InputError: one is out of its range.
        """
        settings = replace(self._settings, **changes).checked()  # type: ignore[arg-type]
        self.state.change_settings(settings)
        self._settings, self._memory, self.recipe = settings, None, settings.make_recipe()

    def forget_cache(self) -> None:
        """Ask the file again at the next use."""
        self._memory, self._change = None, -1

    def _refresh(self) -> None:
        change = self.state.change
        if change != self._change:
            self._settings = self.state.settings
            self.recipe = self._settings.make_recipe()
            self._head, self._version = self.state.read_head()
            self._memory, self._change = None, change

    def _empty(self, dim: int) -> Memory:
        settings = self._settings
        memory = Memory.empty(
            dim,
            has_scatter=self.recipe.has_scatter,
            replay_bytes=settings.replay_bytes,
            seed=settings.seed,
            codec=settings.codec,
            selection=settings.selection,
        )
        head = Head.empty(dim, settings.head, has_tasks=settings.has_tasks, hidden_units=settings.hidden_units)
        return replace(memory, head=head)
