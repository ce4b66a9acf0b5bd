"""Look for what this node has said of the same patient: at an earlier examination, or of this study before."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from pydicom import Dataset

from operators.earlier import latest_before
from operators.errors import HistoryUnavailable
from operators.results import headers_of
from operators.revision import predecessors_among
from operators.stage import Job, StageOperator, needed

LOGGER = logging.getLogger(__name__)

FindReports = Callable[[Dataset], Iterable[Dataset]]
"""Given an image's header, find reports that may be of the same patient; raises HistoryUnavailable where it cannot."""


def no_reports(_: Dataset) -> Iterable[Dataset]:
    """Find nothing: where no archive is kept."""
    return ()


class CompareEarlierOperator(StageOperator):
    """Volumes to what was measured earlier, if anything was."""

    def __init__(self, fragment: Any, *args: Any, find: FindReports, **kwargs: Any) -> None:
        self._find = find
        super().__init__(fragment, *args, **kwargs)

    def process(self, job: Job) -> None:
        """Add `job.earlier` and `job.predecessors`; an archive that cannot be asked costs these, never the study."""
        header = headers_of(needed(job.volumes))[0]
        reports: list[Dataset] = []
        try:
            # One by one: what was found before an archive failed still counts.
            for report in self._find(header):
                reports.append(report)
        except HistoryUnavailable as error:
            LOGGER.warning("job %s is not compared with earlier examinations: %s", job.job_id, error)
            job.depends_on = (*job.depends_on, "an archive did not answer")
            job.notes = (*job.notes, f"Earlier examinations could not all be looked for: {error}.")
        job.earlier = latest_before(reports, header)
        job.predecessors = predecessors_among(reports, header)
