"""Earlier reports and pages of a patient: from the node's own archive, and from a PACS that is configured for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pydicom
from pydicom import Dataset
from pydicom.errors import InvalidDicomError

from app.audit import AuditTrail
from app.audit_history import HistoryTrail
from app.config_history import HistoryConfig
from app.retrieve import fetch_reports
from app.store import NOT_UNDERSTOOD
from operators.earlier import latest_before, same_patient
from operators.revision import predecessors_among

LOGGER = logging.getLogger(__name__)
DOCUMENTS = ("sr.dcm", "sr_labelmap.dcm", "measurements.dcm", "report.pdf.dcm")
"""Files of a result set that are documents: a later one may replace them."""
MOST_BYTES = 65_536
"""Longer values are left on the disk: of a page, the page itself, of which nobody asks anything."""
_IDENTITY = ("PatientID", "IssuerOfPatientID", "PatientBirthDate")


class ArchivedReports:
    """The documents in the archive; what it learns of them stays in memory, as it is identity."""

    def __init__(self, archive_dir: Path) -> None:
        self._archive = archive_dir
        self._known: dict[Path, Dataset] = {}

    def of_patient(self, header: Dataset) -> Iterator[Dataset]:
        """Give every document that may be of the patient; one that cannot be read is passed over, and logged."""
        for path in sorted(p for name in DOCUMENTS for p in self._archive.glob(f"*/*/{name}")):
            if path not in self._known:
                self._known[path] = _identity_of(path)
            if same_patient(self._known[path], header):
                report = _read(path)
                if report is not None:
                    yield report


class History:
    """Where earlier reports are looked for."""

    def __init__(self, archive_dir: Path, config: HistoryConfig, trail: AuditTrail | None = None) -> None:
        """`trail` is told what a PACS is asked, and what it sends."""
        self._archived, self._config = ArchivedReports(archive_dir), config
        self._told = HistoryTrail(trail, config.pacs) if config.pacs is not None else None

    def close(self) -> None:
        """Tell what is still to be told of a PACS that is away; the end of the node."""
        if self._told is not None:
            self._told.reached()

    def find(self, header: Dataset) -> Iterator[Dataset]:
        """Give the patient's documents from the archive, then reports of other studies from the PACS.

        Raises HistoryUnavailable where the PACS does not answer; what the archive has is given before.
        """
        if self._config.archive:
            yield from self._archived.of_patient(header)
        if self._config.pacs is not None:
            yield from (
                report
                for report in fetch_reports(header, self._config.pacs, self._told)
                if _can_be_compared(report, header)
            )


def _can_be_compared(report: Dataset, header: Dataset) -> bool:
    """Say whether what a PACS sent is a report as the analysis will read it: one that is none must not end that."""
    try:
        latest_before([report], header)
        predecessors_among([report], header)
    except NOT_UNDERSTOOD as error:
        LOGGER.warning("an earlier report is passed over: it cannot be read (%s)", type(error).__name__)
        return False
    return True


def _identity_of(path: Path) -> Dataset:
    """Read who a file is of; nobody where it cannot be read."""
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_IDENTITY))
    except (OSError, InvalidDicomError):
        return Dataset()


def _read(path: Path) -> Dataset | None:
    try:
        return pydicom.dcmread(path, defer_size=MOST_BYTES)
    except (OSError, InvalidDicomError):
        LOGGER.warning("the archived report of job %s cannot be read", path.parent.name)
        return None
