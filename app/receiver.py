"""The Storage and Verification SCP: its own process, so that a busy analysis never slows an arriving study.

An instance is answered with Success only when its bytes, as they came, are on disk under their final name. Nothing
here decodes pixel data, and nothing of a dataset but its UIDs reaches the log.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import warnings
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pynetdicom import _config, evt
from pynetdicom.dimse_primitives import C_STORE

from app.admission import handle_request
from app.audit_open import tell_unended
from app.beats import HUNG_SECONDS, Beat, Pulse
from app.config import Settings
from app.entity import application_entity
from app.errors import JournalError, NodeError, TlsError
from app.files import private_folder
from app.incoming import Incoming, Memory
from app.listener import Connections, Listener, PartServer, Server, connection_of, handle_close
from app.log import ToldByPlace, positions, set_up_log
from app.places import Shared
from app.receiver_parts import HandOver, Parts, lock_out, process_name, wait_to_begin
from app.slots import beside
from app.store import (
    CANNOT_UNDERSTAND,
    COERCED,
    MISMATCH,
    OUT_OF_RESOURCES,
    UID,
    Identity,
    Refused,
    Store,
    read_identity,
)
from app.tally import Tally
from app.upper_layer import Acceptor
from app.witness import Witness

if TYPE_CHECKING:
    from app.journal import Journal

LOGGER = logging.getLogger(__name__)
AnyServer = TypeVar("AnyServer", bound=Server)

DRAIN_SIGNAL = signal.SIGUSR1
"""Asks this process to take no new association; the node sends it when it stops."""
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, DRAIN_SIGNAL}
"""Those that the receiver waits for."""
CATCH_UP_SECONDS = 0.9
DRAIN_SECONDS = 10.0
"""How long associations that are open when the node has finished its studies may take to end."""


def handle_store(event: evt.Event, store: Store, witness: Witness, tally: Tally | None = None) -> int:
    """Keep one instance and return its C-STORE status (PS3.4 section B.2.3); count it."""
    identities: list[Identity] = []
    status = _store(event, store, witness, identities)
    witness.saw(event.assoc, status, *identities)
    if tally is not None:
        tally.count(status)
    return status


def _store(event: evt.Event, store: Store, witness: Witness, identities: list[Identity]) -> int:
    """Keep one instance; what it is goes into `identities` as soon as that is known."""
    request = cast("C_STORE", event.request)
    instance = _printable(request.AffectedSOPInstanceUID)
    try:
        content = _file_of(event, request)
        identity = read_identity(content)
        identities.append(identity)
        if identity.sop_class != request.AffectedSOPClassUID:
            raise Refused(MISMATCH, "its SOP class is not the request's")
        if identity.instance != request.AffectedSOPInstanceUID:
            raise Refused(MISMATCH, "its SOP instance UID is not the request's")
        witness.expects(event.assoc, identity.study)
        status = store.keep(identity, content)
    except Refused as refused:
        LOGGER.warning("instance %s refused with 0x%04X: %s", instance, refused.status, refused)
        return refused.status
    except OSError as error:
        LOGGER.error("instance %s refused with 0x%04X: %s", instance, OUT_OF_RESOURCES, error.strerror)
        return OUT_OF_RESOURCES
    except Exception as error:  # noqa: BLE001 - the peer gets a status, and the association goes on
        LOGGER.error("instance %s failed: %s at %s", instance, type(error).__name__, positions(error.__traceback__))
        return CANNOT_UNDERSTAND
    if status == COERCED:
        LOGGER.warning("instance %s came again with other content; the first is kept", instance)
    return status


def _file_of(event: evt.Event, request: C_STORE) -> bytes:
    """Return what came as a whole file, not copied; raises Refused where there was no room for it."""
    dataset = request.DataSet
    if isinstance(dataset, Incoming) and dataset.is_refused:
        raise Refused(OUT_OF_RESOURCES, "no memory is left of what associations may take (node.receiver.memory_mb)")
    if isinstance(dataset, Incoming) and dataset.is_file:
        return dataset.getvalue()
    return event.encoded_dataset()


def _printable(instance_uid: object) -> str:
    text = str(instance_uid)
    return text if UID.fullmatch(text) else "(with an invalid UID)"


def handle_open(event: evt.Event) -> None:
    """Send small answers at once: Nagle's algorithm holds each one back up to 40 ms."""
    if (connection := connection_of(event)) is not None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def handle_message(event: evt.Event) -> None:
    """Let the next message start from nought."""
    if (connection := connection_of(event)) is not None:
        connection.message_done()


def handle_end(event: evt.Event, store: Store) -> None:
    """Let what an association brought be under its own name alone."""
    store.settle()


