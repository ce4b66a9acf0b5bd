"""What waits, is in work, failed or is stuck, read from the journal; and how a person puts it back.

Works beside a running node, which meets what was put back at its next look, and without one. Shows job ids and
destinations, never a patient's identity.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from sqlalchemy import Select, and_, func, or_, select, update
from sqlalchemy.orm import Session

from app.errors import InputError
from app.journal import DeliveryRow, DeliveryState, JobRow, JobState, Journal, StudyRow, StudyState

STATES = {
    StudyState.ARRIVING: "arriving",
    JobState.READY: "waiting",
    JobState.PROCESSING: "in work",
    JobState.FAILED: "failed",
    JobState.QUARANTINED: "quarantined",
}
"""What a person calls where a study stands; done is not shown."""
_ENDED_BADLY = (JobState.FAILED, JobState.QUARANTINED)
_LATEST = JobRow.revision == StudyRow.revision
"""A later revision speaks for the study: what became of an earlier one matters to nobody."""
_UNFINISHED = or_(
    JobRow.state.in_([JobState.READY, JobState.PROCESSING]), and_(JobRow.state.in_(_ENDED_BADLY), _LATEST)
)
_LACKING = DeliveryRow.state != DeliveryState.DELIVERED
_BY_ITSELF = (DeliveryState.OWED, DeliveryState.STORED)
"""Where the node itself goes on."""
_STUCK = or_(DeliveryRow.state == DeliveryState.DEAD, and_(_LACKING, DeliveryRow.attempts > 0))
_RANK = ("uncommitted", "waiting", "stuck", "dead")
"""Where a delivery stands, the worst last."""
SHORTEST_PREFIX = 6


@dataclass(frozen=True)
class Entry:
    """A study on its way, or what one job still owes to one destination."""

    what: str
    """study or delivery."""
    job_id: str
    """Empty for a study that is still arriving."""
    state: str
    """arriving, waiting, in work, failed, quarantined; of a delivery waiting, uncommitted (taken, not committed yet),
    stuck (tried, or asked for, in vain) or dead."""
    age_seconds: float
    """Since it arrived, was complete, was begun, ended, or was owed."""
    attempts: int
    destination: str
    """Of a delivery."""
    files: int
    """Images of a study; results that a destination lacks."""
    reason: str
    """Why the latest attempt failed."""


def waiting(journal: Journal) -> list[Entry]:
    """Return all that is not done: studies, then deliveries, each the oldest first."""
    with journal.reading() as session:
        return [*_arriving(session, journal.now()), *_jobs(session, journal.now()), *_owed(session, journal.now())]


def _arriving(session: Session, now: float) -> Iterator[Entry]:
    found = select(StudyRow).where(StudyRow.state == StudyState.ARRIVING).order_by(StudyRow.arrived)
    for study in session.scalars(found):
        yield Entry("study", "", STATES[study.state], now - study.changed, 0, "", 0, "")


def _jobs(session: Session, now: float) -> Iterator[Entry]:
    for job in session.scalars(
        select(JobRow).join(StudyRow).where(_UNFINISHED).order_by(JobRow.created, JobRow.job_id)
    ):
        since = {JobState.READY: job.created, JobState.PROCESSING: job.begun}.get(job.state, job.finished)
        reason = f"{job.code}: {job.message}" if job.code else ""
        age = now - (since or job.created)
        yield Entry("study", job.job_id, STATES[job.state], age, job.attempts, "", job.instances, reason)


def _owed(session: Session, now: float) -> Iterator[Entry]:
    found = select(DeliveryRow, JobRow.finished).join(JobRow).where(_LACKING)
    rows = session.execute(found.order_by(JobRow.finished, DeliveryRow.job_id, DeliveryRow.destination))
    for (job_id, name), group in groupby(rows, lambda row: (row[0].job_id, row[0].destination)):
        lacking = list(group)
        worst = max((delivery for delivery, _ in lacking), key=lambda d: (_RANK.index(_stands(d)), _tries(d)))
        age = now - (lacking[0][1] or now)
        yield Entry("delivery", job_id, _stands(worst), age, _tries(worst), name, len(lacking), worst.note)


def _stands(delivery: DeliveryRow) -> str:
    """Where a delivery that is not over stands, in a person's words."""
    if delivery.state is DeliveryState.STORED:
        return "stuck" if delivery.asks > 1 else "uncommitted"
    return "dead" if delivery.state is DeliveryState.DEAD else "stuck" if delivery.attempts else "waiting"


