"""One Job through every stage: what a stage is, and how the graph is fed.

A raise inside a Holoscan operator stops the whole graph and loses the other studies in it; so a stage writes
its failure into the Job, later stages pass it on, and the last one settles it.
"""

from __future__ import annotations

import errno
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from holoscan.conditions import AsynchronousCondition, AsynchronousEventState
from monai.deploy.core import Fragment, Operator, OperatorSpec

from operators.domain import (
    Attention,
    Check,
    Earlier,
    Findings,
    Marker,
    Predecessor,
    Selection,
    Stack,
    Study,
    TumourMap,
    Volumes,
)
from operators.errors import NO_ROOM, PipelineError, StudyRejected
from operators.job_log import at_work_on
from operators.network_view import NetworkView

LOGGER = logging.getLogger(__name__)
Product = TypeVar("Product")

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


@dataclass(frozen=True)
class Failure:
    """Why a job ended without a result; `message` holds no patient identity."""

    stage: str
    code: str
    message: str
    not_assessable: bool = False
    """The images cannot be used and the sender must act; else the fault is ours."""


@dataclass
class Job:
    """One revision of one study on its way through the graph: what goes in, and what each stage adds."""

    job_id: str
    study_folder: Path
    """Holds the study's instances, nothing else; never written to."""
    output_folder: Path
    """Where result objects are written; exists and is empty when the job starts."""
    study: Study | None = None
    selection: Selection | None = None
    volumes: Volumes | None = None
    stack: Stack | None = None
    notes: tuple[str, ...] = ()
    """What a reader should know of how the series were read."""
    checks: tuple[Check, ...] = ()
    view: NetworkView | None = None
    """What the segmenting network sees; dropped once markers have been read from it too."""
    tumour: TumourMap | None = None
    engine: str = ""
    """What ran the segmenting network: engine, version, device and precision."""
    markers: tuple[Marker, ...] = ()
    attention: tuple[Attention, ...] = ()
    """Where the networks of assessed markers looked; they do not make the answers in `markers`."""
    earlier: Earlier | None = None
    depends_on: tuple[str, ...] = ()
    """What else than images and models the results depend on: digests of the settings that stages worked by."""
    predecessors: tuple[Predecessor, ...] = ()
    """Documents of this node on the same study, the latest first."""
    replaces: Predecessor | None = None
    """The report that this job's report stands in for."""
    made_at: datetime | None = None
    """When the results were made, once one of them is."""
    findings: Findings | None = None
    results: dict[str, Path] = field(default_factory=dict)
    """Files written, by what they are: "SEG T1C", "SEG FLAIR", "measurements SR", "SR", "PDF", "key image" and, of a
    marker's network, "attention NAME", each picture also as "... SC"; those of `segmentation_form.LABELMAP_TWINS` and
    "SEG T1C probability" where they are asked for."""
    failure: Failure | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock time of each stage by its name."""

    def fail(self, stage: str, error: Exception) -> None:
        """Record why the job ended; only our own errors' texts are kept, as others may quote a header."""
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            self.failure = Failure(stage, NO_ROOM, os.strerror(error.errno))
        elif isinstance(error, PipelineError):
            self.failure = Failure(stage, error.code, str(error), isinstance(error, StudyRejected))
        else:
            self.failure = Failure(stage, "internal-error", f"{type(error).__name__} in {stage}; see the node's log")


def needed(product: Product | None) -> Product:
    """Return an earlier stage's product; its absence is a wiring fault."""
    if product is None:
        raise RuntimeError("a stage ran before the one it needs")
    return product


class StageOperator(Operator):
    """One Job in, one Job out, whatever happens; a stage writes `process`."""

    def setup(self, spec: OperatorSpec) -> None:
        """Name the ports."""
        spec.input("job")
        spec.output("job_out")

    def process(self, job: Job) -> None:
        """Add this stage's product to the job, or raise."""
        raise TypeError(f"{type(self).__name__} has no process()")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Run the stage unless an earlier one failed; hand the job on either way."""
        job: Job = op_input.receive("job")
        run_stage(self.name, self.process, job)
        op_output.emit(job, "job_out")


def run_stage(name: str, process: Callable[[Job], None], job: Job) -> None:
    """Run one stage on a job: time it, and turn whatever it raises into the job's failure."""
    if job.failure is not None:
        return
    begun = time.perf_counter()
    try:
        with at_work_on(job.job_id):
            process(job)
    except Exception as error:  # noqa: BLE001 - the job boundary: one study never stops another
        job.fail(name, error)
        if isinstance(error, PipelineError):
            LOGGER.warning("job %s: %s rejected it: %s", job.job_id, name, error)
        else:
            # Only where it happened: a foreign error's text may quote a header, and so the patient.
            LOGGER.error("job %s: %s failed: %s at %s", job.job_id, name, type(error).__name__, _place(error))
    finally:
        job.seconds[name] = time.perf_counter() - begun


def _place(error: Exception) -> str:
    """File and line of each frame of a traceback, without the error's text."""
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " > ".join(frames)


class QueueSource(Operator):
    """Feeds jobs into the graph; sleeps without polling until `put` or `drain` wakes it."""

    def __init__(self, fragment: Fragment, *args: Any, **kwargs: Any) -> None:
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._draining = threading.Event()
        self._wake = AsynchronousCondition(fragment, name="wake")
        self._wake.event_state = AsynchronousEventState.EVENT_WAITING
        super().__init__(fragment, self._wake, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Name the port."""
        spec.output("job_out")

    def put(self, job: Job) -> None:
        """Queue a job, from any thread."""
        self._jobs.put(job)
        self._wake.event_state = AsynchronousEventState.EVENT_DONE

    def drain(self) -> None:
        """Let what is queued run through, then end the graph; from any thread."""
        self._draining.set()
        self._wake.event_state = AsynchronousEventState.EVENT_DONE

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Emit the next job, if any."""
        # Waiting first, looking second: a put between the two sets EVENT_DONE again, so none is missed.
        self._wake.event_state = AsynchronousEventState.EVENT_WAITING
        try:
            job = self._jobs.get_nowait()
        except queue.Empty:
            if self._draining.is_set():
                self._wake.event_state = AsynchronousEventState.EVENT_NEVER
            return
        self._wake.event_state = AsynchronousEventState.EVENT_DONE
        op_output.emit(job, "job_out")


class SettleOperator(Operator):
    """The graph's end: hands each job, done or failed, to `on_settled`."""

    def __init__(self, fragment: Fragment, *args: Any, on_settled: Callable[[Job], None], **kwargs: Any) -> None:
        self._on_settled = on_settled
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Name the port."""
        spec.input("job")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Settle one job."""
        self._on_settled(op_input.receive("job"))
