"""The Storage and Verification SCP: its own process, so that a busy analysis never slows an arriving study.

An instance is answered with Success only when its bytes, as they came, are on disk under their final name. Nothing
here decodes pixel data, and nothing of a dataset but its UIDs reaches the log.
"""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import re
import shutil
import signal
import socket
import ssl
import struct
import sys
import threading
import uuid
import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

from pydicom import uid
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag
from pynetdicom import AE, AllStoragePresentationContexts, VerificationPresentationContexts, _config, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import A_ASSOCIATE

from app import __version__
from app.capped_socket import request_seconds
from app.config import Peer, ReceiverConfig, Settings
from app.errors import TlsError
from app.files import INCOMING, PART, instance_name, private_folder, study_key, sync_folder, write_synced
from app.listener import Connections, Listener, connection_of, handle_close, log_thread_failure, positions
from app.log import set_up_log
from app.tally import Tally
from app.tls import why_not_bound

LOGGER = logging.getLogger(__name__)

TRANSFER_SYNTAXES = [
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
    uid.RLELossless,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
]
"""Deflated is left out: it inflates without a bound (pynetdicom issue 1086)."""

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
MISMATCH = 0xA900
COERCED = 0xB000
CANNOT_UNDERSTAND = 0xC000
STATUSES = {
    SUCCESS: ("Success", "The dataset, as it came, is on disk; or it was already."),
    OUT_OF_RESOURCES: (
        "Refused: Out of Resources",
        "The disk is at its watermark, full, or failing; send again later.",
    ),
    MISMATCH: ("Error: Dataset does not match SOP Class", "SOP class or SOP instance UID is not the request's."),
    COERCED: ("Warning: Coercion of Data Elements", "Held before with other content; the first to come is kept."),
    CANNOT_UNDERSTAND: (
        "Error: Cannot understand",
        "Unreadable, truncated, without pixel data or a valid UID; or a fault of the node, which is in its log.",
    ),
}
"""Every status that a C-STORE is answered with (PS3.4 table B.2-1): its meaning there, and when."""

_IDENTITY = (0x00080016, 0x00080018, 0x0020000D, 0x0020000E)
_UID = re.compile(r"[0-9.]{1,64}")
_PIXELS = 0x7FE0
"""The group of Pixel Data and of its floating-point forms (PS3.3 section C.7.6.24)."""
_UNDEFINED_LENGTH = 0xFFFFFFFF
_BEYOND_COUNT = 1_000_000
"""As pynetdicom's own limit: it counts connections that have not asked for anything; `Connections` counts here."""
_UNREADABLE = (
    InvalidDicomError,
    BytesLengthException,
    EOFError,
    OSError,
    struct.error,
    zlib.error,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    RuntimeError,
)
"""What pydicom raises at bytes that are no dataset; sequences a thousand deep end in a RecursionError."""