def _tries(delivery: DeliveryRow) -> int:
    return delivery.asks if delivery.state is DeliveryState.STORED else delivery.attempts


def find_job(journal: Journal, text: str) -> JobRow:
    """Return the job that an id, or the beginning of one, means; raises InputError."""
    with journal.reading() as session:
        found = list(session.scalars(select(JobRow).where(JobRow.job_id.startswith(text, autoescape=True)).limit(2)))
    if len(found) == 1 and len(text) >= SHORTEST_PREFIX:
        return found[0]
    if not found or len(text) < SHORTEST_PREFIX:
        raise InputError(f"there is no job {text}; `python -m app queue` lists them, six digits of an id will do")
    raise InputError(f"more than one job begins with {text}; give more digits")


def describe(journal: Journal, job: JobRow) -> dict[str, Any]:
    """Give all that the journal knows of a job, as plain data; times in seconds since 1970."""
    deliveries = journal.deliveries(job.job_id)
    return {
        "job_id": job.job_id,
        "state": STATES.get(job.state, str(job.state)),
        "revision": job.revision,
        "images": job.instances,
        "attempts": job.attempts,
        "code": job.code,
        "reason": job.message,
        "stage": job.stage,
        "created": job.created,
        "begun": job.begun,
        "finished": job.finished,
        "deliveries": [
            {
                "destination": delivery.destination,
                "file": delivery.file,
                "state": str(delivery.state),
                "attempts": delivery.attempts,
                "refusals": delivery.refusals,
                "asks": delivery.asks,
                "next_attempt": delivery.next_attempt if delivery.state in _BY_ITSELF else None,
                "reason": delivery.note,
                "delivered": delivery.delivered,
            }
            for delivery in deliveries
        ],
        "events": [
            {"at": event.at, "what": event.what}
            for event in journal.events(job.study_key)
            if event.job_id in {"", job.job_id}
        ],
    }


@dataclass(frozen=True)
class PutBack:
    """How much was put back."""

    jobs: int
    deliveries: int


def put_back_job(journal: Journal, text: str) -> PutBack:
    """Have a failed job processed again, or a done one's stuck deliveries sent again; raises InputError."""
    job = find_job(journal, text)
    if job.state in _ENDED_BADLY:
        done = _put_back(journal, select(JobRow).join(StudyRow).where(JobRow.job_id == job.job_id, _LATEST), None)
        if not done.jobs:
            raise InputError(f"job {job.job_id} stays as it is: a later revision of its study took its place")
        return done
    if job.state is JobState.DONE:
        return _put_back(journal, None, select(DeliveryRow).where(_STUCK, DeliveryRow.job_id == job.job_id))
    raise InputError(f"job {job.job_id} is {STATES[job.state]} already")


def put_back_destination(journal: Journal, name: str) -> PutBack:
    """Have all that is stuck on its way to a destination sent now."""
    return _put_back(journal, None, select(DeliveryRow).where(_STUCK, DeliveryRow.destination == name))


def put_back_all(journal: Journal) -> PutBack:
    """Have every failed job processed and every stuck delivery sent again."""
    failed = select(JobRow).join(StudyRow).where(JobRow.state.in_(_ENDED_BADLY), _LATEST)
    return _put_back(journal, failed, select(DeliveryRow).where(_STUCK))


def destinations(journal: Journal) -> set[str]:
    """Return every destination that is, or was, owed something."""
    with journal.reading() as session:
        return set(session.scalars(select(DeliveryRow.destination).distinct()))


