"""Looks at the receiver from within while it takes instances: where the threads of its connections stand.

At those of the process that listens; the others have the like.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import cast

from app.config import Settings
from app.receiver import run_receiver

EVERY_SECONDS = 0.003
PLACES = (
    ("fsync of the file", "files.py", "fill_synced"),
    ("fsync of the folder", "files.py", "sync_folder"),
    ("free space, links", "store.py", "keep"),
    ("walk over the dataset", "store.py", "read_identity"),
    ("the rest of the handler", "receiver.py", "handle_store"),
    ("waiting for the peer, and reading", "capped_socket.py", "receive"),
    ("sending the answer", "capped_socket.py", "send"),
    ("reading off the connection", "transport.py", "recv"),
    ("waiting for the peer", "connection.py", "ready"),
    ("waiting for the peer", "transport.py", "ready"),
    ("sending the answer", "dul.py", "_send"),
    ("PDUs to messages", "short_way.py", "take"),
    ("PDUs to messages", "dul.py", "_decode_pdu"),
    ("PDUs to messages", "dimse.py", "receive_primitive"),
    ("messages to PDUs", "dimse.py", "send_msg"),
    ("negotiation", "acse.py", "negotiate_association"),
    ("serving a request", "association.py", "_serve_request"),
    ("PDUs to messages", "upper_layer.py", "_take_plain"),
    ("pynetdicom's loop, its sleep among it", "dul.py", "run_reactor"),
    ("pynetdicom's loop, its sleep among it", "upper_layer.py", "run_reactor"),
)
"""What a thread is at, by the first of these functions on its stack."""


def look_on(settings: Settings, started: Connection, report: Path) -> None:
    """Be the receiver's process, looked at every few milliseconds; the report is written at its end."""
    seen: Counter[str] = Counter()
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(seen, ended), name="watcher", daemon=True)
    try:
        run_receiver(settings, cast("Connection", _Started(started, watcher)))
    finally:
        ended.set()
        watcher.join()
        used = resource.getrusage(resource.RUSAGE_SELF)
        report.write_text(json.dumps({"seen": seen, "user": used.ru_utime, "system": used.ru_stime}))


class _Started:
    """Begins to look when the receiver listens: it forks its other processes before, when there is no thread yet."""

    def __init__(self, told: Connection, watcher: threading.Thread) -> None:
        self._told, self._watcher = told, watcher

    def send(self, port: int) -> None:
        self._watcher.start()
        self._told.send(port)

    def close(self) -> None:
        self._told.close()


def _watch(seen: Counter[str], ended: threading.Event) -> None:
    while not ended.is_set():
        time.sleep(EVERY_SECONDS)
        names = {thread.ident: thread for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            if ident in names and (place := _place(frame)) is not None:
                seen[place] += 1


def _place(frame: FrameType | None) -> str | None:
    """Say what a connection's thread is at; None for other threads, and for those that only wait for their fellow."""
    stack: list[tuple[str, str]] = []
    while frame is not None:
        stack.append((Path(frame.f_code.co_filename).name, frame.f_code.co_name))
        frame = frame.f_back
    for place, file, function in PLACES:
        if (file, function) in stack:
            return place
    return None


def tell(report: Path) -> None:
    """Print a report."""
    found = json.loads(report.read_text())
    total = sum(found["seen"].values())
    for place, times in sorted(found["seen"].items(), key=lambda item: -item[1]):
        print(f"{100 * times / total:5.1f} %  {place}")
    print(f"processor time of the process that listens: {found['user']:.2f} s user, {found['system']:.2f} s system")
