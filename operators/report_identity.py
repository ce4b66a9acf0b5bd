"""What a job's report will be, known before it is written: its UID, what it replaces, and when its results are made.

The report is written last, as it names all other results. The page says before what the report replaces; and results
that are made again have the time of the first, so that they are the same to the byte.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from operators.domain import Predecessor
from operators.results import Origin, earlier_input, models_of, origin_of
from operators.revision import replaced_by
from operators.stage import Job, needed

SERIES_NUMBER = 9003
PURPOSE = ("instance", "SR")
_ANY_TIME = datetime(2000, 1, 1)


def report_origin(job: Job, version: str, made_at: datetime) -> Origin:
    """Derive the origin of what depends on all findings: the report, and the page."""
    origin = origin_of(needed(job.volumes), needed(job.tumour), version, made_at, job.depends_on)
    return origin.also(*earlier_input(job.earlier), job.engine, *models_of(job.markers))


def report_replaced(job: Job, origin: Origin) -> Predecessor | None:
    """Say what the report replaces; `origin` is its own."""
    return replaced_by(origin.uid(*PURPOSE), SERIES_NUMBER, job.predecessors)


def time_of(job: Job, version: str, clock: Callable[[], datetime]) -> datetime:
    """Return when the job's results are made: one time for all of them, noted in the job.

    Where the same report is at hand, they are made again: the time is that of the first, and what has been made since
    is no predecessor.
    """
    if job.made_at is None:
        uid = report_origin(job, version, _ANY_TIME).uid(*PURPOSE)  # which no time enters
        first = next((p for p in job.predecessors if p.sop_instance_uid == uid), None)
        if first is not None and first.made_at is not None:
            job.made_at = first.made_at
            job.predecessors = tuple(p for p in job.predecessors if p.made < first.made)
        else:
            job.made_at = clock()
    return job.made_at
