"""The port to which a PACS sends earlier reports (C-MOVE): open only meanwhile, to that PACS alone, within limits."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt

from app.admission import handle_request
from app.audit import AuditTrail
from app.config import Peer, ReceiverConfig
from app.config_history import HistoryPacs
from app.config_tls import CertificateBinding
from app.entity import bounded_entity
from app.errors import TlsError
from app.listener import Connections, Listener, handle_close
from app.receiver import handle_message, handle_open
from app.store import CANNOT_UNDERSTAND, NOT_UNDERSTOOD, OUT_OF_RESOURCES, SUCCESS, UID, Identity
from app.upper_layer import Acceptor
from app.witness import UNKNOWN, Witness
from operators.errors import HistoryUnavailable

if TYPE_CHECKING:
    from pynetdicom.dimse_primitives import C_STORE

LOGGER = logging.getLogger(__name__)

MOST_REPORTS = 50
"""Taken of one patient; a PACS that sends more is told that there is no room."""
MOST_REPORT_MB = 4
"""Of one report; one of this node takes some ten kilobytes."""
MOST_BYTES = 20_000_000
"""Of all reports of one patient."""
MOST_ASSOCIATIONS = 4
RELEASE_SECONDS = 1.0
"""So long may a PACS take to end its associations when it has said that all was sent."""


class Reports:
    """What came, within bounds; for any thread."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._taken: list[Dataset] = []
        self._bytes = 0
        self._guard = threading.Lock()

    def taken(self) -> list[Dataset]:
        """Return what has come until now."""
        with self._guard:
            return list(self._taken)

    def keep(self, event: evt.Event) -> int:
        """Take one report and return its C-STORE status (PS3.4 table B.2-1)."""
        identities: list[Identity] = []
        status = self._keep(event, identities)
        self._witness.saw(event.assoc, status, *identities)
        return status

    def _keep(self, event: evt.Event, identities: list[Identity]) -> int:
        """Take one report; what it is goes into `identities`."""
        dataset = cast("C_STORE", event.request).DataSet
        size = len(dataset.getbuffer()) if dataset is not None else 0
        with self._guard:
            if len(self._taken) >= MOST_REPORTS or self._bytes + size > MOST_BYTES:
                return OUT_OF_RESOURCES
            self._bytes += size
        try:
            report = event.dataset
            report.file_meta = event.file_meta
            # Values are read as they are asked for: what is in none of its VR shows here, and not in the analysis.
            for _ in report.iterall():
                pass
        except NOT_UNDERSTOOD as error:
            LOGGER.warning("an earlier report is refused: it cannot be read (%s)", type(error).__name__)
            return CANNOT_UNDERSTAND
        identities.append(_identity_of(report))
        with self._guard:
            self._taken.append(report)
        return SUCCESS


@contextmanager
def listening(pacs: HistoryPacs, address: str, trail: AuditTrail | None = None) -> Iterator[Reports]:
    """Take reports while open, of the PACS that has this address; the trail is told who came, and with what.

    Raises HistoryUnavailable without the port, or the certificates to speak TLS there.
    """
    config, witness = _config(pacs, address), Witness(trail)
    connections, reports = Connections(config), Reports(witness)
    handlers: list[evt.EventHandlerType] = [
        (evt.EVT_CONN_OPEN, handle_open),
        (evt.EVT_CONN_CLOSE, handle_close),
        (evt.EVT_REJECTED, witness.rejected),
        (evt.EVT_CONN_CLOSE, witness.ended),
        (evt.EVT_REQUESTED, handle_request, [config, connections, witness]),
        (evt.EVT_DIMSE_RECV, handle_message),
        (evt.EVT_C_STORE, reports.keep),
    ]
    try:
        server = _application_entity(config).make_server(
            (config.host, config.port),
            server_class=Listener,
            request_handler=Acceptor,
            evt_handlers=handlers,
            config=config,
            connections=connections,
            no_tls=witness.no_tls,
        )
    except OSError as error:
        raise HistoryUnavailable(f"port {config.port} cannot be had: {error.strerror}") from error
    except TlsError as error:
        # What it says of the files is for the log: this goes into a report.
        LOGGER.error("history port: %s", error)
        raise HistoryUnavailable(f"port {config.port} cannot speak TLS: the node's log tells why") from error
    threading.Thread(target=server.serve_forever, args=(0.1,), name="history", daemon=True).start()
    try:
        yield reports
        _wait_for_release(connections)
    finally:
        server.shutdown()
        connections.cut_off()
        witness.close()


def _wait_for_release(connections: Connections) -> None:
    """Let the PACS end in order what it has open: it may say that all was sent before that."""
    until = time.monotonic() + RELEASE_SECONDS
    while connections.places.admitted() and time.monotonic() < until:
        time.sleep(0.02)


def _identity_of(report: Dataset) -> Identity:
    """Return what a report is filed by, where a PACS says that in UIDs: other words may be anybody's name."""
    named = (str(report.get(keyword) or "") for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID"))
    return Identity(*(uid if UID.fullmatch(uid) else UNKNOWN for uid in named))


def _config(pacs: HistoryPacs, address: str) -> ReceiverConfig:
    known = pacs.move_from or (address.partition("%")[0],)
    tls = pacs.move_tls
    bound = tls.model_dump(include=set(CertificateBinding.model_fields)) if tls is not None else {}
    return ReceiverConfig(
        ae_title=pacs.move_ae_title,
        host=pacs.move_host,
        port=pacs.move_port,
        peers=tuple(Peer(ae_title=pacs.ae_title, address=each, **bound) for each in known),
        tls=tls,
        max_associations=MOST_ASSOCIATIONS,
        max_associations_per_peer=MOST_ASSOCIATIONS,
        max_object_mb=MOST_REPORT_MB,
        network_timeout_seconds=pacs.timeout_seconds,
    )


def _application_entity(config: ReceiverConfig) -> AE:
    ae = bounded_entity(config)
    # `Connections` counts those that are let in; pynetdicom would count the node's other ones too.
    ae.maximum_associations = MOST_ASSOCIATIONS * 100
    ae.add_supported_context(Comprehensive3DSRStorage, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    return ae
