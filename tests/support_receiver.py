"""The receiver as the node runs it, in processes of its own, and peers that hold associations with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import psutil
from pynetdicom.association import Association
from pynetdicom.sop_class import MRImageStorage, Verification

from app.config import Settings
from app.receiver import DRAIN_SIGNAL, run_receiver
from app.tally import Tally
from tests.support_dicom import PEER_TITLE
from tests.support_peer import associate

PATIENCE_SECONDS = 20.0


def until(condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    """Wait until something holds; return it, or what it was in the end."""
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


class RunningReceiver:
    """One in processes of its own; `target` may spoil something in them first."""

    def __init__(self, settings: Settings, target: Callable[..., None] = run_receiver) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.tally = Tally(spawn, settings.receiver.process_count)
        self.told, theirs = spawn.Pipe(duplex=False)
        self.process = spawn.Process(target=target, args=(settings, theirs, self.tally), name="receiver")
        self.process.start()
        theirs.close()
        self.port = 0

    def listen(self) -> RunningReceiver:
        """Wait until it listens; EOFError where it cannot."""
        self.port = self.told.recv()
        return self

    @property
    def parts(self) -> list[psutil.Process]:
        """The processes that serve beside the one that listens, in their order."""
        return psutil.Process(self.process.pid).children()

    def associate(self, source: str = "127.0.0.1", calling: str = PEER_TITLE, **more: Any) -> Association:
        return associate(self.port, MRImageStorage, Verification, source=source, calling=calling, **more)

    def associate_in_time(self, source: str = "127.0.0.1", **more: Any) -> Association:
        """Associate as soon as there is room: who ended a moment ago may be counted still."""

        def established() -> Association | None:
            association = self.associate(source, **more)
            return association if association.is_established else None

        return until(established)

    def drain(self) -> None:
        os.kill(self.process.pid, DRAIN_SIGNAL)

    def stop(self) -> int | None:
        """End it as the node does; return its exit status."""
        self.process.terminate()
        self.process.join(PATIENCE_SECONDS)
        return self.process.exitcode

    def end(self) -> None:
        parts = self.parts if self.process.is_alive() else []
        for part in parts:
            part.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.join()
        psutil.wait_procs(parts, PATIENCE_SECONDS)
