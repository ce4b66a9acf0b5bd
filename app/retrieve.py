"""Fetch a patient's earlier reports from a PACS: C-FIND for what there is, C-MOVE to a port of our own.

The port is open only while reports are fetched, and takes nothing but structured reports. Sources: PS3.4 C.4.1, C.4.2.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind as Find,
)
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelMove as Move,
)

from app.config_history import HistoryPacs
from operators.errors import HistoryUnavailable

LOGGER = logging.getLogger(__name__)
SUCCESS, CANNOT_UNDERSTAND, OUT_OF_RESOURCES = 0x0000, 0xC000, 0xA700
PENDING = (0xFF00, 0xFF01)
MOST_REPORTS = 50
"""Taken of one patient; a PACS that sends more is told that there is no room."""


def fetch_reports(header: Dataset, pacs: HistoryPacs) -> list[Dataset]:
    """Fetch the Comprehensive 3D SR objects of a patient's latest earlier studies.

    Raises HistoryUnavailable where the PACS does not answer, or refuses.
    """
    if not str(header.get("PatientID") or "").strip():
        return []
    with _associated(pacs) as association:
        series = list(_report_series(association, header, pacs))
        if not series:
            return []
        received: list[Dataset] = []
        with _listening(pacs, received):
            for identifier in series:
                _move(association, identifier, pacs)
        return received


@contextmanager
def _associated(pacs: HistoryPacs) -> Iterator[Any]:
    ae = AE(pacs.calling_ae_title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = pacs.timeout_seconds
    ae.add_requested_context(Find)
    ae.add_requested_context(Move)
    association = ae.associate(pacs.host, pacs.port, ae_title=pacs.ae_title)
    try:
        if not association.is_established:
            reason = "refuses the association" if association.is_rejected else "does not answer"
            raise HistoryUnavailable(f"{pacs.ae_title} at {pacs.host}:{pacs.port} {reason}")
        yield association
    finally:
        if association.is_established:
            association.release()


def _report_series(association: Any, header: Dataset, pacs: HistoryPacs) -> Iterator[Dataset]:
    """Find the series of structured reports in the patient's latest other studies."""
    wanted = Dataset()
    wanted.QueryRetrieveLevel = "STUDY"
    if header.get("SpecificCharacterSet"):
        wanted.SpecificCharacterSet = header.SpecificCharacterSet
    wanted.PatientID = header.PatientID
    wanted.StudyDate = wanted.StudyInstanceUID = wanted.ModalitiesInStudy = ""
    studies = [s for s in _find(association, wanted, pacs) if s.StudyInstanceUID != header.StudyInstanceUID]
    studies.sort(key=lambda study: str(study.get("StudyDate") or ""), reverse=True)
    for study in studies[: pacs.studies]:
        inside = Dataset()
        inside.QueryRetrieveLevel, inside.Modality = "SERIES", "SR"
        inside.StudyInstanceUID, inside.SeriesInstanceUID = study.StudyInstanceUID, ""
        for found in _find(association, inside, pacs):
            identifier = Dataset()
            identifier.QueryRetrieveLevel = "SERIES"
            identifier.StudyInstanceUID, identifier.SeriesInstanceUID = study.StudyInstanceUID, found.SeriesInstanceUID
            yield identifier


def _find(association: Any, identifier: Dataset, pacs: HistoryPacs) -> list[Dataset]:
    found, last = [], None
    for status, answer in association.send_c_find(identifier, Find):
        last = status.get("Status")
        if last in PENDING and answer is not None:
            found.append(answer)
    if last != SUCCESS:
        raise HistoryUnavailable(f"{pacs.ae_title} refuses the query{_coded(last)}")
    return found


def _move(association: Any, identifier: Dataset, pacs: HistoryPacs) -> None:
    last = None
    for status, _ in association.send_c_move(identifier, pacs.move_ae_title, Move):
        last = status.get("Status")
    if last != SUCCESS:
        raise HistoryUnavailable(
            f"{pacs.ae_title} does not send to {pacs.move_ae_title}{_coded(last)}; is that title known to it, at port "
            f"{pacs.move_port} of this machine?"
        )


def _coded(status: int | None) -> str:
    return " (no answer)" if status is None else f" (status 0x{status:04X})"


@contextmanager
def _listening(pacs: HistoryPacs, received: list[Dataset]) -> Iterator[None]:
    """Take reports into `received` while open; raises HistoryUnavailable where the port cannot be had."""

    def keep(event: evt.Event) -> int:
        if len(received) >= MOST_REPORTS:
            return OUT_OF_RESOURCES
        report = event.dataset
        report.file_meta = event.file_meta
        received.append(report)
        return SUCCESS

    ae = AE(pacs.move_ae_title)
    ae.require_called_aet = True
    ae.network_timeout = ae.dimse_timeout = pacs.timeout_seconds
    ae.add_supported_context(Comprehensive3DSRStorage, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    try:
        ae.start_server(("", pacs.move_port), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    except OSError as error:
        raise HistoryUnavailable(f"port {pacs.move_port} cannot be had: {error.strerror}") from error
    try:
        yield
    finally:
        ae.shutdown()
