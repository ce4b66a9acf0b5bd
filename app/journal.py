"""The node's memory: studies, jobs, deliveries and events in one SQLite file.

Each public method is one transaction, on disk when it returns, so a process killed at any line leaves a state that
`requeue_crashed` can go on from. Records hold UIDs and times, never a patient's identity.

    study     arriving -> complete -> processing -> done | failed | quarantined   back to arriving when more comes
    job       ready -> processing -> done | failed | quarantined                  one for each revision of a study
    delivery  owed (-> stored, app/commitment.py) -> delivered | dead             one for each file and destination

A person puts failed and quarantined jobs, and dead deliveries, back to ready and owed: app/backlog.py.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, create_engine, event, func, literal_column, or_, select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.errors import JournalError
from app.files import private_folder
from app.journal_rows import DeliveryRow, DeliveryState, EventRow, JobRow, JobState, StudyRow, StudyState, open_schema

__all__ = [
    "DeliveryRow",
    "DeliveryState",
    "EventRow",
    "JobRow",
    "JobState",
    "Journal",
    "StudyRow",
    "StudyState",
]
LOGGER = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""A job that was being processed this often when the node died is quarantined."""
BY_ENTRY: ColumnElement[int] = literal_column("jobs.rowid")
"""SQLite counts rows up; times would put what comes after a clock was set back before what waits."""
AT_ONCE = 500
"""Deliveries that go out over one association: so memory does not grow with what is owed."""


