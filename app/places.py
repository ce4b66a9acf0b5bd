"""Which connections are open, who serves each, and which were let in: a table that all processes of a receiver see."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from app.beats import Beats
from app.config import ReceiverConfig
from app.forked import ProcessLock, shared_array

SPARE_CONNECTIONS = 16
"""Room to tell a peer properly that there are too many."""
SPARE_PER_PEER = 4
"""The same for one address: what is beyond is closed at once, so that the others find room."""
_ADDRESS_BYTES = 64
"""An IPv6 address with the name of an interface has 62 at most."""


class Place(NamedTuple):
    """A connection's row in the table."""

    number: int
    ticket: int
    """No other connection's: a row is used again."""
    process: int
    """Who serves it; 0 listens too."""


class _Row(ctypes.Structure):
    _fields_ = [
        ("ticket", ctypes.c_uint64),
        ("address", ctypes.c_char * _ADDRESS_BYTES),
        ("server", ctypes.c_uint16),  # 0: the row is free; else the process's number and one
        ("admitted", ctypes.c_bool),
    ]


class Places:
    """The table; `take` and `move` are for the process that listens alone, all else for any thread of any process."""

    def __init__(
        self, config: ReceiverConfig, processes: int = 1, lock: AbstractContextManager[Any] | None = None
    ) -> None:
        """`lock` must be a `ProcessLock` where there are several processes."""
        self._config, self._processes = config, processes
        self.lock: AbstractContextManager[Any] = threading.Lock() if lock is None else lock
        self._rows = shared_array(_Row, config.max_associations + SPARE_CONNECTIONS)
        self._draining = shared_array(ctypes.c_bool, 1)
        self._tickets = 0

    @property
    def draining(self) -> bool:
        """Whether no further association is to be admitted: the node stops."""
        return bool(self._draining[0])

    def drain(self) -> None:
        """Admit no further association, in any process."""
        self._draining[0] = True

    def take(self, address: str) -> Place | None:
        """Give a new connection a place, in the process that has fewest; None where far more are open than may be.

        Of processes that have as few, it is the first: one sender alone is served where the receiver listens.
        """
        with self.lock:
            here, _ = self.open(address)
            number = next((i for i, row in enumerate(self._rows) if not row.server), None)
            if number is None or here >= self._config.max_associations_per_peer + SPARE_PER_PEER:
                return None
            served = [row.server - 1 for row in self._rows]
            self._tickets += 1
            place = Place(number, self._tickets, min(range(self._processes), key=served.count))
            row = self._rows[number]
            row.ticket, row.address, row.admitted = place.ticket, _told(address), False
            row.server = place.process + 1
            return place

    def move(self, place: Place, process: int) -> Place:
        """Have a connection that nobody serves yet served by another process."""
        self._rows[place.number].server = process + 1
        return place._replace(process=process)

    def free(self, place: Place) -> None:
        """Count a connection no more; for the process that serves it, once.

        It takes no lock, as Python may call it from anywhere, when it removes a connection that was only forgotten.
        """
        row = self._rows[place.number]
        if row.ticket == place.ticket:
            row.server = 0

    def admit(self, place: Place) -> bool:
        """Give a connection one of the associations that may be open at once; False where none is left for it."""
        with self.lock:
            mine = self._rows[place.number]
            if not mine.server or mine.ticket != place.ticket:
                return False  # it was closed meanwhile
            admitted = [row.address for row in self._rows if row.server and row.admitted]
            mine.admitted = (
                len(admitted) < self._config.max_associations
                and admitted.count(mine.address) < self._config.max_associations_per_peer
            )
            return bool(mine.admitted)

    def open(self, address: str) -> tuple[int, int]:
        """Return how many connections are open, of an address and in all."""
        addresses = [row.address for row in self._rows if row.server]
        return addresses.count(_told(address)), len(addresses)

    def any_admitted(self) -> bool:
        """Say whether an association is open."""
        return any(row.server and row.admitted for row in self._rows)


def _told(address: str) -> bytes:
    return address.encode()[: _ADDRESS_BYTES - 1]


class Shared:
    """All that the processes of a receiver share; made before they are forked."""

    def __init__(self, config: ReceiverConfig, processes: int = 1, beats: Beats | None = None) -> None:
        """`beats` is what the node sees of it, where there is one."""
        self.processes = processes
        self.beats = Beats.of_receiver(processes) if beats is None else beats
        # A process alone needs no more than locks of threads.
        kind: Callable[[], AbstractContextManager[Any]] = ProcessLock if processes > 1 else threading.Lock
        self.places = Places(config, processes, kind())
        self.moving = kind()
        """For `app.store.Store`. Its own: a rename may take long, and nobody would be let in meanwhile."""
        self.memory_taken = shared_array(ctypes.c_int64, processes)
        """Bytes, by process; see `app.incoming.Memory`."""

    def begin(self) -> None:
        """Be ready in this process: its locks need no descriptor from now on, when there may be none left."""
        for lock in (self.places.lock, self.moving):
            with lock:
                pass
