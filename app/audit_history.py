"""Writes in the audit trail what a PACS is asked of earlier examinations, and what it does not answer.

A Patient ID is asked for, and is in no message: the study that is analysed, whose UID is told, leads whoever may know
to the patient. What the PACS sends comes to a port of its own, and is told there (app.history_port).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, ImplicitVRLittleEndian

from app.audit import AuditTrail, Party, Query
from app.audit_outage import Outage
from app.config_history import HistoryPacs
from app.store import NOT_UNDERSTOOD
from operators.errors import HistoryUnavailable

STUDY_ROOT_FIND = UID("1.2.840.10008.5.1.4.1.2.2.1")
UNANSWERED = (HistoryUnavailable, *NOT_UNDERSTOOD)
_SHOWN = ("QueryRetrieveLevel", "StudyInstanceUID", "SeriesInstanceUID", "Modality")
"""Of these the values are told, of all else that it is asked for."""


class HistoryTrail:
    """Of one PACS, over all studies."""

    def __init__(self, trail: AuditTrail | None, pacs: HistoryPacs) -> None:
        self.trail, self._outage = trail, Outage()
        self._peer = Party(pacs.ae_title, pacs.host)

    @contextmanager
    def query(self, identifier: Dataset, study: str) -> Iterator[None]:
        """Tell of a query that is made within, for the sake of a study, and of whether it was answered."""
        try:
            yield
        except UNANSWERED as error:
            self._queried(identifier, study, _why(error))
            raise
        self._queried(identifier, study)

    @contextmanager
    def moves(self, studies: Sequence[str]) -> Iterator[None]:
        """Tell what the PACS is asked to send within, and if it does not."""
        if self.trail is not None:
            self.trail.sends_for(self._peer, studies)
        try:
            yield
        except UNANSWERED as error:
            if self.trail is not None:
                self.trail.not_received(self._peer, studies, _why(error))
            raise

    def away(self, identifier: Dataset, study: str, why: str, *, untrusted: bool) -> None:
        """Tell that a query came to nothing, as there is no association; `untrusted`: for want of TLS."""
        if self.trail is not None and untrusted:
            trail = self.trail
            self._outage.failed("untrusted", why, lambda told: trail.not_trusted(self._peer, told))
        elif self.trail is not None:
            self._outage.failed("away", why, lambda told: self._queried(identifier, study, told))

    def reached(self) -> None:
        """Tell what was counted while the PACS was away; or at the end."""
        self._outage.over()

    def _queried(self, identifier: Dataset, study: str, fault: str = "") -> None:
        if self.trail is not None:
            named = "; the Patient ID that it names is left out" if "PatientID" in identifier else ""
            self.trail.queried(self._peer, _shown(identifier), f"for study {study}{named}", fault)


def _why(error: Exception) -> str:
    """Say what was wrong with an answer; another library's words may quote it."""
    if isinstance(error, HistoryUnavailable):
        return str(error)
    return f"its answer cannot be read ({type(error).__name__})"


def _shown(identifier: Dataset) -> Query:
    """Return a query without the values that may tell of a person."""
    shown = Dataset()
    for element in identifier:
        shown.add_new(element.tag, element.VR, element.value if element.keyword in _SHOWN else "")
    encoded = DicomBytesIO()
    encoded.is_little_endian = encoded.is_implicit_VR = True
    write_dataset(encoded, shown)
    return Query(STUDY_ROOT_FIND, ImplicitVRLittleEndian, encoded.getvalue())
