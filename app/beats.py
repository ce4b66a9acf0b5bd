"""Threads of the receiver that must move: each counts in memory that the node shares, so that one that hangs is seen.

A process that is stopped, or waits without end, still has its port: the kernel goes on to take connections for it.
That it no longer counts is what tells. Counts, and no times: whoever looks goes by the time that it has been awake
itself, so that neither a machine that was suspended nor a container that was paused has a receiver that hangs.

Who takes connections counts between two of them, and with the lock that is needed to let a peer in: a process that is
stopped while it holds that lock stops the counting of all. The receiver's main thread looks at these, and ends all its
processes where one hangs; the node looks at the main thread, and kills them where that one hangs.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from multiprocessing.context import SpawnContext
from typing import Any

from app.forked import shared_array

BEAT_SECONDS = 1.0
"""A thread that goes round more often counts so often."""
REST_SECONDS = 5.0
"""One that has nothing to do wakes up so often to count."""
LATE_SECONDS = 15.0
"""Whoever has not counted for so long is not ready."""
HUNG_SECONDS = 30.0
"""Whoever has not counted for so long hangs: its process is ended."""


class Beats:
    """A count for each process of the receiver, of its thread that takes connections, and one for its main thread."""

    def __init__(self, counts: Any) -> None:
        self._counts = counts
        self.main = len(counts) - 1
        """Row of the receiver's main thread; the others' are their processes' numbers."""

    @classmethod
    def of_node(cls, spawn: SpawnContext, processes: int) -> Beats:
        """Make them where the node sees them; without a lock, which a process that is killed would leave held."""
        return cls(spawn.RawArray("Q", processes + 1))

    @classmethod
    def of_receiver(cls, processes: int) -> Beats:
        """Make them for processes that are forked from now on."""
        return cls(shared_array(ctypes.c_uint64, processes + 1))

    def count(self, row: int) -> None:
        """Count once; for the row's own thread alone."""
        self._counts[row] += 1

    def read(self) -> list[int]:
        """Return the counts, by row."""
        return list(self._counts)


class Beat:
    """Counts for one thread, which calls it each time it goes round."""

    def __init__(self, beats: Beats, row: int, lock: AbstractContextManager[Any] | None = None) -> None:
        """With `lock`, it counts only as long as that can be had."""
        self._beats, self._row = beats, row
        self._lock = nullcontext() if lock is None else lock
        self._counted = -BEAT_SECONDS

    def __call__(self) -> None:
        """Count, unless it did a moment ago."""
        now = time.monotonic()
        if now - self._counted >= BEAT_SECONDS:
            with self._lock:
                self._beats.count(self._row)
            self._counted = now


class Pulse:
    """Sees for how long each has not counted; for any thread."""

    def __init__(self, beats: Beats, pace_seconds: float = 1.0, now: Callable[[], float] = time.monotonic) -> None:
        """`pace_seconds`: how often it is looked at, about; of a longer gap only twice that counts."""
        self.main = beats.main
        self._beats, self._now, self._most = beats, now, 2 * pace_seconds
        self._looked, self._counts = now(), beats.read()
        self._still = [0.0] * len(self._counts)
        self._guard = threading.Lock()

    def look(self) -> list[float]:
        """Return, by row, for how many seconds it has not counted."""
        with self._guard:
            now, counts = self._now(), self._beats.read()
            awake = min(now - self._looked, self._most)
            self._still = [
                still + awake if count == before else 0.0
                for still, count, before in zip(self._still, counts, self._counts, strict=True)
            ]
            self._looked, self._counts = now, counts
            return list(self._still)
