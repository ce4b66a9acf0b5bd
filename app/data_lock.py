"""One node on a data folder at a time: a second would take up what the first has in work.

The lock is the kernel's (flock): it goes with the process that holds it, however that ends.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from pathlib import Path

from app.errors import NodeError, Stopped
from app.files import private_folder
from app.signals import stop_asked

LOGGER = logging.getLogger(__name__)

NAME = "node.lock"
_LOOK_SECONDS = 0.2


class DataLock:
    """Held from its making until `release`, or the end of the process."""

    def __init__(self, folder: Path, wait_seconds: float = 0.0) -> None:
        """Take the lock of a data folder.

        Raises NodeError where another node has it for longer than the wait, Stopped where a stop signal came first.
        """
        self._file = os.open(private_folder(folder) / NAME, os.O_RDWR | os.O_CREAT, 0o600)
        until, told = time.monotonic() + wait_seconds, False
        while not self._take():
            holder = os.pread(self._file, 20, 0).decode("ascii", "replace").strip()
            if time.monotonic() >= until:
                os.close(self._file)
                raise NodeError(
                    f"another node (process {holder}) runs on {folder}; stop it, or set another node.data_dir; "
                    "`serve --wait SECONDS` waits for it to end"
                )
            if not told:
                LOGGER.info("waiting for the node that runs on %s (process %s) to end", folder, holder)
                told = True
            if stop_asked(_LOOK_SECONDS):
                os.close(self._file)
                raise Stopped(f"asked to stop while it waited for process {holder}")
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, str(os.getpid()).encode("ascii"), 0)

    def release(self) -> None:
        """Let another node in."""
        os.close(self._file)

    def _take(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
