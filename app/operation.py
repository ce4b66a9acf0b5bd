"""The HTTP endpoint for monitoring: /health, /ready, /metrics. Reads only, and runs beside the analysis."""

from __future__ import annotations

import io
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from app.config_operation import OperationConfig
from app.errors import NodeError

LOGGER = logging.getLogger(__name__)

AT_ONCE = 8
"""Requests that are answered at once; one more is dropped."""
REQUEST_SECONDS = 5.0
"""A request must be here whole within this time, and its answer be taken within as long again."""
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Ready = Callable[[], Mapping[str, bool]]
"""Gives what must hold for the node to be of use, by name."""


class OperationServer:
    """Answers until `close`; `port` is the one it listens on."""

    def __init__(self, config: OperationConfig, ready: Ready, metrics: Callable[[], str]) -> None:
        """Listen; raises NodeError where the address cannot be had."""
        try:
            self._server = _Server((config.host, config.port), ready, metrics)
        except OSError as error:
            raise NodeError(
                f"the monitoring endpoint cannot listen on {config.host} port {config.port}: {error.strerror}; "
                "choose another node.operation.port, or 0 for none"
            ) from error
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, name="operation", daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], ready: Ready, metrics: Callable[[], str]) -> None:
        self.ready, self.metrics = ready, metrics
        self._room = threading.BoundedSemaphore(AT_ONCE)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, as long as there are not too many."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and make room."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that goes away in mid-request is nobody's concern."""
        LOGGER.debug("a request for monitoring broke off")


class _WithinTime(io.RawIOBase):
    """Reads a connection up to a moment: a limit of each read alone lets a peer send a byte now and then for ever."""

    def __init__(self, connection: socket.socket, until: float) -> None:
        self._connection, self._until = connection, until

    def readable(self) -> bool:
        """Say that it reads."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what is there, or wait for it while there is time; raises TimeoutError then."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "GliomaNode"
    sys_version = ""

    def setup(self) -> None:
        """Read the request, whatever its length, within one time."""
        super().setup()
        self.rfile = io.BufferedReader(_WithinTime(self.connection, time.monotonic() + REQUEST_SECONDS))

    def do_GET(self) -> None:
        """Answer one of the three pages."""
        page = {"/health": self._health, "/ready": self._ready, "/metrics": self._metrics}.get(
            self.path.partition("?")[0]
        )
        if page is None:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", "there are /health, /ready and /metrics\n")
            return
        try:
            page()
        except (NodeError, OSError) as error:
            LOGGER.warning("monitoring: %s", error if isinstance(error, NodeError) else error.strerror)
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", "cannot be read now\n")

    do_HEAD = do_GET  # noqa: N815

    def _health(self) -> None:
        self._answer(HTTPStatus.OK, "application/json", json.dumps({"alive": True}) + "\n")

    def _ready(self) -> None:
        checks = dict(self.server.ready())
        status = HTTPStatus.OK if all(checks.values()) else HTTPStatus.SERVICE_UNAVAILABLE
        self._answer(status, "application/json", json.dumps({"ready": all(checks.values()), **checks}) + "\n")

    def _metrics(self) -> None:
        self._answer(HTTPStatus.OK, METRICS_TYPE, self.server.metrics())

    def _answer(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode()
        self.connection.settimeout(REQUEST_SECONDS)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep requests out of the log: there is one every few seconds."""
