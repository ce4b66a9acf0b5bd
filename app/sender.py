"""The Storage SCU: sends files to a peer, as one attempt."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import ValidationError
from pydicom import Dataset, dcmread, uid
from pynetdicom import _config, evt
from pynetdicom.association import Association
from pynetdicom.dsutils import split_dataset
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)
from pynetdicom.status import code_to_category

from app.config import Destination, SenderConfig
from app.config_tls import DestinationTls
from app.errors import InputError, KindsRefused, PeerError, PeerUntrusted, TlsError
from app.heartbeat import Step
from app.refusals import ALREADY_THERE, NO_KIND, is_for_good, why_not
from app.requestor import CONNECT_SECONDS, Requestor
from app.store import NOT_UNDERSTOOD
from app.tls import ClientTls

MAX_CONTEXTS = 128
"""Of one association: context ids are the odd numbers up to 255 (PS3.8 section 9.3.2.2)."""
NO_ANSWER = "the peer gave no answer"
_LOOK_SECONDS = 0.05

Kind = tuple[str, str]
"""SOP class and transfer syntax of a file."""


@dataclass(frozen=True)
class Outcome:
    """What became of one file."""

    path: Path
    delivered: bool
    note: str
    """Empty after plain Success; else what the peer said, or why the file did not reach it."""
    status: int | None = None
    """C-STORE status, where the peer gave one."""
    for_good: bool = False
    """No resend mends it: it is the file, or what the peer takes."""


Progress = Callable[[Outcome], None]


def unreadable(path: Path, error: Exception) -> Outcome:
    """What became of a file that is none of DICOM's; the error's own text may quote it."""
    return Outcome(path, delivered=False, note=f"not a DICOM file that can be sent ({type(error).__name__})")


def parse_peer(text: str, tls: tuple[Path, Path, Path] | None = None) -> Destination:
    """Read AE@host:port, with certificate, key and CA where it speaks TLS; raises InputError."""
    title, at, address = text.partition("@")
    host, colon, port = address.rpartition(":")
    if not (at and colon and title and host and port.isascii() and port.isdigit()):
        raise InputError(f"{text!r} is not a peer: write AE_TITLE@host:port, as in PACS@192.168.1.2:104")
    files = DestinationTls(certificate=tls[0], key=tls[1], ca=tls[2]) if tls is not None else None
    try:
        return Destination(name="peer", ae_title=title, host=host.strip("[]"), port=int(port), tls=files)
    except ValidationError as error:
        raise InputError(f"{text!r} is not a peer: {error.errors()[0]['msg']}") from error


def send_files(
    files: Iterable[Path],
    peer: Destination,
    calling_ae_title: str,
    timeout: float,
    on_progress: Progress | None = None,
) -> list[Outcome]:
    """Send files to a peer, over one association unless they need more than 128 contexts.

    `timeout` is how long, in seconds, the peer may be silent. `on_progress` hears of each file as its fate is known.
    Raises PeerError when no association can be had; what then was sent before has been told to `on_progress`.
    """
    return Courier(peer, calling_ae_title, timeout).send(files, on_progress)


def echo(peer: Destination, config: SenderConfig) -> None:
    """Ask a peer whether it is there, by C-ECHO; raises PeerError with what to look at when it does not say yes."""
    Courier(peer, config.calling_ae_title, config.network_timeout_seconds).echo()


def offers_commitment(peer: Destination, config: SenderConfig) -> bool:
    """Say whether a peer accepts storage commitment; raises PeerError when no association can be had."""
    return Courier(peer, config.calling_ae_title, config.network_timeout_seconds).offers_commitment()


class Courier:
    """Sends to one peer; `stop`, from another thread, ends it at once."""

    def __init__(
        self, peer: Destination, calling_ae_title: str, timeout: float, step: Step = lambda seconds: None
    ) -> None:
        """`timeout` is how long, in seconds, the peer may be silent; `step` hears of each step that moves."""
        self._peer = peer
        # The longest wait for the peer: a connection, and an answer to the first that is said.
        self._step = partial(step, timeout + CONNECT_SECONDS)
        self._name = f"{peer.ae_title} at {peer.host} port {peer.port}"
        self._ae = Requestor(calling_ae_title, timeout)
        self._stopped = threading.Event()
        self._association: Association | None = None
        # Files go out as they lie on disk, in chunks, without being decoded; the switch is pynetdicom's own and
        # holds for the whole process.
        _config.STORE_SEND_CHUNKED_DATASET = True

    def stop(self) -> None:
        """Give up: end the connection that is open, and open no more."""
        self._stopped.set()
        association = self._association
        # An A-ABORT would leave the sending thread waiting for its answer; a closed connection wakes it.
        if association is not None and (connection := _connection(association)) is not None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def send(self, files: Iterable[Path], on_progress: Progress | None = None) -> list[Outcome]:
        """Send files as `send_files` does."""
        outcomes: list[Outcome] = []

        def tell(outcome: Outcome) -> None:
            outcomes.append(outcome)
            if on_progress is not None:
                on_progress(outcome)

        readable: list[tuple[Path, Kind]] = []
        for path in files:
            self._step()
            try:
                readable.append((path, _kind(path)))
            except NOT_UNDERSTOOD as error:
                tell(unreadable(path, error))
        for batch in _batches(readable):
            self._send_batch(batch, tell)
        return outcomes

    def echo(self) -> None:
        """Verify as `echo` does."""
        association = self._associate([build_context(Verification)])
        answer = association.send_c_echo()
        association.release()
        if answer.get("Status") != 0x0000:
            raise PeerError(f"{self._name} takes associations, but does not answer C-ECHO with Success")

    def ask(
        self,
        request_uid: str,
        references: Iterable[tuple[str, str]],
        on_report: Callable[[evt.Event], tuple[int, None]],
        waits: Callable[[], bool],
        stay_seconds: float,
    ) -> str:
        """Ask for storage commitment of objects, by SOP class and instance UID; return why not, or nothing.

        Reports that come on this association within `stay_seconds` go to `on_report`, as long as `waits` says that
        there is one to come. Raises PeerError when no association can be had.
        """
        association = self._associate(
            [build_context(StorageCommitmentPushModel)], [(evt.EVT_N_EVENT_REPORT, on_report)]
        )
        try:
            information = _request(request_uid, references)
            try:
                answer, _ = association.send_n_action(
                    information, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
                )
            except RuntimeError:  # the peer has ended the association meanwhile
                return NO_ANSWER
            if "Status" not in answer:
                return NO_ANSWER
            if answer.Status != 0x0000:
                return f"refuses the request for storage commitment (0x{answer.Status:04X})"
            until = time.monotonic() + stay_seconds
            while association.is_established and time.monotonic() < until and waits():
                self._step()
                if self._stopped.wait(_LOOK_SECONDS):
                    break
            return ""
        finally:
            self._association = None
            if association.is_established:
                association.release()

    def offers_commitment(self) -> bool:
        """Say what `offers_commitment` does."""
        try:
            self._associate([build_context(StorageCommitmentPushModel)]).release()
        except KindsRefused:
            return False
        return True

    def _send_batch(self, batch: Sequence[tuple[Path, Kind]], tell: Progress) -> None:
        contexts = [build_context(*context) for context in contexts_for(kind for _, kind in batch)]
        association = self._associate(contexts)
        try:
            for path, kind in batch:
                if self._stopped.is_set() or not association.is_established:
                    tell(Outcome(path, delivered=False, note="the association ended before it was sent"))
                    continue
                self._step()
                outcome = _store(association, path, kind)
                if outcome.note == NO_ANSWER:
                    # A lost connection shows here first; a further request would wait for its whole timeout.
                    association.abort()
                tell(outcome)
        finally:
            self._association = None
            if association.is_established:
                association.release()

    def _associate(
        self, contexts: list[PresentationContext], handlers: Sequence[evt.EventHandlerType] = ()
    ) -> Association:
        peer, name = self._peer, self._name
        self._step()
        moves = [(evt.EVT_PDU_SENT, self._moved), (evt.EVT_PDU_RECV, self._moved)]
        try:
            tls = ClientTls.to(peer.tls) if peer.tls is not None else None
        except TlsError as error:
            raise PeerError(f"{name} cannot be reached by TLS: {error}") from None
        if self._stopped.is_set():
            raise PeerError(f"sending to {name} was stopped")
        try:
            association = self._ae.associate(
                peer.host,
                peer.port,
                contexts=contexts,
                ae_title=peer.ae_title,
                evt_handlers=[(evt.EVT_CONN_OPEN, self._connected), *moves, *handlers],
                tls_args=(tls, peer.host) if tls is not None else None,
            )
        except OSError as error:
            raise PeerError(f"the host of {name} cannot be found ({error.strerror}): is its name right?") from error
        if association.is_established:
            return association
        reason = why_not(association, self._association is not None, self._ae.ae_title, tls)
        self._association = None
        if tls is not None and tls.is_distrusted:
            raise PeerUntrusted(f"{name} {reason}")
        raise (KindsRefused if reason == NO_KIND else PeerError)(f"{name} {reason}")

    def _connected(self, event: evt.Event) -> None:
        """Note the association as soon as `stop` can abort it."""
        self._association = event.assoc

    def _moved(self, event: evt.Event) -> None:
        """A large object goes in many PDUs, each within its own time."""
        self._step()


def _connection(association: Association) -> socket.socket | None:
    """Return an association's connection, unless it is closed already."""
    wrapper = association.dul.socket
    return wrapper.socket if wrapper is not None else None


