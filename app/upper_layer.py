"""pynetdicom's upper layer, served without its sleeps: a request is answered in the thread that read it.

pynetdicom looks for work every millisecond in two threads a connection, hands each message from one to the other, and
reads 4 KB at a time. Most of an instance's time went there. Here the thread of the connection waits in `select`, reads
what there is, and runs the handler itself; the association's own thread is held back until there is something for it:
negotiation, release, abort, the end of time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from pynetdicom import evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import InvalidEventError
from pynetdicom.pdu import A_ABORT_RQ, A_RELEASE_RQ, P_DATA_TF
from pynetdicom.pdu_primitives import A_ASSOCIATE, P_DATA
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class
from pynetdicom.transport import RequestHandler

from app.capped_socket import Capped
from app.connection import Connection
from app.incoming import Incoming, Memory
from app.short_way import Asked, Begun, ShortWay, StoreEvent
from app.store import NOT_UNDERSTOOD, UID
from app.wire import LAST_OF_COMMAND, file_head, store_answer, store_answer_pdu

if TYPE_CHECKING:
    from app.listener import Listener

LOGGER = logging.getLogger(__name__)

_ANSWER_BYTES = 512
"""Longer than any answer to a C-STORE; a peer that takes no PDU of this length gets it in parts."""
_COMMAND_BYTES = 65_536
"""Longest command set; that of a C-STORE has less than 1 KB."""
_ABORT_SOURCES = frozenset({0, 2})
_ABORT_REASONS = frozenset({0, 1, 2, 4, 5, 6})
"""Who aborts, and why a provider does (PS3.8 table 9-26)."""


class SoundLayer(DULServiceProvider):
    """The connection's thread of either side: whatever the peer says, it ends in order."""

    release_asked = False
    """The peer has asked for the release, so that the association ends in order."""

    def run_reactor(self) -> None:
        """Run as pynetdicom does; at the end, however it comes, let the peer go and wake who waits for it."""
        in_order = False
        try:
            super().run_reactor()
            in_order = True
        except InvalidEventError as error:
            # Where both sides end at the same time, its table of states has gaps. The text names event and state.
            LOGGER.warning("association cut off: %s", error)
        finally:
            if not in_order:
                self._let_go()
            self._wake()

    def _wake(self) -> None:
        """Wake who waits for the peer."""
        raise NotImplementedError

    def _let_go(self) -> None:
        """End the connection without a word: nothing is sure any more."""
        assoc = self.assoc
        assoc.is_aborted, assoc.is_established = True, False
        assoc._kill = self._kill_thread = True
        if self.socket is not None:
            self.socket.close()
        evt.trigger(assoc, evt.EVT_CONN_CLOSE, {"address": assoc.requestor.address_info})

    def _decode_pdu(self, bytestream: bytearray) -> tuple[Any, str]:
        """Decode a PDU; raises where it holds what cannot be, which pynetdicom answers with an abort.

        An abort ends the association whatever it gives for a reason.
        """
        pdu, event = super()._decode_pdu(bytestream)
        self.release_asked = self.release_asked or isinstance(pdu, A_RELEASE_RQ)
        # pynetdicom's thread would end on what the standard does not list, and leave the connection open.
        if isinstance(pdu, A_ABORT_RQ):
            pdu.source = pdu.source if pdu.source in _ABORT_SOURCES else 0
            pdu.reason_diagnostic = pdu.reason_diagnostic if pdu.reason_diagnostic in _ABORT_REASONS else 0
        elif not isinstance(pdu, P_DATA_TF):
            # An even context ID, say, raises only here: later, in the state machine, the thread would end by it.
            said = pdu.to_primitive()
            if isinstance(said, A_ASSOCIATE) and not all(
                context.abstract_syntax for context in said.presentation_context_definition_list
            ):
                raise ValueError("a presentation context without an abstract syntax")
        return pdu, event

    def _process_recv_primitive(self) -> bool:
        """Take up what we have to say; an answer that comes when the association has ended is not sent."""
        if self.state_machine.current_state == "Sta13" and not self.to_provider_queue.empty():
            self.to_provider_queue.get()
        return super()._process_recv_primitive()


