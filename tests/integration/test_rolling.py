"""A node is restarted while it works: peers come again later, the study in hand is finished, the next node goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from app.journal import JobState
from app.phantom import PhantomOptions, make_phantom
from tests.support_peer import associate
from tests.support_signals import letting_through
from tests.support_study import ROOT, RunningNode

SMALL = {"slices": 12, "rows": 96, "columns": 96, "pixel_mm": 2.4, "spacing_mm": 11.0, "thickness_mm": 10.0}


@pytest.fixture
def node(tmp_path):
    made = RunningNode(tmp_path)
    yield made
    for process in (made.process, getattr(made, "next", None)):
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()


def start_next(node):
    """Start a second node on the same folder and port, which waits for the first."""
    command = [sys.executable, "-m", "app", "serve", "--wait", "300", "--config", str(node.folder / "node.yaml")]
    with (node.folder / "next.log").open("ab") as log:
        node.next = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "2", "COLUMNS": "300"}
        )


def test_a_rolling_restart_loses_nothing_and_tells_peers_to_come_again(node, tmp_path):
    data = tmp_path / "data"
    data.mkdir(mode=0o755)  # made by an administrator; what the node makes in it is its own all the same
    data.chmod(0o755)
    node.start()
    make_phantom(tmp_path / "first", PhantomOptions(seed=31, **SMALL))
    make_phantom(tmp_path / "second", PhantomOptions(seed=32, **SMALL))

    refused = subprocess.run(
        [sys.executable, "-m", "app", "serve", "--config", str(tmp_path / "node.yaml")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert refused.returncode == 2
    assert f"another node (process {node.process.pid})" in " ".join(refused.stderr.split())

    open_one = associate(node.port, calling="SCANNER")
    assert open_one.is_established
    node.send(tmp_path / "first")
    node.wait(lambda: [j for j in node.jobs() if j.state is JobState.PROCESSING], 120, "no job begins")
    start_next(node)
    node.process.send_signal(signal.SIGTERM)

    rejected = None
    until = time.monotonic() + 60
    while rejected is None and time.monotonic() < until and node.process.poll() is None:
        association = associate(node.port, calling="SCANNER")
        if association.is_rejected:
            rejected = association.acceptor.primitive
        elif association.is_established:
            association.release()
        time.sleep(0.05)
    assert rejected is not None, node.log()
    assert rejected.reason_str == "Temporary congestion"
    assert (rejected.result, rejected.result_source) == (2, 3)
    assert open_one.send_c_echo().Status == 0, "who is in may finish"
    open_one.release()

    assert node.process.wait(120) == 0
    (job,) = node.jobs()
    assert (job.state, job.attempts) == (JobState.DONE, 1)

    node.process = node.next
    node.wait(node.listens, 120, "the next node does not listen")
    node.send(tmp_path / "second")
    assert [job.state for job in node.settled(2)] == [JobState.DONE, JobState.DONE]
    loose = [
        str(path.relative_to(data)) for path in data.rglob("*") if path.stat().st_mode & 0o077 and not path.is_symlink()
    ]
    assert loose == [], "for the node's user alone"
    assert {path.name for path in data.iterdir()} >= {
        "inbox",
        "work",
        "outbox",
        "archive",
        "journal.sqlite",
        "audit.log",
    }
    assert node.stop() == 0


def test_without_a_study_in_hand_it_stops_and_the_port_is_free(node):
    node.start()
    # Its main thread waits for one, and so lets it through.
    assert [number for number in letting_through(node.process.pid) if number != node.process.pid] == []
    assert node.stop() == 0, node.log()
    assert not node.listens()
