"""What the processes of a node hold: memory, descriptors, threads, processor time; for tests that look for leaks."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

import psutil

from app.audit_flood import WINDOW_SECONDS
from tests.support_study import RunningNode

RECEIVER = "receiver"
JOURNAL = "journal."
"""How the names of the journal's files begin."""


@dataclass(frozen=True)
class Look:
    """One process at one moment."""

    pid: int
    resident_mb: float
    descriptors: int
    """But for those on the journal: its pool opens connections as they are needed at once, and keeps five at most."""
    threads: int
    processor_seconds: float


def processes(node: RunningNode) -> dict[str, psutil.Process]:
    """Find the node's processes by their roles; one that is being started anew is missing.

    A receiver's parts, the processes that serve beside the one that listens, are receiver_2, receiver_3. Of the two
    workers the decoder is the one whose memory is bounded.
    """
    main = psutil.Process(node.process.pid)
    found = {"node": main}
    for child in main.children():
        with suppress(psutil.NoSuchProcess):  # dead, and not missed yet
            if "spawn_main" in " ".join(child.cmdline()):
                listens = any(c.status == psutil.CONN_LISTEN for c in child.net_connections())
                is_bounded = child.rlimit(psutil.RLIMIT_AS)[0] != psutil.RLIM_INFINITY
                found[RECEIVER if listens else "decoder" if is_bounded else "worker"] = child
                if listens:
                    found |= {f"{RECEIVER}_{number}": part for number, part in enumerate(child.children(), 2)}
    return found


def look(node: RunningNode) -> dict[str, Look]:
    """Look at each process once."""
    seen, journal = {}, str(node.folder / "data" / JOURNAL)
    for role, process in processes(node).items():
        with process.oneshot():
            times = process.cpu_times()
            seen[role] = Look(
                process.pid,
                process.memory_info().rss / 1e6,
                process.num_fds() - sum(file.path.startswith(journal) for file in process.open_files()),
                process.num_threads(),
                times.user + times.system,
            )
    return seen


def quiet_look(node: RunningNode, seconds: float = 10.0, like: dict[str, Look] | None = None) -> dict[str, Look]:
    """Look until descriptors and threads have not fallen for a while: what is being closed does not count.

    Where there are more than in `like`, also for the minute in which a thread waits to tell of a flood of rejections.
    """
    best = look(node)
    until, latest = time.monotonic() + seconds, time.monotonic() + WINDOW_SECONDS + seconds
    while time.monotonic() < (latest if like is not None and _has_more(best, like) else until):
        time.sleep(0.5)
        now = look(node)
        if any(now[r].descriptors < best[r].descriptors or now[r].threads < best[r].threads for r in now if r in best):
            until = time.monotonic() + seconds
        best = now
    return best


def _has_more(now: dict[str, Look], before: dict[str, Look]) -> bool:
    return any(
        now[r].descriptors > before[r].descriptors or now[r].threads > before[r].threads for r in now if r in before
    )
