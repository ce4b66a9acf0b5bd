"""The node sees that a destination's thread ended, and starts another, or is stuck: it is not ready meanwhile."""

from __future__ import annotations

import subprocess
import sys
import threading

from app.config import Destination
from app.heartbeat import SLACK_SECONDS
from app.node import Node
from tests.support_dicom import node_settings
from tests.support_port import free_port


def test_the_node_is_not_ready_without_its_sender_and_starts_it_again(tmp_path):
    there = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=free_port())
    node = Node(node_settings(tmp_path / "node", sender={"destinations": (there,)}))
    try:
        assert not node.readiness()["sender"], "it has not begun"
        node._sender.start()
        assert node.readiness()["sender"]
        (run,) = node._sender._runs
        run.stop()  # by itself, as far as the node knows
        run.thread.join(10)
        run._stopped = threading.Event()
        assert not node.readiness()["sender"]
        node._tick()
        assert node.readiness()["sender"]
    finally:
        node.stop()


def test_the_node_is_not_ready_while_its_sender_is_stuck(tmp_path, monkeypatch):
    there = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=free_port())
    node = Node(node_settings(tmp_path / "node", sender={"destinations": (there,)}))
    (run,) = node._sender._runs
    reached, let_go = threading.Event(), threading.Event()
    monkeypatch.setattr(run, "_deliver_due", lambda: reached.set() or (let_go.wait(60) and 5.0))
    try:
        node._sender.start()
        assert reached.wait(10)
        now = run.heartbeat._now()
        run.heartbeat._now = lambda: now + SLACK_SECONDS + 1
        node._tick()
        node._tick()
        assert not node.readiness()["sender"]
        assert "\nglioma_ready 0\n" in node.metrics()
        assert run.thread.is_alive(), "nothing is done to it"
    finally:
        let_go.set()
        node.stop()


def test_a_thread_that_ends_is_told_by_its_place_alone(tmp_path):
    """What serves sets this up before anything else; here it then ends, as its data folder is none."""
    (tmp_path / "file").touch()
    (tmp_path / "app.yaml").write_text(f"node:\n  data_dir: {tmp_path / 'file'}\n")
    code = (
        "import threading; from pathlib import Path; from app.cli import serve\n"
        "try:\n"
        f"    serve(Path({str(tmp_path / 'app.yaml')!r}))\n"
        "except BaseException:\n"
        "    pass\n"
        "def end(): raise ValueError('Secret^Person')\n"
        "thread = threading.Thread(target=end, name='a thread'); thread.start(); thread.join()\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    told = done.stdout + done.stderr
    assert "a thread ended: ValueError at" in told
    assert "Secret" not in told
