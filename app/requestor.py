"""Associations that we ask for: a peer can neither hold our thread nor fill our memory, and answers what it was asked.

pynetdicom itself trusts every length that a peer states, waits anew for every byte, and takes whatever message comes
next for the answer: one to an earlier request, or of another kind.
"""

from __future__ import annotations

import logging
import socket
import threading
from typing import Any, cast

from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE, P_DATA
from pynetdicom.transport import T_CONNECT, AddressInformation, AssociationSocket

from app import __version__, steady_timers  # noqa: F401 - the latter for its effect
from app.capped_socket import Capped, CappedSocket
from app.errors import PeerError
from app.upper_layer import SoundLayer, SoundMessages

LOGGER = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
"""How long a connection may take to be made."""
SMALLEST_PDU_BYTES = 1_024
"""A peer that takes only shorter ones would have each object cut into a flood of them."""
LARGEST_PDU_BYTES = 131_072
"""Longest that we send, whatever the peer takes: each has its own time to go out."""
MOST_UNASKED = 64
"""Messages of one association that are no answers: reports of storage commitment."""
_LAST_ID = 65_535
_ACCEPTED = 0
"""Result of an A-ASSOCIATE (PS3.8 table 9-17: of a rejection it is 1 or 2)."""
PENDING = (0xFF00, 0xFF01)
"""Statuses behind which more answers follow (PS3.4 sections C.4.1, C.4.2)."""
_ANSWERS = 0x8000
"""Bit of a Command Field that says response (PS3.7 section E.1)."""


class Requestor(AE):
    """The AE that associates; `timeout` is how long, in seconds, a peer may be silent, and may take for one PDU."""

    def __init__(self, ae_title: str, timeout: float) -> None:
        super().__init__(ae_title)
        self.implementation_version_name = f"GLIOMA_{__version__}"
        self.acse_timeout = self.dimse_timeout = self.network_timeout = timeout
        # A connection being made cannot be stopped, so it is not waited for as long as an answer.
        self.connection_timeout = min(timeout, CONNECT_SECONDS)
        # Errors are ours to tell: pynetdicom's own words may quote a dataset. Both hold for the whole process.
        _config.LOG_HANDLER_LEVEL = "none"
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)

    def associate(self, *args: Any, **kwargs: Any) -> Association:
        """Ask for an association as pynetdicom does; raises OSError where the host has no address.

        Raises PeerError where the peer accepts it in a way that nothing can be sent.
        """
        association = heed_rejection(super().associate(*args, **kwargs))
        limit = association.acceptor.maximum_length if association.is_established else None
        if limit is not None and 0 < limit < SMALLEST_PDU_BYTES:
            association.abort()
            name = association.acceptor.ae_title
            raise PeerError(f"{name} takes no PDU longer than {limit} bytes, which is too short for objects")
        return association

    def _create_socket(self, assoc: Association, address: AddressInformation, tls_args: Any) -> AssociationSocket:
        """Give an association our parts, as this is called between its making and its first use."""
        assoc.__class__ = _Asked
        assoc.dul, assoc.dimse = _Layer(assoc), _Messages(assoc)
        # Timers live in the upper layer.
        assoc.acse_timeout, assoc.network_timeout = self.acse_timeout, self.network_timeout
        connection = _Connection(assoc, address=address)
        connection.tls_args = tls_args
        return connection


def heed_rejection(association: Association) -> Association:
    """Return `association`, rejected if it was.

    pynetdicom looks whether the connection stands before it looks for an answer. A peer that rejects at once may have
    closed it by then; pynetdicom takes that for a connection that never was, and leaves the answer where it lies.
    """
    answers = association.dul.to_user_queue.queue
    if association.is_established or association.is_rejected or not answers:
        return association
    answer = answers[0]
    if isinstance(answer, A_ASSOCIATE) and answer.result != _ACCEPTED:
        association.acceptor.primitive = answer
        association.is_rejected = True
    return association


