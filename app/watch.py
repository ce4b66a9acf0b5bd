"""Watches the node for what never ends: a study in the graph, or the main loop's own round.

A thread in native code cannot be ended, so a node that hangs starts itself anew: what was in the graph is processed
again from the journal, each study that was in it alone.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from operators.stage import Job

LOGGER = logging.getLogger(__name__)

_LAST_RESORT_SECONDS = 60.0
"""Code that hangs without letting any other thread run is ended this much later, by a timer outside Python."""


def start_anew() -> None:
    """Replace this process with a fresh one of the same command and number; never returns."""
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - no shell is wanted


@dataclass(frozen=True)
class Hung:
    """What takes too long."""

    jobs: tuple[Job, ...]
    """Those that are overdue in the graph; none when it is the main loop."""


class Watch:
    """Knows what is in the graph since when; its thread calls `on_hang`, once, when something is overdue."""

    def __init__(
        self, limit_seconds: float, on_hang: Callable[[Hung], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit, self._on_hang, self._now = limit_seconds, on_hang, now
        self._begun: dict[str, tuple[float, Job]] = {}
        self._round = self._armed_until = now()
        self._guard = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="watch", daemon=True)

    def __len__(self) -> int:
        """How many jobs are in the graph."""
        with self._guard:
            return len(self._begun)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._ended.set()
        faulthandler.cancel_dump_traceback_later()

    def round(self) -> None:
        """Say that the main loop goes round."""
        self._round = self._now()
        if self._round < self._armed_until:
            return
        # Not in every round: each time a thread is made anew.
        self._armed_until = self._round + min(_LAST_RESORT_SECONDS, self._limit) / 10
        # Tells where each thread stands, functions and lines only, and ends the process.
        faulthandler.dump_traceback_later(self._limit + _LAST_RESORT_SECONDS, exit=True)

    def since_round(self) -> float:
        """Return for how many seconds the main loop has not gone round."""
        return self._now() - self._round

    def begin(self, job: Job) -> None:
        """Say that a job enters the graph."""
        with self._guard:
            self._begun[job.job_id] = (self._now(), job)

    def end(self, job_id: str) -> None:
        """Say that a job left it."""
        with self._guard:
            self._begun.pop(job_id, None)

    def hung(self) -> Hung | None:
        """Return what takes longer than the limit, if anything does."""
        with self._guard:
            jobs = tuple(job for begun, job in self._begun.values() if self._now() - begun > self._limit)
        return Hung(jobs) if jobs or self.since_round() > self._limit else None

    def _loop(self) -> None:
        while not self._ended.wait(min(1.0, self._limit / 10)):
            if (hung := self.hung()) is not None:
                self._on_hang(hung)
                return
