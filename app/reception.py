"""The receiver, seen from the node: its processes are started, watched, replaced and ended here."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from contextlib import suppress
from multiprocessing.process import BaseProcess

from app.beats import HUNG_SECONDS, LATE_SECONDS, Pulse
from app.config import Settings
from app.errors import NodeError
from app.metrics import processes_of
from app.receiver import DRAIN_SIGNAL, run_receiver
from app.tally import Tally

LOGGER = logging.getLogger(__name__)

START_SECONDS = 20.0
"""For so long a receiver that ends at once is tried again: after a crash the port of the last one frees up later."""
SILENT_SECONDS = 60.0
"""A receiver that by then neither listens nor ends hangs; its libraries come off a busy disk in less."""
_PACE_SECONDS = 1.0
"""Of the node's main loop, where its settings do not say more: it has other work too."""


class Reception:
    """The receiver's processes; `port` is the one that it got. All but `is_well` is for the node's main thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._spawn = multiprocessing.get_context("spawn")
        destinations = [destination.name for destination in settings.sender.destinations]
        self.tally = Tally(self._spawn, settings.receiver.process_count, destinations)
        self._process: BaseProcess | None = None
        self._pulse: Pulse | None = None
        self.port = 0

    @property
    def pid(self) -> int | None:
        """Number of the process that listens."""
        return self._process.pid if self._process is not None else None

    def is_well(self) -> bool:
        """Say whether it listens, and all of it moves; from any thread.

        It is not connected to: that would take a peer's place, and over TLS be one that broke off its handshake.
        """
        process, pulse = self._process, self._pulse
        return process is not None and pulse is not None and process.is_alive() and max(pulse.look()) <= LATE_SECONDS

    def start(self) -> None:
        """Spawn its process and wait until it listens; raises NodeError where it does not come to that."""
        self._pulse = None
        until = time.monotonic() + START_SECONDS
        while not self._spawn_one():
            if time.monotonic() > until:
                port = self._settings.receiver.port
                raise NodeError(f"the receiver cannot listen on port {port}; `python -m app doctor` tells more")
            time.sleep(1.0)
        self._pulse = Pulse(self.tally.beats, max(_PACE_SECONDS, self._settings.inbox.poll_seconds))

    def revive(self) -> None:
        """Start another where it has ended, or is killed now as it hangs; raises as `start`."""
        if self._process is None:
            return
        if not self._process.is_alive():
            LOGGER.error("the receiver ended with status %s; starting another", self._process.exitcode)
            self.start()
        elif self._pulse is not None and (still := self._pulse.look()[self._pulse.main]) > HUNG_SECONDS:
            LOGGER.error("the receiver hangs: it has not moved for %.0f s, and is killed", still)
            # What a kill does not end at once waits for a disk: it is not ready meanwhile, and replaced when it ends.
            self._pulse = None
            self._kill()

    def drain(self) -> None:
        """Let peers finish what they are sending, and tell others to come again."""
        if self.pid is not None and self._process is not None and self._process.is_alive():
            os.kill(self.pid, DRAIN_SIGNAL)

    def end(self, seconds: float) -> None:
        """End it, in order if that takes no longer than this: what it answered is on disk."""
        if self._process is not None:
            self._process.terminate()
            self._process.join(seconds)
            self._kill()

    def _spawn_one(self) -> bool:
        """Spawn its process and wait until it listens; False where it ended instead, NodeError if it does neither."""
        listening, told = self._spawn.Pipe(duplex=False)
        arguments = (self._settings, told, self.tally)
        self._process = process = self._spawn.Process(target=run_receiver, args=arguments, name="receiver")
        process.start()
        told.close()
        with listening:
            if not listening.poll(SILENT_SECONDS):
                self._kill()
                raise NodeError(
                    f"the receiver hangs at its start: for {SILENT_SECONDS:.0f} s it neither listened nor ended. It is "
                    "killed; does the disk of node.data_dir answer, and is the machine not overloaded?"
                )
            try:
                self.port = listening.recv()
            except EOFError:
                process.join()
                return False
        return True

    def _kill(self) -> None:
        """Kill all of its processes; first those that it forked: one that is stopped would not see that it is alone."""
        process = self._process
        if process is None or not process.is_alive():
            return
        for pid in reversed(processes_of("receiver", process.pid).values()):
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
