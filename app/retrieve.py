"""Fetch a patient's earlier reports from a PACS: C-FIND for what there is, C-MOVE to a port of our own.

Whatever the PACS answers, or does not, it ends in time and costs the comparison alone. Sources: PS3.4 C.4.1, C.4.2.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydicom import Dataset
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind as Find,
)
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelMove as Move,
)

from app.audit_history import HistoryTrail
from app.config_history import HistoryPacs
from app.errors import PeerError, TlsError
from app.history_port import listening
from app.requestor import PENDING, Requestor
from app.store import NOT_UNDERSTOOD, SUCCESS
from app.tls import ClientTls, explain
from operators.errors import HistoryUnavailable

LOGGER = logging.getLogger(__name__)

MOST_MATCHES = 500
"""Of one query."""
PATIENCE = 6
"""All that is asked of a PACS may take so many times its time-out: it could say for ever that more is to come."""
_UID = re.compile(r"[0-9.]{1,64}")


class NotReached(HistoryUnavailable):
    """There is no association with the PACS; `untrusted` where it is for want of TLS."""

    def __init__(self, why: str, *, untrusted: bool = False) -> None:
        super().__init__(why)
        self.untrusted = untrusted


def fetch_reports(header: Dataset, pacs: HistoryPacs, told: HistoryTrail | None = None) -> list[Dataset]:
    """Fetch the Comprehensive 3D SR objects of a patient's latest earlier studies; `told` hears what is asked.

    Raises HistoryUnavailable where the PACS does not answer, or refuses.
    """
    if not str(header.get("PatientID") or "").strip():
        return []
    told = HistoryTrail(None, pacs) if told is None else told
    wanted, study = _studies_wanted(header), _uid(header, "StudyInstanceUID")
    try:
        with _associated(pacs) as association:
            told.reached()
            asked = _Asked(association, pacs, told, study)
            series = list(_report_series(asked, wanted, study))
            if not series:
                return []
            with listening(pacs, str(association.acceptor.address), told.trail) as reports:
                asked.move_all(series)
            return reports.taken()
    except NotReached as error:
        told.away(wanted, study, str(error), untrusted=error.untrusted)
        raise
    except NOT_UNDERSTOOD as error:
        # Its text may quote what the PACS said.
        raise HistoryUnavailable(f"{pacs.ae_title} answers what cannot be read ({type(error).__name__})") from None


@contextmanager
def _associated(pacs: HistoryPacs) -> Iterator[Any]:
    ae = Requestor(pacs.calling_ae_title, pacs.timeout_seconds)
    ae.add_requested_context(Find)
    ae.add_requested_context(Move)
    name = f"{pacs.ae_title} at {pacs.host}:{pacs.port}"
    try:
        tls = ClientTls.to(pacs.tls) if pacs.tls is not None else None
    except TlsError as error:
        # What it says of the files is for the log: this goes into a report.
        LOGGER.error("history: %s", error)
        raise NotReached(f"{name} cannot be asked by TLS: the node's log tells why") from error
    tls_args = (tls, pacs.host) if tls is not None else None
    try:
        association = ae.associate(pacs.host, pacs.port, ae_title=pacs.ae_title, tls_args=tls_args)
    except (OSError, PeerError):
        raise NotReached(f"{name} does not answer") from None
    try:
        if not association.is_established:
            untrusted = tls is not None and tls.is_distrusted
            raise NotReached(f"{name} {_why_not(association, tls)}", untrusted=untrusted)
        yield association
    finally:
        if association.is_established:
            association.release()


def _why_not(association: Any, tls: ClientTls | None) -> str:
    """Say why there is no association."""
    if association.is_rejected:
        return "refuses the association"
    if tls is not None and tls.failure is not None:
        return f"does not answer by TLS ({explain(tls.failure)})"
    if tls is not None and tls.shaken:
        # With TLS 1.3 a certificate of ours that is not taken shows only after the handshake.
        return "does not answer by TLS: does it accept our certificate?"
    return "does not answer"


class _Asked:
    """What one association is asked; raises HistoryUnavailable where the PACS refuses, or takes too long."""

    def __init__(self, association: Any, pacs: HistoryPacs, told: HistoryTrail | None = None, study: str = "") -> None:
        """`told` hears of all that is asked, and that it is for the sake of a study."""
        self._association, self._pacs = association, pacs
        self._told, self._study = HistoryTrail(None, pacs) if told is None else told, study
        self._until = time.monotonic() + PATIENCE * pacs.timeout_seconds
        self.studies = pacs.studies
        """How many studies are looked into."""

    def find(self, identifier: Dataset) -> list[Dataset]:
        """Return what matches."""
        with self._told.query(identifier, self._study):
            return self._found(identifier)

    def _found(self, identifier: Dataset) -> list[Dataset]:
        found, last = [], None
        for status, answer in self._association.send_c_find(identifier, Find):
            last = status.get("Status")
            if last in PENDING and answer is not None:
                found.append(answer)
            self._hold(len(found) <= MOST_MATCHES)
        if last != SUCCESS:
            raise HistoryUnavailable(f"{self._pacs.ae_title} refuses the query{_coded(last)}")
        return found

    def move_all(self, series: list[Dataset]) -> None:
        """Have these series sent to our port."""
        with self._told.moves(list(dict.fromkeys(str(identifier.StudyInstanceUID) for identifier in series))):
            for identifier in series:
                self.move(identifier)

    def move(self, identifier: Dataset) -> None:
        """Have what matches sent to our port."""
        last, pacs = None, self._pacs
        for status, _ in self._association.send_c_move(identifier, pacs.move_ae_title, Move):
            last = status.get("Status")
            self._hold()
        if last != SUCCESS:
            raise HistoryUnavailable(
                f"{pacs.ae_title} does not send to {pacs.move_ae_title}{_coded(last)}; is that title known to it, at "
                f"port {pacs.move_port} of this machine, by {pacs.moved_by}, and does it "
                "send from an address that `move_from` allows?"
            )

    def _hold(self, within: bool = True) -> None:
        """Give up a PACS that says too much, or that more is to come for too long."""
        if not within or time.monotonic() > self._until:
            self._association.abort()
            why = "takes too long to answer" if within else f"answers more than {MOST_MATCHES} times"
            raise HistoryUnavailable(f"{self._pacs.ae_title} {why}")


def _studies_wanted(header: Dataset) -> Dataset:
    """Ask for all studies of the patient."""
    wanted = Dataset()
    wanted.QueryRetrieveLevel = "STUDY"
    if header.get("SpecificCharacterSet"):
        wanted.SpecificCharacterSet = header.SpecificCharacterSet
    wanted.PatientID = header.PatientID
    wanted.StudyDate = wanted.StudyInstanceUID = wanted.ModalitiesInStudy = ""
    return wanted


def _report_series(asked: _Asked, wanted: Dataset, present: str) -> Iterator[Dataset]:
    """Find the series of structured reports in the latest of the studies that are wanted, but the present one."""
    studies = [(str(s.get("StudyDate") or ""), _uid(s, "StudyInstanceUID")) for s in asked.find(wanted)]
    others = [study for _, study in sorted(studies, reverse=True) if study not in {"", present}]
    for study in others[: asked.studies]:
        inside = Dataset()
        inside.QueryRetrieveLevel, inside.Modality = "SERIES", "SR"
        inside.StudyInstanceUID, inside.SeriesInstanceUID = study, ""
        for series in filter(None, (_uid(found, "SeriesInstanceUID") for found in asked.find(inside))):
            identifier = Dataset()
            identifier.QueryRetrieveLevel = "SERIES"
            identifier.StudyInstanceUID, identifier.SeriesInstanceUID = study, series
            yield identifier


def _uid(answer: Dataset, keyword: str) -> str:
    """Return a UID of an answer; nothing where it is none."""
    value = str(answer.get(keyword) or "")
    return value if _UID.fullmatch(value) else ""


def _coded(status: int | None) -> str:
    return " (no answer)" if status is None else f" (status 0x{status:04X})"
