"""The node's memory: studies, jobs, deliveries and events in one SQLite file.

Each public method is one transaction, on disk when it returns, so a process killed at any line leaves a state that
`requeue_crashed` can go on from. Records hold UIDs and times, never a patient's identity.

    study     arriving -> complete -> processing -> done | failed     and back to arriving when more comes
    job       ready -> processing -> done | failed                    one for each revision of a study
    delivery  owed -> delivered                                       one for each result file and destination
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy import Enum, ForeignKey, String, UniqueConstraint, create_engine, event, select
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from app.errors import JournalError
from app.files import private_folder

LOGGER = logging.getLogger(__name__)

SCHEMA_VERSION = 1
MAX_ATTEMPTS = 3
"""A job that was being processed this often when the node died is failed."""


class StudyState(StrEnum):
    """Where a study stands."""

    ARRIVING = "arriving"
    COMPLETE = "complete"
    PROCESSING = "processing"
    DONE = "done"
    FAILED = "failed"


class JobState(StrEnum):
    """Where a job stands."""

    READY = "ready"
    PROCESSING = "processing"
    DONE = "done"
    FAILED = "failed"


class DeliveryState(StrEnum):
    """Whether a destination has a file."""

    OWED = "owed"
    DELIVERED = "delivered"


def _state(kind: type[StrEnum]) -> Enum:
    return Enum(kind, native_enum=False, length=16, values_callable=lambda states: [state.value for state in states])


class _Row(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it off the class
        StudyState: _state(StudyState),
        JobState: _state(JobState),
        DeliveryState: _state(DeliveryState),
    }


class StudyRow(_Row):
    """A study that the inbox holds."""

    __tablename__ = "studies"

    key: Mapped[str] = mapped_column(String(32), primary_key=True)
    """Name of its folder."""
    uid: Mapped[str] = mapped_column(String(64), unique=True)
    """Study Instance UID."""
    state: Mapped[StudyState]
    revision: Mapped[int] = mapped_column(default=0)
    """How many jobs it has had."""
    arrived: Mapped[float]
    """When its first instance was seen, in seconds since 1970, as all times here."""
    changed: Mapped[float]


class JobRow(_Row):
    """One revision of a study on its way to results."""

    __tablename__ = "jobs"

    job_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    study_key: Mapped[str] = mapped_column(ForeignKey("studies.key"), index=True)
    revision: Mapped[int]
    """1 for a study's first job."""
    instances: Mapped[int]
    """How many files went in."""
    state: Mapped[JobState] = mapped_column(index=True)
    attempts: Mapped[int] = mapped_column(default=0)
    """How often its processing was begun."""
    code: Mapped[str] = mapped_column(default="")
    message: Mapped[str] = mapped_column(default="")
    stage: Mapped[str] = mapped_column(default="")
    """Why and where it failed."""
    created: Mapped[float]
    finished: Mapped[float | None]


class DeliveryRow(_Row):
    """One result file that one destination is to have."""

    __tablename__ = "deliveries"
    __table_args__ = (UniqueConstraint("job_id", "destination", "file"),)

    delivery_id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.job_id"), index=True)
    destination: Mapped[str] = mapped_column(String(32), index=True)
    file: Mapped[str]
    """Its name in the job's outbox folder."""
    state: Mapped[DeliveryState] = mapped_column(index=True)
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt: Mapped[float] = mapped_column(default=0.0)
    note: Mapped[str] = mapped_column(default="")
    """What the peer, or the network, said last."""
    delivered: Mapped[float | None]


class EventRow(_Row):
    """What happened, in order."""

    __tablename__ = "events"

    event_id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[float]
    study_key: Mapped[str] = mapped_column(String(32), index=True)
    job_id: Mapped[str] = mapped_column(String(32), default="")
    what: Mapped[str]