def _kind(path: Path) -> Kind:
    meta, _ = split_dataset(path)
    return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)


def reference_of(path: Path) -> tuple[str, str]:
    """Read SOP class and instance UID off a DICOM file's meta information; raises what pydicom does if it cannot."""
    meta, _ = split_dataset(path)
    return str(meta.MediaStorageSOPClassUID), str(meta.MediaStorageSOPInstanceUID)


def contexts_for(kinds: Iterable[Kind]) -> list[Kind]:
    """Return the contexts to propose: each kind by itself, and implicit VR beside it where pixels are native.

    Implicit VR little endian is what every peer must take (PS3.5 section 10.1), and a file can be rewritten to it.
    """
    wanted: dict[Kind, None] = {}
    for sop_class, syntax in kinds:
        wanted[sop_class, syntax] = None
        if not uid.UID(syntax).is_compressed:
            wanted[sop_class, str(uid.ImplicitVRLittleEndian)] = None
    return list(wanted)


def _batches(files: Sequence[tuple[Path, Kind]]) -> Iterator[list[tuple[Path, Kind]]]:
    """Cut the files into runs that each need at most 128 contexts."""
    batch: list[tuple[Path, Kind]] = []
    needed: set[Kind] = set()
    for file in files:
        more = needed.union(contexts_for([file[1]]))
        if len(more) > MAX_CONTEXTS:
            yield batch
            batch, more = [], set(contexts_for([file[1]]))
        batch.append(file)
        needed = more
    if batch:
        yield batch


