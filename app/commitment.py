"""Storage commitment (PS3.4 annex J) in the journal: what was taken, what is asked, what a report changes.

    stored -> delivered    it reports that it keeps the object
           -> owed | dead  it reports that it does not: sent again, or given up where no resend mends it
           -> stored       no report in time, or one that leaves it out: asked again, under a new transaction UID

A request is in the journal before it is sent, and a report's effect is on disk before it is answered; each is one
transaction. So a process killed at any line leaves a request that is asked again, or a report that is sent again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session

from app.config import SenderConfig
from app.errors import NodeError
from app.journal import AT_ONCE, DeliveryRow, DeliveryState, JobRow, Journal, StudyRow

LOGGER = logging.getLogger(__name__)

DUPLICATE_TRANSACTION = 0x0131
REASONS = {
    0x0110: "processing failure",
    0x0112: "no such object instance",
    0x0119: "class/instance conflict",
    0x0122: "referenced SOP class not supported",
    DUPLICATE_TRANSACTION: "duplicate transaction UID",
    0x0213: "resource limitation",
}
"""Failure Reason (0008,1197) and its meaning in a report (PS3.3 section C.14.1.1)."""
FOR_GOOD = frozenset({0x0119, 0x0122})
"""Those that no resend mends."""
LEFT_OUT = "its report of storage commitment leaves this object out"


class NotOurs(NodeError):
    """A report is of no request that waits for one; `forged` where the request was another peer's."""

    def __init__(self, reason: str, *, forged: bool = False) -> None:
        super().__init__(reason)
        self.forged = forged


@dataclass(frozen=True)
class Report:
    """What a peer says of one request."""

    request_uid: str
    kept: frozenset[str]
    """SOP Instance UIDs that it has committed itself to keep."""
    failed: Mapping[str, int]
    """SOP Instance UIDs that it does not keep, each with its Failure Reason."""


@dataclass(frozen=True)
class Effect:
    """What a report came to."""

    job_id: str
    study: str
    """Its Study Instance UID."""
    destination: str
    kept: int
    failed: int
    """Not kept, those given up among them."""
    dead: int
    left_out: int


def stored(journal: Journal, delivery_id: int, note: str, sop_class: str, sop_instance: str) -> None:
    """Record that a destination took a file; its commitment is to be asked for at once."""
    with journal.transaction() as session:
        row = session.get_one(DeliveryRow, delivery_id)
        row.state, row.note, row.next_attempt = DeliveryState.STORED, note, journal.now()
        row.sop_class, row.sop_instance, row.asks, row.request_uid = sop_class, sop_instance, 0, ""
        row.attempts += 1
        _note(journal, session, row, f"{row.destination} took {row.file}; storage commitment is asked for")


def to_ask(journal: Journal, destination: str, longest_wait: float) -> list[DeliveryRow]:
    """Return what commitment is to be asked for now: the rows of one job, that of the longest stored.

    As with `Journal.due`, what would be due only after the longest wait is due now: the clock was set back.
    """
    now = journal.now()
    with journal.reading() as session:
        due = _stored(destination).where(
            or_(DeliveryRow.next_attempt <= now, DeliveryRow.next_attempt > now + longest_wait)
        )
        first = session.scalar(due.order_by(DeliveryRow.delivery_id).limit(1))
        if first is None:
            return []
        of_it = due.where(DeliveryRow.job_id == first.job_id).order_by(DeliveryRow.delivery_id)
        return list(session.scalars(of_it.limit(AT_ONCE)))


def next_ask(journal: Journal, destination: str) -> float | None:
    """Return when commitment is to be asked for next, in seconds since 1970."""
    with journal.reading() as session:
        return session.scalar(_stored(destination).with_only_columns(func.min(DeliveryRow.next_attempt)))


def begin(journal: Journal, rows: Sequence[DeliveryRow], request_uid: str, patience: Callable[[int], float]) -> None:
    """Record a request that is about to be sent; `patience` gives how long to wait for its report."""
    with journal.transaction() as session:
        for row in rows:
            kept = session.get_one(DeliveryRow, row.delivery_id)
            kept.asks += 1
            kept.request_uid, kept.next_attempt = request_uid, journal.now() + patience(kept.asks)
            if kept.asks > 1 and not kept.note:
                kept.note = "no report of storage commitment came in time"


