"""Where peers connect: how many may, how long they may take to say what they want, and in what certificate."""

from __future__ import annotations

import logging
import socket
import socketserver
import sys
import threading
import time
from contextlib import suppress
from typing import Any, cast
from weakref import WeakSet

from pynetdicom import evt
from pynetdicom.transport import ThreadedAssociationServer

from app import steady_timers  # noqa: F401 - for its effect
from app.capped_socket import Capped, CappedSocket, CappedTlsSocket, request_seconds
from app.config import ReceiverConfig
from app.incoming import Memory
from app.log import positions
from app.tls import ServerTls, explain

LOGGER = logging.getLogger(__name__)

SPARE_CONNECTIONS = 16
"""Room to tell a peer properly that there are too many."""
SPARE_PER_PEER = 4
"""The same for one address: what is beyond is closed at once, so that the others find room."""
_TELL_SECONDS = 10.0


class Connections:
    """Those that are open, and what each address has of them.

    A connection that was closed, or lost and forgotten by pynetdicom, drops out by itself.
    """

    def __init__(self, config: ReceiverConfig) -> None:
        self._config = config
        self._known: WeakSet[Capped] = WeakSet()
        self._lock = threading.RLock()
        self._told = -_TELL_SECONDS
        self.draining = False
        """No further association is to be admitted: the node stops."""

    def take(self, connection: Capped) -> bool:
        """Count a new connection, unless far more are open than can become associations."""
        config = self._config
        with self._lock:
            everywhere = self.open()
            here = [one for one in everywhere if one.address == connection.address]
            if (
                len(everywhere) >= config.max_associations + SPARE_CONNECTIONS
                or len(here) >= config.max_associations_per_peer + SPARE_PER_PEER
            ):
                self._tell(connection.address, len(here), len(everywhere))
                return False
            self._known.add(connection)
            return True

    def _tell(self, address: str, here: int, everywhere: int) -> None:
        # A flood of connections must not become one of the log.
        if time.monotonic() - self._told >= _TELL_SECONDS:
            self._told = time.monotonic()
            LOGGER.warning("a connection from %s is cut off: %d of its, %d in all are open", address, here, everywhere)

    def admit(self, connection: Capped) -> bool:
        """Give a connection one of the associations that may be open at once; False where none is left for it."""
        with self._lock:
            everywhere = [one for one in self.open() if one.admitted]
            here = [one for one in everywhere if one.address == connection.address]
            connection.admitted = (
                len(everywhere) < self._config.max_associations and len(here) < self._config.max_associations_per_peer
            )
        return connection.admitted

    def remembered(self) -> bool:
        """Say whether any connection, closed or not, still takes memory."""
        return len(self._known) > 0

    def open(self) -> list[Capped]:
        """Return the connections that are open now."""
        with self._lock:
            return [one for one in self._known if one.fileno() >= 0]

    def cut_off(self) -> None:
        """End those that are open without a word."""
        for connection in self.open():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Listener(ThreadedAssociationServer):
    """Accepts connections as capped sockets, over TLS where that is configured."""

    request_queue_size = 64
    # A handshake that is under way must not hold up the end.
    daemon_threads = True

    def __init__(
        self,
        *args: Any,
        config: ReceiverConfig,
        connections: Connections,
        memory: Memory | None = None,
        **kwargs: Any,
    ) -> None:
        """Listen; raises OSError where the address cannot be had, TlsError where certificates cannot.

        With `memory`, what associations receive is held to it, and comes as `app.incoming.Incoming`.
        """
        self._config, self._connections, self.memory = config, connections, memory
        self._tls = ServerTls(config.tls, CappedTlsSocket) if config.tls is not None else None
        super().__init__(*args, **kwargs)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept one; a TLS handshake is left to its own thread."""
        accepted, address = super().get_request()
        connection: Capped
        if self._tls is None:
            connection = CappedSocket.around(accepted)
        else:
            connection = cast(
                "CappedTlsSocket",
                self._tls.context().wrap_socket(accepted, server_side=True, do_handshake_on_connect=False),
            )
        connection.guard(address[0], self._config)
        return connection, address

    def verify_request(self, request: object, client_address: object) -> bool:
        """Drop a connection that is far beyond the limits; each costs two threads."""
        return self._connections.take(cast("Capped", request))

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands where TLS is spoken, then serve; in the connection's own thread."""
        if isinstance(request, CappedTlsSocket):
            try:
                request.settimeout(request_seconds(self._config))
                request.do_handshake()
            except OSError as error:
                LOGGER.warning("no TLS with %s: %s", client_address[0], explain(error))
                self.shutdown_request(request)
                return
            request.guard(client_address[0], self._config)
        super().finish_request(request, client_address)

    def handle_error(self, request: object, client_address: Any) -> None:
        """Log what went wrong by its place alone: the error's text may quote the peer."""
        _, error, trace = sys.exc_info()
        LOGGER.error("connection from %s failed: %s at %s", client_address[0], type(error).__name__, positions(trace))

    def service_actions(self) -> None:
        """Have pynetdicom collect what connections left behind; while there are none, it would do so for nothing."""
        if self._connections.remembered():
            super().service_actions()

    def shutdown(self) -> None:
        """Stop listening; pynetdicom's own would also take the server off a list that it is not on."""
        socketserver.BaseServer.shutdown(self)
        self.server_close()


def handle_close(event: evt.Event) -> None:
    """Let go of a peer that left before it asked for anything: pynetdicom would wait on till time is up."""
    assoc: Any = event.assoc
    if assoc.requestor.primitive is None and assoc.dul.to_user_queue.empty():
        assoc.dul.to_user_queue.put(None)


def connection_of(event: evt.Event) -> Capped | None:
    """Return an association's connection, unless it is closed already."""
    wrapper = event.assoc.dul.socket
    return cast("Capped | None", wrapper.socket) if wrapper is not None else None
