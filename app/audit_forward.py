"""Takes the audit trail to a collector: syslog over TLS (RFC 5425, as PS3.15 section A.6 asks), in order, none lost.

How far it came is kept in a file, and files of the trail that were moved away are held (app.audit_unsent), so a
collector that is gone for a week, or a node that restarts, gets everything once it is back. A message is counted as
sent when the connection took it: syslog has no answer.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
import time
from pathlib import Path

from app.audit import TRAIL
from app.audit_unsent import Unsent
from app.config import Settings
from app.config_operation import SyslogConfig
from app.errors import ConfigError, TlsError
from app.tls import web_context

LOGGER = logging.getLogger(__name__)
PRIORITY = 10 * 8 + 5
"""Facility security, severity notice (PS3.15 section A.6)."""
MESSAGE_ID = "DICOM+RFC3881"
_FIRST_PAUSE, _LONGEST_PAUSE, _LOOK_SECONDS = 1.0, 300.0, 2.0
CONNECT_SECONDS = 10.0
"""How long a connection to the collector may take to be made."""


class Forwarder:
    """Sends what is new in the trail, in a thread of its own."""

    def __init__(self, trail: Path, config: SyslogConfig) -> None:
        """Look at the files of TLS; raises TlsError where one cannot be used."""
        self._unsent, self._config = Unsent(trail), config
        tls_context(config)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)

    def start(self) -> None:
        """Begin, with what was not sent before."""
        self._thread.start()

    def stop(self) -> None:
        """Send what is there if the collector takes it at once, and end."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(CONNECT_SECONDS + 1.0)

    def _run(self) -> None:
        pause, due = _FIRST_PAUSE, 0.0
        while True:
            stopping = self._stopped.is_set()
            try:
                # Looked at in each round, tried or not: no file of the trail may come and go unseen.
                if self._unsent.look() and (stopping or time.monotonic() >= due):
                    self._send()
                    pause = _FIRST_PAUSE
            except (OSError, TlsError) as error:
                why = str(error) if isinstance(error, TlsError) else type(error).__name__
                LOGGER.warning("the audit collector cannot be reached (%s); tried again", why)
                due, pause = time.monotonic() + pause, min(2.0 * pause, _LONGEST_PAUSE)
            if stopping:
                return
            self._stopped.wait(_LOOK_SECONDS)

    def _send(self) -> None:
        config = self._config
        # Made for each connection: a certificate that was renewed is shown from the next one on.
        context = tls_context(config)
        with socket.create_connection((config.host, config.port), CONNECT_SECONDS) as plain:
            connection = plain if context is None else context.wrap_socket(plain, server_hostname=config.host)
            with connection:
                for line, mark in self._unsent.lines():
                    connection.sendall(framed(line))
                    self._unsent.keep(mark)


def open_forwarder(settings: Settings) -> Forwarder | None:
    """Make the forwarder that the settings ask for; raises ConfigError where its certificates cannot be used."""
    if not settings.audit.enabled or settings.audit.syslog is None:
        return None
    try:
        return Forwarder(settings.data_dir / TRAIL, settings.audit.syslog)
    except TlsError as error:
        raise ConfigError(f"setting node.audit.syslog: {error}") from error


def framed(message: bytes) -> bytes:
    """Put an audit message in a syslog message (RFC 5424), counted in octets (RFC 5425)."""
    begins = message.find(b'EventDateTime="') + len(b'EventDateTime="')
    when = message[begins : message.find(b'"', begins)].decode()
    head = f"<{PRIORITY}>1 {when} {os.uname().nodename} glioma-node {os.getpid()} {MESSAGE_ID} - ".encode()
    whole = head + b"\xef\xbb\xbf" + message
    return f"{len(whole)} ".encode() + whole


def tls_context(config: SyslogConfig) -> ssl.SSLContext | None:
    """Make the client's side of TLS, by BCP 195; None where the configuration says plain. Raises TlsError."""
    if config.plain:
        return None
    return web_context(config.ca, config.certificate, config.key or config.certificate)
