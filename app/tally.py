"""Numbers that the node's processes write and its own reads: instances taken, deliveries, the receiver's beats."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from multiprocessing.context import SpawnContext
from typing import Any, Literal, Self

from app.beats import Beats

KEPT = ("kept", "coerced", "refused")
"""What became of an instance: on disk (also if it was before), there before with other content, not taken."""
DeliveryOutcome = Literal["delivered", "failed", "dead"]
OUTCOMES: tuple[DeliveryOutcome, ...] = ("delivered", "failed", "dead")
"""What an attempt to deliver a result came to: it is there, it is tried again, it is given up."""


class Counts:
    """Counts in memory that all processes see; they outlive a receiver that is replaced."""

    def __init__(self, spawn: SpawnContext, rows: int, columns: int) -> None:
        """Each process counts in a row of its own, so that none waits for another."""
        self._columns = columns
        # Without multiprocessing's lock: a receiver killed while it holds that would hang every reader.
        self._counts: Any = spawn.RawArray("Q", max(rows * columns, 1))
        self._row = 0
        self._one_at_a_time = threading.Lock()

    def of(self, row: int) -> Self:
        """Return these counts for another process to count in."""
        other = copy.copy(self)
        other._row = row
        return other

    def add(self, column: int, number: int = 1) -> None:
        """Count in the row's own process alone, from any thread."""
        with self._one_at_a_time:
            self._counts[self._row * self._columns + column] += number

    def sums(self) -> list[int]:
        """Return the sum of each column since the node started."""
        counts = list(self._counts)
        return [sum(counts[column :: self._columns]) for column in range(self._columns)]

    def by_row(self) -> list[int]:
        """Return the sum of each row."""
        counts = list(self._counts)
        return [sum(counts[start : start + self._columns]) for start in range(0, len(counts), self._columns)]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_one_at_a_time"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._one_at_a_time = threading.Lock()


class DeliveryTally(Counts):
    """Attempts to deliver a result, by destination and outcome.

    The receiver's processes count too: reports of storage commitment come to them.
    """

    def __init__(self, spawn: SpawnContext, receiver_processes: int, destinations: Sequence[str]) -> None:
        """Rows are those of the receiver's processes, and the node's own, in which this one counts."""
        super().__init__(spawn, receiver_processes + 1, len(destinations) * len(OUTCOMES))
        self._names, self._row = tuple(destinations), receiver_processes

    def count(self, destination: str, outcome: DeliveryOutcome, number: int = 1) -> None:
        """Count attempts; those of a destination that is in the settings no more are not told."""
        if destination in self._names:
            self.add(self._names.index(destination) * len(OUTCOMES) + OUTCOMES.index(outcome), number)

    def read(self) -> dict[tuple[str, DeliveryOutcome], int]:
        """Return the counts since the node started."""
        labels = [(name, outcome) for name in self._names for outcome in OUTCOMES]
        return dict(zip(labels, self.sums(), strict=True))


class Tally(Counts):
    """How many instances the receiver took and refused; and what it is to count of deliveries."""

    def __init__(self, spawn: SpawnContext, processes: int = 1, destinations: Sequence[str] = ()) -> None:
        """`processes` is how many the receiver is to have."""
        super().__init__(spawn, processes, len(KEPT))
        self.processes = processes
        self.beats = Beats.of_node(spawn, processes)
        self.deliveries = DeliveryTally(spawn, processes, destinations)

    def of(self, row: int) -> Self:
        """Return these counts, those of deliveries too, for another process to count in."""
        other = super().of(row)
        other.deliveries = self.deliveries.of(row)
        return other

    def count(self, status: int) -> None:
        """Count one instance by the status it was answered with."""
        self.add(0 if status == 0x0000 else 1 if status >> 12 == 0xB else 2)

    def read(self) -> dict[str, int]:
        """Return the counts since the node started."""
        return dict(zip(KEPT, self.sums(), strict=True))

    def by_process(self) -> list[int]:
        """Return how many instances each process answered."""
        return self.by_row()