class Refused(Exception):
    """An instance is not taken; carries the C-STORE status and a reason without dataset content."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Identity:
    """The UIDs by which an instance is filed."""

    sop_class: str
    instance: str
    study: str


def read_identity(content: bytes) -> Identity:
    """Walk a DICOM file in memory to its end and return its UIDs; raises Refused where it is broken or lacks one.

    Element values are skipped, not decoded; a length that leads beyond the end means a truncated dataset, and so does
    an image without pixels: cut between two elements, what is left reads as a whole dataset.
    """
    stream = io.BytesIO(content)
    has_pixels = False

    def within(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal has_pixels
        has_pixels |= tag.group == _PIXELS
        if length != _UNDEFINED_LENGTH and stream.tell() + length > len(content):
            raise Refused(CANNOT_UNDERSTAND, f"truncated: ({tag.group:04X},{tag.element:04X}) ends beyond the dataset")
        return False

    try:
        header = read_partial(stream, stop_when=within, specific_tags=list(_IDENTITY))
        values = [str(header.get(tag).value) if tag in header else "" for tag in _IDENTITY]
    except _UNREADABLE as error:
        # The error's own text may quote the dataset.
        raise Refused(CANNOT_UNDERSTAND, f"not a readable dataset ({type(error).__name__})") from error
    for tag, value in zip(_IDENTITY, values, strict=True):
        if not _UID.fullmatch(value):
            raise Refused(CANNOT_UNDERSTAND, f"no valid UID in ({tag >> 16:04X},{tag & 0xFFFF:04X})")
    if "Image Storage" in uid.UID(values[0]).name and not has_pixels:
        raise Refused(CANNOT_UNDERSTAND, "truncated: an image without Pixel Data (7FE0,0010)")
    return Identity(values[0], values[1], values[2])


class Store:
    """Where received instances are kept."""

    def __init__(self, inbox_dir: Path, watermark_mb: int) -> None:
        self._inbox = private_folder(inbox_dir)
        self._incoming = private_folder(inbox_dir / INCOMING)
        self._watermark = watermark_mb * 1_000_000
        self._naming = threading.Lock()
        self._named: set[str] = set()
        """Study folders whose own name survives a power cut."""

    def sweep(self) -> None:
        """Remove what an earlier process was receiving when it ended; nobody got Success for it."""
        for left in self._incoming.glob(f"*{PART}"):
            left.unlink(missing_ok=True)

    def keep(self, identity: Identity, content: bytes) -> int:
        """Put an instance on disk for good and return its C-STORE status; raises OSError or Refused if it cannot.

        The first to come stays: a running job may be reading it. When the same instance comes again with the same
        dataset, that is Success. With another dataset the standard's only true answer is the warning B000 (PS3.4
        table B.2-1): the instance is held, but not with these elements. Success would claim that they are kept,
        and a failure would make the peer send them for ever.
        """
        if shutil.disk_usage(self._inbox).free < self._watermark:
            raise Refused(OUT_OF_RESOURCES, "less free disk space than the watermark")
        folder = self._inbox / study_key(identity.study)
        target = folder / instance_name(identity.instance)
        if target.exists():
            return self._kept_before(target, content)
        part = self._incoming / f"{uuid.uuid4().hex}{PART}"
        try:
            write_synced(part, content)
            self._name(folder)
            with self._naming:
                taken = target.exists()
                if not taken:
                    part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        if taken:
            return self._kept_before(target, content)
        sync_folder(folder)
        return SUCCESS

    def _name(self, folder: Path) -> None:
        # Another association may have made it a moment ago, and not yet have synced the inbox.
        if folder.name not in self._named or not folder.is_dir():
            private_folder(folder)
            sync_folder(self._inbox)
            self._named.add(folder.name)

    def _kept_before(self, target: Path, content: bytes) -> int:
        # Another association may have named it a moment ago, and not yet have synced the folder.
        sync_folder(target.parent)
        return SUCCESS if _dataset(target.read_bytes()) == _dataset(content) else COERCED


def _dataset(content: bytes) -> bytes:
    # The file meta group's length is its first element: 12 bytes, behind the preamble and "DICM".
    (length,) = struct.unpack_from("<L", content, 140)
    return content[144 + length :]


def handle_store(event: evt.Event, store: Store, tally: Tally | None = None) -> int:
    """Keep one instance and return its C-STORE status (PS3.4 section B.2.3); count it."""
    status = _store(event, store)
    if tally is not None:
        tally.count(status)
    return status


def _store(event: evt.Event, store: Store) -> int:
    request = cast("C_STORE", event.request)
    instance = _printable(request.AffectedSOPInstanceUID)
    try:
        content = event.encoded_dataset()
        identity = read_identity(content)
        if identity.sop_class != request.AffectedSOPClassUID:
            raise Refused(MISMATCH, "its SOP class is not the request's")
        if identity.instance != request.AffectedSOPInstanceUID:
            raise Refused(MISMATCH, "its SOP instance UID is not the request's")
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


def _printable(instance_uid: object) -> str:
    text = str(instance_uid)
    return text if _UID.fullmatch(text) else "(with an invalid UID)"


def handle_request(event: evt.Event, config: ReceiverConfig, connections: Connections) -> None:
    """Reject an association of a peer that is not on the list, or for which there is no room."""
    connection, address = connection_of(event), str(event.assoc.requestor.address)
    if connection is None:
        return
    calling = cast("A_ASSOCIATE", event.assoc.requestor.primitive).calling_ae_title.strip()
    if not config.allow_any_peer and (why := _why_unknown(calling, address, connection, config)):
        LOGGER.warning("association rejected: %r at %s is not a known peer%s", calling, address, why)
        event.assoc.acse.send_reject(0x01, 0x01, 0x03)
    elif not connections.admit(connection):
        LOGGER.warning("association rejected: as many as may be are open; %r at %s was one more", calling, address)
        event.assoc.acse.send_reject(0x02, 0x03, 0x02)
    else:
        return
    # Without this the connection may close before the rejection is sent.
    event.assoc.kill()


def _why_unknown(calling: str, address: str, connection: socket.socket, config: ReceiverConfig) -> str:
    """Say why a peer is not on the list; empty where it is."""
    actual = ip_address(address.partition("%")[0])
    actual = getattr(actual, "ipv4_mapped", None) or actual
    named = [
        peer
        for peer in config.peers
        if peer.ae_title == calling and (peer.address is None or ip_address(peer.address) == actual)
    ]
    whys = [_why_not_its_certificate(peer, connection) for peer in named]
    return "" if "" in whys else f": {whys[0]}" if whys else " by title and address"


def _why_not_its_certificate(peer: Peer, connection: socket.socket) -> str:
    return why_not_bound(peer, connection) if isinstance(connection, ssl.SSLSocket) else ""


def handle_open(event: evt.Event) -> None:
    """Send small answers at once: Nagle's algorithm holds each one back up to 40 ms."""
    if (connection := connection_of(event)) is not None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def handle_message(event: evt.Event) -> None:
    """Let the next message start from nought."""
    if (connection := connection_of(event)) is not None:
        connection.message_done()