class Serving:
    """What one of the receiver's processes serves associations with."""

    def __init__(self, settings: Settings, shared: Shared, process: int = 0, tally: Tally | None = None) -> None:
        """Open what is needed; raises OSError or JournalError where folders or journal cannot be had."""
        config = settings.receiver
        self._config = config
        shared.begin()
        self._beat = Beat(shared.beats, process, shared.places.lock)
        self.store = store = Store(settings.inbox_dir, config.free_space_watermark_mb, shared.moving)
        self._ae = application_entity(config, reports=bool(settings.sender.held_to_commitment()))
        self._journal: Journal | None = None
        self._tried = -CATCH_UP_SECONDS
        # pynetdicom's own logging of every message costs time, and shows what peers send.
        _config.LOG_HANDLER_LEVEL = "none"

        self.memory = Memory(config.memory_mb * 1_000_000, shared.memory_taken, process)
        counted = tally.of(process) if tally is not None else None
        self.connections = Connections(config, shared.places)
        self._witness = witness = Witness.of(settings, counted)
        self._handlers: list[evt.EventHandlerType] = [
            (evt.EVT_CONN_OPEN, handle_open),
            (evt.EVT_CONN_CLOSE, handle_close),
            (evt.EVT_REJECTED, witness.rejected),
            (evt.EVT_CONN_CLOSE, witness.ended),
            (evt.EVT_CONN_CLOSE, handle_end, [store]),
            (evt.EVT_REQUESTED, handle_request, [config, self.connections, witness]),
            (evt.EVT_DIMSE_RECV, handle_message),
            (evt.EVT_C_ECHO, witness.echoed),
            (evt.EVT_C_STORE, handle_store, [store, witness, counted]),
            *self._report_handlers(settings, witness, counted),
        ]

    def sweep(self, settings: Settings) -> None:
        """Put in order what an earlier receiver left, and tell of it; once, before any process keeps anything."""
        self.store.sweep()
        if self._witness.trail is not None:
            tell_unended(settings.data_dir, settings.inbox_dir, self._witness.trail)

    def _report_handlers(self, settings: Settings, witness: Witness, tally: Tally | None) -> list[evt.EventHandlerType]:
        """Return what takes reports of storage commitment, where a destination is held to it."""
        if not settings.sender.held_to_commitment():
            return []
        # Without commitment this process needs no database, nor the memory that its libraries take.
        from app.commitment_report import Reports
        from app.journal import Journal

        self._journal = Journal(settings.journal_path)
        reports = Reports(self._journal, settings.sender, witness.trail, tally.deliveries if tally else None)
        return [(evt.EVT_N_EVENT_REPORT, reports.handle)]

    def server(self, kind: type[AnyServer], port: int, **more: Any) -> AnyServer:
        """Make what serves; raises OSError or TlsError where address or certificates cannot be had."""
        server = self._ae.make_server(
            (self._config.host, port),
            server_class=kind,
            request_handler=Acceptor,
            evt_handlers=self._handlers,
            config=self._config,
            connections=self.connections,
            memory=self.memory,
            no_tls=self._witness.no_tls,
            beat=self._beat,
            **more,
        )
        return cast("AnyServer", server)

    def listener(self, hand_over: HandOver | None) -> Listener:
        """Make what listens; raises as `server`."""
        turned_away = self._witness.not_listed
        return self.server(Listener, self._config.port, hand_over=hand_over, turned_away=turned_away)

    def catch_up(self) -> bool:
        """Try once more, once a second at most, what a failing disk left to be done; say whether any is left still.

        In a thread of its own: one that waits for a disk is not to be taken for one that hangs.
        """
        if self.store.is_behind and time.monotonic() - self._tried >= CATCH_UP_SECONDS:
            self._tried = time.monotonic()
            with suppress(RuntimeError):  # no thread is to be had: next time
                beside(partial(self.store.settle, wait=False))
        return self.store.is_behind

    def end(self, server: Server) -> None:
        """End the associations that are open, and put everything away."""
        for association in server.active_associations:
            association.abort()
        self.connections.cut_off()
        self._witness.close()
        if self._journal is not None:
            self._journal.close()
        self.store.settle()


class Receiver:
    """A listening SCP; `port` is the one it got."""

    def __init__(
        self,
        settings: Settings,
        tally: Tally | None = None,
        shared: Shared | None = None,
        parts: Parts | None = None,
    ) -> None:
        """Listen; raises OSError, TlsError or JournalError where address, certificates or journal cannot be had.

        With `parts`, which have `shared` too, they serve beside it; it never forks any itself.
        """
        config = settings.receiver
        private_folder(settings.data_dir)
        self._tally = tally
        self._parts, self._places = parts, (shared := shared or Shared(config)).places
        self._pulse, self._moves = Pulse(shared.beats), Beat(shared.beats, shared.beats.main)
        self._serving = Serving(settings, shared, tally=tally)
        self.memory = self._serving.memory
        self._server = self._serving.listener(parts.hand_over if parts is not None else None)
        # Only once the port is ours: a second node on the same folder must not sweep the first one's files.
        self._serving.sweep(settings)
        self.port = int(self._server.server_address[1])
        if parts is not None:
            parts.begin(self.port)
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="receiver", daemon=True).start()

    def catch_up(self) -> None:
        """Try once more what a failing disk left to be done."""
        self._serving.catch_up()

    def tell(self) -> None:
        """Tell the node that the thread moves that looks after all, and how many associations are open."""
        self._moves()
        if self._tally is not None:
            self._tally.associations = self._places.admitted()

    def hung(self) -> list[str]:
        """Name those of its processes that do not move."""
        still = self._pulse.look()[: self._pulse.main]
        return [process_name(process) for process, seconds in enumerate(still) if seconds > HUNG_SECONDS]

    def drain(self) -> None:
        """Let the associations that are open go on, and tell whoever asks for another to come again later."""
        self._places.drain()

    def close(self, *, at_once: bool = False) -> None:
        """Stop listening and end the associations that are open.

        After `drain` they have a while to end themselves, unless all must go `at_once`.
        """
        until = time.monotonic() + (DRAIN_SECONDS if self._places.draining and not at_once else 0.0)
        while self._places.admitted() and time.monotonic() < until:
            time.sleep(0.1)
        self._places.drain()
        if self._parts is not None:
            # First, as one of them that hangs, and is killed then, may hold what the thread that accepts waits for.
            self._parts.end()
        self._server.shutdown()
        self._serving.end(self._server)


