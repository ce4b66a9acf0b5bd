"""The audit trail: who sent what, who was turned away, what went where, what was asked for; never whose it was.

Messages have the form of PS3.15 section A.5 (the Participant Object of the patient is left out: the Study Instance UID
leads whoever may know to the patient). Each is one line of a file that is only ever added to and synced at once; from
there a forwarder takes it to a collector (app.audit_forward), so that no collector's absence loses or delays one.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from io import FileIO
from pathlib import Path
from xml.etree import ElementTree

from app.files import sync_folder

LOGGER = logging.getLogger(__name__)

TRAIL = "audit.log"
"""Under the data folder."""
PRODUCT = "Glioma Node"
_SCHEME = "DCM"
_MOST_WORDS = 512
"""Characters of what an event's outcome is described by."""

APPLICATION_ACTIVITY = ("110100", "Application Activity")
APPLICATION_START = ("110120", "Application Start")
APPLICATION_STOP = ("110121", "Application Stop")
BEGIN_TRANSFERRING = ("110102", "Begin Transferring DICOM Instances")
INSTANCES_ACCESSED = ("110103", "DICOM Instances Accessed")
INSTANCES_TRANSFERRED = ("110104", "DICOM Instances Transferred")
QUERY = ("110112", "Query")
SECURITY_ALERT = ("110113", "Security Alert")
NODE_AUTHENTICATION = ("110126", "Node Authentication")
ROLE_APPLICATION = ("110150", "Application")
ROLE_DESTINATION = ("110152", "Destination Role ID")
ROLE_SOURCE = ("110153", "Source Role ID")
STUDY_UID = ("110180", "Study Instance UID")
SOP_CLASS_UID = ("110181", "SOP Class UID")
MOST_STUDIES = 10
"""Named in one message; of more their number is told. A collector need not take messages of any length."""
Code = tuple[str, str]


class Result(IntEnum):
    """EventOutcomeIndicator."""

    SUCCESS = 0
    MINOR_FAILURE = 4
    SERIOUS_FAILURE = 8


@dataclass(frozen=True)
class Party:
    """One end of a transfer."""

    ae_title: str
    address: str
    """IP address or host name."""


@dataclass
class Transfer:
    """Instances of one study that went, or did not go, over one association."""

    study_uid: str
    kept: Counter[str] = field(default_factory=Counter)
    """How many instances by SOP class."""
    failed: int = 0

    def count(self, sop_class: str, *, kept: bool) -> None:
        """Count one instance."""
        if kept:
            self.kept[sop_class] += 1
        else:
            self.failed += 1


@dataclass(frozen=True)
class Query:
    """What another is asked for."""

    sop_class: str
    transfer_syntax: str
    identifier: bytes
    """Encoded so, and without anybody's identity, though PS3.15 section A.5.3.10 would have it whole."""