class UpperLayer(SoundLayer):
    """The thread of a connection of a peer that sends to us."""

    def __init__(self, assoc: Association) -> None:
        super().__init__(assoc)
        # `Connection` waits in its place.
        self._run_loop_delay = 0.0

    def _wake(self) -> None:
        cast("Messages", self.assoc.dimse).forget()
        if self.socket is not None:
            cast("Connection", self.socket).forget()
        self.assoc._reactor_checkpoint.set()

    def _is_transport_event(self) -> bool:
        assoc = self.assoc
        quiet = (
            assoc.is_established
            and self.state_machine.current_state == "Sta6"
            and self.to_user_queue.empty()
            and assoc.dimse.msg_queue.empty()
            and not self.idle_timer_expired()
        )
        if not quiet:
            assoc._reactor_checkpoint.set()
            return super()._is_transport_event()
        assoc._reactor_checkpoint.clear()
        connection = cast("Connection | None", self.socket)
        if connection is not None and cast("Served", assoc).may_take_short_way:
            if self._take_plain(connection):
                return True
            if not connection.has_more:
                return False
        return super()._is_transport_event()

    def _take_plain(self, connection: Connection) -> bool:
        """Take PDUs by the short way while they are plain and nobody else wants anything; say whether any was."""
        messages = cast("Messages", self.assoc.dimse)
        came = False
        while not (self._kill_thread or self.to_provider_queue.queue or self.event_queue.queue):
            pdu = connection.pdu() if self.assoc.is_established else None
            if pdu is None or not messages.take_plain(pdu):
                break
            connection.skip(len(pdu))
            # The peer is not to blame for the time that serving took.
            self._idle_timer.restart()
            came = True
        return came

    def _read_pdu_data(self) -> None:
        cast("Messages", self.assoc.dimse).leave_short_way()
        super()._read_pdu_data()


