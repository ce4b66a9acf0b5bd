"""A second node on a data folder is refused, or waits; the lock never outlives its holder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from app.data_lock import NAME, DataLock
from app.errors import NodeError
from app.files import private_folder
from tests.support_study import ROOT

HOLD = """
import sys, time
from pathlib import Path
from app.data_lock import DataLock
lock = DataLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of a folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "data")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_node_is_refused_and_told_who_holds_the_folder(holder, tmp_path):
    with pytest.raises(NodeError, match=rf"another node \(process {holder.pid}\) runs on .*--wait SECONDS"):
        DataLock(tmp_path / "data")


def test_the_command_line_says_so_in_one_line_and_touches_nothing(holder, tmp_path):
    config = tmp_path / "node.yaml"
    config.write_text(json.dumps({"node": {"data_dir": str(tmp_path / "data"), "receiver": {"port": 0}}}))
    command = [sys.executable, "-m", "app", "serve", "--config", str(config)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "another node" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "data").iterdir()] == [NAME]


def test_who_waits_gets_it_when_the_holder_is_killed(holder, tmp_path, caplog):
    caplog.set_level("INFO")
    threading.Timer(1.0, os.kill, (holder.pid, signal.SIGKILL)).start()
    lock = DataLock(tmp_path / "data", wait_seconds=60.0)
    assert (tmp_path / "data" / NAME).read_text() == str(os.getpid())
    assert caplog.text.count("waiting for the node") == 1
    lock.release()


def test_who_waits_can_be_stopped(holder, tmp_path):
    """As systemd stops it: within moments, and with status 0."""
    config = tmp_path / "node.yaml"
    config.write_text(json.dumps({"node": {"data_dir": str(tmp_path / "data"), "receiver": {"port": 0}}}))
    command = [sys.executable, "-m", "app", "serve", "--config", str(config), "--wait", "600"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as waiting:
        assert any("waiting for the node" in line for line in waiting.stderr)
        waiting.terminate()
        said = waiting.communicate(timeout=60)[1]
    assert waiting.returncode == 0, said
    assert "asked to stop while it waited" in said.replace("\n", " ")
    assert holder.poll() is None


def test_waiting_ends_when_its_time_is_up(holder, tmp_path):
    begun = time.monotonic()
    with pytest.raises(NodeError, match="another node"):
        DataLock(tmp_path / "data", wait_seconds=0.5)
    assert time.monotonic() - begun >= 0.5


def test_what_is_released_can_be_taken_again(tmp_path):
    for _ in range(3):
        DataLock(tmp_path / "data").release()
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "data" / NAME).stat().st_mode & 0o777 == 0o600


def test_folders_and_those_above_are_for_the_nodes_user_alone(tmp_path):
    before = os.umask(0o022)
    try:
        private_folder(tmp_path / "a" / "b" / "c")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "a").rglob("*")} == {0o700}
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700


def test_a_child_process_does_not_keep_it(tmp_path):
    lock = DataLock(tmp_path / "data")
    with subprocess.Popen(["sleep", "60"]) as child:
        lock.release()
        DataLock(tmp_path / "data").release()
        child.kill()
