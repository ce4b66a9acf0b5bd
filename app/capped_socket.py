"""A peer's connection that cannot fill the memory: pynetdicom itself trusts every length that a peer states."""

from __future__ import annotations

import socket
import struct

from app.config import ReceiverConfig

_PDU_HEADER = struct.Struct(">BxL")
ASSOCIATE_BYTES = 262_144
"""Longest PDU of any kind. An A-ASSOCIATE-RQ of 128 contexts with every transfer syntax stays below 200 KB."""


class CappedSocket(socket.socket):
    """A peer's connection that ends before an oversized PDU or message is taken into memory.

    pynetdicom reads as many bytes as a PDU's 32-bit length says, and gathers a message's fragments without a
    bound. This socket watches the PDU headers pass by and raises OSError at a length above `pdu_limit`, or when
    more than `message_limit` bytes came since `message_done`; pynetdicom takes that for a lost connection.
    """

    pdu_limit: int
    message_limit: int
    _header: bytearray
    _left = 0
    _message_bytes = 0

    @classmethod
    def around(cls, accepted: socket.socket, config: ReceiverConfig) -> CappedSocket:
        """Take over a connection just accepted."""
        capped = cls(fileno=accepted.detach())
        capped.pdu_limit = max(config.max_pdu_bytes, ASSOCIATE_BYTES)
        capped.message_limit = config.max_object_mb * 1_000_000
        capped._header = bytearray()
        # An accepted socket has no timeout of its own: half a PDU would hold its thread for ever.
        capped.settimeout(config.network_timeout_seconds)
        return capped

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Receive as a socket does, within the limits."""
        received = super().recv(bufsize, flags)
        self._watch(received)
        return received

    def message_done(self) -> None:
        """Start counting anew."""
        self._message_bytes = 0

    def _watch(self, received: bytes) -> None:
        self._message_bytes += len(received)
        if self._message_bytes > self.message_limit:
            raise OSError(f"a message of more than {self.message_limit} bytes")
        view = memoryview(received)
        while view:
            if self._left:
                step = min(self._left, len(view))
                self._left -= step
            else:
                step = min(_PDU_HEADER.size - len(self._header), len(view))
                self._header += view[:step]
                if len(self._header) == _PDU_HEADER.size:
                    self._begin_pdu()
            view = view[step:]

    def _begin_pdu(self) -> None:
        _, self._left = _PDU_HEADER.unpack(self._header)
        self._header.clear()
        if self._left > self.pdu_limit:
            raise OSError(f"a PDU of {self._left} bytes is over the limit of {self.pdu_limit}")
