"""Attempts to reach a peer that come to nothing, in the audit trail: the first at once, the rest by their number.

A PACS that is gone for an hour is tried again and again, for each result that it is owed; what is wrong does not
change meanwhile. Those that came to us in vain: app.audit_flood.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

SUM_SECONDS = 3_600.0
"""While a peer stays away its further attempts are told so often."""

Write = Callable[[str], None]
"""Writes down one attempt, in these words."""


@dataclass
class _Since:
    """What failed since it was last written down."""

    began: float
    write: Write
    why: str
    count: int = 0

    def tell(self, now: float) -> None:
        """Write down how often it failed, if it did."""
        if self.count:
            self.write(f"{self.count} further attempts came to nothing, the last one: {self.why}")
        self.began, self.count = now, 0


class Outage:
    """The failures of one peer, each kind by itself; for any thread."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """`now` is in seconds, and goes on evenly whatever the clock on the wall does."""
        self._now = now
        self._kinds: dict[str, _Since] = {}
        self._lock = threading.Lock()

    def failed(self, kind: str, why: str, write: Write) -> None:
        """Have an attempt written down, or count it; `kind` is one of a few names for what is wrong."""
        with self._lock:
            if (since := self._kinds.get(kind)) is None:
                self._kinds[kind] = _Since(self._now(), write, why)
                write(why)
                return
            since.write, since.why, since.count = write, why, since.count + 1
        self.look()

    def look(self) -> None:
        """Write down what was counted for an hour."""
        with self._lock:
            now = self._now()
            for since in self._kinds.values():
                if now - since.began >= SUM_SECONDS:
                    since.tell(now)

    def over(self) -> None:
        """Write down what was counted: the peer was reached, or is not tried any more."""
        with self._lock:
            for since in self._kinds.values():
                since.tell(0.0)
            self._kinds.clear()