def _store(association: Association, path: Path, kind: Kind) -> Outcome:
    """Send one file: as it is where the peer takes its transfer syntax, else rewritten."""
    sop_class, syntax = kind
    accepted = {
        str(context.transfer_syntax[0])
        for context in association.accepted_contexts
        if context.abstract_syntax == sop_class
    }
    if not accepted:
        return Outcome(path, delivered=False, note=f"the peer does not take {uid.UID(sop_class).name}", for_good=True)
    try:
        status = association.send_c_store(path if syntax in accepted else dcmread(path))
    except NOT_UNDERSTOOD as error:
        if not association.is_established:
            return Outcome(path, delivered=False, note=NO_ANSWER)
        # The error's own text may quote the dataset.
        note = f"could not be sent as the peer wants it ({type(error).__name__})"
        return Outcome(path, delivered=False, note=note, for_good=True)
    if "Status" not in status:
        return Outcome(path, delivered=False, note=NO_ANSWER)
    category = code_to_category(status.Status)
    if status.Status == ALREADY_THERE:
        return Outcome(path, delivered=True, note="was there already", status=status.Status)
    note = "" if category == "Success" else f"{category.lower()} 0x{status.Status:04X}"
    delivered, for_good = category in {"Success", "Warning"}, is_for_good(status.Status)
    return Outcome(path, delivered, note=note, status=status.Status, for_good=for_good)


def _request(request_uid: str, references: Iterable[tuple[str, str]]) -> Dataset:
    """Make the Action Information of a request (PS3.4 table J.3-1); `references` are SOP class and instance UIDs."""
    information = Dataset()
    information.TransactionUID = request_uid
    information.ReferencedSOPSequence = []
    for sop_class, sop_instance in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_instance
        information.ReferencedSOPSequence.append(item)
    return information
