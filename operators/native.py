"""One warm process for work in native code, which can crash or hang where Python would raise.

A crash or a hang ends one call with a coded error; the next call meets a fresh process. Arguments and results
travel over a pipe as pickles with their arrays beside them, not inside, so that a large study is not held twice.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

from operators.errors import NativeCrash, PipelineError, TimeOut

LOGGER = logging.getLogger(__name__)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

START_SECONDS = 120.0
"""How long a fresh process may load its libraries and networks."""

TAKEN = b"taken"
"""What the process says when it holds a call whole: until then the call may go to another one."""


class WorkerError(RuntimeError):
    """The work raised an error that is not one of ours; the log says which and where."""


@dataclass(frozen=True)
class _Stranger:
    """What may be told of another library's error: its text may quote a header, and so the patient."""

    type: str
    place: str


class Worker:
    """A spawned process that runs one call at a time and is replaced when it is lost."""

    def __init__(self, prepare: Callable[[], None], timeout_seconds: float = 300.0) -> None:
        """`prepare`, a function of a module, is run first in every fresh process: it loads what calls need."""
        self._prepare, self._timeout_seconds = prepare, timeout_seconds
        self._busy = threading.Lock()
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._ready = self._stopped = False

    @property
    def pid(self) -> int | None:
        """The process's number, if one was started."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process and return at once; the first call waits until it is ready."""
        with self._busy:
            self._start()

    def run(self, function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """Call a function of a module in the process, and return or raise what it does.

        Raises NativeCrash or TimeOut where the process was lost, WorkerError where the call raised what is not a
        PipelineError. A process lost before it took the call costs nothing: a fresh one takes it.
        """
        with self._busy:
            was_warm = self._ready
            try:
                try:
                    pipe = self._hand_over(function, args, kwargs)
                except (EOFError, OSError):
                    if not was_warm:
                        raise
                    self._kill()
                    pipe = self._hand_over(function, args, kwargs)
                result: Result = self._answer(pipe, self._timeout_seconds)
            except (EOFError, OSError) as error:
                self._lose(error)
            return result

    def renew(self) -> None:
        """End the process; the next call meets a fresh one."""
        with self._busy:
            self._kill()

    def stop(self) -> None:
        """End the process at once; a call that is under way fails, and so does every later one."""
        self._stopped = True
        atexit.unregister(self.stop)
        self._kill()

    def _start(self) -> Connection:
        """Return the pipe to a living process."""
        if self._stopped:
            raise NativeCrash("the worker process was stopped")
        if self._process is not None and self._pipe is not None and self._process.is_alive():
            return self._pipe
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, self._prepare), name="worker", daemon=True)
        self._ready = False
        self._process.start()
        theirs.close()
        # Python ends daemons by SIGTERM, which this one ignores, and would then wait for it for ever.
        atexit.register(self.stop)
        return self._pipe

    def _hand_over(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Connection:
        """Give a call to a living process, and return its pipe once the process has taken it.

        Raises EOFError or OSError where the process ended first.
        """
        pipe = self._start()
        if not self._ready:
            self._answer(pipe, START_SECONDS)
            self._ready = True
        # A process that hangs between two calls reads nothing: a large call would fill its pipe and wait for ever.
        late = threading.Timer(self._timeout_seconds, self._kill)
        late.start()
        try:
            _send(pipe, (function, args, kwargs))
        finally:
            late.cancel()
            late.join()  # or it might still be at killing, and the process look alive, when another is wanted
        if not pipe.poll(self._timeout_seconds):
            self._kill()
            raise TimeOut(f"the worker process took no call within {self._timeout_seconds:.0f} s and was replaced")
        pipe.recv_bytes()
        return pipe

    def _answer(self, pipe: Connection, seconds: float) -> Any:
        """Wait for the process's answer; raises what it sent if that is an error."""
        if not pipe.poll(seconds):
            self._kill()
            raise TimeOut(f"the worker process did not answer within {seconds:.0f} s and was replaced")
        done, outcome = _receive(pipe)
        if done:
            return outcome
        if isinstance(outcome, _Stranger):
            LOGGER.error("in the worker process: %s at %s", outcome.type, outcome.place)
            raise WorkerError(f"{outcome.type} in the worker process")
        raise outcome

    def _lose(self, error: Exception) -> NoReturn:
        """Say how the process ended; the next call starts another."""
        process = self._process
        if process is not None:
            process.join(5.0)
        status = None if process is None else process.exitcode
        self._kill()
        how = signal.Signals(-status).name if status is not None and status < 0 else f"status {status}"
        raise NativeCrash(f"the worker process ended with {how} and is replaced") from error

    def _kill(self) -> None:
        process = self._process
        if process is not None and process.is_alive():
            process.kill()
            process.join(10.0)


def _send(pipe: Connection, item: object) -> None:
    """Send a pickle, and after it the arrays that it leaves out."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(item, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    pipe.send((head, [view.nbytes for view in views]))
    for view in views:
        if view.nbytes:
            pipe.send_bytes(view)


def _receive(pipe: Connection) -> Any:
    """Receive what `_send` sent; arrays arrive writable."""
    head, sizes = pipe.recv()
    buffers = [bytearray(size) for size in sizes]
    for buffer in buffers:
        if buffer:
            pipe.recv_bytes_into(buffer)
    return pickle.loads(head, buffers=buffers)  # noqa: S301 - from our own process


def _serve(pipe: Connection, prepare: Callable[[], None]) -> None:
    """Be the process: prepare, then answer calls until the node is gone."""
    # The node decides when this process ends: neither Ctrl-C nor a service manager's SIGTERM to the whole group may
    # take the study in hand away from a node that drains. What the node blocks for itself is not for native code.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    threading.Thread(target=_end_with_parent, daemon=True, name="watch").start()
    try:
        _send(pipe, _attempt(prepare))
        while True:
            _serve_one(pipe)
            _give_memory_back()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the node closed its end


def _serve_one(pipe: Connection) -> None:
    function, args, kwargs = _receive(pipe)
    pipe.send_bytes(TAKEN)
    _send(pipe, _attempt(function, *args, **kwargs))


def _give_memory_back() -> None:
    """Let go of what the allocator keeps of a study: up to hundreds of MB, in 30 ms. Only glibc has the call."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _attempt(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[bool, Any]:
    """Call a function; returns whether it returned, and what it returned or raised."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(function, *args, **kwargs)
        error = future.exception()
    if error is None:
        return True, future.result()
    if isinstance(error, PipelineError):
        return False, error.with_traceback(None)
    frames = traceback.extract_tb(error.__traceback__)
    return False, _Stranger(type(error).__name__, " > ".join(f"{Path(f.filename).name}:{f.lineno}" for f in frames))


def _end_with_parent() -> None:
    """Exit when the node is gone, even by SIGKILL and even while a call is running."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