def _put_back(journal: Journal, jobs: Select[JobRow] | None, deliveries: Select[DeliveryRow] | None) -> PutBack:
    """Begin anew with what the queries find, in one transaction; attempts are counted from nought."""
    counts: Counter[str] = Counter()
    with journal.transaction() as session:
        for job in session.scalars(jobs) if jobs is not None else ():
            study = session.get_one(StudyRow, job.study_key)
            if study.state is not StudyState.ARRIVING:
                study.state, study.changed = StudyState.COMPLETE, journal.now()
            job.state, job.attempts, job.finished = JobState.READY, 0, None
            journal.note(session, "put back by a person", job.study_key, job.job_id)
            counts["jobs"] += 1
        if deliveries is not None:
            ids = list(session.scalars(deliveries.with_only_columns(DeliveryRow.delivery_id)))
            again = {"state": DeliveryState.OWED, "attempts": 0, "refusals": 0, "next_attempt": 0.0}
            # What the destination took is not sent again, but asked for.
            ask = {"asks": 0, "refusals": 0, "next_attempt": 0.0}
            for some in _in_parts(ids):
                of_these = update(DeliveryRow).where(DeliveryRow.delivery_id.in_(some))
                session.execute(of_these.where(DeliveryRow.state == DeliveryState.STORED).values(ask))
                session.execute(of_these.where(DeliveryRow.state != DeliveryState.STORED).values(again))
            counts["deliveries"] = len(ids)
    return PutBack(counts["jobs"], counts["deliveries"])


def _in_parts(ids: list[int], size: int = 500) -> Iterable[list[int]]:
    # SQLite takes a limited number of values in one statement.
    return (ids[start : start + size] for start in range(0, len(ids), size))


@dataclass(frozen=True)
class Owed:
    """What one destination lacks."""

    owed: int = 0
    """To be sent."""
    dead: int = 0
    uncommitted: int = 0
    """Taken, and not committed yet."""
    oldest_seconds: float = 0.0
    """Since the oldest result that is to be sent or committed was made."""


@dataclass(frozen=True)
class Figures:
    """The journal in numbers, for monitoring."""

    studies: dict[StudyState, int] = field(default_factory=dict)
    waiting: int = 0
    oldest_waiting_seconds: float = 0.0
    """Since the oldest job that is ready was complete."""
    oldest_in_work_seconds: float = 0.0
    """Since the attempt at the oldest job in work began."""
    destinations: dict[str, Owed] = field(default_factory=dict)


def figures(journal: Journal) -> Figures:
    """Count, in the database: no row is read into memory."""
    now = journal.now()
    with journal.reading() as session:
        by_state = select(StudyRow.state, func.count()).group_by(StudyRow.state)
        studies = {state: number for state, number in session.execute(by_state)}  # noqa: C416 - rows are no pairs to mypy
        ready = select(func.count(), func.min(JobRow.created)).where(JobRow.state == JobState.READY)
        count, oldest = session.execute(ready).one()
        begun = session.scalar(select(func.min(JobRow.begun)).where(JobRow.state == JobState.PROCESSING))
        lacking = (
            select(DeliveryRow.destination, DeliveryRow.state, func.count(), func.min(JobRow.finished))
            .join(JobRow)
            .where(_LACKING)
            .group_by(DeliveryRow.destination, DeliveryRow.state)
        )
        owed: dict[str, Owed] = {}
        for name, state, number, since in session.execute(lacking):
            known, age = owed.get(name, Owed()), _age(now, since)
            if state is DeliveryState.DEAD:
                owed[name] = replace(known, dead=number)
            elif state is DeliveryState.STORED:
                owed[name] = replace(known, uncommitted=number, oldest_seconds=max(age, known.oldest_seconds))
            else:
                owed[name] = replace(known, owed=number, oldest_seconds=max(age, known.oldest_seconds))
    return Figures(
        {state: studies.get(state, 0) for state in StudyState}, count, _age(now, oldest), _age(now, begun), owed
    )


def _age(now: float, since: float | None) -> float:
    return max(0.0, now - since) if since else 0.0