class Journal:
    """The journal file, open; methods may be called from any thread."""

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        """Open or make the file; raises JournalError when that cannot be."""
        self._path, self._now = path, now
        private_folder(path.parent)
        self._engine = create_engine(f"sqlite:///{path}", hide_parameters=True)
        event.listen(self._engine, "connect", _on_connect)
        event.listen(self._engine, "begin", _on_begin)
        with self._errors(), self._engine.begin() as connection:
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            if version not in (0, SCHEMA_VERSION):
                raise JournalError(f"{path} has schema version {version}, this software knows {SCHEMA_VERSION}")
            _Row.metadata.create_all(connection)
            connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:
            reason = getattr(error, "orig", None) or type(error).__name__
            raise JournalError(f"the journal {self._path} cannot be used: {reason}") from error

    @contextmanager
    def _transaction(self) -> Iterator[Session]:
        with self._errors(), Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    def _note(self, session: Session, what: str, study_key: str, job_id: str = "") -> None:
        session.add(EventRow(at=self._now(), study_key=study_key, job_id=job_id, what=what))

    # Studies and jobs, as the inbox sees them

    def study_uid(self, key: str) -> str | None:
        """Return the Study Instance UID of a folder, if it is known."""
        with self._transaction() as session:
            study = session.get(StudyRow, key)
            return study.uid if study else None

    def has_job(self, job_id: str) -> bool:
        """Say whether this revision has had its job."""
        with self._transaction() as session:
            return session.get(JobRow, job_id) is not None

    def study_arriving(self, key: str, uid: str) -> None:
        """Record that instances of a study, new or known, have come."""
        with self._transaction() as session:
            study = session.get(StudyRow, key)
            if study is None:
                study = StudyRow(key=key, uid=uid, revision=0, arrived=self._now())
                session.add(study)
                self._note(session, "study arrives", key)
            elif study.state is not StudyState.ARRIVING:
                self._note(session, "more of the study arrives", key)
            study.state, study.changed = StudyState.ARRIVING, self._now()

    def job_ready(self, job_id: str, key: str, instances: int) -> None:
        """Record that a revision of a study waits to be processed; a second call changes nothing."""
        with self._transaction() as session:
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
            self._note(session, f"revision {study.revision} is complete: {instances} instances", key, job_id)

    def take_ready(self, limit: int | None = None) -> list[JobRow]:
        """Mark jobs as processing, at most `limit`, and return them, oldest first.

        A job that was in the node when it died is handed out alone: if it takes the node down again, no other job
        is blamed.
        """
        with self._transaction() as session:
            running = session.scalars(select(JobRow).where(JobRow.state == JobState.PROCESSING)).all()
            ready = session.scalars(select(JobRow).where(JobRow.state == JobState.READY).order_by(JobRow.created)).all()
            suspects = [job for job in ready if job.attempts]
            if any(job.attempts > 1 for job in running) or (suspects and running):
                return []
            taken = (suspects[:1] or list(ready))[: None if limit is None else max(limit, 0)]
            for job in taken:
                job.state = JobState.PROCESSING
                job.attempts += 1
                self._set_study(session, job, StudyState.PROCESSING)
                self._note(session, f"attempt {job.attempts} begins", job.study_key, job.job_id)
            return taken

    def job_failed(self, job_id: str, code: str, message: str, stage: str) -> None:
        """Record why a job ended without results; the texts hold no patient identity."""
        with self._transaction() as session:
            self._fail(session, session.get_one(JobRow, job_id), code, message, stage)

    def job_done(self, job_id: str, results: int, owed: Mapping[str, Sequence[str]]) -> None:
        """Record that a job's results exist, and which files each destination is owed: all of it, or nothing."""
        with self._transaction() as session:
            job = session.get_one(JobRow, job_id)
            if job.state is JobState.DONE:
                return
            job.state, job.finished = JobState.DONE, self._now()
            session.add_all(
                DeliveryRow(job_id=job_id, destination=destination, file=name, state=DeliveryState.OWED)
                for destination, files in owed.items()
                for name in files
            )
            self._set_study(session, job, StudyState.DONE)
            self._note(session, f"done: {results} results", job.study_key, job_id)

    def requeue_crashed(self, max_attempts: int = MAX_ATTEMPTS) -> list[JobRow]:
        """Make every job that was being processed ready again, or failed after too many attempts; return them.

        For start-up, before anything is processed.
        """
        with self._transaction() as session:
            crashed = session.scalars(select(JobRow).where(JobRow.state == JobState.PROCESSING)).all()
            for job in crashed:
                if job.attempts >= max_attempts:
                    message = f"the node died {job.attempts} times while it was processed"
                    self._fail(session, job, "crashed-repeatedly", message, "")
                else:
                    job.state = JobState.READY
                    self._set_study(session, job, StudyState.COMPLETE)
                    self._note(session, "interrupted; to be processed again", job.study_key, job.job_id)
            return list(crashed)

    def _fail(self, session: Session, job: JobRow, code: str, message: str, stage: str) -> None:
        job.state, job.finished = JobState.FAILED, self._now()
        job.code, job.message, job.stage = code, message, stage
        self._set_study(session, job, StudyState.FAILED)
        self._note(session, f"failed: {code}", job.study_key, job.job_id)

    def _set_study(self, session: Session, job: JobRow, state: StudyState) -> None:
        """Move the study on, unless a later revision speaks for it already."""
        study = session.get_one(StudyRow, job.study_key)
        if study.state is not StudyState.ARRIVING and study.revision == job.revision:
            study.state, study.changed = state, self._now()

    # Deliveries, as the sender sees them

    def owed(self, destination: str) -> list[DeliveryRow]:
        """Return what a destination is still to have, oldest first."""
        with self._transaction() as session:
            wanted = select(DeliveryRow).where(
                DeliveryRow.state == DeliveryState.OWED, DeliveryRow.destination == destination
            )
            return list(session.scalars(wanted.order_by(DeliveryRow.delivery_id)))

    def owing_jobs(self) -> set[str]:
        """Return the jobs of which some destination still lacks a result."""
        with self._transaction() as session:
            owed = select(DeliveryRow.job_id).where(DeliveryRow.state == DeliveryState.OWED)
            return set(session.scalars(owed.distinct()))

    def delivered(self, delivery_id: int, note: str = "") -> None:
        """Record that a destination has a file."""
        with self._transaction() as session:
            delivery = session.get_one(DeliveryRow, delivery_id)
            delivery.state, delivery.note, delivery.delivered = DeliveryState.DELIVERED, note, self._now()
            delivery.attempts += 1
            job = session.get_one(JobRow, delivery.job_id)
            self._note(session, f"{delivery.destination} has {delivery.file}", job.study_key, job.job_id)

    def not_delivered(self, delivery_ids: Sequence[int], note: str, next_attempt: Callable[[int], float]) -> None:
        """Record a failed attempt; `next_attempt` gives the time of the next one from how many have failed."""
        with self._transaction() as session:
            for delivery_id in delivery_ids:
                delivery = session.get_one(DeliveryRow, delivery_id)
                delivery.attempts += 1
                delivery.note, delivery.next_attempt = note, next_attempt(delivery.attempts)

    # What a person may ask

    def studies(self) -> list[StudyRow]:
        """Return every study, oldest first."""
        with self._transaction() as session:
            return list(session.scalars(select(StudyRow).order_by(StudyRow.arrived)))

    def jobs(self) -> list[JobRow]:
        """Return every job, oldest first."""
        with self._transaction() as session:
            return list(session.scalars(select(JobRow).order_by(JobRow.created)))

    def job(self, job_id: str) -> JobRow | None:
        """Return one job, if it is known."""
        with self._transaction() as session:
            return session.get(JobRow, job_id)

    def deliveries(self, job_id: str) -> list[DeliveryRow]:
        """Return a job's deliveries, those made and those owed."""
        with self._transaction() as session:
            return list(session.scalars(select(DeliveryRow).where(DeliveryRow.job_id == job_id)))

    def events(self, study_key: str) -> list[EventRow]:
        """Return what happened to a study, in order."""
        with self._transaction() as session:
            wanted = select(EventRow).where(EventRow.study_key == study_key)
            return list(session.scalars(wanted.order_by(EventRow.event_id)))


def _on_connect(connection: sqlite3.Connection, _record: Any) -> None:
    # Python's own transaction control begins late and would let two writers deadlock; `_on_begin` does it.
    connection.isolation_level = None
    for pragma in ("busy_timeout = 10000", "journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _on_begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
