"""The log: lines for people, or a JSON object a line for a log collector; the receiver's process uses it too.

What an error of another library says may quote a header, and so the patient: of an exception only its type and place
are written, whether it is logged or ends a thread or the process.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Sequence
from contextlib import ContextDecorator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TextIO

from operators.job_log import job_at_work

LOGGER = logging.getLogger(__name__)
LogFormat = Literal["text", "json"]

_JOB = re.compile(r"\bjob ([0-9a-f]{32})\b")
"""How our own messages name a job."""
_OURS = frozenset({"app", "operators", "models"})
_QUOTING = ("pydicom", "pynetdicom")
"""Libraries that quote, in whatever they say, values that they read or that a peer sent."""


def positions(trace: TracebackType | None) -> str:
    """File and line of each frame, without the error's text, which may quote a header."""
    return " > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(trace))


class Seldom:
    """Says when a line of one kind may be written: a flood of what it tells must not become one of the log."""

    def __init__(self, seconds: float = 10.0) -> None:
        """Between two lines lie so many seconds at least."""
        self._seconds, self._next = seconds, 0.0

    def is_due(self) -> bool:
        """Say whether one may be written now; then it counts as written."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


class PlainLines(logging.Formatter):
    """Lines for people; of an exception its type and place."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        # Where another handler's formatter left the whole text.
        record.exc_text = None
        return super().format(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's own name
        """Tell an exception."""
        kind, _, trace = ei
        return f"{kind.__name__} at {positions(trace)}" if kind is not None else ""


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, process, message, and the job where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        message = record.getMessage()
        named = _JOB.search(message)
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.processName,
            "message": message,
        }
        if job := named[1] if named else job_at_work():
            line["job"] = job
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["place"] = positions(record.exc_info[2])
        return json.dumps(line, ensure_ascii=False)


def _tell_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Log a warning of Python's by its kind and place; its text may quote a header too."""
    LOGGER.warning("%s at %s:%d", category.__name__, Path(filename).name, lineno)


def _is_to_be_written(record: logging.LogRecord) -> bool:
    """Let a line through without the words of another library's exceptions, unless it cannot be put together at all."""
    if record.name.partition(".")[0] not in _OURS:
        if isinstance(record.msg, BaseException):
            record.msg, record.args = type(record.msg).__name__, None
        if isinstance(record.args, tuple):
            record.args = tuple(type(a).__name__ if isinstance(a, BaseException) else a for a in record.args)
    try:
        record.getMessage()
    except (TypeError, ValueError, LookupError, AttributeError):
        # Rich's handler would raise it where the line was logged.
        _tell_unwritten(record)
        return False
    return True


def _tell_unwritten(record: logging.LogRecord) -> None:
    """Say that a line could not be written; logging's own way shows its arguments."""
    kind, _, trace = sys.exc_info()
    if kind is not None and sys.stderr is not None:
        sys.stderr.write(f"a line of {record.name} is not in the log: {kind.__name__} at {positions(trace)}\n")


def _tell_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log what ended the process."""
    LOGGER.critical("the process ends: %s at %s", kind.__name__, positions(trace))


def _tell_thread_end(failure: threading.ExceptHookArgs) -> None:
    """Log what ended a thread."""
    if failure.exc_type is not SystemExit:
        name = failure.thread.name if failure.thread is not None else "a thread"
        LOGGER.error("%s ended: %s at %s", name, failure.exc_type.__name__, positions(failure.exc_traceback))


def _tell_unraisable(failure: sys.UnraisableHookArgs) -> None:
    """Log what failed where nobody can catch it, as while an object is removed."""
    LOGGER.error("ignored: %s at %s", failure.exc_type.__name__, positions(failure.exc_traceback))


class ToldByPlace(ContextDecorator):
    """Ends a spawned process with status 1 and a line: multiprocessing itself would write the error's text."""

    def __enter__(self) -> None:
        """Nothing is to be done."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tell what comes through, unless it is the wish to end."""
        if kind is not None and error is not None and not issubclass(kind, SystemExit):
            _tell_end(kind, error, trace)
            raise SystemExit(1) from None


def set_up_log(style: LogFormat, people: logging.Handler | None = None, quiet: Sequence[str] = ()) -> None:
    """Send this process's log to standard error; `people` is the handler of the text form, if not a plain one.

    Of the libraries named in `quiet` only errors are logged.
    """
    handler = people if people is not None and style == "text" else logging.StreamHandler()
    if style == "json":
        handler.setFormatter(JsonLines())
    else:
        handler.setFormatter(PlainLines("%(message)s" if people else "%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(_is_to_be_written)
    handler.handleError = _tell_unwritten  # type: ignore[method-assign]
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    warnings.showwarning = _tell_warning
    sys.excepthook, sys.unraisablehook, threading.excepthook = _tell_end, _tell_unraisable, _tell_thread_end
    for library in _QUOTING:
        logging.getLogger(library).setLevel(logging.CRITICAL)
    for library in quiet:
        logging.getLogger(library).setLevel(logging.ERROR)
