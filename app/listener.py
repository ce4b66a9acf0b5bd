"""Where peers connect: how many may, how long they may take to say what they want, and in what certificate."""

from __future__ import annotations

import errno
import logging
import os
import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, cast
from weakref import WeakSet, finalize

from pynetdicom import evt
from pynetdicom.transport import ThreadedAssociationServer

from app import steady_timers  # noqa: F401 - for its effect
from app.beats import REST_SECONDS
from app.capped_socket import Capped, CappedSocket, CappedTlsSocket, request_seconds
from app.config import ReceiverConfig
from app.incoming import Memory
from app.log import Seldom, positions
from app.places import Place, Places
from app.receiver_parts import HandOver, receive
from app.tls import ServerTls, explain

LOGGER = logging.getLogger(__name__)

_TICK_SECONDS = 0.1
"""Between two looks for what connections left behind."""


class Connections:
    """Those that are open in this process, and their places among all that the receiver has.

    A connection that was closed, or lost and forgotten by pynetdicom, drops out by itself.
    """

    def __init__(self, config: ReceiverConfig, places: Places | None = None) -> None:
        """Without `places` there is but this process."""
        self.places = Places(config) if places is None else places
        self._known: WeakSet[Capped] = WeakSet()
        self._lock = threading.RLock()
        self._told = Seldom()

    @property
    def draining(self) -> bool:
        """Whether no further association is to be admitted: the node stops."""
        return self.places.draining

    def take(self, address: str) -> Place | None:
        """Count a new connection, unless far more are open than can become associations."""
        place = self.places.take(address)
        if place is None:
            self._tell(address)
        return place

    def _tell(self, address: str) -> None:
        if self._told.is_due():
            told = "a connection from %s is cut off: %d of its, %d in all are open"
            LOGGER.warning(told, address, *self.places.open(address))

    def keep(self, connection: Capped, place: Place) -> None:
        """Serve a connection that was counted; its place is free when it is closed, or is no more."""
        connection.place, connection.at_end = place, (end := finalize(connection, self.places.free, place))
        end.atexit = False
        with self._lock:
            self._known.add(connection)

    def admit(self, connection: Capped) -> bool:
        """Give a connection one of the associations that may be open at once; False where none is left for it."""
        return connection.place is not None and self.places.admit(connection.place)

    def remembered(self) -> bool:
        """Say whether any connection, closed or not, still takes memory."""
        return len(self._known) > 0

    def cut_off(self) -> None:
        """End those that are open without a word."""
        with self._lock:
            left = [one for one in self._known if one.fileno() >= 0]
        for connection in left:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Server(ThreadedAssociationServer):
    """Serves connections as capped sockets, over TLS where that is configured."""

    # A handshake that is under way must not hold up the end.
    daemon_threads = True

    def __init__(
        self,
        *args: Any,
        config: ReceiverConfig,
        connections: Connections,
        memory: Memory | None = None,
        no_tls: Callable[[str, str], bool] | None = None,
        beat: Callable[[], None] | None = None,
        **kwargs: Any,
    ) -> None:
        """Be ready to serve; raises OSError where the address cannot be had, TlsError where certificates cannot.

        With `memory`, what associations receive is held to it, and comes as `app.incoming.Incoming`. `no_tls` is told
        the address of whom no TLS came about with, and why, and says whether the log is to tell of it too. `beat` is
        called again and again by the thread that takes connections (`app.beats`).
        """
        self._no_tls, self._beat = no_tls, beat
        self._config, self._connections, self.memory = config, connections, memory
        self._tls = ServerTls(config.tls, CappedTlsSocket) if config.tls is not None else None
        super().__init__(*args, **kwargs)

    def capped(self, accepted: socket.socket, address: Any, place: Place) -> Capped:
        """Hold a connection that has a place to the limits; a TLS handshake is left to its own thread."""
        with ExitStack() as otherwise:
            otherwise.callback(self._connections.places.free, place)
            connection: Capped
            if self._tls is None:
                connection = CappedSocket.around(accepted)
            else:
                connection = cast(
                    "CappedTlsSocket",
                    self._tls.context().wrap_socket(accepted, server_side=True, do_handshake_on_connect=False),
                )
            self._connections.keep(connection, place)
            otherwise.pop_all()
        connection.guard(address[0], self._config)
        return connection

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands where TLS is spoken, then serve; in the connection's own thread."""
        if isinstance(request, CappedTlsSocket):
            try:
                request.settimeout(request_seconds(self._config))
                request.do_handshake()
            except OSError as error:
                why = explain(error)
                if self._no_tls is None or self._no_tls(client_address[0], why):
                    LOGGER.warning("no TLS with %s: %s", client_address[0], why)
                self.shutdown_request(request)
                return
            request.guard(client_address[0], self._config)
        super().finish_request(request, client_address)

    def handle_error(self, request: object, client_address: Any) -> None:
        """Log what went wrong by its place alone: the error's text may quote the peer."""
        _, error, trace = sys.exc_info()
        LOGGER.error("connection from %s failed: %s at %s", client_address[0], type(error).__name__, positions(trace))

    def service_actions(self) -> None:
        """Tell that this thread moves, and have pynetdicom collect what connections left, where there were any."""
        if self._connections.remembered():
            super().service_actions()
        if self._beat is not None:
            self._beat()


