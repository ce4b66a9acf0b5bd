"""Messages on their way in: the memory that all associations share, and a dataset that is a file as it comes.

pynetdicom gathers what a peer sends in memory. It is held there once, its file head before it from the start, so that
nothing need be copied to be looked at and written; and only as far as there is room.
"""

from __future__ import annotations

import io
import threading
from collections.abc import MutableSequence
from typing import Any


class Memory:
    """What all associations together may hold of what is being received; for any thread.

    Each process counts for itself, in a row of its own of what all can see. As they take no lock between them, each may
    go beyond the limit by one fragment, at most a PDU, that it takes in the very moment in which another does.
    """

    def __init__(self, limit_bytes: int, taken: MutableSequence[int] | None = None, process: int = 0) -> None:
        """`taken` is shared by the processes; without it there is but this one."""
        # A lock that its holder may take again: Python may close an `Incoming` anywhere.
        self._limit, self._guard = limit_bytes, threading.RLock()
        self._taken: MutableSequence[int] = [0] if taken is None else taken
        self._mine = process

    @property
    def used(self) -> int:
        """Bytes that are taken now."""
        return sum(self._taken)

    def take(self, size: int) -> bool:
        """Take so many bytes, if there is room."""
        with self._guard:
            if self.used + size > self._limit:
                return False
            self._taken[self._mine] += size
            return True

    def give_back(self, size: int) -> None:
        """Return what was taken."""
        with self._guard:
            self._taken[self._mine] -= size


class Incoming(io.BytesIO):
    """A message's dataset; counted until it is closed, at the latest when nothing refers to it any more."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self._memory, self._taken = memory, 0
        self.is_refused = False
        """There was no room for it: it is empty, and what still comes of it is dropped."""
        self.is_file = False
        """Its file head stands before it."""

    def begin_file(self, head: bytes) -> None:
        """Put the file head before what is to come."""
        self.write(head)
        self.is_file = True

    def write(self, data: Any, /) -> int:
        """Add a fragment, or drop all where there is no room."""
        size = memoryview(data).nbytes
        if not self.is_refused and not self._memory.take(size):
            self.is_refused = True
            self._give_back()
            self.seek(0)
            self.truncate()
        if self.is_refused:
            return size
        self._taken += size
        return super().write(data)

    def close(self) -> None:
        """Let go of content and memory; Python calls it too when the last reference goes."""
        self._give_back()
        super().close()

    def _give_back(self) -> None:
        taken, self._taken = self._taken, 0
        self._memory.give_back(taken)
