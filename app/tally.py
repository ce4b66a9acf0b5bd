"""How many instances the receiver took and refused: numbers that its process writes and the node's reads."""

from __future__ import annotations

import threading
from multiprocessing.context import SpawnContext
from typing import Any

KEPT = ("kept", "coerced", "refused")
"""What became of an instance: on disk (also if it was before), there before with other content, not taken."""


class Tally:
    """Counts in memory that both processes see; they outlive a receiver that is replaced."""

    def __init__(self, spawn: SpawnContext) -> None:
        # Without multiprocessing's lock: a receiver killed while it holds that would hang every reader.
        self._counts: Any = spawn.RawArray("Q", len(KEPT))
        self._one_at_a_time = threading.Lock()

    def count(self, status: int) -> None:
        """Count one instance by the status it was answered with; in the receiver alone, from any thread."""
        with self._one_at_a_time:
            self._counts[0 if status == 0x0000 else 1 if status >> 12 == 0xB else 2] += 1

    def read(self) -> dict[str, int]:
        """Return the counts since the node started."""
        return dict(zip(KEPT, map(int, self._counts), strict=True))

    def __getstate__(self) -> Any:
        return self._counts

    def __setstate__(self, counts: Any) -> None:
        self._counts, self._one_at_a_time = counts, threading.Lock()