class Listener(Server):
    """Accepts connections, and serves those that it hands over to nobody."""

    request_queue_size = 64

    def __init__(self, *args: Any, hand_over: HandOver | None = None, **kwargs: Any) -> None:
        """Listen; raises as `Server`."""
        self._hand_over = hand_over
        super().__init__(*args, **kwargs)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Have a connection served, or drop one that is far beyond the limits: each costs two threads."""
        place = self._connections.take(client_address[0])
        if place is None:
            self.shutdown_request(request)
            return
        if place.process and self._hand_over is not None:
            if self._hand_over(place, request, client_address):
                request.close()
                return
            place = self._connections.places.move(place, 0)
        try:
            connection = self.capped(request, client_address, place)
        except OSError:
            self.shutdown_request(request)  # the peer is gone again
            return
        super().process_request(connection, client_address)

    def shutdown(self) -> None:
        """Stop listening; pynetdicom's own would also take the server off a list that it is not on."""
        socketserver.BaseServer.shutdown(self)
        self.server_close()


class PartServer(Server):
    """Listens nowhere: the process that does hands connections over through a channel."""

    def __init__(self, *args: Any, channel: socket.socket, **kwargs: Any) -> None:
        """Be ready to serve; raises TlsError where certificates cannot be had."""
        self._channel = channel
        self._stopped, self._told = False, Seldom()
        super().__init__(*args, **kwargs)

    def server_bind(self) -> None:
        """Wait for the channel in the port's place."""
        cast("socket.socket", self.socket).close()
        self.socket = self._channel

    def server_activate(self) -> None:
        """Nothing is to be done."""

    def get_request(self) -> tuple[socket.socket, Any]:
        """Take one connection over; OSError where there is none to be had."""
        handed = receive(self._channel)
        if handed is None:
            self._stopped = True
            raise ConnectionAbortedError("there is none any more: the receiver stops")
        if handed.connection is None:
            self._connections.places.free(handed.place)
            if self._told.is_due():
                LOGGER.warning("a connection from %s is cut off: %s", handed.address[0], os.strerror(errno.EMFILE))
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return self.capped(handed.connection, handed.address, handed.place), handed.address

    def serve_until_stopped(self, catch_up: Callable[[], bool]) -> None:
        """Serve; `catch_up` does once more what a failing disk left to be done, and says whether any is left still.

        While none is, nor any connection, nor another thread that could leave some, only the channel is waited for.
        """
        while not self._stopped:
            at_rest = threading.active_count() == 1 and not self._connections.remembered()
            # Asked after that: a thread that ended meanwhile may have left some.
            self.timeout = _TICK_SECONDS if catch_up() or not at_rest else REST_SECONDS
            self.handle_request()
            self.service_actions()


def handle_close(event: evt.Event) -> None:
    """Let go of a peer that left before it asked for anything: pynetdicom would wait on till time is up."""
    assoc: Any = event.assoc
    if assoc.requestor.primitive is None and assoc.dul.to_user_queue.empty():
        assoc.dul.to_user_queue.put(None)


def connection_of(event: evt.Event) -> Capped | None:
    """Return an association's connection, unless it is closed already."""
    wrapper = event.assoc.dul.socket
    return cast("Capped | None", wrapper.socket) if wrapper is not None else None