class _Asked(Association):
    """An association whose own thread, which is to hold back while an answer is awaited, is never waited for in vain.

    Before it asks for anything, pynetdicom waits without an end until that thread says that it holds back. But one
    that ended says nothing more, and who serves a report of storage commitment, in a third thread, takes the word back.
    """

    @property
    def _is_paused(self) -> bool:
        return self._holds_back or not self.is_alive()

    @_is_paused.setter
    def _is_paused(self, value: bool) -> None:
        if value or threading.current_thread() is self:
            self._holds_back = value

    _holds_back = False


class _Connection(AssociationSocket):
    """A connection within the limits of `capped_socket`, plain or TLS."""

    def _create_socket(self, address: AddressInformation) -> socket.socket:
        return CappedSocket.around(super()._create_socket(address))

    def connect(self, primitive: T_CONNECT) -> None:
        """Connect, and hold the peer to the limits from its first byte on.

        Nagle's algorithm would hold each small message back up to 40 ms.
        """
        super().connect(primitive)
        if self.socket is not None:
            seconds = self.assoc.network_timeout or CONNECT_SECONDS
            cast("Capped", self.socket).guard_answers(primitive.address_info.address, seconds)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class _Layer(SoundLayer):
    """The connection's thread."""

    def _wake(self) -> None:
        # Not the association's own thread: it would take the word that is for whoever waits for an answer.
        self.assoc.dimse.msg_queue.put((None, None))


class _Messages(SoundMessages):
    """Numbers what is asked, and takes nothing else than its answer."""

    def __init__(self, assoc: Association) -> None:
        super().__init__(assoc)
        self._asked: tuple[type, int] | None = None
        self._unasked = 0
        self._awaited, self._guard = False, threading.Lock()
        assoc.bind(evt.EVT_DIMSE_RECV, self._look)

    @property
    def maximum_pdu_size(self) -> int:
        """The longest PDU to send."""
        return min(super().maximum_pdu_size or LARGEST_PDU_BYTES, LARGEST_PDU_BYTES)

    def send_msg(self, primitive: Any, context_id: int) -> None:
        """Send a request under an ID of its own on this association, or an answer."""
        if primitive.MessageIDBeingRespondedTo is None:
            primitive.MessageID = self._asked[1] % _LAST_ID + 1 if self._asked is not None else 1
            with self._guard:
                self._asked, self._awaited = (type(primitive), primitive.MessageID), True
        super().send_msg(primitive, context_id)

    def get_msg(self, block: bool = False) -> Any:
        """Return the next message; who waits for an answer gets that, or nothing, as if none had come in time."""
        if not block:
            # The association's own thread, which is held back while an answer is awaited: but pynetdicom may be a
            # moment late with that, and the answer would be lost.
            with self._guard:
                return (None, None) if self._awaited else super().get_msg()
        context_id, message = super().get_msg(block=True)
        self._awaited = getattr(message, "Status", None) in PENDING
        if message is not None and (type(message), message.MessageIDBeingRespondedTo) != self._asked:
            LOGGER.warning("association aborted: what came is no answer to what was asked")
            return None, None
        return context_id, message

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take a part of a message, unless there are too many that nobody asked for."""
        connection = cast("Capped | None", self.dul.socket.socket if self.dul.socket is not None else None)
        if connection is not None and self.message is None and self.msg_queue.empty():
            # Counted anew only once all that came before is read: else a flood of short ones would fill the memory.
            connection.message_done()
        super().receive_primitive(primitive)
        if self._unasked > MOST_UNASKED:
            LOGGER.warning("association aborted: more messages than %d that nobody asked for", MOST_UNASKED)
            self.dul.event_queue.put("Evt19")

    def _look(self, event: evt.Event) -> None:
        """See a whole message before it is taken up: a request that names a message of ours is none of our answers."""
        command = event.message.command_set
        if not command.CommandField & _ANSWERS:
            self._unasked += 1
            command.pop("MessageIDBeingRespondedTo", None)
