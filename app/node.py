"""The node: starts and watches receiver, graph and sender, hands jobs over, drains on SIGTERM.

A study that takes the node or its worker process down is tried again, alone; one that does so too often is quarantined.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from typing import Any

from app import metrics
from app.audit import TRAIL, AuditTrail
from app.audit_forward import open_forwarder
from app.audit_jobs import JobEndings
from app.backlog import figures
from app.config import Settings
from app.data_lock import DataLock
from app.delivery import Sender
from app.errors import NodeError
from app.history import History
from app.inbox import Inbox, ReadyJob
from app.journal import Journal
from app.operation import OperationServer
from app.outbox import Outbox
from app.pipeline import has_all_contrasts
from app.process import open_pipeline
from app.receiver import DRAIN_SECONDS
from app.reception import Reception
from app.retention import Retention
from app.settling import Settling
from app.signals import stop_asked
from app.storage import Storage, why
from app.watch import Hung, Watch
from operators.stage import Job

LOGGER = logging.getLogger(__name__)


class Node:
    """One running node; `start`, then `run_until_stopped`."""

    def __init__(
        self, settings: Settings, start_anew: Callable[[], None] | None = None, wait_seconds: float = 0.0
    ) -> None:
        """Open the model, journal and folders.

        Raises NodeError with the remedy where one cannot be, Stopped where it was asked to stop while it waited.

        `start_anew` replaces the process when it hangs; without it the process ends then. A node that runs on the
        same data folder is waited for.
        """
        self._settings, self._start_anew = settings, start_anew
        self._reception = Reception(settings)
        deliveries = self._reception.tally.deliveries
        self._times = metrics.StageTimes()
        self._watch = Watch(settings.pipeline.timeout_seconds, self._end_hung)
        self._lock = DataLock(settings.data_dir, wait_seconds)
        self._journal = Journal(settings.journal_path)
        self._outbox = Outbox(settings, self._journal, deliveries)
        self._inbox = Inbox(settings, self._journal, partial(has_all_contrasts, rules=settings.series_rules))
        self._retention = Retention(settings, self._journal)
        self._trail, self._endings = None, None
        if settings.audit.enabled:
            self._trail = AuditTrail(settings.data_dir / TRAIL, settings.receiver.ae_title)
            self._endings = JobEndings(self._journal, self._trail, settings.data_dir)
        self._forwarder = open_forwarder(settings)
        self._sender = Sender(settings.sender, self._journal, self._outbox, trail=self._trail, tally=deliveries)
        self._storage = Storage(settings.data_dir, settings.receiver.free_space_watermark_mb)
        self._settling = Settling(
            settings, self._journal, self._inbox, self._outbox, self._storage, self._times, self._sender.wake
        )
        self._history = History(settings.archive_dir, settings.history, self._trail)
        self._pipeline = open_pipeline(settings, self._settle, self._history.find)
        self._graph: Future[Any] | None = None
        self._operation: OperationServer | None = None
        self._stopping = self._ending = False

    @property
    def port(self) -> int:
        """The one that the receiver got."""
        return self._reception.port

    def start(self) -> None:
        """Put right what a crash left, then listen; raises NodeError, with all stopped again, where that fails."""
        self._retention.reconcile()
        for job in self._inbox.reconcile():
            LOGGER.warning("job %s was interrupted and is %s", job.job_id, job.state)
        self._outbox.reconcile()
        with ExitStack() as otherwise:
            # A graph left running would keep the process alive, deaf to the stop signals that are blocked.
            otherwise.callback(self.stop)
            if self._settings.operation.port:
                self._operation = OperationServer(self._settings.operation, self.readiness, self.metrics)
            self._graph = self._pipeline.run_async()
            self._reception.start()
            self._sender.start()
            if self._trail is not None:
                self._trail.started()
            if self._forwarder is not None:
                self._forwarder.start()
            self._watch.round()
            self._watch.start()
            otherwise.pop_all()

    def run_until_stopped(self) -> None:
        """Serve until SIGTERM or SIGINT, then finish what is being analysed."""
        try:
            while not stop_asked(self._settings.inbox.poll_seconds):
                self._tick()
        finally:
            self.stop()

    def stop(self) -> None:
        """Take no more, finish what is in the graph, end all processes; what waits stays on disk."""
        self._stopping = True
        LOGGER.info("stopping; %d studies are finished first", len(self._watch))
        self._reception.drain()
        try:
            if self._graph is not None:
                self._pipeline.drain()
                self._graph.result()
                self._settling.give_up()
                self._inbox.give_back()
        finally:
            self._reception.end(2 * DRAIN_SECONDS)
            self._watch.stop()
            if self._operation is not None:
                self._operation.close()
            self._pipeline.close()
            self._sender.stop()
            self._history.close()
            if self._endings is not None:
                self._endings.step()
            self._journal.close()
            if self._trail is not None and self.port:
                self._trail.stopped()
            if self._forwarder is not None:
                self._forwarder.stop()
            self._lock.release()

    def readiness(self) -> dict[str, bool]:
        """Say what of that which the node needs is there; from any thread."""
        return {
            "receiver": not self._stopping and self._reception.is_well(),
            "graph": self._graph is not None and not self._graph.done(),
            "sender": self._sender.is_alive(),
            "disk": self._storage.has_room(),
            "storage": self._storage.is_well,
            # A node whose model cannot be opened does not come to be.
            "model": True,
        }

    def metrics(self) -> str:
        """Return the node in numbers, for Prometheus; from any thread."""
        return metrics.write_metrics(
            figures(self._journal),
            [destination.name for destination in self._settings.sender.destinations],
            self._reception.tally.read(),
            self._reception.tally.deliveries.read(),
            self._times,
            {
                "node": os.getpid(),
                **metrics.processes_of("receiver", self._reception.pid),
                "worker": self._pipeline.worker_pid,
                "decoder": self._pipeline.decoder_pid,
            },
            self._settings.data_dir,
            ready=all(self.readiness().values()),
            associations=self._reception.tally.associations,
            rejected=self._reception.tally.rejected,
        )

    def _tick(self) -> None:
        """Hand over what is complete, as far as there is room; watch over receiver, graph and sender."""
        self._watch.round()
        if self._ending:
            # The receiver is being ended; another would outlive this process's image, and keep its port.
            return
        if self._graph is not None and self._graph.done():
            self._graph.result()
            raise NodeError("the graph ended by itself; start the node again")
        self._reception.revive()
        self._sender.revive()
        if self._storage.may_try():
            self._go_on()
        try:
            self._retention.step()
        except (OSError, NodeError) as error:
            self._storage.failed("what is over could not be removed", why(error))
        if self._endings is not None:
            self._endings.step()

    def _go_on(self) -> None:
        """Settle what waits for the disk, and hand over what is complete; none where that could not be written."""
        try:
            self._settling.again()
            at_once = self._settings.pipeline.studies_at_once if self._storage.has_room() else 0
            for ready in self._inbox.poll(at_once - len(self._watch)):
                self._hand_over(ready)
        except (OSError, NodeError) as error:
            self._storage.failed("inbox, results or journal could not be written", why(error))
        else:
            self._storage.went_well()

    def _hand_over(self, ready: ReadyJob) -> None:
        job = Job(ready.job_id, ready.input_folder, ready.output_folder)
        self._watch.begin(job)
        self._pipeline.put(job)

    def _settle(self, job: Job) -> None:
        """Record how a job ended; called in the graph."""
        try:
            self._settling.settle(job)
        finally:
            self._watch.end(job.job_id)

    def _end_hung(self, hung: Hung) -> None:
        """End this process, which cannot go on, and start another in its place; the journal knows what was in it."""
        self._ending = True
        try:
            for job in hung.jobs:
                last = next(reversed(job.seconds), "none")
                limit = self._settings.pipeline.timeout_seconds
                self._settling.lost(job, "hung", f"still in the graph after {limit:.0f} s, behind stage {last}", "")
            LOGGER.error("the node hangs in %s", "the graph" if hung.jobs else "its main loop")
            self._reception.end(10.0)
            self._pipeline.close()
        except (OSError, NodeError) as error:
            LOGGER.error("on ending a node that hangs: %s", error)
        if self._start_anew is not None and not self._stopping:
            LOGGER.error("the node starts anew")
            self._start_anew()
        os._exit(3)