def not_asked(journal: Journal, request_uid: str, note: str, pause: Callable[[int], float]) -> None:
    """Record that the peer did not take a request; it stays open, as the peer may have taken it all the same."""
    with journal.transaction() as session:
        for row in session.scalars(_of_request(request_uid)):
            row.note, row.next_attempt = note, journal.now() + pause(row.asks)


def is_open(journal: Journal, request_uid: str) -> bool:
    """Say whether a request still waits for its report."""
    with journal.reading() as session:
        return session.scalar(_of_request(request_uid).limit(1)) is not None


def take(journal: Journal, report: Report, destinations: Collection[str], config: SenderConfig) -> Effect:
    """Do what a report of one of these destinations calls for; raises NotOurs, with nothing changed, else."""
    with journal.transaction() as session:
        rows = list(session.scalars(_of_request(report.request_uid))) if report.request_uid else []
        if not rows:
            raise NotOurs("no request under this transaction UID waits for a report")
        if not {row.destination for row in rows} <= set(destinations):
            raise NotOurs("the request under this transaction UID was made to another peer", forged=True)
        counts = {"kept": 0, "failed": 0, "dead": 0, "left_out": 0}
        for row in rows:
            row.request_uid = ""
            reason = report.failed.get(row.sop_instance)
            if reason is not None and reason != DUPLICATE_TRANSACTION:
                _fail(journal, session, row, reason, config)
                counts["failed"] += 1
                counts["dead"] += row.state is DeliveryState.DEAD
            elif reason is None and row.sop_instance in report.kept:
                row.state, row.delivered = DeliveryState.DELIVERED, journal.now()
                _note(journal, session, row, f"{row.destination} has committed itself to keep {row.file}")
                counts["kept"] += 1
            else:
                row.note = LEFT_OUT if reason is None else _told(reason)
                row.next_attempt = journal.now() + config.pause(row.asks)
                counts["left_out"] += 1
        # A request is of one job, and to one destination.
        job = session.get_one(JobRow, rows[0].job_id)
        return Effect(job.job_id, session.get_one(StudyRow, job.study_key).uid, rows[0].destination, **counts)


def waiting_jobs(journal: Journal, destination: str) -> set[str]:
    """Return the jobs of which a destination took something that it has not committed itself to keep."""
    with journal.reading() as session:
        return set(session.scalars(_stored(destination).with_only_columns(DeliveryRow.job_id).distinct()))


def believe(journal: Journal, destination: str) -> int:
    """Take what a destination has stored for delivered: the settings do not hold it to commitment any more.

    Returns how many results that are.
    """
    with journal.transaction() as session:
        rows = session.scalars(_stored(destination)).all()
        for row in rows:
            row.state, row.delivered, row.request_uid = DeliveryState.DELIVERED, journal.now(), ""
            _note(journal, session, row, f"{row.destination} has {row.file}; storage commitment is off")
        return len(rows)


def _fail(journal: Journal, session: Session, row: DeliveryRow, reason: int, config: SenderConfig) -> None:
    """Have a file sent again, or give it up: the peer took it, and does not keep it."""
    row.note = f"taken, but not kept: {_told(reason)}"
    row.next_attempt = journal.now() + config.pause(row.attempts)
    row.refusals += reason in FOR_GOOD
    row.state = DeliveryState.DEAD if row.refusals >= config.refusals_allowed else DeliveryState.OWED
    then = "given up until a person asks for it" if row.state is DeliveryState.DEAD else "it is sent again"
    what = f"{row.destination} took {row.file} and does not keep it, {_told(reason)}; {then}"
    _note(journal, session, row, what)
    LOGGER.warning("job %s: %s", row.job_id, what)


def _told(reason: int) -> str:
    return f"{REASONS.get(reason, 'for a reason of its own')} (0x{reason:04X})"


def _stored(destination: str) -> Select[DeliveryRow]:
    return select(DeliveryRow).where(DeliveryRow.state == DeliveryState.STORED, DeliveryRow.destination == destination)


def _of_request(request_uid: str) -> Select[DeliveryRow]:
    return select(DeliveryRow).where(DeliveryRow.state == DeliveryState.STORED, DeliveryRow.request_uid == request_uid)


def _note(journal: Journal, session: Session, row: DeliveryRow, what: str) -> None:
    journal.note(session, what, session.get_one(JobRow, row.job_id).study_key, row.job_id)
