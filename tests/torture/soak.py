"""Hundreds of small studies through a running node to a real Orthanc: does anything grow, and is it quiet after?"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from app.files import study_key
from app.journal import JobState
from app.phantom import make_phantom
from tests.integration.orthanc import Orthanc
from tests.support_study import RunningNode
from tests.torture.kills import SMALL, copy_study
from tests.torture.look import Look, look, quiet_look

AHEAD = 4
"""Studies under way at once: sent together, so that each of the receiver's processes has its share from the first."""
COMPRESSED_EVERY = 5
"""One study in so many comes compressed, and is decoded in the process that there is for it."""
WARM_UP = 50
"""Studies after which everything is loaded that is loaded once."""
GROWTH = 0.05
"""Memory may grow by this part from the warm-up to the end."""
IDLE_SECONDS = 60.0
IDLE_PROCESSOR = 0.01
"""Of one core, all processes of the node together, when nothing comes."""
START_SECONDS = 600.0
EVERY = 25
"""Studies between two looks that are told."""


@dataclass
class Soak:
    """What came of it."""

    studies: int = 0
    done: int = 0
    seconds: float = 0.0
    warm: dict[str, Look] = field(default_factory=dict)
    end: dict[str, Look] = field(default_factory=dict)
    warm_files: int = 0
    """Files that are no study's own."""
    idle: dict[str, float] = field(default_factory=dict)
    """Part of a core that each process took when nothing came."""
    faults: list[str] = field(default_factory=list)
    """What must not be, in words."""


def soak(folder: Path, studies: int, tell: Callable[[str], None]) -> Soak:
    """Send this many studies, a few ahead of what is done; look at the node's processes at the warm-up and the end."""
    result = Soak(studies)
    warm_up = min(WARM_UP, studies // 2)
    source = make_phantom(folder / "phantom", SMALL).folder
    temporary = folder / "tmp"
    temporary.mkdir()
    with Orthanc(folder) as pacs:
        # But for the time-outs as it ships: how often it looks for work decides what it takes when there is none.
        waits = {"inbox": {"settle_seconds": 0.5, "timeout_seconds": 3.0}}
        node = RunningNode(
            folder,
            destinations=[pacs.destination().model_dump()],
            start_seconds=START_SECONDS,
            more=waits,
            environment={"TMPDIR": str(temporary)},
        ).start()
        begun = time.monotonic()
        try:
            sent = told = 0
            while sent < studies:
                some = range(sent + 1, min(sent + AHEAD, studies if result.warm else warm_up) + 1)
                with ThreadPoolExecutor(AHEAD) as senders:
                    list(senders.map(lambda number: _send(node, source, number), some))
                sent = some[-1]
                _wait(node, sent - AHEAD)
                if sent == warm_up:
                    _wait(node, sent)
                    result.warm = quiet_look(node)
                    result.warm_files = _files(node)
                if sent - told >= EVERY:
                    told = sent
                    tell(f"{sent} of {studies} studies sent, {time.monotonic() - begun:.0f} s; {_told(look(node))}")
            _wait(node, studies)
            result.seconds = time.monotonic() - begun
            _until_delivered(node)
            result.end = quiet_look(node)
            result.idle = _idle(node)
            _judge(node, pacs, result)
            node.stop()
        finally:
            if node.process.poll() is None:
                node.kill()
    return result


def _send(node: RunningNode, source: Path, number: int) -> None:
    study = node.folder / f"sent_{number}"
    compressed = number % COMPRESSED_EVERY == 0
    copy_study(source, study, number, compressed=compressed)
    node.send(study, more=("-xr",) if compressed else ())
    shutil.rmtree(study)


def _ended(node: RunningNode) -> int:
    return sum(job.state in {JobState.DONE, JobState.FAILED, JobState.QUARANTINED} for job in node.jobs())


def _wait(node: RunningNode, count: int) -> None:
    """Wait until this many studies have ended; a study that takes ten minutes is a fault of the run."""
    node.wait(lambda: _ended(node) >= count, START_SECONDS, f"no {count} studies have ended")


def _until_delivered(node: RunningNode) -> None:
    outbox = node.folder / "data" / "outbox"
    node.wait(lambda: not any(outbox.iterdir()), START_SECONDS, "results are still owed")


def _files(node: RunningNode) -> int:
    """Count the files of the node, among them temporary ones, but for what it keeps of each study."""
    data = node.folder / "data"
    kept = {path for place in ("archive", "inbox") for path in (data / place).rglob("*")}
    return sum(path.is_file() for path in {*data.rglob("*"), *(node.folder / "tmp").rglob("*")} - kept)


def _idle(node: RunningNode) -> dict[str, float]:
    before = look(node)
    time.sleep(IDLE_SECONDS)
    after = look(node)
    return {r: (after[r].processor_seconds - before[r].processor_seconds) / IDLE_SECONDS for r in after if r in before}


def _told(seen: dict[str, Look]) -> str:
    return "; ".join(f"{r} {s.resident_mb:.0f} MB, {s.descriptors} fds, {s.threads} threads" for r, s in seen.items())


def _judge(node: RunningNode, pacs: Orthanc, result: Soak) -> None:
    jobs, faults, data = node.jobs(), result.faults, node.folder / "data"
    result.done = sum(job.state is JobState.DONE for job in jobs)
    if result.done != result.studies or len(jobs) != result.studies:
        faults.append(f"{result.done} of {result.studies} studies are done, in {len(jobs)} jobs")
    for role, had in result.warm.items():
        has = result.end.get(role)
        if has is None or has.pid != had.pid:
            faults.append(f"the {role} ended and was replaced")
            continue
        if has.resident_mb > had.resident_mb * (1 + GROWTH):
            faults.append(f"memory of the {role}: {had.resident_mb:.0f} MB warm, {has.resident_mb:.0f} MB in the end")
        for what in ("descriptors", "threads"):
            if getattr(has, what) > getattr(had, what):
                faults.append(f"{what} of the {role}: {getattr(had, what)} warm, {getattr(has, what)} in the end")
    if sum(result.idle.values()) > IDLE_PROCESSOR:
        faults.append(f"idle, the node takes {100 * sum(result.idle.values()):.1f} % of a core")
    if (files := _files(node)) > result.warm_files:
        faults.append(f"files that are no study's own: {result.warm_files} warm, {files} in the end")
    for place in ("work", "outbox", "inbox/.incoming"):
        if left := sum(1 for path in (data / place).iterdir() if path.is_dir() or path.stat().st_size):
            faults.append(f"{left} left in {place}")
    keys = {study_key(study["MainDicomTags"]["StudyInstanceUID"]) for study in pacs.get("/studies?expand")}
    if missing := {job.study_key for job in jobs if job.state is JobState.DONE} - keys:
        faults.append(f"{len(missing)} studies have no result in the PACS")
