"""Kills the node at random moments under a stream of studies, and counts what was lost or done twice.

Studies go to a real node, which delivers to a real Orthanc. What a sender was told is kept must be in the inbox; each
study must end as one result set for each revision of it in Orthanc, whole: none lost, none doubled, and the last
revision made of every image. A study that was in work at three deaths is quarantined, as the node cannot tell our
kills from its own crashes; it is put back as a person would, by `python -m app queue retry`, and counted.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import psutil
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import RLELossless, generate_uid
from sqlalchemy import func, select

from app.config import Destination
from app.errors import PeerError
from app.files import instance_name, study_key
from app.journal import EventRow, JobRow, JobState, Journal
from app.phantom import PhantomOptions, make_phantom
from app.sender import send_files
from tests.integration.orthanc import Orthanc
from tests.support_study import ROOT, RunningNode
from tests.torture.look import processes

SMALL = PhantomOptions(slices=12, rows=96, columns=96, pixel_mm=2.4, spacing_mm=11.0, thickness_mm=10.0)
RESULTS = 7
"""Objects of one result set: two segmentations, two reports, key image, attention map, page."""
DATASET_AT = 144
"""Preamble, "DICM" and the group length's own element; the File Meta Information's length is counted from there."""
VICTIMS = ("node", "receiver", "receiver part", "worker", "all of it")
ROLES = {"receiver": "receiver", "receiver part": "receiver_2", "worker": "worker"}
"""Of victims that are one process of the node."""
AHEAD = 5
"""Studies under way at once: the stream waits for the node, so that the kills meet all of a study's stages."""
PATIENCE_SECONDS = 600.0
"""A busy machine may need this long to start a node; and so long, at the end, it may be without any progress."""
MOST_KILLS = 0.8
"""At least this part of the kills must find its victim; a process that is being started anew cannot be."""
ENDED = {JobState.DONE, JobState.FAILED, JobState.QUARANTINED}


@dataclass
class Tally:
    """What happened; `save` and `load` let an interrupted run go on."""

    seed: int = 0
    rounds: int = 0
    """Kills whose turn has come; a victim that was not there just then is not counted in `kills`."""
    kills: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    pace_seconds: float = 0.0
    """What a study took before the first kill: kills come as far apart on average, so that they meet every stage."""
    accepted: dict[str, dict[str, str]] = field(default_factory=dict)
    """SOP Instance UIDs that a sender was told are kept, with a digest of their content, by Study Instance UID."""
    put_back: int = 0
    """Quarantined studies that were put back."""
    kept_instances: int = 0
    revisions: int = 0
    result_sets: int = 0
    """Delivered whole, equal to what the node archived."""
    wrong: Counter[str] = field(default_factory=Counter)
    """What must not be, by kind."""

    @property
    def accepted_instances(self) -> int:
        return sum(map(len, self.accepted.values()))

    @property
    def sound(self) -> bool:
        """Whether nothing was lost and nothing done twice, though most kills found their victim."""
        hit = self.kills.total() >= MOST_KILLS * self.rounds
        return hit and not self.wrong.total() and self.kept_instances >= self.accepted_instances > 0

    def save(self, path: Path) -> None:
        state = {
            "seed": self.seed,
            "rounds": self.rounds,
            "kills": self.kills,
            "sent": self.sent,
            "pace": self.pace_seconds,
            "accepted": {uid: dict(held) for uid, held in list(self.accepted.items())},
        }
        part = path.with_suffix(".part")
        part.write_text(json.dumps(state))
        part.replace(path)

    @classmethod
    def load(cls, path: Path, seed: int) -> Tally:
        """Take up what an interrupted run left; nothing there: begin anew."""
        if not path.exists():
            return cls(seed=seed)
        state = json.loads(path.read_text())
        known = state["seed"], state["rounds"], Counter(state["kills"]), state["sent"], state["pace"]
        return cls(*known, state["accepted"])


def copy_study(source: Path, target: Path, number: int, *, compressed: bool = False) -> str:
    """Make a study of its own of the phantom, in RLE where `compressed`; returns its Study Instance UID."""
    target.mkdir(parents=True, exist_ok=True)
    new: dict[str, str] = {}
    study = ""
    for path in sorted(source.rglob("*.dcm")):
        ds = pydicom.dcmread(path)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
            old = str(ds[keyword].value)
            ds[keyword].value = new.setdefault(old, str(generate_uid(entropy_srcs=[str(number), old])))
        ds.file_meta.MediaStorageSOPInstanceUID, study = ds.SOPInstanceUID, str(ds.StudyInstanceUID)
        ds.PatientID = f"P-{number}"
        if compressed:
            ds.compress(RLELossless, generate_instance_uid=False)
        ds.save_as(target / f"{path.parent.name}-{path.name}", enforce_file_format=True)
    return study


