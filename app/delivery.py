"""Delivery of what the outbox owes: tried again with growing pauses until every destination has all of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import groupby

from pydicom.uid import generate_uid

from app import commitment
from app.audit import AuditTrail, Party, Transfer
from app.audit_outage import Outage
from app.commitment_report import Reports
from app.config import Destination, SenderConfig
from app.config_delivery import CommitmentConfig
from app.errors import KindsRefused, NodeError, PeerError, PeerUntrusted
from app.heartbeat import Heartbeat, place_of
from app.journal import DeliveryRow, Journal
from app.log import positions
from app.outbox import Outbox
from app.requestor import CONNECT_SECONDS
from app.sender import Courier, Outcome, reference_of
from app.stow import StowCourier
from app.tally import DeliveryOutcome, DeliveryTally

LOGGER = logging.getLogger(__name__)

_PAUSE_SECONDS = 5.0


class Sender:
    """Delivers what the outbox owes, each destination in its own thread, so that one that is down holds up none."""

    def __init__(
        self,
        config: SenderConfig,
        journal: Journal,
        outbox: Outbox,
        now: Callable[[], float] = time.time,
        trail: AuditTrail | None = None,
        steady: Callable[[], float] = time.monotonic,
        tally: DeliveryTally | None = None,
    ) -> None:
        """`now` is in seconds since 1970, as next attempts outlive the process; `trail` is told what went.

        `steady` is in seconds too, and jumps with no clock: by it a thread that is stuck is seen.
        """
        self._runs = [
            _Run(destination, config, journal, outbox, now, trail, tally, Heartbeat(steady), Outage(steady))
            for destination in config.destinations
        ]

    def start(self) -> None:
        """Begin, with what is owed from before."""
        for run in self._runs:
            run.start()

    def is_alive(self) -> bool:
        """Say whether every destination's thread is at work, and none was seen stuck; from any thread."""
        return all(run.thread.is_alive() and not run.heartbeat.is_stuck for run in self._runs)

    def revive(self) -> None:
        """Start the threads anew that ended by themselves, look for stuck ones, and tell of each in the log."""
        for run in self._runs:
            if not run.thread.is_alive():
                LOGGER.error("%s ended by itself; starting another", run.thread.name)
                run.start()
            if run.heartbeat.look():
                run.tell_stuck()

    def wake(self) -> None:
        """Look now: something new is owed."""
        for run in self._runs:
            run.wake.set()

    def stop(self) -> None:
        """End within a second, or once a connection being made is given up; what was not delivered stays owed."""
        for run in self._runs:
            run.stop()
        for run in self._runs:
            run.end()


