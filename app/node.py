"""The node: starts and watches receiver, graph and sender, hands jobs over, drains on SIGTERM."""

from __future__ import annotations

import json
import logging
import multiprocessing
import time
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any

from app.config import Settings
from app.errors import NodeError
from app.files import SUMMARY, private_folder
from app.history import History
from app.inbox import Inbox, ReadyJob
from app.journal import Journal
from app.outbox import Outbox
from app.pipeline import has_all_contrasts
from app.process import open_pipeline
from app.receiver import run_receiver
from app.sender import Sender
from app.signals import stop_asked
from app.summary import describe_job
from operators.segmentation_form import LABELMAP_TWINS
from operators.stage import Job

LOGGER = logging.getLogger(__name__)

RECEIVER_START_SECONDS = 20.0
"""How long a receiver may take to listen; after a crash the port of the last one frees up a little later."""


class Node:
    """One running node; `start`, then `run_until_stopped`."""

    def __init__(self, settings: Settings) -> None:
        """Open the model, journal and folders; raises NodeError with the remedy where one cannot be."""
        self._settings = settings
        private_folder(settings.data_dir)
        self._journal = Journal(settings.journal_path)
        self._outbox = Outbox(settings, self._journal)
        self._inbox = Inbox(settings, self._journal, partial(has_all_contrasts, rules=settings.series_rules))
        self._sender = Sender(settings.sender, self._journal, self._outbox)
        self._pipeline = open_pipeline(settings, self._settle, History(settings.archive_dir, settings.history).find)
        self._graph: Future[Any] | None = None
        self._receiver: BaseProcess | None = None
        self._in_flight: set[str] = set()
        self._broken: str = ""
        self.port = 0

    def start(self) -> None:
        """Put right what a crash left, then listen; raises NodeError, with all stopped again, where that fails."""
        for job in self._inbox.reconcile():
            LOGGER.warning("job %s was interrupted and is %s", job.job_id, job.state)
        self._outbox.reconcile()
        with ExitStack() as otherwise:
            # A graph left running would keep the process alive, deaf to the stop signals that are blocked.
            otherwise.callback(self.stop)
            self._graph = self._pipeline.run_async()
            self._start_receiver()
            self._sender.start()
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
        LOGGER.info("stopping; %d studies are finished first", len(self._in_flight))
        if self._receiver is not None:
            self._receiver.terminate()
            self._receiver.join(10.0)
        try:
            if self._graph is not None:
                self._pipeline.drain()
                self._graph.result()
        finally:
            self._pipeline.close()
            self._sender.stop()
            self._journal.close()

    def _tick(self) -> None:
        """Hand over what is complete, as far as there is room; watch over receiver and graph."""
        if self._broken:
            raise NodeError(self._broken)
        if self._graph is not None and self._graph.done():
            self._graph.result()
            raise NodeError("the graph ended by itself; start the node again")
        if self._receiver is not None and not self._receiver.is_alive():
            LOGGER.error("the receiver ended with status %s; starting another", self._receiver.exitcode)
            self._start_receiver()
        room = self._settings.pipeline.studies_at_once - len(self._in_flight)
        for ready in self._inbox.poll(room):
            self._hand_over(ready)

    def _hand_over(self, ready: ReadyJob) -> None:
        self._in_flight.add(ready.job_id)
        self._pipeline.put(Job(ready.job_id, ready.input_folder, ready.output_folder))

    def _start_receiver(self) -> None:
        """Spawn the receiver's process and wait until it listens."""
        spawn = multiprocessing.get_context("spawn")
        until = time.monotonic() + RECEIVER_START_SECONDS
        while True:
            listening, told = spawn.Pipe(duplex=False)
            self._receiver = spawn.Process(target=run_receiver, args=(self._settings, told), name="receiver")
            self._receiver.start()
            told.close()
            try:
                self.port = listening.recv()
            except EOFError:
                self._receiver.join()
            else:
                return
            if time.monotonic() > until:
                port = self._settings.receiver.port
                raise NodeError(f"the receiver cannot listen on port {port}; `python -m app doctor` tells more")
            time.sleep(1.0)

    def _settle(self, job: Job) -> None:
        """Record how a job ended; called in the graph, so what fails here is kept for the main thread to raise."""
        try:
            if job.failure is None:
                self._keep(job)
            else:
                self._journal.job_failed(job.job_id, job.failure.code, job.failure.message, job.failure.stage)
                LOGGER.warning("job %s failed: %s", job.job_id, job.failure.message)
            self._inbox.release(job.job_id)
        except (OSError, NodeError) as error:
            # Not recorded, so not lost: the job is taken up again when the node restarts.
            self._broken = f"job {job.job_id} could not be settled: {error}"
        finally:
            self._in_flight.discard(job.job_id)

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
        self._sender.wake()
