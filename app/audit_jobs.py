"""Writes in the audit trail which studies ended without a result, off the journal's events.

Wherever a job fails or is quarantined, in the graph, at a start after a crash or for want of its images, the journal
has an event of it; how far they were read is kept, so that none is missed, or told twice, over a restart.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from sqlalchemy import func, or_, select

from app.audit import AuditTrail
from app.errors import JournalError
from app.files import write_whole
from app.journal import EventRow, JobState, Journal, StudyRow

LOGGER = logging.getLogger(__name__)

TOLD = "audit.log.jobs"
"""Under the data folder: the number of the last event that was read."""


class JobEndings:
    """Told of in the trail, each once, by `step`; what was before the first start is not."""

    def __init__(self, journal: Journal, trail: AuditTrail, data_dir: Path) -> None:
        """Go on where the last one ended; raises JournalError where the journal cannot be read."""
        self._journal, self._trail, self._file = journal, trail, data_dir / TOLD
        self._told = self._kept()

    def step(self) -> None:
        """Write down what ended since; what fails is told in the log, and stops nothing."""
        try:
            last, found = self._ended()
        except JournalError as error:
            LOGGER.error("the audit trail does not learn how studies ended: %s", error)
            return
        for job_id, what, study_uid in found:
            self._trail.not_analysed(study_uid, f"job {job_id} {what}", grave=what.startswith(JobState.QUARANTINED))
        # Less than before where the events of studies that were forgotten are gone: their numbers come again.
        self._told = last
        if found:
            self._keep()

    def _ended(self) -> tuple[int, list[tuple[str, str, str]]]:
        """Return the number of the last event, and what ended badly since the last that was told."""
        with self._journal.reading() as session:
            last = int(session.scalar(select(func.max(EventRow.event_id))) or 0)
            if last == self._told:
                return last, []
            bad = or_(*(EventRow.what.startswith(f"{state}: ") for state in (JobState.FAILED, JobState.QUARANTINED)))
            wanted = select(EventRow.job_id, EventRow.what, StudyRow.uid)
            wanted = wanted.join(StudyRow, StudyRow.key == EventRow.study_key)
            wanted = wanted.where(EventRow.event_id > self._told, EventRow.event_id <= last, bad)
            found = session.execute(wanted.order_by(EventRow.event_id))
            return last, [(row.job_id, row.what, row.uid) for row in found]

    def _kept(self) -> int:
        with suppress(OSError, ValueError):
            return int(self._file.read_text(encoding="ascii"))
        with self._journal.reading() as session:
            self._told = session.scalar(select(func.max(EventRow.event_id))) or 0
        self._keep()
        return self._told

    def _keep(self) -> None:
        try:
            write_whole(self._file, str(self._told))
        except OSError as error:
            LOGGER.error("how far the audit trail tells of studies cannot be kept: %s", error.strerror)
