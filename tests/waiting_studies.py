"""Let so many studies wait in an inbox, settle some of them, and tell what it took: `python -m tests.waiting_studies`.

In a process of its own: what is counted is all that the process opens and holds, that of other tests' threads too.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.backlog import figures
from app.files import INCOMING
from app.inbox import Inbox
from app.journal import Journal
from app.metrics import StageTimes
from app.outbox import Outbox
from app.settling import Settling
from app.storage import Storage
from operators.errors import MissingSequence
from operators.stage import Job
from tests.support_dicom import Clock, arrive, node_settings, result_files, small_mr
from tests.support_memory import traced_peak


class FileReads:
    """Counts what Python opens, and the folders that it lists; a hook cannot be taken away again, so it sleeps."""

    def __init__(self) -> None:
        self._counts: Counter[str] | None = None
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple) -> None:
        if self._counts is not None and event in {"open", "os.scandir", "os.listdir"}:
            self._counts[event.removeprefix("os.")] += 1

    @contextmanager
    def counted(self) -> Iterator[Counter[str]]:
        self._counts = counts = Counter()
        try:
            yield counts
        finally:
            self._counts = None


def measure(folder: Path, studies: int, file_reads: FileReads) -> dict:
    """Notice, wait, settle sixteen, be quiet: files opened and folders listed in each, and the most bytes held."""
    settings = node_settings(folder, inbox={"settle_seconds": 1.0, "timeout_seconds": 10.0})
    journal, clock = Journal(settings.journal_path), Clock()
    inbox = Inbox(settings, journal, lambda folder: True, now=clock)
    storage, outbox = Storage(settings.data_dir, 0, clock), Outbox(settings, journal)
    settling = Settling(settings, journal, inbox, outbox, storage, StageTimes(), lambda: None)
    for number in range(studies):
        arrive(settings, small_mr(f"1.2.{number}", size=4))
    os.utime(settings.inbox_dir / INCOMING, (1_000_000, 1_000_000))
    (result,) = result_files(folder / "results", 1)
    settled: Counter[str] = Counter()
    with traced_peak() as peak, file_reads.counted() as counts:
        _nothing_is_ready(inbox)
        noticed = Counter(counts)
        for _ in range(10):
            clock.seconds += 0.09
            _nothing_is_ready(inbox)
        waited = counts - noticed
        clock.seconds += 1.0
        for number in range(8):
            for ready in inbox.poll(2):
                job = Job(ready.job_id, ready.input_folder, ready.output_folder)
                if number % 2:
                    job.fail("select", MissingSequence("FLAIR has no candidate"))
                else:
                    job.results["SR"] = result
                settling.settle(job)
                settled[journal.job(job.job_id).state] += 1
        settled_at = Counter(counts)
        for _ in range(10):
            _nothing_is_ready(inbox)
        quiet = counts - settled_at
        held = peak()
    waiting = figures(journal).waiting
    journal.close()
    return {
        "studies": studies,
        "noticed": noticed,
        "waited": waited,
        "quiet": quiet,
        "reads": counts,
        "held": held,
        "settled": settled,
        "settling": len(settling),
        "waiting": waiting,
    }


def _nothing_is_ready(inbox: Inbox) -> None:
    if ready := inbox.poll(0):
        raise SystemExit(f"{len(ready)} studies are taken where none was asked for")


def main() -> None:
    os.fsync = lambda handle: None  # a thousand studies are made here, and no power is lost
    root, *numbers = sys.argv[1:]
    file_reads = FileReads()
    for studies in map(int, numbers):
        sys.stdout.write(json.dumps(measure(Path(root) / str(studies), studies, file_reads)) + "\n")


if __name__ == "__main__":
    main()
