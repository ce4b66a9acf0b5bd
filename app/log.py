"""The log: lines for people, or a JSON object a line for a log collector; the receiver's process uses it too.

What an error of another library says may quote a header, and so the patient: of an exception only its type and place
are written.
"""

from __future__ import annotations

import json
import logging
import re
import traceback
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TextIO

from operators.job_log import job_at_work

LOGGER = logging.getLogger(__name__)
LogFormat = Literal["text", "json"]

_JOB = re.compile(r"\bjob ([0-9a-f]{32})\b")
"""How our own messages name a job."""


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
            frames = traceback.extract_tb(record.exc_info[2])
            line["error"] = record.exc_info[0].__name__
            line["place"] = " > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
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


def set_up_log(style: LogFormat, people: logging.Handler | None = None, quiet: Sequence[str] = ()) -> None:
    """Send this process's log to standard error; `people` is the handler of the text form, if not a plain one.

    Of the libraries named in `quiet` only errors are logged.
    """
    if style == "json":
        handler: logging.Handler = logging.StreamHandler()
        handler.setFormatter(JsonLines())
    elif people is not None:
        handler = people
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    warnings.showwarning = _tell_warning
    # Warns of values, and quotes them.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    for library in quiet:
        logging.getLogger(library).setLevel(logging.ERROR)
