"""Processes that serve beside the one that listens: forked before it listens, and given connections over channels.

A channel is a pair of sockets that keep messages whole. Through it come the word to begin, connections with their
places (`app.places`), and the word to stop. Where it ends without that word, the process that listens is dead, and the
other goes at once too. Where one of the others dies, the process that listens ends the whole receiver.
"""

from __future__ import annotations

import fcntl
import json
import logging
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from app.errors import NodeError
from app.files import private_folder
from app.log import Seldom, ToldByPlace
from app.places import Place

LOGGER = logging.getLogger(__name__)

HandOver = Callable[[Place, socket.socket, Any], bool]
"""Gives a connection, of this address, to the process that its place names; False where that does not take it."""

LOCK = "receiver.lock"
"""Under the data folder."""
FORMER_SECONDS = 10.0
"""How long the processes of a receiver that was killed may take to go."""
END_SECONDS = 5.0
"""How long a process may take to end in order once it is told to."""
_LISTENER_IS_GONE = 4
"""Exit status."""
_STOP = b"stop"
_MESSAGE_BYTES = 4_096
_LOOK_SECONDS = 0.05


class Handed(NamedTuple):
    """A connection that was handed over."""

    connection: socket.socket | None
    """None where this process has no descriptor left for it: it is closed by now."""
    address: Any
    place: Place


def process_name(number: int) -> str:
    """Return the name of a receiver's process; 0 listens."""
    return f"receiver_{number + 1}" if number else "receiver"


def receive(channel: socket.socket) -> Handed | None:
    """Wait for the next connection; None: stop."""
    message, descriptors, _, _ = socket.recv_fds(channel, _MESSAGE_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
    if _is_to_stop(message):
        return None
    place, address = json.loads(message)
    connection = socket.socket(fileno=descriptors[0]) if descriptors else None
    return Handed(connection, tuple(address), Place(*place))


def wait_to_begin(channel: socket.socket) -> int | None:
    """Wait until the receiver listens, and return its port; None: stop."""
    message = channel.recv(_MESSAGE_BYTES)
    return None if _is_to_stop(message) else int(json.loads(message))


def _is_to_stop(message: bytes) -> bool:
    if not message:
        # As killed itself: what it has under way is in its slots, or was not answered.
        os._exit(_LISTENER_IS_GONE)
    return message == _STOP


class Parts:
    """The other processes, seen from the one that listens; leaving the `with` ends them."""

    def __init__(
        self, count: int, serve: Callable[[int, socket.socket], None], started: Connection | None = None
    ) -> None:
        """Fork so many processes, each to `serve` what comes over its channel; none has `started` open.

        Raises RuntimeError where this process has other threads: what they held would be held for ever in the copy.
        """
        self._channels: list[socket.socket] = []
        self._processes: list[BaseProcess] = []
        self._told = Seldom()
        if count and threading.active_count() > 1:
            raise RuntimeError("processes are forked before any thread is started")
        with ExitStack() as otherwise:
            # Python waits for processes that are left when it ends, and they would wait for it.
            otherwise.callback(self.end)
            for number in range(1, count + 1):
                self._fork(number, serve, started)
            otherwise.pop_all()

    def _fork(self, number: int, serve: Callable[[int, socket.socket], None], started: Connection | None) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # A process that does not listen to its channel must not hold up who accepts connections.
        ours.setblocking(False)
        self._channels.append(ours)
        not_its = [*self._channels, *([started] if started is not None else [])]
        process = multiprocessing.get_context("fork").Process(
            target=_be_part, args=(serve, number, theirs, not_its), name=process_name(number)
        )
        process.start()
        theirs.close()
        self._processes.append(process)

    def __enter__(self) -> Self:
        """They run."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop them, and see them end."""
        self.end()

    def end(self) -> None:
        """Tell them to end their associations, and themselves, and see that they do; again, it does nothing."""
        for channel in self._channels:
            with suppress(OSError):
                channel.send(_STOP)
        until = time.monotonic() + END_SECONDS
        for process in self._processes:
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                LOGGER.error("process %s does not end, and is killed", process.name)
                process.kill()
                process.join()
        for channel in self._channels:
            channel.close()

    def begin(self, port: int) -> None:
        """Let them serve: the receiver listens on this port."""
        for channel in self._channels:
            with suppress(OSError):  # it ended: `lost` tells
                channel.send(json.dumps(port).encode())

    def hand_over(self, place: Place, connection: socket.socket, address: Any) -> bool:
        """Give a connection to the process that its place names; False where it does not take it."""
        message = json.dumps([place, address]).encode()
        try:
            socket.send_fds(self._channels[place.process - 1], [message], [connection.fileno()])
        except OSError as error:
            if self._told.is_due():
                LOGGER.warning("a connection cannot be handed to %s: %s", process_name(place.process), error.strerror)
            return False
        return True

    def lost(self) -> bool:
        """Say whether any has ended by itself, and log which."""
        ended = [process for process in self._processes if not process.is_alive()]
        for process in ended:
            LOGGER.error("process %s ended with status %s", process.name, process.exitcode)
        return bool(ended)


@ToldByPlace()
def _be_part(
    serve: Callable[[int, socket.socket], None], number: int, channel: socket.socket, not_its: list[Any]
) -> None:
    # One end left open here, and a fellow would not see that the process that listens is dead.
    for end in not_its:
        end.close()
    serve(number, channel)


def lock_out(data_dir: Path, wait_seconds: float = FORMER_SECONDS) -> int:
    """Wait until no process of an earlier receiver is left, and keep the next one waiting for this one's.

    A lock of the kernel's (flock), which the processes that are forked from now on hold together, until the last is
    dead: what one of a killed receiver still writes must not be taken for what it left. Raises NodeError.
    """
    lock = os.open(private_folder(data_dir) / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    until = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise NodeError(f"another receiver runs on {data_dir}, or has not ended yet") from None
            time.sleep(_LOOK_SECONDS)
        else:
            return lock
