"""Kills the node at random moments under a stream of studies, and counts what was lost or done twice.

Studies go to a real node, which delivers to a real Orthanc. What a sender was told is kept must be in the inbox; each
study must end as one result set in Orthanc: none lost, none doubled.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pydicom
from pydicom.uid import generate_uid

from app.config import Destination
from app.errors import PeerError
from app.files import instance_name, study_key
from app.journal import JobState
from app.phantom import PhantomOptions, make_phantom
from app.sender import send_files
from tests.integration.orthanc import Orthanc
from tests.support_study import RunningNode

SMALL = PhantomOptions(slices=12, rows=96, columns=96, pixel_mm=2.4, spacing_mm=11.0, thickness_mm=10.0)
RESULTS = 6
"""Objects of one result set: two segmentations, two reports, key image, page."""
VICTIMS = ("node", "receiver", "worker", "all of it")


@dataclass
class Tally:
    """What happened."""

    kills: Counter[str] = field(default_factory=Counter)
    accepted: dict[str, set[str]] = field(default_factory=dict)
    """SOP Instance UIDs that a sender was told are kept, by Study Instance UID."""
    lost_instances: int = 0
    lost_studies: int = 0
    doubled_studies: int = 0
    failed_studies: int = 0

    @property
    def sound(self) -> bool:
        """Whether nothing was lost and nothing done twice."""
        return not (self.lost_instances or self.lost_studies or self.doubled_studies or self.failed_studies)


def copy_study(source: Path, target: Path, number: int) -> str:
    """Make a study of its own of the phantom; returns its Study Instance UID."""
    target.mkdir(parents=True)
    new: dict[str, str] = {}
    study = ""
    for path in sorted(source.rglob("*.dcm")):
        ds = pydicom.dcmread(path)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
            old = str(ds[keyword].value)
            ds[keyword].value = new.setdefault(old, str(generate_uid(entropy_srcs=[str(number), old])))
        ds.file_meta.MediaStorageSOPInstanceUID, study = ds.SOPInstanceUID, str(ds.StudyInstanceUID)
        ds.PatientID = f"P-{number}"
        ds.save_as(target / f"{path.parent.name}-{path.name}", enforce_file_format=True)
    return study


def torture(folder: Path, kills: int, seed: int, tell: Callable[[str], None]) -> Tally:
    """Kill `kills` times, a few seconds apart, while studies keep coming; then let all come to its end, and count."""
    chance, tally, stop = random.Random(seed), Tally(), threading.Event()
    phantom = make_phantom(folder / "phantom", SMALL)
    with Orthanc(folder) as pacs:
        node = RunningNode(folder, destinations=[pacs.destination().model_dump()]).start()
        sender = threading.Thread(target=_send, args=(folder, phantom.folder, node, tally, stop), daemon=True)
        sender.start()
        try:
            for number in range(kills):
                time.sleep(chance.uniform(0.5, 12.0))
                victim = chance.choice(VICTIMS)
                if _kill(node, victim):
                    tally.kills[victim] += 1
                if node.process is not None and node.process.poll() is not None:
                    _free(node)
                    node.start()
                tell(f"{number + 1} of {kills}: {victim}")
            stop.set()
            sender.join()
            _settle(node, tally, tell)
            _count(node, pacs, tally)
            node.stop()
        finally:
            stop.set()
            if node.process is not None and node.process.poll() is None:
                node.kill()
    return tally


def _send(folder: Path, source: Path, node: RunningNode, tally: Tally, stop: threading.Event) -> None:
    """Send study after study, each until the node has taken all of it, as a PACS does."""
    peer, number = Destination(name="node", ae_title="GLIOMA_NODE", host="127.0.0.1", port=node.port), 0
    while not stop.is_set():
        number += 1
        study = folder / "sent" / str(number)
        uid = copy_study(source, study, number)
        accepted = tally.accepted.setdefault(uid, set())
        waiting = sorted(study.glob("*.dcm"))
        while waiting:
            with suppress(PeerError):
                told = []
                send_files(waiting, peer, "SCANNER", 10, told.append)
            kept = {outcome.path for outcome in told if outcome.delivered}
            accepted |= {str(pydicom.dcmread(p, specific_tags=["SOPInstanceUID"]).SOPInstanceUID) for p in kept}
            waiting = [path for path in waiting if path not in kept]
            if waiting:
                time.sleep(0.5)
        time.sleep(3.0)


def _kill(node: RunningNode, victim: str) -> bool:
    """Send SIGKILL to one process, or to all; False where it is not there at this moment."""
    with suppress(psutil.NoSuchProcess):
        main = psutil.Process(node.process.pid)
        children = main.children(recursive=True)
        named = {"receiver": "spawn_main", "worker": "spawn_main"}
        if victim in named:
            spawned = [c for c in children if named[victim] in " ".join(c.cmdline())]
            listening = [c for c in spawned if any(k.status == psutil.CONN_LISTEN for k in c.net_connections())]
            chosen = listening if victim == "receiver" else [c for c in spawned if c not in listening]
            for process in chosen[:1]:
                process.kill()
            return bool(chosen)
        for process in [main, *(children if victim == "all of it" else ())]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        node.process.wait()
        return True
    return False


def _free(node: RunningNode) -> None:
    """Wait until the killed node's receiver, which notices within a second or two, has left the port."""
    until = time.monotonic() + 20
    while node.listens() and time.monotonic() < until:
        time.sleep(0.1)


def _settle(node: RunningNode, tally: Tally, tell: Callable[[str], None]) -> None:
    """Wait until every study has its end and nothing is owed."""
    until = time.monotonic() + 1800
    ended = {JobState.DONE, JobState.FAILED}
    while time.monotonic() < until:
        jobs = node.jobs()
        owed = [p for p in (node.folder / "data" / "outbox").glob("[!.]*") if p.is_dir()]
        if len(jobs) >= len(tally.accepted) and all(job.state in ended for job in jobs) and not owed:
            return
        tell(f"waiting: {sum(job.state in ended for job in jobs)} of {len(tally.accepted)} studies, {len(owed)} owed")
        time.sleep(5.0)


def _count(node: RunningNode, pacs: Orthanc, tally: Tally) -> None:
    inbox = node.folder / "data" / "inbox"
    done = Counter(job.study_key for job in node.jobs() if job.state is JobState.DONE)
    tally.failed_studies = sum(job.state is JobState.FAILED for job in node.jobs())
    delivered = {}
    for study in pacs.get("/studies?expand"):
        instances = pacs.get(f"/studies/{study['ID']}/instances")
        delivered[study["MainDicomTags"]["StudyInstanceUID"]] = len(instances)
    for uid, instances in tally.accepted.items():
        key = study_key(uid)
        tally.lost_instances += sum(not (inbox / key / instance_name(i)).is_file() for i in instances)
        tally.lost_studies += done[key] == 0 or delivered.get(uid, 0) < RESULTS
        tally.doubled_studies += done[key] > 1 or delivered.get(uid, 0) > RESULTS
