"""The receiver in numbers that its processes write and the node's reads: what it took, and that it moves."""

from __future__ import annotations

import copy
import threading
from multiprocessing.context import SpawnContext
from typing import Any

from app.beats import Beats

KEPT = ("kept", "coerced", "refused")
"""What became of an instance: on disk (also if it was before), there before with other content, not taken."""
_COLUMNS = (*KEPT, "rejected")
"""The last counts peers."""


class Tally:
    """Counts in memory that all processes see; they outlive a receiver that is replaced."""

    def __init__(self, spawn: SpawnContext, processes: int = 1) -> None:
        """`processes` is how many the receiver is to have: each counts in a row of its own, so that none waits."""
        self.processes = processes
        # Without multiprocessing's lock: a receiver killed while it holds that would hang every reader.
        self._counts: Any = spawn.RawArray("Q", processes * len(_COLUMNS))
        self._open: Any = spawn.RawValue("Q", 0)
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
        self._count(0 if status == 0x0000 else 1 if status >> 12 == 0xB else 2)

    def reject(self) -> None:
        """Count a peer that was turned away; as `count`."""
        self._count(len(KEPT))

    def _count(self, column: int) -> None:
        with self._one_at_a_time:
            self._counts[self._row * len(_COLUMNS) + column] += 1

    def read(self) -> dict[str, int]:
        """Return the counts since the node started."""
        counts = list(self._counts)
        return {kept: sum(counts[column :: len(_COLUMNS)]) for column, kept in enumerate(KEPT)}

    @property
    def rejected(self) -> int:
        """How many peers were turned away since the node started."""
        return sum(list(self._counts)[len(KEPT) :: len(_COLUMNS)])

    @property
    def associations(self) -> int:
        """How many associations are open, as the process that listens said a second ago."""
        return int(self._open.value)

    @associations.setter
    def associations(self, count: int) -> None:
        self._open.value = count

    def by_process(self) -> list[int]:
        """Return how many instances each process answered."""
        counts = list(self._counts)
        return [sum(counts[row : row + len(KEPT)]) for row in range(0, len(counts), len(_COLUMNS))]

    def __getstate__(self) -> Any:
        return self._counts, self._open, self.beats, self.processes, self._row

    def __setstate__(self, state: Any) -> None:
        self._counts, self._open, self.beats, self.processes, self._row = state
        self._one_at_a_time = threading.Lock()
