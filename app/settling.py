"""How a job ends: its results are archived and owed, or its failure is recorded.

On a disk that is full or fails neither can be. Then the job waits, its results in its output folder, and is settled
again when its time comes; the study loses no attempt by it.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable

from app.config import Settings
from app.errors import NodeError
from app.files import SUMMARY
from app.inbox import Inbox
from app.journal import Journal
from app.metrics import StageTimes
from app.outbox import Outbox
from app.storage import Storage, why
from app.summary import describe_job
from operators.errors import NO_ROOM, NativeCrash, TimeOut
from operators.segmentation_form import LABELMAP_TWINS
from operators.stage import Job

LOGGER = logging.getLogger(__name__)

CRASHES = {NativeCrash.code, TimeOut.code}
"""Failures that another attempt may not meet."""


class Settling:
    """Settles jobs; `settle` is for the graph's thread, the rest for the main one."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        inbox: Inbox,
        outbox: Outbox,
        storage: Storage,
        times: StageTimes,
        on_owed: Callable[[], None],
    ) -> None:
        """`on_owed` is called when there is something new to deliver."""
        self._max_attempts = 1 + settings.pipeline.retries
        self._journal, self._inbox, self._outbox, self._storage = journal, inbox, outbox, storage
        self._times, self._on_owed = times, on_owed
        self._guard = threading.Lock()
        self._waiting: list[Job] = []

    def __len__(self) -> int:
        """How many jobs wait to be settled."""
        return len(self._waiting)

    def settle(self, job: Job) -> None:
        """Record how a job ended, now or when the disk lets it be."""
        try:
            self._settle(job)
        except (OSError, NodeError) as error:
            with self._guard:
                self._waiting.append(job)
            self._storage.failed(f"job {job.job_id} could not be settled", why(error))

    def again(self) -> None:
        """Settle what waits, the first to come first; raises OSError or NodeError at the first that still cannot be."""
        while self._waiting:
            self._settle(self._waiting[0])
            with self._guard:
                del self._waiting[0]

    def give_up(self) -> None:
        """Try once more, and have what still waits analysed again after the next start; that attempt is not counted."""
        try:
            self.again()
            return
        except (OSError, NodeError) as error:
            LOGGER.error("%d jobs cannot be settled; they are analysed again: %s", len(self._waiting), why(error))
        for job in self._waiting:
            try:
                self._journal.job_postponed(job.job_id, NO_ROOM, "its results could not be written", "")
            except NodeError as error:
                LOGGER.error("job %s: %s; after the next start this counts as an attempt", job.job_id, why(error))

    def lost(self, job: Job, code: str, message: str, stage: str) -> str:
        """Record that a job was lost to a crash or a hang; return what becomes of it."""
        if self._journal.job_crashed(job.job_id, code, message, stage, self._max_attempts):
            LOGGER.warning("job %s is tried again, alone: %s", job.job_id, message)
            return "again"
        self._inbox.release(job.job_id)
        LOGGER.error("job %s failed: quarantined: %s", job.job_id, message)
        return "quarantined"

    def _settle(self, job: Job) -> None:
        """Record how a job ended; the journal's own record is the last thing that can fail, so it can be done again."""
        failure = job.failure
        if failure is None:
            self._keep(job)
            self._inbox.release(job.job_id)
            outcome = "done"
        elif failure.code in CRASHES:
            outcome = self.lost(job, failure.code, failure.message, failure.stage)
        elif failure.code == NO_ROOM:
            self._journal.job_postponed(job.job_id, failure.code, failure.message, failure.stage)
            self._storage.failed(f"job {job.job_id} could not go on in {failure.stage}", failure.message)
            self._times.settled(job, "again")
            return
        else:
            # In this order: from then on a person may put it back, and its folder is made anew.
            self._inbox.release(job.job_id)
            self._journal.job_failed(job.job_id, failure.code, failure.message, failure.stage)
            LOGGER.warning("job %s failed: %s", job.job_id, failure.message)
            outcome = "failed"
        self._storage.proved()
        self._times.settled(job, outcome)

    def _keep(self, job: Job) -> None:
        """Archive a done job's results and owe its DICOM objects to every destination, each in its own form."""
        summary = job.output_folder / SUMMARY
        described = describe_job(job) | {"files": {kind: path.name for kind, path in job.results.items()}}
        summary.write_text(json.dumps(described, indent=2), encoding="utf-8")
        labelmaps = {
            job.results[kind]: job.results[twin] for kind, twin in LABELMAP_TWINS.items() if twin in job.results
        }
        objects = [p for p in job.results.values() if p.suffix == ".dcm" and p not in labelmaps.values()]
        beside = [path for path in job.results.values() if path.suffix != ".dcm"]
        self._outbox.commit(job.job_id, objects, [*beside, summary], labelmaps)
        self._on_owed()
