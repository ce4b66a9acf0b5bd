"""Whether the disk under the data folder has room and takes what is written; tells so once, and paces new tries.

A node whose disk is full or failing goes on: it receives as long as there is room, keeps what it cannot write, and
tries again with growing pauses. Only the operator can end that, so the log says what to do, and /ready that it is so.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

LOGGER = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 300.0
"""Between two tries: doubles with each that fails in a row."""
_TELL_SECONDS = 3_600.0
"""A trouble that lasts, or comes and goes, is told this often."""


class Storage:
    """What is known of the disk; for any thread."""

    def __init__(self, folder: Path, watermark_mb: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._watermark_mb, self._monotonic = folder, watermark_mb, monotonic
        self._guard = threading.Lock()
        self._failures = 0
        self._next_try = self._told = -_TELL_SECONDS
        self._had_room = True
        self.is_well = True
        """The last thing that the node had to write could be written."""

    def has_room(self) -> bool:
        """Say whether more is free than the watermark; raises OSError where that cannot be known."""
        room = shutil.disk_usage(self._folder).free > self._watermark_mb * 1_000_000
        if not room and self._had_room:
            LOGGER.error(
                "less than %d MB are free where %s lies (node.receiver.free_space_watermark_mb): no study is begun, "
                "and what comes is refused with 0xA700, until there is room again; make room or move node.data_dir",
                self._watermark_mb,
                self._folder,
            )
        elif room and not self._had_room:
            LOGGER.info("there is room again where %s lies", self._folder)
        self._had_room = room
        return room

    def may_try(self) -> bool:
        """Say whether it is time to write, or to try again."""
        return self.is_well or self._monotonic() >= self._next_try

    def failed(self, what: str, why: str) -> None:
        """Note that something could not be written; neither text holds patient identity."""
        with self._guard:
            now = self._monotonic()
            self.is_well = False
            self._next_try = now + min(FIRST_PAUSE_SECONDS * 2.0 ** min(self._failures, 32), LONGEST_PAUSE_SECONDS)
            self._failures += 1
            if now - self._told < _TELL_SECONDS:
                LOGGER.debug("%s: %s", what, why)
                return
            self._told = now
        LOGGER.error(
            "%s: %s; nothing is lost, it is tried again by itself, and studies are received as long as there is room: "
            "make room where %s lies, or mend that disk (`python -m app doctor` and `dmesg` tell more)",
            what,
            why,
            self._folder,
        )

    def went_well(self) -> None:
        """Note that a try found nothing amiss; pauses begin anew only when a job's results were written, too."""
        if not self.is_well:
            self.is_well = True
            LOGGER.info("the node writes to %s again", self._folder)

    def proved(self) -> None:
        """Note that the results of a job were written."""
        self.went_well()
        self._failures, self._told = 0, -_TELL_SECONDS


def why(error: Exception) -> str:
    """Return an error in words without the name of a file."""
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
