"""What a fresh worker process does first; a module of its own, as the process loads no more of the node than this."""

from __future__ import annotations

from app.log import LogFormat, set_up_log


def prepare_worker(style: LogFormat) -> None:
    """Give the worker process the node's kind of log, and load its libraries and networks."""
    set_up_log(style)
    from operators import cleaning

    cleaning.warm_up()
