"""A peer's connection that can neither fill the memory nor hold a thread for ever.

pynetdicom itself trusts every length that a peer states, and waits anew for every single byte of it.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from app.config import ReceiverConfig
from app.places import Place

PDU_HEADER = struct.Struct(">BxL")
HEADER_BYTES = PDU_HEADER.size
"""A PDU's type and length (PS3.8 section 9.3.1)."""
_MOMENT = struct.pack("@ll", 0, 20_000)
"""Seconds and microseconds, as SO_RCVTIMEO wants them: so long each call on a plain connection waits at most."""
P_DATA = 4
"""The type of a P-DATA-TF, which carries messages (PS3.8 section 9.3.5)."""
ASSOCIATE_BYTES = 262_144
"""Longest PDU of any kind. An A-ASSOCIATE-RQ of 128 contexts with every transfer syntax stays below 200 KB."""
ANSWER_BYTES = 8_000_000
"""Most that a peer of ours may say before all of it is read: the longest report of storage commitment, twice."""
SLOWEST_BYTES_PER_SECOND = 10_000
"""A message that comes more slowly than this, and the time of one PDU on top, is given up."""
REQUEST_SECONDS = 5.0
"""Who connects says at once what it wants: the TLS handshake, and then the request, may each take this long."""


def request_seconds(config: ReceiverConfig) -> float:
    """Return the limit for handshake and request: a network's own shorter one goes first."""
    return min(config.network_timeout_seconds, REQUEST_SECONDS)


if TYPE_CHECKING:
    _Base = socket.socket
else:
    _Base = object


