"""A running node under broken conversations by the thousand: does it live, stay small, serve a clean study after?"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from app.journal import JobState
from app.phantom import make_phantom
from tests.support_study import RunningNode
from tests.torture.fuzz import SECRETS, fuzz_receiver
from tests.torture.kills import SMALL
from tests.torture.look import RECEIVER, Look, look, quiet_look

TITLES = (b"GLIOMA_NODE", b"SCANNER")
AT_ONCE = 4
"""Connections at a time."""
WARM_UP = 200
"""What is made once is made by then."""
BATCH = 100
RECEIVER_MB = 400.0
"""Bound of the memory of each of the receiver's processes."""
GROWTH_MB = 40.0
"""Bound of its growth after the warm-up."""
START_SECONDS = 600.0


@dataclass
class Siege:
    """What came of it."""

    seen: Counter[str] = field(default_factory=Counter)
    before: dict[str, Look] = field(default_factory=dict)
    after: dict[str, Look] = field(default_factory=dict)
    most_mb: float = 0.0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)
    """What must not be, in words."""


def besiege(folder: Path, numbers: range, told: Callable[[int], None]) -> Siege:
    """Hold the conversation of each number with a node in `folder`, a few at a time, and judge it after."""
    siege = Siege()
    node = RunningNode(folder, receiver={"network_timeout_seconds": 10.0, "max_associations_per_peer": 9})
    node.start_seconds = START_SECONDS
    node.start()
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(node, siege, ended))
    try:
        siege.seen += fuzz_receiver(range(-WARM_UP, 0), node.port, TITLES)
        siege.before = quiet_look(node)
        watcher.start()
        begun = time.monotonic()
        _storm(node.port, numbers, siege, told)
        siege.seconds = time.monotonic() - begun
        siege.after = quiet_look(node, like=siege.before)
        _judge(node, siege)
        node.stop()
    finally:
        ended.set()
        if watcher.is_alive():
            watcher.join()
        if node.process.poll() is None:
            node.kill()
    return siege


def _storm(port: int, numbers: range, siege: Siege, told: Callable[[int], None]) -> None:
    batches = [numbers[i : i + BATCH] for i in range(0, len(numbers), BATCH)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for batch, seen in zip(batches, pool.map(lambda b: fuzz_receiver(b, port, TITLES), batches), strict=True):
            siege.seen += seen
            told(len(batch))


def _watch(node: RunningNode, siege: Siege, ended: threading.Event) -> None:
    while not ended.wait(1.0):
        try:
            most = max(one.resident_mb for role, one in look(node).items() if role.startswith(RECEIVER))
            siege.most_mb = max(siege.most_mb, most)
        except (ValueError, psutil.Error):
            continue  # told as another receiver, in the end


def _judge(node: RunningNode, siege: Siege) -> None:
    before, after, faults = siege.before, siege.after, siege.faults
    roles = ["node", *(role for role in before if role.startswith(RECEIVER))]
    for role in roles:
        if after.get(role) is None or after[role].pid != before[role].pid:
            faults.append(f"the {role} ended")
            continue
        for what in ("descriptors", "threads"):
            had, has = getattr(before[role], what), getattr(after[role], what)
            if has > had:
                faults.append(f"{what} of the {role}: {had} before, {has} after")
    grown = max(
        (after[role].resident_mb - before[role].resident_mb for role in roles[1:] if role in after), default=0.0
    )
    if siege.most_mb > RECEIVER_MB or grown > GROWTH_MB:
        faults.append(f"the receiver's memory: {siege.most_mb:.0f} MB at most, grown by {grown:.0f} MB")
    if siege.seen["no end"]:
        faults.append(f"{siege.seen['no end']} connections had no end")
    log = node.log()
    if failed := log.count(" ended: "):
        faults.append(f"{failed} threads of the receiver ended by an error")
    if any(secret in log for secret in SECRETS):
        faults.append("the log names the patient")
    if not _echoes(node.port):
        faults.append("no answer to C-ECHO")
    if not _serves(node):
        faults.append("a clean study is not done")


def _echoes(port: int) -> bool:
    ae = AE(ae_title="SCANNER")
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", port, ae_title="GLIOMA_NODE")
    if not association.is_established:
        return False
    status = association.send_c_echo()
    association.release()
    return bool(status.get("Status") == 0)


def _serves(node: RunningNode) -> bool:
    truth = make_phantom(node.folder / "clean", SMALL)
    node.send(truth.folder)
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if any(
            job.state is JobState.DONE and job.instances == len(list(truth.folder.rglob("*.dcm")))
            for job in node.jobs()
        ):
            return True
        time.sleep(1.0)
    return False