def content_of(file: Path) -> tuple[str, str]:
    """Return a file's SOP Instance UID, and a digest of the bytes of its dataset.

    The head before it is the node's own. What cannot be read is no instance.
    """
    with file.open("rb") as opened, suppress(InvalidDicomError, EOFError, AttributeError):
        meta = read_file_meta_info(file)
        opened.seek(DATASET_AT + meta.FileMetaInformationGroupLength)
        return str(meta.MediaStorageSOPInstanceUID), hashlib.sha256(opened.read()).hexdigest()
    return "", ""


def torture(folder: Path, kills: int, seed: int, tell: Callable[[str], None]) -> Tally:
    """Kill until `kills` is reached while studies keep coming, let all come to its end, and count."""
    state, stop = folder / "tally.json", threading.Event()
    tally = Tally.load(state, seed)
    source = folder / "phantom"
    if not source.exists():
        make_phantom(source, SMALL)
    with Orthanc(folder) as pacs:
        node = RunningNode(
            folder,
            destinations=[pacs.destination().model_dump()],
            receiver={"processes": 2},  # a part must be there to be killed, on a machine of one CPU too
            start_seconds=PATIENCE_SECONDS,
        )
        node.start()
        sender = threading.Thread(target=_send, args=(folder, source, node, tally, stop), daemon=True)
        sender.start()
        try:
            tally.pace_seconds = tally.pace_seconds or _first_study(node)
            while tally.rounds < kills:
                if not sender.is_alive():
                    raise RuntimeError("the stream of studies broke off")
                victim = _round(node, tally)
                tally.save(state)
                tell(f"{tally.rounds} of {kills}: {victim}; {len(tally.accepted)} studies sent")
            stop.set()
            sender.join()
            _settle(node, tally, tell)
            tally.save(state)
            _count(node, pacs, tally)
            node.stop()
        finally:
            stop.set()
            if node.process is not None and node.process.poll() is None:
                node.kill()
    return tally


def _first_study(node: RunningNode) -> float:
    """Wait until a study is done, and return how long it was in work."""

    def done() -> list[JobRow]:
        return [job for job in node.jobs() if job.state is JobState.DONE]

    (job, *_) = node.wait(done, PATIENCE_SECONDS, "no study is done")
    return float(job.finished - job.begun)


def _round(node: RunningNode, tally: Tally) -> str:
    """Wait, kill, and start again what does not do so itself; returns who was the victim."""
    chance = random.Random(f"{tally.seed} {tally.rounds}")
    time.sleep(chance.uniform(0.0, 2.0 * tally.pace_seconds))
    victim = chance.choice(VICTIMS)
    if _kill(node, victim):
        tally.kills[victim] += 1
    if node.process is not None and node.process.poll() is not None:
        _free(node)
        node.start()
    tally.rounds += 1
    return victim


def _send(folder: Path, source: Path, node: RunningNode, tally: Tally, stop: threading.Event) -> None:
    """Send study after study, each until the node has taken all of it, as a PACS does."""
    peer = Destination(name="node", ae_title="GLIOMA_NODE", host="127.0.0.1", port=node.port)
    while not stop.is_set():
        if len(tally.accepted) - len(_done(node)) >= AHEAD:
            stop.wait(1.0)
            continue
        tally.sent += 1
        study = folder / "sent" / str(tally.sent)
        uid = copy_study(source, study, tally.sent)
        accepted = tally.accepted.setdefault(uid, {})
        waiting = sorted(study.glob("*.dcm"))
        while waiting:
            told = []
            with suppress(PeerError):
                send_files(waiting, peer, "SCANNER", 10, told.append)
            kept = {outcome.path for outcome in told if outcome.delivered}
            accepted.update(map(content_of, kept))
            waiting = [path for path in waiting if path not in kept]
            if waiting:
                time.sleep(0.5)
        stop.wait(1.0)


def _done(node: RunningNode) -> set[str]:
    """Return the studies that have ended, well or not."""
    return {job.study_key for job in node.jobs() if job.state in ENDED}