class AuditTrail:
    """Adds messages to the trail; several processes may, at once. One that cannot be written is told in the log."""

    def __init__(self, path: Path, source: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """`source` is what the trail calls this node: its AE title."""
        self._path, self._source, self._now = path, source, now

    def started(self) -> None:
        """Say that the node serves."""
        self._activity(APPLICATION_START)

    def stopped(self) -> None:
        """Say that the node ends."""
        self._activity(APPLICATION_STOP)

    def received(self, peer: Party, transfers: Iterable[Transfer], fault: str = "") -> None:
        """Say what a peer sent over one association, a message a study, and what was wrong with the association."""
        for transfer in transfers:
            self._transferred("C", peer, self._here, transfer, peer, fault)

    def sent(self, peer: Party, transfers: Iterable[Transfer]) -> None:
        """Say what went to a destination, a message a study."""
        for transfer in transfers:
            self._transferred("R", self._here, peer, transfer, self._here)

    def not_sent(self, peer: Party, studies: Sequence[str], why: str) -> None:
        """Say that nothing of these studies reached a destination."""
        self._begin_or_end("R", INSTANCES_TRANSFERRED, Result.MINOR_FAILURE, (self._here, peer), studies, why)

    def queried(self, peer: Party, query: Query, told: str, fault: str = "") -> None:
        """Say what a peer was asked for, and what was wrong with its answer."""
        result = Result.MINOR_FAILURE if fault else Result.SUCCESS
        root = self._event("E", QUERY, result, told="; ".join(filter(None, (told, fault))))
        _participant(root, self._here, ROLE_SOURCE, requestor=True)
        _participant(root, peer, ROLE_DESTINATION, requestor=False)
        _query(root, query)
        self._add(root)

    def sends_for(self, peer: Party, studies: Sequence[str]) -> None:
        """Say that a peer is asked to send what it has of these studies."""
        self._begin_or_end("E", BEGIN_TRANSFERRING, Result.SUCCESS, (peer, self._here), studies)

    def not_received(self, peer: Party, studies: Sequence[str], why: str) -> None:
        """Say that a peer did not send what it was asked for."""
        self._begin_or_end("C", INSTANCES_TRANSFERRED, Result.MINOR_FAILURE, (peer, self._here), studies, why)

    def not_trusted(self, peer: Party, why: str) -> None:
        """Say that a peer that we went to did not prove who it is, or did not take our proof; nothing was told it."""
        root = self._event("E", SECURITY_ALERT, Result.SERIOUS_FAILURE, NODE_AUTHENTICATION, why)
        _participant(root, self._here, ROLE_APPLICATION, requestor=True)
        _participant(root, peer, ROLE_DESTINATION, requestor=False)
        self._add(root)

    def visited(self, peer: Party, told: str, fault: str = "") -> None:
        """Say that a peer that was let in brought no instances, and what was wrong, if anything.

        PS3.15 section A.5.3.11 lets Node Authentication tell of success too.
        """
        result = Result.MINOR_FAILURE if fault else Result.SUCCESS
        self._authentication(peer, result, "; ".join(filter(None, (told, fault))))

    def turned_away(self, peer: Party, reason: str, *, for_now: bool = False) -> None:
        """Say that a peer was not let in, and why; `for_now`: it may come again."""
        self._authentication(peer, Result.MINOR_FAILURE if for_now else Result.SERIOUS_FAILURE, reason)

    def not_analysed(self, study_uid: str, told: str, *, grave: bool = False) -> None:
        """Say that a study's instances were used in vain; `grave`: they are not used again."""
        result = Result.SERIOUS_FAILURE if grave else Result.MINOR_FAILURE
        root = self._event("R", INSTANCES_ACCESSED, result, told=told)
        _participant(root, self._here, ROLE_APPLICATION, requestor=True)
        _study(root, study_uid, {})
        self._add(root)

    @property
    def _here(self) -> Party:
        return Party(self._source, os.uname().nodename)

    def _activity(self, kind: Code) -> None:
        root = self._event("E", APPLICATION_ACTIVITY, Result.SUCCESS, kind)
        _participant(root, self._here, ROLE_APPLICATION, requestor=False)
        self._add(root)

    def _authentication(self, peer: Party, result: Result, told: str) -> None:
        root = self._event("E", SECURITY_ALERT, result, NODE_AUTHENTICATION, told)
        _participant(root, self._here, ROLE_APPLICATION, requestor=False)
        _participant(root, peer, ROLE_SOURCE, requestor=True)
        self._add(root)

    def _transferred(
        self, action: str, source: Party, target: Party, what: Transfer, asked_by: Party, fault: str = ""
    ) -> None:
        told = [f"{what.failed} instances were not taken"] if what.failed else []
        told += [fault] if fault else []
        result = Result.MINOR_FAILURE if told else Result.SUCCESS
        root = self._event(action, INSTANCES_TRANSFERRED, result, told="; ".join(told))
        _participant(root, source, ROLE_SOURCE, requestor=asked_by is source)
        _participant(root, target, ROLE_DESTINATION, requestor=asked_by is target)
        _study(root, what.study_uid, what.kept)
        self._add(root)

    def _begin_or_end(
        self, action: str, event: Code, result: Result, way: tuple[Party, Party], studies: Sequence[str], told: str = ""
    ) -> None:
        """Tell of a transfer that we asked for, of which no instance is known (yet); `way` is from and to."""
        if (more := len(studies) - MOST_STUDIES) > 0:
            told = ": ".join(filter(None, (f"and of {more} studies more", told)))
        root = self._event(action, event, result, told=told)
        source, target = way
        _participant(root, source, ROLE_SOURCE, requestor=source == self._here)
        _participant(root, target, ROLE_DESTINATION, requestor=target == self._here)
        for study_uid in studies[:MOST_STUDIES]:
            _study(root, study_uid, {})
        self._add(root)

    def _event(
        self, action: str, event: Code, result: Result, kind: Code | None = None, told: str = ""
    ) -> ElementTree.Element:
        root = ElementTree.Element("AuditMessage")
        identified = ElementTree.SubElement(
            root,
            "EventIdentification",
            EventActionCode=action,
            EventDateTime=self._now().isoformat(timespec="milliseconds"),
            EventOutcomeIndicator=str(int(result)),
        )
        _code(identified, "EventID", event)
        if kind is not None:
            _code(identified, "EventTypeCode", kind)
        if told:
            ElementTree.SubElement(identified, "EventOutcomeDescription").text = _printable(told, _MOST_WORDS)
        return root

    def _add(self, root: ElementTree.Element) -> None:
        source = ElementTree.Element("AuditSourceIdentification", AuditSourceID=self._source)
        ElementTree.SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})  # an application server
        after = max(i for i, child in enumerate(root) if child.tag == "ActiveParticipant")
        root.insert(after + 1, source)
        line = ElementTree.tostring(root, encoding="utf-8", xml_declaration=False).replace(b"\n", b" ") + b"\n"
        try:
            while not self._written(line):
                pass
        except OSError as error:
            # Images and results go on for want of a trail: the log tells of it.
            LOGGER.error("the audit trail cannot be written: %s", error.strerror)

    def _written(self, line: bytes) -> bool:
        """Add a line; False where the file was moved away meanwhile, and another is to be begun."""
        with self._path.open("ab", buffering=0) as trail:
            os.fchmod(trail.fileno(), 0o600)  # by its name it might be gone by now
            fcntl.flock(trail, fcntl.LOCK_EX)  # whole lines, whoever else writes
            # Whoever has seen that a file was moved, and then had its lock, knows that nothing is added any more.
            if not _is_at(trail, self._path):
                return False
            size = trail.tell()
            if trail.write(line) < len(line):
                trail.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(trail.fileno())
        if not size:
            sync_folder(self._path.parent)
        return True


