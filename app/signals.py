"""How the node is asked to stop.

Holoscan's own SIGTERM handler drops the work that is in the graph. So both stop signals are blocked before any
thread starts, libraries' own included, and the main thread asks for them when it has time.
"""

from __future__ import annotations

import signal
from multiprocessing import resource_tracker

STOPS = {signal.SIGTERM, signal.SIGINT}


def block_stop_signals() -> None:
    """Hold SIGTERM and SIGINT back from every thread started from now on; call it first of all.

    One thread that was there before would take a signal whenever the main thread does not wait for it.
    """
    # Started later, with the first child process, it would let them through again in the thread that starts it.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)


def stop_asked(wait_seconds: float) -> bool:
    """Wait this long for a stop signal and say whether one came."""
    return signal.sigtimedwait(STOPS, wait_seconds) is not None
