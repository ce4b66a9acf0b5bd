"""A node whose receiver loses one of its processes starts another receiver, and all of it ends with the node."""

from __future__ import annotations

import urllib.error
import urllib.request
from contextlib import suppress

import psutil
import pytest

from tests.support_certificates import Authority
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


def test_to_ask_whether_the_node_is_ready_leaves_no_trace_at_a_port_that_speaks_tls(tmp_path):
    files = Authority(tmp_path / "authority").issue("node").files
    port, trail = free_port(), tmp_path / "data" / "audit.log"
    node = RunningNode(tmp_path, receiver={"tls": files.model_dump(mode="json")}, more={"operation": {"port": port}})
    alerts = lambda: trail.read_bytes().count(b"no TLS") if trail.exists() else 0  # noqa: E731

    def is_ready():
        with suppress(urllib.error.HTTPError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ready") as page:
            return page.status == 200

    try:
        node.start()
        node.wait(is_ready, 60, "it is not ready")
        node.wait(lambda: alerts() == 1, 30, "that the test itself looked whether the port is open")
        for _ in range(3):
            assert is_ready()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
                assert b"\nglioma_ready 1\n" in page.read()
        assert node.listens()
        node.wait(lambda: alerts() >= 2, 30, "and that it looked again")
        assert alerts() == 2
    finally:
        node.kill()