class _Capped(_Base):
    """What a peer's connection is held to, whether plain or TLS.

    pynetdicom reads as many bytes as a PDU's 32-bit length says, and gathers a message's fragments without a
    bound. This socket watches the PDU headers pass by and raises OSError at a length above `pdu_limit`, or when
    more than `message_limit` bytes came since `message_done`; pynetdicom takes that for a lost connection. So it
    does with TimeoutError, which is raised when a PDU is not whole in time, however many of its bytes trickle in, or
    when a message's fragments come more slowly than `SLOWEST_BYTES_PER_SECOND`.
    """

    address = ""
    """IP address of the peer."""
    place: Place | None = None
    """Its place among all that the receiver has open; none on a connection that we made."""
    at_end: Callable[[], object] | None = None
    """Called when it is closed."""
    pdu_limit = message_limit = 0
    _pdu_seconds: float | None = None
    _deadline: float | None = None
    _failed = False
    _header: bytearray
    _left = _message_bytes = 0
    _is_message = False
    _message_began = 0.0
    _message_seconds: float | None = None

    def guard(self, address: str, config: ReceiverConfig) -> None:
        """Begin: `request_seconds` from now, the first PDU must be whole."""
        self.address = address
        self.pdu_limit = max(config.max_pdu_bytes, ASSOCIATE_BYTES)
        self.message_limit = config.max_object_mb * 1_000_000
        self._header = bytearray()
        self._pdu_seconds = self._message_seconds = config.network_timeout_seconds
        self._deadline = time.monotonic() + request_seconds(config)
        self._wait_by_moments()

    def guard_answers(self, address: str, seconds: float) -> None:
        """Begin on a connection that we made: a PDU, once begun, must be whole in `seconds`.

        How long none may come, and a message take in all, is for whoever waits for it to say.
        """
        self.address = address
        self.pdu_limit, self.message_limit = ASSOCIATE_BYTES, ANSWER_BYTES
        self._header = bytearray()
        self._pdu_seconds = seconds
        self._wait_by_moments()

    def recv(self, bufsize: int = 1024, flags: int = 0, /) -> bytes:
        """Receive as a socket does, within the limits."""
        if self._pdu_seconds is None:
            # ssl itself looks for early bytes while it takes a socket over.
            return super().recv(bufsize, flags)
        into = memoryview(bytearray(bufsize))
        got = self.receive(into, flags, patient=True)
        return bytes(into[:got])

    def receive(self, into: memoryview, flags: int = 0, *, patient: bool) -> int | None:
        """Receive into a buffer, within the limits; returns how many bytes, nought at the peer's end.

        Who is not `patient` waits, where no PDU has begun, but a moment for one, and then gets None.
        """
        # pynetdicom reads once more before it acts on a failure.
        if self._failed:
            raise OSError("the connection has failed")
        if patient and self._deadline is None:
            self._deadline = time.monotonic() + cast("float", self._pdu_seconds)
        self._failed = True
        got: int | None = None
        while got is None:
            if self._deadline is not None:
                self._wait_until(self._deadline)
            try:
                got = self.recv_into(into, len(into), flags)
            except BlockingIOError:
                if not patient:
                    self._failed = False
                    return None
        self._watch(into[:got])
        self._failed = False
        return got

    def send(self, data: bytes, flags: int = 0, /) -> int:  # type: ignore[override]
        """Send all of it, or raise OSError when the peer does not take it in time."""
        if self._pdu_seconds is None:
            return super().send(data, flags)
        deadline = time.monotonic() + self._pdu_seconds
        view, sent = memoryview(data), 0
        while sent < len(view):
            self._wait_until(deadline)
            with suppress(BlockingIOError):
                sent += super().send(view[sent:], flags)
        return sent

    def _real_close(self, *args: Any) -> None:
        # Not `close`: what Python's own file objects still use is open.
        super()._real_close(*args)  # type: ignore[misc]
        if self.at_end is not None:
            self.at_end()

    def _wait_until(self, deadline: float) -> None:
        """Let the next call wait so long at most; raises TimeoutError where no time is left."""
        self.settimeout(_seconds_left(deadline))

    def _wait_by_moments(self) -> None:
        """Prepare for calls that raise BlockingIOError after a moment, where the connection can."""

    def message_done(self) -> None:
        """Start counting anew."""
        self._message_bytes = 0

    def _watch(self, view: memoryview) -> None:
        if not self._message_bytes:
            self._message_began = time.monotonic()
        self._message_bytes += len(view)
        if self._message_bytes > self.message_limit:
            raise OSError(f"a message of more than {self.message_limit} bytes")
        if self._message_seconds is not None:
            _seconds_left(self._message_began + self._message_seconds + self._message_bytes / SLOWEST_BYTES_PER_SECOND)
        while view:
            if self._left:
                step = min(self._left, len(view))
                self._left -= step
            else:
                step = min(HEADER_BYTES - len(self._header), len(view))
                self._header += view[:step]
                if len(self._header) == HEADER_BYTES:
                    self._begin_pdu()
            view = view[step:]
            if not self._left and not self._header:
                # Here, as what is read may end within the next one each time: every PDU has its own time.
                self._deadline = None
                if not self._is_message:
                    # The request for an association, or the answer: a message may be long in coming after it.
                    self._message_bytes = len(view) - step

    def _begin_pdu(self) -> None:
        kind, self._left = PDU_HEADER.unpack(self._header)
        self._header.clear()
        self._is_message = kind == P_DATA
        if self._left > self.pdu_limit:
            raise OSError(f"a PDU of {self._left} bytes is over the limit of {self.pdu_limit}")


def _seconds_left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the peer is too slow")
    return left


class CappedSocket(_Capped, socket.socket):
    """A plain connection within the limits.

    The kernel keeps the time: with a time-out of Python's own each read is several calls, and MSG_WAITALL, by which a
    PDU is read in one, does nothing. At each call the interpreter's lock is given away, and waited for. The kernel's
    time-out is set once, to a moment: who waits longer asks again, as long as there is time.
    """

    @classmethod
    def around(cls, accepted: socket.socket) -> CappedSocket:
        """Take over a connection just accepted."""
        connection = cls(fileno=accepted.detach())
        connection.settimeout(None)
        return connection

    def _wait_by_moments(self) -> None:
        """As the base; a call that has waited long enough may also return what it has."""
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self.setsockopt(socket.SOL_SOCKET, option, _MOMENT)

    def _wait_until(self, deadline: float) -> None:
        """See that there is time; a moment more or less does not count."""
        _seconds_left(deadline)


class CappedTlsSocket(_Capped, ssl.SSLSocket):  # type: ignore[misc]
    """A TLS connection within the limits; an SSLContext makes it, by its `sslsocket_class`."""


Capped = CappedSocket | CappedTlsSocket
