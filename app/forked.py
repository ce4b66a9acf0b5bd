"""What processes share that are forked from one: memory, and a lock."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import threading
from types import TracebackType
from typing import Any


def shared_array(kind: type[Any], length: int) -> Any:
    """Make an array of a ctypes kind, all zeros, that processes forked from now on share with this one."""
    return (kind * length).from_buffer(mmap.mmap(-1, ctypes.sizeof(kind) * length))


class ProcessLock:
    """Held by one thread at a time, of all processes that are forked from now on.

    The kernel keeps it between processes (flock), and takes it from one that dies: a semaphore that a killed process
    held would stop the others for good, also on their way to an orderly end.

    It is waited for without a limit of time. Where its holder hangs, none of those that take connections counts any
    more (`app.beats`), so that the receiver is ended, and with the holder goes the lock.
    """

    def __init__(self) -> None:
        # In memory: a file system that lacks hard links may lack locks too.
        self._file, self._threads = os.memfd_create("receiver"), threading.Lock()
        self._opened = (0, -1)

    def __enter__(self) -> None:
        """Wait for it, and take it."""
        self._threads.acquire()
        try:
            fcntl.flock(self._own(), fcntl.LOCK_EX)
        except OSError:
            self._threads.release()
            raise

    def _own(self) -> int:
        """Open the file in this process: what was opened before the fork would be one lock for all."""
        process, opened = self._opened
        if process != os.getpid():
            opened = os.open(f"/proc/self/fd/{self._file}", os.O_RDWR | os.O_CLOEXEC)
            self._opened = os.getpid(), opened
        return opened

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of it."""
        try:
            fcntl.flock(self._own(), fcntl.LOCK_UN)
        finally:
            self._threads.release()
