"""A thread that is stuck in a call that never returns: seen by others, as each of its steps says how long it may take.

A slow step within its limits, and a long transfer that moves, are not stuck. Nothing is done about one that is: Python
cannot end a thread, and a second beside it might do its work twice.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from itertools import islice
from pathlib import Path

SLACK_SECONDS = 60.0
"""Beyond a step's own limits: for names that are looked up, a slow disk, a machine with much else to do."""
_FRAMES = 8
"""So many of the innermost calls tell where a thread stands."""

Step = Callable[[float], None]
"""Says that a step begins, and how long, in seconds, its own limits let it take."""


class Heartbeat:
    """When one thread's latest step began, and until when it must be over."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """`now` is in seconds, and goes on evenly whatever the clock on the wall does."""
        self._now = now
        self._step = self._seen_late = (0.0, 0.0)
        self.is_stuck = False
        """Whether the step that `look` saw last takes too long."""
        self.step()

    def step(self, seconds: float = 0.0) -> None:
        """Say that a step begins, and how long its own limits let it take; from any thread that serves this one."""
        begun = self._now()
        self._step = begun, begun + seconds + SLACK_SECONDS

    def since_step(self) -> float:
        """Return for how many seconds the latest step has lasted."""
        return self._now() - self._step[0]

    def look(self) -> bool:
        """Say whether the thread has got stuck, or out of it, since the last look.

        A step counts once it is seen too late twice: when the machine was asleep, the thread has the first word.
        """
        step, was_stuck = self._step, self.is_stuck
        late = self._now() > step[1]
        self.is_stuck = late and step is self._seen_late
        if late:
            self._seen_late = step
        return self.is_stuck is not was_stuck


def place_of(thread: threading.Thread) -> str:
    """Return where a thread stands: file and line of its innermost calls, the innermost last."""
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None:
        return "no place"
    inner = islice(traceback.walk_stack(frame), _FRAMES)
    return " > ".join(reversed([f"{Path(each.f_code.co_filename).name}:{line}" for each, line in inner]))