class Journal:
    """The journal file, open; methods may be called from any thread."""

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        """Open or make the file; raises JournalError when that cannot be."""
        self._path, self._now = path, now
        private_folder(path.parent)
        self._engine = _open(path, _begin_writing)
        # In a WAL readers hold up nobody; a transaction begun as immediate would.
        self._readers = _open(path, _begin_reading)
        with self._errors(), self._engine.begin() as connection:
            open_schema(connection, path)

    def close(self) -> None:
        """Let go of the file."""
        self._readers.dispose()
        self._engine.dispose()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:
            reason = getattr(error, "orig", None) or type(error).__name__
            raise JournalError(f"the journal {self._path} cannot be used: {reason}") from error

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """All of it is on disk at the end, or after an error nothing."""
        with self._errors(), Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """See one state of the journal throughout; nothing may be changed."""
        with self._errors(), Session(self._readers, expire_on_commit=False) as session, session.begin():
            yield session

    def now(self) -> float:
        """Return the time by the journal's clock, in seconds since 1970."""
        return self._now()

    def note(self, session: Session, what: str, study_key: str, job_id: str = "") -> None:
        """Add an event to a transaction."""
        session.add(EventRow(at=self._now(), study_key=study_key, job_id=job_id, what=what))

    # Studies and jobs, as the inbox sees them

    def study_uid(self, key: str) -> str | None:
        """Return the Study Instance UID of a folder, if it is known."""
        with self.reading() as session:
            study = session.get(StudyRow, key)
            return study.uid if study else None

    def study_of(self, job_id: str) -> str:
        """Return the Study Instance UID of a job; empty where it is not known."""
        job = self.job(job_id)
        return (self.study_uid(job.study_key) or "") if job is not None else ""

    def has_job(self, job_id: str) -> bool:
        """Say whether this revision has had its job."""
        with self.reading() as session:
            return session.get(JobRow, job_id) is not None

    def study_arriving(self, key: str, uid: str) -> None:
        """Record that instances of a study, new or known, have come."""
        with self.transaction() as session:
            study = session.get(StudyRow, key)
            if study is None:
                study = StudyRow(key=key, uid=uid, revision=0, arrived=self._now())
                session.add(study)
                self.note(session, "study arrives", key)
            elif study.state is not StudyState.ARRIVING:
                self.note(session, "more of the study arrives", key)
                study.looks = 0
            study.state, study.changed = StudyState.ARRIVING, self._now()

    def study_unchanged(self, key: str, job_id: str) -> None:
        """Record that all that came was known: the study is again what its job, this one, made of it."""
        with self.transaction() as session:
            study, job = session.get_one(StudyRow, key), session.get_one(JobRow, job_id)
            if study.state is StudyState.ARRIVING:
                state = StudyState.COMPLETE if job.state is JobState.READY else StudyState(job.state)
                study.state, study.changed = state, self._now()

    def begin_look(self, key: str, max_attempts: int = MAX_ATTEMPTS) -> bool:
        """Record that a study's folder is about to be looked into; False where too many earlier looks never ended."""
        with self.transaction() as session:
            study = session.get_one(StudyRow, key)
            study.looks += 1
            return study.looks <= max_attempts

    def end_look(self, key: str) -> None:
        """Record that a look came to an end."""
        with self.transaction() as session:
            session.get_one(StudyRow, key).looks = 0

    def job_ready(self, job_id: str, key: str, instances: int) -> None:
        """Record that a revision of a study waits to be processed; a second call changes nothing."""
        with self.transaction() as session:
            if session.get(JobRow, job_id) is not None:
                return
            study = session.get_one(StudyRow, key)
            study.revision += 1
            study.state, study.changed = StudyState.COMPLETE, self._now()
            session.add(
                JobRow(
                    job_id=job_id,
                    study_key=key,
                    revision=study.revision,
                    instances=instances,
                    state=JobState.READY,
                    created=self._now(),
                )
            )
            self.note(session, f"revision {study.revision} is complete: {instances} instances", key, job_id)

    def take_ready(self, limit: int | None = None) -> list[JobRow]:
        """Mark jobs as processing, at most `limit`, and return them, in the order in which they became ready.

        A job that was in the node when it died is handed out alone: if it takes the node down again, no other job
        is blamed.
        """
        with self.transaction() as session:
            running = session.scalars(select(JobRow).where(JobRow.state == JobState.PROCESSING)).all()
            ready = select(JobRow).join(StudyRow).where(JobRow.state == JobState.READY).order_by(BY_ENTRY)
            suspect = session.scalars(ready.where(JobRow.attempts > 0).limit(1)).first()
            if any(job.attempts > 1 for job in running) or (suspect and running) or (limit is not None and limit < 1):
                return []
            taken = [suspect] if suspect else list(session.scalars(ready.limit(limit)))
            for job in taken:
                job.state = JobState.PROCESSING
                job.attempts += 1
                job.begun = self._now()
                self._set_study(session, job, StudyState.PROCESSING)
                self.note(session, f"attempt {job.attempts} begins", job.study_key, job.job_id)
            return taken

    def job_failed(self, job_id: str, code: str, message: str, stage: str) -> None:
        """Record why a job ended without results; the texts hold no patient identity."""
        with self.transaction() as session:
            self._end(session, session.get_one(JobRow, job_id), JobState.FAILED, code, message, stage)

    def job_done(self, job_id: str, results: int, owed: Mapping[str, Sequence[str]]) -> None:
        """Record that a job's results exist, and which files each destination is owed: all of it, or nothing."""
        with self.transaction() as session:
            job = session.get_one(JobRow, job_id)
            if job.state is JobState.DONE:
                return
            job.state, job.finished = JobState.DONE, self._now()
            job.code = job.message = job.stage = ""
            session.add_all(
                DeliveryRow(job_id=job_id, destination=destination, file=name, state=DeliveryState.OWED)
                for destination, files in owed.items()
                for name in files
            )
            self._set_study(session, job, StudyState.DONE)
            self.note(session, f"done: {results} results", job.study_key, job_id)

    def waiting_jobs(self) -> set[str]:
        """Return the jobs that are ready."""
        with self.reading() as session:
            return set(session.scalars(select(JobRow.job_id).where(JobRow.state == JobState.READY)))

    def requeue_crashed(self, max_attempts: int = MAX_ATTEMPTS) -> list[JobRow]:
        """Make every job that was being processed ready again, or quarantined after too many attempts; return them.

        For start-up, before anything is processed.
        """
        with self.transaction() as session:
            crashed = session.scalars(select(JobRow).where(JobRow.state == JobState.PROCESSING)).all()
            for job in crashed:
                message = f"the node died {job.attempts} times while it was processed"
                self._again(session, job, "crashed-repeatedly", message, "", max_attempts)
            return list(crashed)

    def job_crashed(self, job_id: str, code: str, message: str, stage: str, max_attempts: int = MAX_ATTEMPTS) -> bool:
        """Record that a job was lost to a crash or hang that the node lived through; say whether it is tried again."""
        with self.transaction() as session:
            job = session.get_one(JobRow, job_id)
            if job.state is not JobState.PROCESSING:
                return False
            return self._again(session, job, code, f"{message}; attempt {job.attempts}", stage, max_attempts)

    def job_postponed(self, job_id: str, code: str, message: str, stage: str) -> None:
        """Make a job ready again that the disk, not the study, kept from its end: the attempt does not count."""
        with self.transaction() as session:
            job = session.get_one(JobRow, job_id)
            if job.state is JobState.PROCESSING:
                job.attempts -= 1
                self._again(session, job, code, message, stage, job.attempts + 1)

    def _again(self, session: Session, job: JobRow, code: str, message: str, stage: str, max_attempts: int) -> bool:
        if job.attempts >= max_attempts:
            self._end(session, job, JobState.QUARANTINED, code, message, stage)
            return False
        job.state, job.code, job.message, job.stage = JobState.READY, code, message, stage
        self._set_study(session, job, StudyState.COMPLETE)
        self.note(session, f"interrupted ({code}); to be processed again", job.study_key, job.job_id)
        return True

    def _end(self, session: Session, job: JobRow, state: JobState, code: str, message: str, stage: str) -> None:
        job.state, job.finished = state, self._now()
        job.code, job.message, job.stage = code, message, stage
        self._set_study(session, job, StudyState(state))
        self.note(session, f"{state}: {code}", job.study_key, job.job_id)

    def _set_study(self, session: Session, job: JobRow, state: StudyState) -> None:
        """Move the study on, unless a later revision speaks for it already."""
        study = session.get_one(StudyRow, job.study_key)
        if study.state is not StudyState.ARRIVING and study.revision == job.revision:
            study.state, study.changed = state, self._now()

    # Deliveries, as the sender sees them

    def owed(self, destination: str) -> list[DeliveryRow]:
        """Return what a destination is still to have, oldest first."""
        with self.reading() as session:
            wanted = select(DeliveryRow).where(
                DeliveryRow.state == DeliveryState.OWED, DeliveryRow.destination == destination
            )
            return list(session.scalars(wanted.order_by(DeliveryRow.delivery_id)))

    def due(self, destination: str, longest_wait: float) -> list[DeliveryRow]:
        """Return what a destination is to be sent now, oldest first, as much as one association is to carry.

        No wait is longer than `longest_wait`, in seconds: what is due later than that is due now, as the clock was
        set back.
        """
        now = self._now()
        with self.reading() as session:
            wanted = select(DeliveryRow).where(
                DeliveryRow.state == DeliveryState.OWED,
                DeliveryRow.destination == destination,
                or_(DeliveryRow.next_attempt <= now, DeliveryRow.next_attempt > now + longest_wait),
            )
            return list(session.scalars(wanted.order_by(DeliveryRow.delivery_id).limit(AT_ONCE)))

    def next_attempt(self, destination: str) -> float | None:
        """Return when the next of what a destination is owed is due, in seconds since 1970."""
        with self.reading() as session:
            soonest = select(func.min(DeliveryRow.next_attempt)).where(
                DeliveryRow.state == DeliveryState.OWED, DeliveryRow.destination == destination
            )
            return session.scalar(soonest)

    def owing_jobs(self) -> set[str]:
        """Return the jobs of which some destination still lacks a result, be it given up for now."""
        with self.reading() as session:
            lacking = select(DeliveryRow.job_id).where(DeliveryRow.state != DeliveryState.DELIVERED)
            return set(session.scalars(lacking.distinct()))

    def is_owing(self, job_id: str) -> bool:
        """Say whether some destination still lacks a result of this job."""
        with self.reading() as session:
            lacking = select(DeliveryRow.delivery_id).where(
                DeliveryRow.job_id == job_id, DeliveryRow.state != DeliveryState.DELIVERED
            )
            return session.scalar(lacking.limit(1)) is not None

    def delivered(self, delivery_id: int, note: str = "") -> None:
        """Record that a destination has a file."""
        with self.transaction() as session:
            delivery = session.get_one(DeliveryRow, delivery_id)
            delivery.state, delivery.note, delivery.delivered = DeliveryState.DELIVERED, note, self._now()
            delivery.attempts += 1
            job = session.get_one(JobRow, delivery.job_id)
            self.note(session, f"{delivery.destination} has {delivery.file}", job.study_key, job.job_id)

    def not_delivered(
        self,
        delivery_ids: Sequence[int],
        note: str,
        next_attempt: Callable[[int], float],
        refusals_allowed: int | None = None,
    ) -> int:
        """Record a failed attempt; `next_attempt` gives the time of the next one from how many have failed.

        With `refusals_allowed` the destination refused for good: after that many refusals a delivery is dead. Returns
        how many are.
        """
        dead = 0
        with self.transaction() as session:
            for delivery_id in delivery_ids:
                delivery = session.get_one(DeliveryRow, delivery_id)
                delivery.attempts += 1
                delivery.note, delivery.next_attempt = note, next_attempt(delivery.attempts)
                if refusals_allowed is None:
                    continue
                delivery.refusals += 1
                if delivery.refusals >= refusals_allowed:
                    delivery.state, dead = DeliveryState.DEAD, dead + 1
                    job = session.get_one(JobRow, delivery.job_id)
                    what = f"{delivery.destination} refused {delivery.file} for good: {note}"
                    self.note(session, what, job.study_key, job.job_id)
                    LOGGER.error("job %s: %s; `python -m app queue retry` sends it again", job.job_id, what)
        return dead

    # What a person may ask

    def studies(self) -> list[StudyRow]:
        """Return every study, oldest first."""
        with self.reading() as session:
            return list(session.scalars(select(StudyRow).order_by(StudyRow.arrived)))

    def jobs(self) -> list[JobRow]:
        """Return every job, oldest first."""
        with self.reading() as session:
            return list(session.scalars(select(JobRow).order_by(JobRow.created)))

    def job(self, job_id: str) -> JobRow | None:
        """Return one job, if it is known."""
        with self.reading() as session:
            return session.get(JobRow, job_id)

    def deliveries(self, job_id: str) -> list[DeliveryRow]:
        """Return a job's deliveries, those made and those owed."""
        with self.reading() as session:
            return list(session.scalars(select(DeliveryRow).where(DeliveryRow.job_id == job_id)))

    def events(self, study_key: str) -> list[EventRow]:
        """Return what happened to a study, in order."""
        with self.reading() as session:
            wanted = select(EventRow).where(EventRow.study_key == study_key)
            return list(session.scalars(wanted.order_by(EventRow.event_id)))


def _open(path: Path, begin: Callable[[Connection], None]) -> Engine:
    engine = create_engine(f"sqlite:///{path}", hide_parameters=True)
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", begin)
    return engine


def _on_connect(connection: sqlite3.Connection, _record: Any) -> None:
    # Python's own transaction control begins late and would let two writers deadlock; `_begin_writing` does it.
    connection.isolation_level = None
    for pragma in ("busy_timeout = 10000", "journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_writing(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_reading(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")
