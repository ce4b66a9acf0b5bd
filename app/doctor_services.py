"""What doctor looks at of the services beside the destinations: the audit trail's collector, the PACS of history."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

from app.audit import TRAIL
from app.audit_forward import CONNECT_SECONDS, tls_context
from app.config import Destination, SenderConfig, Settings
from app.config_history import HistoryPacs
from app.config_operation import SyslogConfig
from app.config_tls import TlsFiles
from app.doctor_place import Check, attempt, told, try_port
from app.errors import NodeError
from app.sender import echo
from app.tls import explain
from app.tls_health import look_at, look_at_client

_REFUSAL_SECONDS = 1.0
"""Within this time a collector that does not take our certificate says so: with TLS 1.3, after the handshake."""


def look_at_services(settings: Settings) -> Iterator[Check]:
    """Look at the trail, where it goes, and where earlier examinations come from."""
    if settings.audit.enabled:
        yield _trail(settings)
        if settings.audit.syslog is not None:
            yield from _collector(settings.audit.syslog)
    if (pacs := settings.history.pacs) is not None:
        yield from _history(pacs)


def _trail(settings: Settings) -> Check:
    path = settings.data_dir / TRAIL

    def look() -> str:
        # Where there is none, that the data folder can be written says as much.
        with suppress(FileNotFoundError):
            os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
        return f"{path} can be written"

    return attempt("audit trail", look, f"give this user {path} (chown, chmod 600), or move it away")


def _collector(config: SyslogConfig) -> Iterator[Check]:
    if not config.plain:
        seen = [
            told("audit collector TLS", finding)
            for finding in look_at_client(config.certificate, config.key, config.ca, time.time())
        ]
        yield from seen
        if not all(check.ok or check.warns for check in seen):
            return
    yield attempt(
        "audit collector",
        lambda: _reach(config),
        "is the collector up, and are node.audit.syslog's host, port and ca right? What it misses is sent later",
    )


def _reach(config: SyslogConfig) -> str:
    """Connect as the node does, and send nothing."""
    where = f"{config.host} port {config.port}"
    try:
        context = tls_context(config)
        with socket.create_connection((config.host, config.port), CONNECT_SECONDS) as plain:
            if context is None:
                return f"{where} takes connections, in the clear"
            with context.wrap_socket(plain, server_hostname=config.host) as connection:
                connection.settimeout(_REFUSAL_SECONDS)
                with suppress(TimeoutError):
                    if not connection.recv(1):
                        raise NodeError(f"{where} ends the connection: does it want a certificate of ours?")
    except OSError as error:
        raise NodeError(f"{where}: {explain(error)}") from error
    return f"{where} takes connections over TLS"


def _history(pacs: HistoryPacs) -> Iterator[Check]:
    files = list(_files("history TLS", pacs.tls, server_side=False))
    yield from files
    # One clear line: without TLS there is no answer either.
    if all(check.ok or check.warns for check in files):
        yield _asked(pacs)
    yield try_port("history port", pacs.move_host, pacs.move_port, "node.history.pacs.move_port")
    yield from _files("history port TLS", pacs.move_tls, server_side=True)
    if (pacs.tls is None) != (pacs.move_tls is None):
        clear = "what is asked goes" if pacs.tls is None else "reports come"
        remedy = f"set node.history.pacs.{'tls' if pacs.tls is None else 'move_tls'} too, unless that is meant"
        yield Check("history TLS", False, f"{clear} in the clear: TLS is set for one way alone", remedy, warns=True)


def _files(subject: str, tls: TlsFiles | None, *, server_side: bool) -> Iterator[Check]:
    if tls is not None:
        for seen in look_at(tls, server_side, time.time()):
            yield told(subject, seen)


def _asked(pacs: HistoryPacs) -> Check:
    peer = Destination(name="history", ae_title=pacs.ae_title, host=pacs.host, port=pacs.port, tls=pacs.tls)
    asking = SenderConfig(calling_ae_title=pacs.calling_ae_title, network_timeout_seconds=pacs.timeout_seconds)

    def look() -> str:
        echo(peer, asking)
        there = f"at this machine, port {pacs.move_port}, by {pacs.moved_by}"
        return f"{peer.address} answers C-ECHO; does it know {pacs.move_ae_title} {there}?"

    return attempt("history", look, f"is {peer.address} up, and does it know {pacs.calling_ae_title}?")