class _Run:
    """One destination's thread."""

    def __init__(
        self,
        destination: Destination,
        config: SenderConfig,
        journal: Journal,
        outbox: Outbox,
        now: Callable[[], float],
        trail: AuditTrail | None,
        tally: DeliveryTally | None,
        heartbeat: Heartbeat,
        outage: Outage,
    ) -> None:
        self._destination, self._config, self._now = destination, config, now
        self.heartbeat = heartbeat
        self._journal, self._outbox, self._trail = journal, outbox, trail
        self._tally, self._outage = tally, outage
        self._reports = Reports(journal, config, trail, tally)
        self._courier: Courier | StowCourier | None = None
        self._uncommitted = commitment.waiting_jobs(journal, destination.name)
        """Jobs of which something waits for commitment, as of the latest look."""
        self._record_fault: Callable[[str], None] | None = None
        """Writes down that what is under way failed, for an error that nobody foresaw."""
        self._fault = ""
        self._alone: set[int] = set()
        """Deliveries that were under way at such an error: each is sent by itself, so that one holds up none."""
        self._stopped = threading.Event()
        self.wake = threading.Event()
        self.thread = self._new_thread()

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._loop, name=f"sender-{self._destination.name}", daemon=True)

    def start(self) -> None:
        """Begin; or, after the thread ended by itself, begin again."""
        if self.thread.ident is not None:
            self.thread = self._new_thread()
        self.heartbeat.step()
        self.thread.start()

    def tell_stuck(self) -> None:
        """Tell that the thread is stuck, and where; or that it moves again."""
        name = self.thread.name
        if not self.heartbeat.is_stuck:
            LOGGER.warning("%s moves again", name)
            return
        seconds, place = self.heartbeat.since_step(), place_of(self.thread)
        LOGGER.error(
            "%s is stuck: for %.0f s it has not moved, longer than its time-outs allow, at %s; "
            "restart the node: what is owed stays owed, and nothing is lost",
            name, seconds, place,
        )  # fmt: skip

    def stop(self) -> None:
        """Ask the thread to end."""
        self._stopped.set()
        self.wake.set()
        courier = self._courier
        if courier is not None:
            courier.stop()

    def end(self) -> None:
        """Wait for the thread, as long as it may take, and tell what is still to be told."""
        if self.thread.is_alive():
            self.thread.join(CONNECT_SECONDS + 1.0)
        self._outage.over()

    def _loop(self) -> None:
        while not self._stopped.is_set():
            self.wake.clear()
            self.heartbeat.step()
            pause = self._round()
            self.heartbeat.step(pause)
            self.wake.wait(pause)

    def _round(self) -> float:
        """Do what is due, and return how long to wait: whatever goes wrong, the thread goes on."""
        name = self._destination.name
        try:
            self._write_fault()
            return self._deliver_due()
        except NodeError as error:
            LOGGER.error("%s: %s", name, error)
        except Exception as error:  # noqa: BLE001 - one file, or one answer, must not end a destination's delivery
            # Its text may quote a dataset.
            LOGGER.error("%s: %s at %s", name, type(error).__name__, positions(error.__traceback__))
            self._fault = f"an error of the node ({type(error).__name__}): its log tells the place"
        return _PAUSE_SECONDS

    def _write_fault(self) -> None:
        """Count an error that nobody foresaw as a failed attempt of what was under way; it waits as after any other."""
        record, why = self._record_fault, self._fault
        self._record_fault, self._fault = None, ""
        if record is not None and why:
            record(why)

    def _deliver_due(self) -> float:
        """Try what is due; return how long to wait: never long, as a person may put something back meanwhile."""
        self._outage.look()
        if due := self._journal.due(self._destination.name, self._config.longest_retry_seconds):
            self._deliver(self._together(due))
        times = [self._journal.next_attempt(self._destination.name), self._see_to_commitment()]
        soonest = min((at for at in times if at is not None), default=None)
        return _PAUSE_SECONDS if soonest is None else max(0.0, min(soonest - self._now(), _PAUSE_SECONDS))

    def _together(self, due: Sequence[DeliveryRow]) -> Sequence[DeliveryRow]:
        """Return as many of these as may go in one batch."""
        first = next((n for n, row in enumerate(due) if row.delivery_id in self._alone), len(due))
        return due[: max(first, 1)]

    def _see_to_commitment(self) -> float | None:
        """Ask for what is due, one job; return when to look again.

        Reports come to another process too: what they settled meanwhile leaves the outbox here.
        """
        peer, before = self._destination, self._uncommitted
        if peer.commitment is not None:
            longest = max(peer.commitment.longest_timeout_seconds, self._config.longest_retry_seconds)
            if rows := commitment.to_ask(self._journal, peer.name, longest):
                before = before | {row.job_id for row in rows}
                self._ask(peer.commitment, rows)
        elif before:
            self._count("delivered", commitment.believe(self._journal, peer.name))
        else:
            return None
        waiting = commitment.waiting_jobs(self._journal, peer.name)
        for job_id in before - waiting:
            self.heartbeat.step()
            self._outbox.forget_delivered(job_id)
        self._uncommitted = waiting
        return commitment.next_ask(self._journal, peer.name)

    def _ask(self, config: CommitmentConfig, rows: Sequence[DeliveryRow]) -> None:
        peer, sender = self._destination, self._config
        request_uid = generate_uid(prefix=None)
        self._courier = courier = self._new_courier()
        if self._stopped.is_set():
            return
        commitment.begin(self._journal, rows, request_uid, config.patience)
        self._record_fault = lambda why: commitment.not_asked(self._journal, request_uid, why, sender.pause)
        take = partial(self._reports.handle_of, destinations=[peer.name], peer=_party(peer))
        waits = partial(commitment.is_open, self._journal, request_uid)
        references = [(row.sop_class, row.sop_instance) for row in rows]
        try:
            why = courier.ask(request_uid, references, take, waits, config.stay_seconds)
        except KindsRefused:
            why = "does not offer storage commitment: switch it on there, or take `commitment` off this destination"
        except PeerError as error:
            why = str(error)
            self._not_reached(error, rows)
        else:
            self._outage.over()
        finally:
            self._courier = None
        self._record_fault = None
        if why and not self._stopped.is_set():
            LOGGER.warning("%s: %s", peer.name, why)
            commitment.not_asked(self._journal, request_uid, why, sender.pause)

    def _deliver(self, due: Sequence[DeliveryRow]) -> None:
        config, peer = self._config, self._destination
        left = {delivery.delivery_id for delivery in due}
        self._record_fault = partial(self._failed_unforeseen, left)
        waiting = {self._outbox.path_of(delivery): delivery for delivery in due}
        courier: Courier | StowCourier
        if peer.stow is None:
            courier = self._new_courier()
        else:
            courier = StowCourier(peer.name, peer.stow, config.network_timeout_seconds, self.heartbeat.step)
        self._courier = courier
        # Looked at after the courier is in its place: `stop` either finds it there, or is seen here.
        if self._stopped.is_set():
            return

        went: dict[str, Transfer] = {}

        def settle(outcome: Outcome) -> None:
            self.heartbeat.step()
            delivery = waiting[outcome.path]
            if self._trail is not None:
                study = self._journal.study_of(delivery.job_id)
                sop_class = reference_of(outcome.path)[0] if outcome.delivered else ""
                went.setdefault(study, Transfer(study)).count(sop_class, kept=outcome.delivered)
            self._settle(delivery, outcome)
            left.remove(delivery.delivery_id)

        try:
            courier.send(list(waiting), settle)
            self._outage.over()
        except PeerError as error:
            if not self._stopped.is_set():
                LOGGER.warning("%s: %s", peer.name, error)
                allowed = config.refusals_allowed if isinstance(error, KindsRefused) else None
                self._not_delivered(sorted(left), str(error), allowed)
                self._not_reached(error, [delivery for delivery in due if delivery.delivery_id in left])
        finally:
            self._courier = None
            if self._trail is not None and went:
                self._trail.sent(_party(peer), went.values())
        self._record_fault = None
        self._alone.difference_update(row.delivery_id for row in due)
        for job_id, _ in groupby(sorted(delivery.job_id for delivery in due)):
            self.heartbeat.step()
            self._outbox.forget_delivered(job_id)

    def _not_reached(self, error: PeerError, lacking: Sequence[DeliveryRow]) -> None:
        """Have the trail told that nothing of these reached the destination."""
        trail, peer = self._trail, _party(self._destination)
        if trail is None or self._stopped.is_set():
            return
        if isinstance(error, PeerUntrusted):
            self._outage.failed("untrusted", str(error), partial(trail.not_trusted, peer))
            return
        jobs = sorted({row.job_id for row in lacking})

        def write(told: str) -> None:
            trail.not_sent(peer, list(dict.fromkeys(map(self._journal.study_of, jobs))), told)

        self._outage.failed("away", str(error), write)

    def _new_courier(self) -> Courier:
        sender = self._config
        return Courier(self._destination, sender.calling_ae_title, sender.network_timeout_seconds, self.heartbeat.step)

    def _failed_unforeseen(self, left: Collection[int], why: str) -> None:
        """Count a failed attempt of what a batch had left; it is never given up for this, as it is no refusal."""
        self._alone.update(left)
        self._not_delivered(sorted(left), why)

    def _settle(self, delivery: DeliveryRow, outcome: Outcome) -> None:
        """Write one file's fate down as soon as it is known, so that a crash sends it at most once more."""
        name = self._destination.name
        if outcome.delivered and self._destination.commitment is not None:
            commitment.stored(self._journal, delivery.delivery_id, outcome.note, *reference_of(outcome.path))
            LOGGER.info("%s took %s of job %s %s", name, delivery.file, delivery.job_id, outcome.note)
        elif outcome.delivered:
            self._journal.delivered(delivery.delivery_id, outcome.note)
            self._count("delivered")
            LOGGER.info("%s has %s of job %s %s", name, delivery.file, delivery.job_id, outcome.note)
        elif not self._stopped.is_set():
            allowed = self._config.refusals_allowed if outcome.for_good else None
            self._not_delivered([delivery.delivery_id], outcome.note, allowed)
            LOGGER.warning("%s lacks %s of job %s: %s", name, delivery.file, delivery.job_id, outcome.note)

    def _not_delivered(self, deliveries: Sequence[int], why: str, refusals_allowed: int | None = None) -> None:
        dead = self._journal.not_delivered(deliveries, why, self._next, refusals_allowed)
        self._count("failed", len(deliveries) - dead)
        self._count("dead", dead)

    def _count(self, outcome: DeliveryOutcome, number: int = 1) -> None:
        if self._tally is not None:
            self._tally.count(self._destination.name, outcome, number)

    def _next(self, failures: int) -> float:
        """Return when to try again."""
        return self._now() + self._config.pause(failures)


def _party(destination: Destination) -> Party:
    """Return a destination as the trail calls it: a web service, which has no title, by its name."""
    stow = destination.stow
    return Party(destination.ae_title, destination.host) if stow is None else Party(destination.name, stow.host)
