"""Which job a thread is at work on, so that each line of the log can name it, those of libraries too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_JOB: ContextVar[str] = ContextVar("job", default="")


@contextmanager
def at_work_on(job_id: str) -> Iterator[None]:
    """Name the job in whatever this thread logs meanwhile."""
    token = _JOB.set(job_id)
    try:
        yield
    finally:
        _JOB.reset(token)


def job_at_work() -> str:
    """Return the job that this thread is at work on, or nothing."""
    return _JOB.get()