class SoundMessages(DIMSEServiceProvider):
    """Messages of either side: one that is none ends the association, and not the thread."""

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take a part of a message."""
        with self._ending_what_is_broken():
            super().receive_primitive(primitive)

    def forget(self) -> None:
        """Let go of the message that has begun."""
        self.message = None

    @contextmanager
    def _ending_what_is_broken(self) -> Iterator[None]:
        try:
            yield
        except NOT_UNDERSTOOD as error:
            # pynetdicom's thread would end here, and the peer hear nothing. The error's text may quote what it sent.
            LOGGER.warning("association aborted: a command set that cannot be read (%s)", type(error).__name__)
            self.forget()
            self.dul.event_queue.put("Evt19")


class Messages(SoundMessages):
    """Serves a request as soon as it is whole."""

    def __init__(self, assoc: Association) -> None:
        super().__init__(assoc)
        self._short_way: ShortWay | None = None

    def take_plain(self, pdu: memoryview) -> bool:
        """Take a P-DATA-TF by the short way; False where it must go the long one, and nothing is done."""
        if self._short_way is None:
            assoc = cast("Served", self.assoc)
            self._short_way = ShortWay(cast("Memory", assoc.memory), _storage_contexts(assoc))
        return self.message is None and self._short_way.take(pdu, self._serve_plain)

    def _serve_plain(self, begun: Begun, dataset: Incoming) -> None:
        """Do as pynetdicom's StorageServiceClass does."""
        assoc, layer, request = self.assoc, self.dul, begun.request
        connection = cast("Capped | None", layer.socket.socket if layer.socket is not None else None)
        if connection is not None:
            # As `app.receiver.handle_message` does, the one handler of EVT_DIMSE_RECV.
            connection.message_done()
        handler, more = cast("tuple[Any, Any]", assoc.get_handlers(evt.EVT_C_STORE))
        status = handler(StoreEvent(assoc, Asked(request.sop_class, request.instance, dataset)), *(more or ()))
        # Whoever is slow to take the answer takes no memory meanwhile.
        dataset.close()
        if assoc.is_established and layer.socket is not None:
            layer.socket.send(store_answer_pdu(begun.context, request, status))

    def leave_short_way(self) -> None:
        """Go on the long way with a message that has begun on the short one."""
        begun = self._short_way.let_go() if self._short_way is not None else None
        if begun is None:
            return
        said = P_DATA()
        said.presentation_data_value_list = []
        said.presentation_data_value_list.append((begun.context, LAST_OF_COMMAND + begun.command))
        self._receive(said)
        if self.message is not None:
            cast("Incoming", self.message.data_set).close()
            self.message.data_set = begun.dataset

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take parts of a message, and serve what is whole; what comes before the association stands must wait."""
        parts = primitive.presentation_data_value_list
        if len(parts) < 2:
            self._receive(primitive)
        else:
            # One by one: the dataset may begin in the PDU that the command ends in.
            for part in parts:
                one = P_DATA()
                one.presentation_data_value_list = []
                one.presentation_data_value_list.append(part)
                self._receive(one)
        while self.assoc.is_established and not self.msg_queue.empty():
            context_id, message = self.get_msg()
            if message is not None and context_id is not None:
                self.assoc._serve_request(message, context_id)
                # The peer is not to blame for the time that this took.
                self.dul._idle_timer.restart()

    def _receive(self, primitive: P_DATA) -> None:
        memory = cast("Served", self.assoc).memory
        if self.message is None and memory is not None:
            self.message = DIMSEMessage()
            self.message.data_set = Incoming(memory)
        message = self.message
        super().receive_primitive(primitive)
        if message is not None and message is self.message:
            with self._ending_what_is_broken():
                self._look_at_begun(message)

    def _look_at_begun(self, message: DIMSEMessage) -> None:
        """Begin the file once it is known of what; raises ValueError at a command set that does not end."""
        if message.encoded_command_set.tell() > _COMMAND_BYTES:
            raise ValueError("a command set that does not end")
        dataset = message.data_set
        if not (isinstance(message, C_STORE_RQ) and isinstance(dataset, Incoming)) or dataset.tell():
            return
        asked = message.command_set
        sop_class, instance = str(asked.get("AffectedSOPClassUID")), str(asked.get("AffectedSOPInstanceUID"))
        context = self.assoc._accepted_cx.get(message.context_id or 0)
        if context is not None and UID.fullmatch(sop_class) and UID.fullmatch(instance):
            dataset.begin_file(file_head(sop_class, instance, context.transfer_syntax[0]))

    def forget(self) -> None:
        """Let go of what is there of messages: they will not be served any more."""
        if self.message is not None and self.message.data_set is not None:
            self.message.data_set.close()
        super().forget()
        if self._short_way is not None:
            self._short_way.forget()
        while not self.msg_queue.empty():
            _, message = self.get_msg()
            _close_dataset(message)

    def send_msg(self, primitive: Any, context_id: int) -> None:
        """Send an answer; that to a C-STORE, unless it says more than a status, by the short way."""
        answered = primitive.MessageIDBeingRespondedTo
        plain = isinstance(primitive, C_STORE) and not (primitive.ErrorComment or primitive.OffendingElement)
        if not plain or answered is None or primitive.Status is None or 0 < self.maximum_pdu_size < _ANSWER_BYTES:
            super().send_msg(primitive, context_id)
            return
        asked = str(primitive.AffectedSOPClassUID), str(primitive.AffectedSOPInstanceUID)
        parts = P_DATA()
        parts.presentation_data_value_list = []
        answer = LAST_OF_COMMAND + store_answer(*asked, answered, primitive.Status)
        parts.presentation_data_value_list.append((context_id, answer))
        self.dul.send_pdu(parts)


def _storage_contexts(assoc: Association) -> dict[int, tuple[str, str]]:
    """Return abstract and transfer syntax of those contexts that pynetdicom would serve as storage, by number."""
    return {
        number: (str(context.abstract_syntax), str(context.transfer_syntax[0]))
        for number, context in assoc._accepted_cx.items()
        if uid_to_service_class(str(context.abstract_syntax)) is StorageServiceClass
    }


def _close_dataset(message: Any) -> None:
    dataset = getattr(message, "_dataset", None)
    if isinstance(dataset, Incoming):
        dataset.close()


class Served(Association):
    """An association of a peer that sends to us."""

    takes_short_way = True
    """Whether plain C-STOREs are taken by `app.short_way`; tests compare."""

    @property
    def may_take_short_way(self) -> bool:
        """Whether it has the memory for whole files, and a peer that takes a whole answer."""
        return self.takes_short_way and self.memory is not None and not 0 < self.dimse.maximum_pdu_size < _ANSWER_BYTES

    def __init__(self, *args: Any, memory: Memory | None) -> None:
        """With `memory` a message's dataset is an `Incoming`, that of a C-STORE a whole file."""
        super().__init__(*args)
        self.memory = memory
        self.dul, self.dimse = UpperLayer(self), Messages(self)
        # Timers live in the upper layer.
        self.acse_timeout, self.network_timeout = self.ae.acse_timeout, self.ae.network_timeout

    def _serve_request(self, msg: Any, context_id: int) -> None:
        """Serve a request; its dataset is not kept after that."""
        try:
            super()._serve_request(msg, context_id)
        finally:
            _close_dataset(msg)

    def _abort_blocking(self, block: bool = True) -> None:
        """Abort; the connection's own thread does not wait for its own end."""
        super()._abort_blocking(block and threading.current_thread() is not self.dul)


class Acceptor(RequestHandler):
    """Makes an association of a connection."""

    def _create_association(self) -> Association:
        """Do as pynetdicom does, but with our parts, and with contexts that are read only, and so need no copy."""
        server = self.server
        assoc = Served(self.ae, MODE_ACCEPTOR, memory=cast("Listener", server).memory)
        assoc._server = server
        assoc.name = f"AcceptorThread {self.client_address[0]}"  # pynetdicom finds its threads by this word
        assoc.set_socket(Connection(assoc, client_socket=self.request))
        acceptor = assoc.acceptor
        acceptor.maximum_length = self.ae.maximum_pdu_size
        acceptor.ae_title = server.ae_title
        acceptor.address_info = self.local
        acceptor.implementation_class_uid = self.ae.implementation_class_uid
        acceptor.implementation_version_name = self.ae.implementation_version_name
        acceptor.supported_contexts = server.contexts
        assoc.requestor.address_info = self.remote
        for event, handlers in server._handlers.items():
            for handler in [handlers] if isinstance(handlers, tuple) else handlers:
                if handler[0] is not None:
                    assoc.bind(event, *handler)
        return assoc
