"""Rejected peers, in the audit trail and the log: the first few one by one, a flood of them by its count.

Each line of the trail is synced, so a peer that connects thousands of times would cost thousands of syncs and fill the
disk. What is not written at once is counted, exactly, and written as one line when its minute is over, or at the end.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from app.audit import Party

LOGGER = logging.getLogger(__name__)

WINDOW_SECONDS = 60.0
"""From the first rejection of an address for one reason on; the next one after that begins anew."""
FIRST = 5
"""So many of a window are written one by one."""
MOST_WINDOWS = 100
"""So many addresses and reasons are told apart at a time; the rest share a window, so that none can fill the memory."""
SEVERAL = "several"
"""Address of what comes from more of them than are told apart."""
_NAMED = 3
"""Of the titles that a window's peers gave, so many are named."""

Write = Callable[[Party, str, bool], None]
"""Writes down who was turned away, why, and whether it may come again."""
_Key = tuple[str, str]
_OTHERS: _Key = ("", "")


@dataclass
class _Window:
    """What was rejected of one address for one reason since `until` less a minute."""

    until: float
    address: str
    kind: str
    written: int = 0
    gathered: int = 0
    for_now: bool = True
    titles: list[str] = field(default_factory=list)
    """Of what was gathered, as far as they are named, and one more."""

    def take(self, title: str, for_now: bool) -> bool:
        """Count one; return whether it is to be written by itself."""
        if self.written < FIRST:
            self.written += 1
            return True
        self.gathered += 1
        self.for_now = self.for_now and for_now
        if len(self.titles) <= _NAMED and title not in self.titles:
            self.titles.append(title)
        return False

    @property
    def told(self) -> str:
        """What was gathered, in words."""
        more = " and others" if len(self.titles) > _NAMED else ""
        named = ", ".join(self.titles[:_NAMED])
        return f"further rejections within a minute: {self.gathered}, of {named}{more}: {self.kind}"


class Rejections:
    """Takes each rejection, from any thread, and writes it down in time; `close` writes what is left."""

    def __init__(self, write: Write, now: Callable[[], float] = time.monotonic) -> None:
        """`now` is in seconds, and goes on evenly whatever the clock on the wall does."""
        self._write, self._now = write, now
        self._windows: dict[_Key, _Window] = {}
        self._due: list[tuple[Party, str, bool]] = []
        self._over: list[_Window] = []
        """These two are for `sweep` to write."""
        self._timer: threading.Timer | None = None
        self._closed = self._sweeping = False
        self._lock = threading.Lock()

    def tell(self, peer: Party, reason: str, *, kind: str = "", for_now: bool = False) -> bool:
        """Write a rejection down or count it; return whether it was written by itself, as it is to be in the log too.

        `kind` is the reason without what the peer says, where it is in it: else each would be another one.
        """
        with self._lock:
            over = self._take_over()
            alone = self._closed or self._window(peer.address, kind or reason).take(peer.ae_title, for_now)
            if not alone and self._timer is None and not self._sweeping:
                self._wait()
        self._write_sums(over)
        if alone:
            self._write(peer, reason, for_now)
        return alone

    def tell_soon(self, peer: Party, reason: str) -> bool:
        """Do as `tell`, but have it written by another thread: one at a time, however long the disk takes."""
        if self._closed:
            return self.tell(peer, reason)
        with self._lock:
            self._over += self._take_over()
            alone = self._window(peer.address, reason).take(peer.ae_title, False)
            if alone:
                self._due.append((peer, reason, False))
            if not self._sweeping and (alone or self._timer is None):
                self._wait()
        return alone

    def sweep(self) -> None:
        """Write what is due, and what was gathered in windows that are over."""
        with self._lock:
            if self._sweeping:
                return
            self._sweeping, self._timer = True, None
            due, over = self._due, self._over + self._take_over()
            self._due, self._over = [], []
        try:
            self._write_all(due, over)
        finally:
            with self._lock:
                self._sweeping = False
                self._wait()

    def close(self) -> None:
        """Write all that was gathered; what comes after that is written at once."""
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            due, left = self._due, [*self._over, *self._windows.values()]
            self._due, self._over, self._windows = [], [], {}
        self._write_all(due, left)

    def _window(self, address: str, kind: str) -> _Window:
        key = address, kind
        if key not in self._windows and len(self._windows) >= MOST_WINDOWS:
            key, address, kind = _OTHERS, SEVERAL, "other addresses or reasons, which are too many to tell apart"
        until = self._now() + WINDOW_SECONDS
        return self._windows.setdefault(key, _Window(until, address, kind))

    def _take_over(self) -> list[_Window]:
        """Take the windows that are over."""
        now = self._now()
        over = {key: window for key, window in self._windows.items() if window.until <= now}
        for key in over:
            del self._windows[key]
        return list(over.values())

    def _wait(self) -> None:
        """Have `sweep` called when something is due, or the next window with something in it over, if there is any."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ends = [window.until for window in (*self._over, *self._windows.values()) if window.gathered]
        if self._due:
            ends.append(self._now())
        if ends and not self._closed:
            timer = threading.Timer(max(min(ends) - self._now(), 0.0), self.sweep)
            timer.name, timer.daemon = "rejections", True
            with suppress(RuntimeError):  # no thread is to be had in a flood: the next rejection, or the end, tells
                timer.start()
                self._timer = timer

    def _write_all(self, due: Iterable[tuple[Party, str, bool]], windows: Iterable[_Window]) -> None:
        for line in due:
            self._write(*line)
        self._write_sums(windows)

    def _write_sums(self, windows: Iterable[_Window]) -> None:
        for window in windows:
            if window.gathered:
                LOGGER.warning("associations rejected at %s: %s", window.address, window.told)
                title = window.titles[0] if len(window.titles) == 1 else SEVERAL
                self._write(Party(title, window.address), window.told, window.for_now)
