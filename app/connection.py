"""A peer's connection as the thread of its association reads it: waited for, and read in one go.

What comes is read into one buffer that is used again and again: a PDU that fits in there is looked at where it lies.
"""

from __future__ import annotations

import mmap
import select
import socket
import ssl
import time
from typing import TYPE_CHECKING, cast

from pynetdicom.transport import AssociationSocket

from app.capped_socket import HEADER_BYTES, P_DATA, PDU_HEADER, Capped

if TYPE_CHECKING:
    from pynetdicom.association import Association
    from pynetdicom.dul import DULServiceProvider

READ_BYTES = 262_144
_TICK_SECONDS = 0.001
"""Between two looks where another thread may want something sent: in negotiation and release. pynetdicom's own."""
_QUIET_SECONDS = 0.02
"""The same where only a rare abort from within can come: while a request is waited for."""
_WAITING_FOR_PEER = frozenset({"Sta2", "Sta6"})
"""States of PS3.8 table 9-10 in which the peer has the word: before its request, and while the association stands."""


class Connection(AssociationSocket):
    """A connection that is waited for, and read in one go."""

    def __init__(self, assoc: Association, client_socket: Capped) -> None:
        super().__init__(assoc, client_socket=client_socket)
        self._is_plain = not isinstance(client_socket, ssl.SSLSocket)
        self._whole = socket.MSG_WAITALL if self._is_plain else 0
        # Of the system, and back to it at the end: Python's own memory would be left with a hole for each thread.
        self._buffer = memoryview(mmap.mmap(-1, READ_BYTES))
        # What was read and not taken is between the two.
        self._start = self._end = 0
        # `recv` is to tell of it.
        self._is_over = False

    @property
    def has_more(self) -> bool:
        """Whether `recv` has something to tell at once: bytes that were read, or the connection's end."""
        return self._end > self._start or self._is_over

    @property
    def ready(self) -> bool:
        """Wait a little for data, and say whether there is any."""
        connection, dul = self.socket, self.assoc.dul
        if connection is None or not self._is_connected:
            time.sleep(_TICK_SECONDS)
            return False
        if self.has_more:
            return True
        if isinstance(connection, ssl.SSLSocket) and connection.pending():
            return True
        try:
            readable, _, _ = select.select([connection], [], [], _patience(dul))
        except (OSError, ValueError):
            self.event_queue.put("Evt17")
            return False
        return bool(readable)

    def recv(self, nr_bytes: int) -> bytearray:
        """Read this many bytes, or fewer where the peer ends the connection.

        With a PDU's header comes what lies behind it: each read that is spared is one wait less for the
        interpreter's lock.
        """
        received = self._take(nr_bytes)
        while self.socket is not None and (left := nr_bytes - len(received)) > 0:
            self._fill(None if nr_bytes == HEADER_BYTES else min(left, READ_BYTES), patient=True)
            if not (some := self._take(left)):
                break
            received += some
        return received

    def _take(self, size: int) -> bytearray:
        received = bytearray(self._buffer[self._start : min(self._start + size, self._end)])
        self._start += len(received)
        return received

    def pdu(self) -> memoryview | None:
        """Return the next PDU, if it is a P-DATA-TF, and leave it; None where for a moment nothing comes.

        None too where `has_more` that is for `recv` alone. What is returned lies there until the next read.
        """
        while self.socket is not None:
            size, wanted = self._end - self._start, None
            if size >= HEADER_BYTES:
                kind, length = PDU_HEADER.unpack_from(self._buffer, self._start)
                whole = HEADER_BYTES + length
                if kind != P_DATA or whole > READ_BYTES:
                    return None
                if size >= whole:
                    return self._buffer[self._start : self._start + whole]
                wanted = whole - size
            # Over TLS a look at the connection does not tell whether a record is whole: `ready` is asked before.
            if not size and not self._is_plain and not self.ready:
                return None
            try:
                came = self._fill(wanted, patient=size > 0 or not self._is_plain)
            except OSError:
                # The connection has failed, and says so again when `recv` reads it.
                came = 0
            if not came:
                self._is_over = came is not None
                return None
        return None

    def skip(self, size: int) -> None:
        """Go on behind a PDU that `pdu` returned."""
        self._start += size

    def forget(self) -> None:
        """Let go of the buffer: Python may be long in finding that a connection has ended."""
        self._buffer = memoryview(b"")
        self._start = self._end = 0

    def _fill(self, wanted: int | None, *, patient: bool) -> int | None:
        """Read so many bytes behind those that are there, or as many as come at once; returns as `Capped.receive`."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end + (wanted or HEADER_BYTES) > READ_BYTES:
            left = self._end - self._start
            self._buffer[:left] = self._buffer[self._start : self._end]
            self._start, self._end = 0, left
        into = self._buffer[self._end : READ_BYTES if wanted is None else self._end + wanted]
        got = cast("Capped", self.socket).receive(into, self._whole if wanted else 0, patient=patient)
        self._end += got or 0
        return got


def _patience(dul: DULServiceProvider) -> float:
    """Return how long nothing but the peer can have work for the thread, in seconds."""
    if not dul.event_queue.empty() or not dul.to_provider_queue.empty():
        return 0.0
    return _QUIET_SECONDS if dul.state_machine.current_state in _WAITING_FOR_PEER else _TICK_SECONDS