def serve_part(
    process: int, channel: socket.socket, settings: Settings, shared: Shared, tally: Tally | None = None
) -> None:
    """Be one of the processes that serve beside the one that listens, until it says to stop."""
    port = wait_to_begin(channel)
    if port is None:
        return
    try:
        serving = Serving(settings, shared, process, tally)
        server = serving.server(PartServer, port, channel=channel)
    except NodeError as error:
        LOGGER.error("cannot serve: %s", error)
        sys.exit(2)
    serving.store.prepare()
    server.serve_until_stopped(serving.catch_up)
    serving.end(server)


@ToldByPlace()
def run_receiver(settings: Settings, started: Connection | None = None, tally: Tally | None = None) -> None:
    """Receive until SIGTERM or SIGINT, or until the node that spawned this process is gone; drain from SIGUSR1 on.

    Sends the port over `started` once it listens; when it cannot, `started` ends and the exit status is 2. It is 3
    where one of the processes that serve beside this one has died: whoever started the receiver is to start another.
    """
    set_up_log(settings.log.format)
    warnings.simplefilter("ignore")
    # Blocked before any thread or process starts, so that no thread but this one ever takes them.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    config = settings.receiver
    # The tally has a row for each: what CPUs may be used can have changed since it was made.
    processes, beats = (config.process_count, None) if tally is None else (tally.processes, tally.beats)
    shared = Shared(config, processes, beats)
    try:
        lock_out(settings.data_dir)
    except (OSError, NodeError) as error:
        LOGGER.error("cannot receive: %s", error.strerror if isinstance(error, OSError) else error)
        sys.exit(2)
    serve = partial(serve_part, settings=settings, shared=shared, tally=tally)
    with Parts(shared.processes - 1, serve, started) as parts:
        receiver = _listening(settings, tally, shared, parts)
        spoken = "TLS" if config.tls is not None else "plain DICOM"
        LOGGER.info("%s listens on %s port %d for %s", config.ae_title, config.host, receiver.port, spoken)
        if started is not None:
            # A node that was killed meanwhile does not hear it; the loop below notices.
            with suppress(BrokenPipeError):
                started.send(receiver.port)
            started.close()
        is_whole = _wait_for_the_end(receiver, parts)
        # What a part that died had open would never end.
        receiver.close(at_once=not is_whole)
    if not is_whole:
        sys.exit(3)


def _listening(settings: Settings, tally: Tally | None, shared: Shared, parts: Parts) -> Receiver:
    """Listen, or end the process with a line that says why it cannot."""
    config = settings.receiver
    try:
        return Receiver(settings, tally, shared, parts)
    except OSError as error:
        LOGGER.error(
            "cannot listen on %s port %d: %s; does another node run?", config.host, config.port, error.strerror
        )
    except TlsError as error:
        LOGGER.error("cannot speak TLS: %s", error)
    except JournalError as error:
        LOGGER.error("cannot take reports of storage commitment: %s", error)
    sys.exit(2)


def _wait_for_the_end(receiver: Receiver, parts: Parts) -> bool:
    """Wait until the receiver is asked to end, or has no node any more; False where a part of it has died or hangs."""
    # As it was told at birth: a node killed by now is no longer this process's parent.
    node = multiprocessing.parent_process()
    while (got := signal.sigtimedwait(SIGNALS, 1.0)) is None or got.si_signo in {DRAIN_SIGNAL, signal.SIGCHLD}:
        receiver.tell()
        receiver.catch_up()
        if got is not None and got.si_signo == DRAIN_SIGNAL:
            receiver.drain()
        hung = receiver.hung()
        if hung or parts.lost():
            told = f"hangs ({', '.join(hung)})" if hung else "is lost"
            LOGGER.error("a part of the receiver %s; the receiver ends, to be started anew as a whole", told)
            return False
        if node is not None and os.getppid() != node.pid:
            LOGGER.error("the node that started the receiver is gone; the receiver ends too")
            break
    return True