def _kill(node: RunningNode, victim: str) -> bool:
    """Send SIGKILL to one process, or to all; False where it is not there at this moment."""
    with suppress(psutil.NoSuchProcess):
        main = psutil.Process(node.process.pid)
        children = main.children(recursive=True)
        if victim in ROLES:
            chosen = processes(node).get(ROLES[victim])
            if chosen is not None:
                chosen.kill()
            return chosen is not None
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
    """Wait until every study has its end and nothing is owed; put back what was quarantined, once each."""
    seen, until = (0, 0), time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        jobs = node.jobs()
        quarantined = sum(job.state is JobState.QUARANTINED for job in latest(jobs).values())
        if quarantined and tally.put_back == 0 and all(job.state in ENDED for job in jobs):
            tally.put_back = quarantined
            retry = [sys.executable, "-m", "app", "queue", "retry", "--all", "--config", str(node.folder / "node.yaml")]
            subprocess.run(retry, cwd=ROOT, check=True, capture_output=True)
            continue
        owed = [p for p in (node.folder / "data" / "outbox").glob("[!.]*") if p.is_dir()]
        ended = sum(job.state in ENDED for job in jobs)
        if len(_done(node)) >= len(tally.accepted) and ended == len(jobs) and not owed:
            return
        if (ended, -len(owed)) != seen:
            seen, until = (ended, -len(owed)), time.monotonic() + PATIENCE_SECONDS
            tell(f"waiting: {len(_done(node))} of {len(tally.accepted)} studies have ended, {len(owed)} owe results")
        time.sleep(2.0)


def latest(jobs: list[JobRow]) -> dict[str, JobRow]:
    """Return the last revision of each study."""
    return {job.study_key: job for job in sorted(jobs, key=lambda job: job.revision)}


def _count(node: RunningNode, pacs: Orthanc, tally: Tally) -> None:
    data, jobs = node.folder / "data", node.jobs()
    done = [job for job in jobs if job.state is JobState.DONE]
    last, wrong = latest(jobs), tally.wrong
    tally.revisions = len(done)
    for uid, instances in tally.accepted.items():
        key = study_key(uid)
        for instance, digest in instances.items():
            file = data / "inbox" / key / instance_name(instance)
            wrong["instances lost"] += not file.is_file()
            equal = file.is_file() and content_of(file) == (instance, digest)
            tally.kept_instances += equal
            wrong["instances whose content is another"] += file.is_file() and not equal
        wrong["studies without a result"] += key not in last or last[key].state is not JobState.DONE
        wrong["studies whose last result lacks images"] += key in last and last[key].instances < len(instances)
    # An earlier revision may fail: a sender whose receiver was killed may be back too late for it.
    wrong["studies that failed"] = sum(job.state is JobState.FAILED for job in last.values())
    wrong["jobs done twice"] = _done_twice(data / "journal.sqlite")
    wrong["left half-made"] = sum(1 for slot in (data / "inbox" / ".incoming").iterdir() if slot.stat().st_size)
    wrong["left in work"] = sum(1 for _ in (data / "work").iterdir())
    _count_delivered(done, data / "archive", pacs, tally)


def _count_delivered(done: list[JobRow], archive: Path, pacs: Orthanc, tally: Tally) -> None:
    """Compare what Orthanc holds, object by object, with what the node archived."""
    held = pacs.instance_uids()
    for job in done:
        objects = [pydicom.dcmread(path) for path in (archive / job.study_key / job.job_id).glob("*.dcm")]
        there = {str(ds.SOPInstanceUID) for ds in objects} & held
        equal = sum(
            pydicom.dcmread(BytesIO(pacs.file(str(ds.SOPInstanceUID)))) == ds
            for ds in objects
            if str(ds.SOPInstanceUID) in there
        )
        tally.result_sets += equal == len(objects) == RESULTS
        tally.wrong["results lost"] += RESULTS - len(there)
        tally.wrong["results that differ from the archive"] += len(there) - equal
        held -= there
    # A job done twice under other UIDs, or sent before it was archived for good.
    tally.wrong["results doubled"] = len(held)


def _done_twice(path: Path) -> int:
    journal = Journal(path)
    try:
        with journal.reading() as session:
            times = select(func.count()).where(EventRow.what.startswith("done:")).group_by(EventRow.job_id)
            return sum(number > 1 for number in session.scalars(times))
    finally:
        journal.close()
