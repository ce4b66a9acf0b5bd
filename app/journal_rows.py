"""The journal's tables and states, and how a file that an earlier version wrote becomes one of this version."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import Enum, ForeignKey, String, UniqueConstraint
from sqlalchemy.engine import Connection
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.errors import JournalError

SCHEMA_VERSION = 3

_UPGRADES = {
    1: (
        "ALTER TABLE studies ADD COLUMN looks INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE jobs ADD COLUMN begun FLOAT",
        "ALTER TABLE deliveries ADD COLUMN refusals INTEGER NOT NULL DEFAULT 0",
    ),
    2: (
        "ALTER TABLE deliveries ADD COLUMN sop_class VARCHAR(64) NOT NULL DEFAULT ''",
        "ALTER TABLE deliveries ADD COLUMN sop_instance VARCHAR(64) NOT NULL DEFAULT ''",
        "ALTER TABLE deliveries ADD COLUMN asks INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE deliveries ADD COLUMN request_uid VARCHAR(64) NOT NULL DEFAULT ''",
        "CREATE INDEX ix_deliveries_request_uid ON deliveries (request_uid)",
    ),
}
"""By version: what makes it the next one. The defaults let the version before go on writing to an upgraded file."""


class StudyState(StrEnum):
    """Where a study stands."""

    ARRIVING = "arriving"
    COMPLETE = "complete"
    PROCESSING = "processing"
    DONE = "done"
    FAILED = "failed"
    QUARANTINED = "quarantined"
    """It crashed or hung the node, or its worker, too often."""


class JobState(StrEnum):
    """Where a job stands."""

    READY = "ready"
    PROCESSING = "processing"
    DONE = "done"
    FAILED = "failed"
    QUARANTINED = "quarantined"


class DeliveryState(StrEnum):
    """Whether a destination has a file."""

    OWED = "owed"
    STORED = "stored"
    """Taken, and to be committed yet: app/commitment.py."""
    DELIVERED = "delivered"
    DEAD = "dead"
    """Refused for good; not tried again until a person asks for it."""


def _state(kind: type[StrEnum]) -> Enum:
    return Enum(kind, native_enum=False, length=16, values_callable=lambda states: [state.value for state in states])


class Row(DeclarativeBase):
    """A row of any table."""

    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it off the class
        StudyState: _state(StudyState),
        JobState: _state(JobState),
        DeliveryState: _state(DeliveryState),
    }


class StudyRow(Row):
    """A study that the inbox holds."""

    __tablename__ = "studies"

    key: Mapped[str] = mapped_column(String(32), primary_key=True)
    """Name of its folder."""
    uid: Mapped[str] = mapped_column(String(64), unique=True)
    """Study Instance UID."""
    state: Mapped[StudyState]
    revision: Mapped[int] = mapped_column(default=0)
    """How many jobs it has had."""
    looks: Mapped[int] = mapped_column(default=0, server_default="0")
    """How often its folder was looked at without coming to an end: the node died, or hung, over it."""
    arrived: Mapped[float]
    """When its first instance was seen, in seconds since 1970, as all times here."""
    changed: Mapped[float]


class JobRow(Row):
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
    begun: Mapped[float | None] = mapped_column(default=None)
    """When its latest attempt began."""
    finished: Mapped[float | None]


class DeliveryRow(Row):
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
    refusals: Mapped[int] = mapped_column(default=0, server_default="0")
    """How many of the attempts ended in a refusal that no resend mends."""
    next_attempt: Mapped[float] = mapped_column(default=0.0)
    """When it is sent, or its commitment asked for, next."""
    note: Mapped[str] = mapped_column(default="")
    """What the peer, or the network, said last."""
    delivered: Mapped[float | None]
    sop_class: Mapped[str] = mapped_column(String(64), default="", server_default="")
    sop_instance: Mapped[str] = mapped_column(String(64), default="", server_default="")
    """Of a file that was stored: by these a report of storage commitment names it."""
    asks: Mapped[int] = mapped_column(default=0, server_default="0")
    """How often its commitment was asked for since it was stored."""
    request_uid: Mapped[str] = mapped_column(String(64), default="", server_default="", index=True)
    """Transaction UID of the latest of these requests; empty once it was answered."""


class EventRow(Row):
    """What happened, in order."""

    __tablename__ = "events"

    event_id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[float]
    study_key: Mapped[str] = mapped_column(String(32), index=True)
    job_id: Mapped[str] = mapped_column(String(32), default="")
    what: Mapped[str]


def open_schema(connection: Connection, path: object) -> None:
    """Make the tables, or bring an earlier version's up to date; raises JournalError where they are a later one's.

    All of it is part of the caller's transaction: a crash in between leaves the file as it was.
    """
    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if version > SCHEMA_VERSION:
        raise JournalError(f"{path} has schema version {version}, this software knows {SCHEMA_VERSION}")
    for step in range(version, SCHEMA_VERSION) if version else ():
        for statement in _UPGRADES[step]:
            connection.exec_driver_sql(statement)
    Row.metadata.create_all(connection)
    connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")
