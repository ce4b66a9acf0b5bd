"""A node whose receiver loses one of its processes starts another receiver, and all of it ends with the node."""

from __future__ import annotations

import urllib.request

import psutil
import pytest

from tests.support_port import free_port
from tests.support_study import RunningNode
from tests.torture.look import processes

RECEIVERS = {"receiver", "receiver_2"}


@pytest.fixture
def node(tmp_path):
    running = RunningNode(tmp_path, receiver={"processes": 2}, more={"operation": {"port": free_port()}})
    yield running.start()
    if running.process.poll() is None:
        running.kill()


def test_a_receiver_that_lost_a_process_is_started_anew(node):
    before = processes(node)
    assert before.keys() >= RECEIVERS
    with urllib.request.urlopen(f"http://127.0.0.1:{node.more['operation']['port']}/metrics") as page:
        told = page.read().decode()
    assert all(f'glioma_process_resident_bytes{{process="{name}"}}' in told for name in RECEIVERS)
    before["receiver_2"].kill()

    def another():
        now = processes(node)
        return now.keys() >= RECEIVERS and not {now[name].pid for name in RECEIVERS} & {p.pid for p in before.values()}

    node.wait(another, 60, "no other receiver was started")
    node.wait(node.listens, 60, "it does not listen")
    assert "the receiver ended with status 3; starting another" in node.log()
    left = list(processes(node).values())
    assert node.stop() == 0
    _, alive = psutil.wait_procs(left, 5)
    assert not alive