def _is_at(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _participant(root: ElementTree.Element, party: Party, role: Code, *, requestor: bool) -> None:
    element = ElementTree.SubElement(
        root,
        "ActiveParticipant",
        UserID=_printable(party.ae_title),
        AlternativeUserID=f"AETITLE={_printable(party.ae_title)}",
        UserIsRequestor=str(requestor).lower(),
        NetworkAccessPointID=_printable(party.address),
        NetworkAccessPointTypeCode="2" if party.address[:1].isdigit() or ":" in party.address else "1",
    )
    _code(element, "RoleIDCode", role)


def _study(root: ElementTree.Element, uid: str, kept: Mapping[str, int]) -> None:
    element = ElementTree.SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=_printable(uid),
        ParticipantObjectTypeCode="2",
        ParticipantObjectTypeCodeRole="3",
    )
    _code(element, "ParticipantObjectIDTypeCode", STUDY_UID)
    # The schema wants a name or a query in every object.
    ElementTree.SubElement(element, "ParticipantObjectName").text = _printable(uid)
    described = ElementTree.SubElement(element, "ParticipantObjectDescription")
    for sop_class, count in sorted(kept.items()):
        ElementTree.SubElement(described, "SOPClass", UID=_printable(sop_class), NumberOfInstances=str(count))


def _query(root: ElementTree.Element, query: Query) -> None:
    element = ElementTree.SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=query.sop_class,
        ParticipantObjectTypeCode="2",
        ParticipantObjectTypeCodeRole="3",
    )
    _code(element, "ParticipantObjectIDTypeCode", SOP_CLASS_UID)
    ElementTree.SubElement(element, "ParticipantObjectQuery").text = _base64(query.identifier)
    syntax = {"type": "TransferSyntax", "value": _base64(query.transfer_syntax.encode())}
    ElementTree.SubElement(element, "ParticipantObjectDetail", syntax)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _code(parent: ElementTree.Element, tag: str, code: Code) -> None:
    value, meaning = code
    ElementTree.SubElement(parent, tag, {"csd-code": value, "codeSystemName": _SCHEME, "originalText": meaning})


def _printable(text: str, most: int = 256) -> str:
    """Keep a peer's words to what XML may hold and a line can show."""
    return "".join(c if c.isprintable() else "?" for c in text)[:most]
