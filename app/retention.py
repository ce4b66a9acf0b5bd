"""What the node is done with leaves the disk when its time is up, one folder at a time.

    inbox      images of a study, this long after its last change; once it is done and everything delivered, or failed
    archive    results of a job, this long after they were made, once they are delivered
    journal    forgets a study that is in neither any more

A folder is hidden by a rename first, and removed only if nothing came meanwhile: the receiver, another process, may be
writing to it, and what it answers with Success stays. A new instance shows as a name; one that the folder had already
dates it anew (app/store.py).
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sqlalchemy import ColumnElement, Select, delete, exists, false, or_, select

from app.config import Settings
from app.files import PART, QUIET_SECONDS, sync_folder
from app.journal import DeliveryRow, DeliveryState, EventRow, JobRow, JobState, Journal, StudyRow, StudyState

LOGGER = logging.getLogger(__name__)

LOOK_SECONDS = 600.0
"""How often it is asked what is due, when nothing was left to remove."""
LEAVING = ".leaving"
"""Ends the name of a folder that may still come back; start-up brings it back."""
_DAY = 86_400.0
_NOT_EMPTY = frozenset({errno.ENOTEMPTY, errno.EEXIST})
"""What a rename onto a folder that holds something answers."""

_LACKING = DeliveryRow.state != DeliveryState.DELIVERED
_WAITING = JobRow.state.in_([JobState.READY, JobState.PROCESSING])
Step = Callable[[], None]


class Retention:
    """Removes what is over; for the node's main thread."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`now` is in seconds since 1970, as the journal's times; `monotonic` paces the looks."""
        self._config, self._journal, self._clock, self._monotonic = settings.retention, journal, now, monotonic
        self._begun = now() - monotonic()
        self._inbox, self._archive = settings.inbox_dir, settings.archive_dir
        self._due: deque[Step] = deque()
        self._next_look = monotonic()

    def reconcile(self) -> None:
        """Put right what a crash, or a disk that failed, left in the middle of a removal; before the first `step`."""
        for left in self._inbox.glob(f".*{LEAVING}"):
            _put_back(left, self._inbox / left.name.removeprefix(".").removesuffix(LEAVING))
        # Behind a dot, as the receiver's own folder is; the receiver writes parts only in there.
        for left in self._inbox.glob(f".*{PART}"):
            shutil.rmtree(left, ignore_errors=True)

    def step(self) -> bool:
        """Remove at most one folder, and say whether there was one; what is due is asked for at times only."""
        if not self._due and self._monotonic() >= self._next_look:
            self._look()
        if not self._due:
            return False
        remove = self._due.popleft()
        try:
            remove()
        except OSError as error:
            # Tried again at the next look.
            LOGGER.warning("retention: a folder could not be removed: %s", error.strerror)
        if not self._due:
            self._next_look = self._monotonic() + LOOK_SECONDS
        return True

    def _look(self) -> None:
        """Ask what is due; each removal asks again for itself, as its turn may come much later."""
        self._next_look = self._monotonic() + LOOK_SECONDS
        self.reconcile()
        with self._journal.reading() as session:
            studies = list(session.scalars(select(StudyRow.key).where(self._study_over()).order_by(StudyRow.changed)))
            jobs = list(
                session.execute(
                    select(JobRow.study_key, JobRow.job_id).where(self._results_over()).order_by(JobRow.finished)
                )
            )
        for key in studies:
            if (self._inbox / key).is_dir():
                self._due.append(partial(self._remove_images, key))
        for key, job_id in jobs:
            if (self._archive / key / job_id).is_dir():
                self._due.append(partial(self._remove_results, key, job_id))

    def _now(self) -> float:
        """Return the time by the clock of the day, or by the one since the start where that is behind.

        So a clock that leaps ahead makes nothing old; one that is set back only keeps things longer.
        """
        return min(self._clock(), self._begun + self._monotonic())

    def _study_over(self) -> ColumnElement[bool]:
        """What holds of a study whose images may go."""
        kept = {
            (StudyState.DONE,): self._config.inbox_days,
            (StudyState.FAILED, StudyState.QUARANTINED): self._config.failed_days,
        }
        ended = [
            StudyRow.state.in_(states) & (StudyRow.changed < self._now() - days * _DAY)
            for states, days in kept.items()
            if days > 0
        ]
        of_it = JobRow.study_key == StudyRow.key
        owing = exists().where(of_it, DeliveryRow.job_id == JobRow.job_id, _LACKING)
        return or_(false(), *ended) & ~exists().where(of_it, _WAITING) & ~owing

    def _results_over(self) -> ColumnElement[bool]:
        """What holds of a job whose results may go."""
        over = (JobRow.state == JobState.DONE) & ~exists().where(DeliveryRow.job_id == JobRow.job_id, _LACKING)
        if self._config.archive_days <= 0:
            return false()
        return over & (JobRow.finished < self._now() - self._config.archive_days * _DAY)

    def _holds(self, query: Select[str]) -> bool:
        with self._journal.reading() as session:
            return session.scalar(query) is not None

    def _remove_images(self, key: str) -> None:
        """Remove a study's folder from the inbox."""
        folder = self._inbox / key
        if not self._holds(select(StudyRow.key).where(StudyRow.key == key, self._study_over())) or not folder.is_dir():
            return
        names = _names(folder)
        # The study may be on its way in again, of which the journal hears later. Asked after the names: what comes
        # in between shows in one of the two.
        if self._changed_lately(folder):
            return
        leaving = folder.with_name(f".{key}{LEAVING}")
        folder.rename(leaving)
        if _names(leaving) != names or self._changed_lately(leaving):
            _put_back(leaving, folder)
            return
        part = leaving.rename(folder.with_name(f".{key}{PART}"))
        sync_folder(self._inbox)
        shutil.rmtree(part)
        LOGGER.info("retention: the %d images of study folder %s are removed", len(names), key)
        self._forget(key)

    def _changed_lately(self, folder: Path) -> bool:
        return folder.stat().st_mtime > self._now() - QUIET_SECONDS

    def _remove_results(self, key: str, job_id: str) -> None:
        """Remove a job's folder from the archive, and its study's when it was the last."""
        folder = self._archive / key / job_id
        over = self._holds(select(JobRow.job_id).where(JobRow.job_id == job_id, self._results_over()))
        if not over or not folder.is_dir():
            return
        part = folder.rename(folder.with_name(f".{job_id}{PART}"))
        shutil.rmtree(part)
        LOGGER.info("retention: the archived results of job %s are removed", job_id)
        if not any(folder.parent.iterdir()):
            folder.parent.rmdir()
        self._forget(key)

    def _forget(self, key: str) -> None:
        """Strike a study off the journal once nothing of it is left: sent again, it is a new one."""
        if (self._inbox / key).exists() or (self._archive / key).exists():
            return
        with self._journal.transaction() as session:
            jobs = list(session.scalars(select(JobRow).where(JobRow.study_key == key)))
            ids = [job.job_id for job in jobs]
            lacking = select(DeliveryRow.delivery_id).where(DeliveryRow.job_id.in_(ids), _LACKING).limit(1)
            if any(job.state in {JobState.READY, JobState.PROCESSING} for job in jobs) or session.scalar(lacking):
                return
            session.execute(delete(DeliveryRow).where(DeliveryRow.job_id.in_(ids)))
            session.execute(delete(EventRow).where(EventRow.study_key == key))
            session.execute(delete(JobRow).where(JobRow.study_key == key))
            session.execute(delete(StudyRow).where(StudyRow.key == key))


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _put_back(leaving: Path, folder: Path) -> None:
    """Undo the hiding; where the study came anew meanwhile, add to it what it had. It survives a power cut."""
    try:
        leaving.rename(folder)
    except OSError as error:
        if error.errno not in _NOT_EMPTY:
            raise
        for file in leaving.iterdir():
            _add(file, folder / file.name)
        sync_folder(folder)
        sync_folder(folder.parent)
        shutil.rmtree(leaving)
    else:
        sync_folder(folder.parent)


def _add(file: Path, name: Path) -> None:
    """Give a file a name in another folder as well, unless that is taken: what came there was answered with Success."""
    try:
        os.link(file, name)
    except FileExistsError:
        return
    except OSError:
        # A file system without hard links.
        if not name.exists():
            file.rename(name)