class Receiver:
    """A listening SCP; `port` is the one it got."""

    def __init__(self, settings: Settings, tally: Tally | None = None) -> None:
        """Listen; raises OSError when the address cannot be had, TlsError when certificates cannot."""
        config = settings.receiver
        private_folder(settings.data_dir)
        store = Store(settings.inbox_dir, config.free_space_watermark_mb)
        self._ae = application_entity(config)
        # pynetdicom's own logging of every message costs time, and shows what peers send.
        _config.LOG_HANDLER_LEVEL = "none"

        self._connections = Connections(config)
        self._server = self._ae.make_server(
            (config.host, config.port),
            server_class=Listener,
            evt_handlers=[
                (evt.EVT_CONN_OPEN, handle_open),
                (evt.EVT_CONN_CLOSE, handle_close),
                (evt.EVT_REQUESTED, handle_request, [config, self._connections]),
                (evt.EVT_DIMSE_RECV, handle_message),
                (evt.EVT_C_STORE, handle_store, [store, tally]),
            ],
            config=config,
            connections=self._connections,
        )
        # Only once the port is ours: a second node on the same folder must not sweep the first one's files.
        store.sweep()
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="receiver", daemon=True).start()

    def close(self) -> None:
        """Stop listening and end the associations that are open."""
        self._server.shutdown()
        for association in self._server.active_associations:
            association.abort()
        for connection in self._connections.open():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def application_entity(config: ReceiverConfig) -> AE:
    """Make the AE that is served: its titles, limits, time-outs and the contexts it accepts."""
    ae = AE(ae_title=config.ae_title)
    ae.require_called_aet = True
    ae.maximum_associations = _BEYOND_COUNT
    ae.maximum_pdu_size = config.max_pdu_bytes
    ae.implementation_version_name = f"GLIOMA_{__version__}"
    ae.dimse_timeout = ae.network_timeout = config.network_timeout_seconds
    ae.acse_timeout = request_seconds(config)
    for context in AllStoragePresentationContexts:
        ae.add_supported_context(cast("uid.UID", context.abstract_syntax), TRANSFER_SYNTAXES)
    for context in VerificationPresentationContexts:
        ae.add_supported_context(cast("uid.UID", context.abstract_syntax))
    return ae


def run_receiver(settings: Settings, started: Connection | None = None, tally: Tally | None = None) -> None:
    """Receive until SIGTERM or SIGINT, or until the node that spawned this process is gone.

    Sends the port over `started` once it listens; when it cannot, `started` ends and the exit status is 2.
    """
    set_up_log(settings.log.format)
    # Their own words may quote what a peer sent, a patient's name among it.
    for library in ("pynetdicom", "pydicom"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
    threading.excepthook = log_thread_failure
    # Blocked before any thread starts, so that no thread but this one ever takes them.
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    config = settings.receiver
    try:
        receiver = Receiver(settings, tally)
    except OSError as error:
        LOGGER.error(
            "cannot listen on %s port %d: %s; does another node run?", config.host, config.port, error.strerror
        )
        sys.exit(2)
    except TlsError as error:
        LOGGER.error("cannot speak TLS: %s", error)
        sys.exit(2)
    spoken = "TLS" if config.tls is not None else "plain DICOM"
    LOGGER.info("%s listens on %s port %d for %s", config.ae_title, config.host, receiver.port, spoken)
    if started is not None:
        started.send(receiver.port)
        started.close()
    parent = os.getppid()
    while signal.sigtimedwait(stops, 1.0) is None:
        if multiprocessing.parent_process() is not None and os.getppid() != parent:
            LOGGER.error("the node that started the receiver is gone; the receiver ends too")
            break
    receiver.close()
