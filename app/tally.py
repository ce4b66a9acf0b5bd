"""The receiver in numbers that its processes write and the node's reads: what it took, and that it moves."""

from __future__ import annotations

import copy
import threading
from multiprocessing.context import SpawnContext
from typing import Any

from app.beats import Beats

KEPT = ("kept", "coerced", "refused")
"""What became of an instance: on disk (also if it was before), there before with other content, not taken."""


class Tally:
    """Counts in memory that all processes see; they outlive a receiver that is replaced."""

    def __init__(self, spawn: SpawnContext, processes: int = 1) -> None:
        """`processes` is how many the receiver is to have: each counts in a row of its own, so that none waits."""
        self.processes = processes
        # Without multiprocessing's lock: a receiver killed while it holds that would hang every reader.
        self._counts: Any = spawn.RawArray("Q", processes * len(KEPT))
        self.beats = Beats.of_node(spawn, processes)
        self._row = 0
        self._one_at_a_time = threading.Lock()

    def of(self, process: int) -> Tally:
        """Return this tally for another process of the receiver to count in."""
        other = copy.copy(self)
        other._row = process
        return other

    def count(self, status: int) -> None:
        """Count one instance by the status it was answered with; in the row's own process alone, from any thread."""
        column = 0 if status == 0x0000 else 1 if status >> 12 == 0xB else 2
        with self._one_at_a_time:
            self._counts[self._row * len(KEPT) + column] += 1

    def read(self) -> dict[str, int]:
        """Return the counts since the node started."""
        counts = list(self._counts)
        return {kept: sum(counts[column :: len(KEPT)]) for column, kept in enumerate(KEPT)}

    def by_process(self) -> list[int]:
        """Return how many instances each process answered."""
        counts = list(self._counts)
        return [sum(counts[row : row + len(KEPT)]) for row in range(0, len(counts), len(KEPT))]

    def __getstate__(self) -> Any:
        return self._counts, self.beats, self.processes, self._row

    def __setstate__(self, state: Any) -> None:
        self._counts, self.beats, self.processes, self._row = state
        self._one_at_a_time = threading.Lock()
