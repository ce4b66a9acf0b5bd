"""A study that takes a real node down again and again is quarantined, and the rest goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from app.journal import JobState
from tests.integration.test_worker import children
from tests.support_dicom import save, small_mr
from tests.support_port import free_port
from tests.support_study import ROOT, RunningNode, phantom
from tests.test_operation import samples

SMALL = {"slices": 16, "rows": 96, "columns": 96, "pixel_mm": 2.4, "spacing_mm": 8.0, "thickness_mm": 7.0}


def queue(node, *arguments):
    command = [sys.executable, "-m", "app", "queue", *arguments, "--config", str(node.folder / "node.yaml")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def get(port, page):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def ready_of(node):
    try:
        return get(node.more["operation"]["port"], "/ready")[0]
    except OSError:
        return None


def in_work(node):
    return [job for job in node.jobs() if job.state is JobState.PROCESSING]


@pytest.fixture
def node(tmp_path):
    made = RunningNode(tmp_path, more={"pipeline": {"retries": 1}, "operation": {"port": free_port()}})
    yield made
    if made.process.poll() is None:
        made.kill()


def test_a_study_that_kills_the_node_too_often_is_quarantined_and_can_be_put_back(node, tmp_path):
    node.start()
    node.wait(lambda: ready_of(node) == 200, 30, "it is not ready")
    poison = phantom(tmp_path, "poison", **SMALL)
    node.send(poison.folder)
    for attempt in (1, 2):
        node.wait(lambda n=attempt: [j for j in in_work(node) if j.attempts == n], 60, "the study is not begun")
        node.kill()
        node.start()
    node.wait(lambda: [j for j in node.jobs() if j.state is JobState.QUARANTINED], 60, "it is not quarantined")
    # The receiver of the node that was killed may have answered for it until now.
    node.wait(lambda: ready_of(node) == 200, 60, "it is not ready again")
    other = phantom(tmp_path, "other", seed=7, **SMALL)
    node.send(other.folder)
    node.settled(1)
    states = {job.state: job for job in node.jobs()}
    assert set(states) == {JobState.QUARANTINED, JobState.DONE}
    assert states[JobState.QUARANTINED].code == "crashed-repeatedly"

    port = node.more["operation"]["port"]
    status, ready = get(port, "/ready")
    assert (status, json.loads(ready)["ready"]) == (200, True)
    found = samples(get(port, "/metrics")[1])
    assert found['glioma_studies{state="quarantined"}'] == found['glioma_studies{state="done"}'] == 1
    assert found['glioma_instances_received_total{outcome="kept"}'] == len(list(other.folder.glob("*.dcm")))
    assert found['glioma_stage_seconds_count{stage="segment"}'] == 1
    assert found['glioma_process_resident_bytes{process="receiver"}'] > 10_000_000
    assert found['glioma_process_open_files{process="worker"}'] > 3

    (entry,) = json.loads(queue(node, "--json"))["queue"]
    assert (entry["state"], entry["attempts"]) == ("quarantined", 2)
    queue(node, "retry", entry["job_id"])
    node.wait(lambda: {job.state for job in node.jobs()} == {JobState.DONE}, 120, "it is not processed again")
    assert node.stop() == 0


def test_a_study_that_crashes_the_network_and_so_the_node_is_counted_and_quarantined(node, tmp_path):
    """Networks run in the node's own process: who started it starts it again, as a service manager does."""
    node.module = "tests.integration.crashing_node"
    node.start()
    node.send(phantom(tmp_path, "poison", **SMALL).folder)
    for attempt in (1, 2):
        assert node.process.wait(180) == -signal.SIGSEGV
        (job,) = node.jobs()
        assert (job.state, job.attempts) == (JobState.PROCESSING, attempt)
        node.start()
    # The receiver of the node that died may have answered for it until now.
    node.wait(lambda: ready_of(node) == 200, 60, "it is not ready again")
    (job,) = node.jobs()
    assert (job.state, job.code, job.attempts) == (JobState.QUARANTINED, "crashed-repeatedly", 2)


def test_a_study_whose_worker_hangs_is_tried_again(node, tmp_path):
    """Stopped by SIGSTOP in mid-study the worker answers nothing more, as native code that hangs."""
    node.more["preprocess"] = {"timeout_seconds": 30.0}
    node.start()
    worker = worker_of(node)
    node.wait(lambda: is_idle(worker), 90, "the worker is not warm")
    node.send(phantom(tmp_path, "poison", **SMALL).folder)
    node.wait(lambda: in_work(node) and not is_idle(worker, 0.3), 60, "the worker has nothing to do")
    os.kill(worker, signal.SIGSTOP)
    (job,) = node.settled()
    assert (job.state, job.attempts) == (JobState.DONE, 2)
    assert "is tried again, alone" in " ".join(node.log().split())


def worker_of(node) -> int:
    """The child that is a spawned process of Python's, but not the receiver: that one listens."""
    spawned = [pid for pid in children(node.process.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    (worker,) = [pid for pid in spawned if not listens(pid)]
    return worker


def listens(pid: int) -> bool:
    held = {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    table = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return any(f"socket:[{row[9]}]" in held and row[3] == "0A" for row in table)


def is_idle(pid: int, seconds: float = 1.5) -> bool:
    """Whether it used no processor for a while: it is warm, and waits for a call."""

    def used() -> list[str]:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]

    before = used()
    time.sleep(seconds)
    return used() == before


def test_a_study_that_hangs_the_node_is_quarantined_and_the_rest_goes_on(tmp_path):
    node = RunningNode(
        tmp_path,
        timeout_seconds=1.0,
        more={"pipeline": {"retries": 1, "timeout_seconds": 5.0}, "log": {"format": "json"}},
        module="tests.integration.hanging_node",
    ).start()
    try:
        for name, count in (("poison", 3), ("other", 2)):
            image = small_mr()
            for number in range(count):
                save(small_mr(image.StudyInstanceUID, number=number), tmp_path / name / f"{number}.dcm")
            node.send(tmp_path / name)
        jobs = node.settled(1, 120)
        node.wait(lambda: [j for j in node.jobs() if j.state is JobState.QUARANTINED], 120, "it is not quarantined")
        jobs = {job.instances: job for job in node.jobs()}
        assert (jobs[3].state, jobs[3].code, jobs[3].attempts) == (JobState.QUARANTINED, "hung", 2)
        node.wait(lambda: jobs[2].job_id in {j.job_id for j in node.settled(1)}, 60, "the other did not go on")
        assert {job.instances: job.state for job in node.jobs()}[2] is JobState.FAILED
        node.wait(node.listens, 60, "it does not listen again")
        lines = [json.loads(line) for line in node.log().splitlines() if line.startswith("{")]
        assert [line["job"] for line in lines if "quarantined" in line["message"]] == [jobs[3].job_id]
        assert not [line for line in lines if "starting another" in line["message"]]
        assert node.stop() == 0
    finally:
        if node.process.poll() is None:
            node.kill()
