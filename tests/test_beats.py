"""Threads that must move count; one that does not is seen, and neither a busy nor a paused machine is blamed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
import time

import psutil
import pytest

from app import beats, reception
from app.beats import HUNG_SECONDS, LATE_SECONDS, REST_SECONDS, Beat, Beats, Pulse
from app.errors import NodeError
from app.reception import Reception
from tests.support_certificates import Authority
from tests.support_dicom import Clock, node_settings
from tests.support_receiver import until

PROCESSES = 3


@pytest.fixture
def counts():
    return Beats.of_receiver(PROCESSES)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def pulse(counts, clock):
    return Pulse(counts, 1.0, clock)


def go_on(pulse, clock, seconds, *moving):
    """Look once a second, while these rows count; return for how long each did not."""
    for _ in range(seconds):
        clock.seconds += 1.0
        for row in moving:
            pulse._beats.count(row)
        still = pulse.look()
    return still


def test_whoever_does_not_count_is_told_from_those_that_do(pulse, clock):
    assert go_on(pulse, clock, 40, 0, 1, 3) == [0.0, 0.0, 40.0, 0.0]
    assert go_on(pulse, clock, 1, 2) == [1.0, 1.0, 0.0, 1.0]


def test_the_limits_leave_room_for_one_at_rest_and_for_a_busy_machine(pulse, clock):
    assert 2 * REST_SECONDS <= LATE_SECONDS
    assert 2 * LATE_SECONDS <= HUNG_SECONDS


def test_a_machine_that_was_suspended_or_paused_has_nobody_that_hangs(pulse, clock):
    for _ in range(3):
        clock.seconds += 100_000.0
        assert max(pulse.look()) <= 6.0, "whoever looks was not awake either"
    go_on(pulse, clock, 1, *range(PROCESSES + 1))
    assert max(pulse.look()) == 0.0


def test_however_many_look_no_time_counts_twice(pulse, clock):
    for _ in range(10):
        go_on(pulse, clock, 1, 0)
        assert [pulse.look()[1] for _ in range(5)] == [pulse.look()[1]] * 5
    assert pulse.look()[1] == 10.0


def test_one_counts_once_a_second_however_often_it_goes_round(counts, clock, monkeypatch):
    monkeypatch.setattr(beats.time, "monotonic", clock)
    beat = Beat(counts, 1)
    for _ in range(100):
        clock.seconds += 0.1
        beat()
    assert 9 <= counts.read()[1] <= 11


def test_none_counts_while_the_lock_by_which_peers_are_let_in_cannot_be_had(counts):
    lock = threading.Lock()
    counting = threading.Thread(target=Beat(counts, 1, lock))
    with lock:
        counting.start()
        counting.join(0.3)
        assert counts.read()[1] == 0
    counting.join(10)
    assert counts.read()[1] == 1


def test_counts_are_seen_from_another_process():
    spawn = multiprocessing.get_context("spawn")
    counts = Beats.of_node(spawn, PROCESSES)
    other = spawn.Process(target=counts.count, args=(counts.main,))
    other.start()
    other.join()
    assert counts.read() == [0, 0, 0, 1]


# The node's look at its receiver


@pytest.fixture
def receive(tmp_path):
    """Start receptions; each ends with the test, and all of its processes."""
    made = []

    def start(**config):
        made.append(Reception(node_settings(tmp_path / "node", **config)))
        made[-1].start()
        return made[-1]

    yield start
    for one in made:
        one.end(0.0)


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def let_pass(here, clock, seconds):
    for _ in range(seconds):
        clock.seconds += 1.0
        here._pulse.look()


def test_a_receiver_that_is_stopped_has_its_port_but_is_not_well_and_is_replaced(receive, clock):
    here = receive(processes=2)
    assert here.is_well()
    former = [psutil.Process(here.pid), *psutil.Process(here.pid).children()]
    clock.seconds, here._pulse._now = here._pulse._looked, clock
    for process in former:
        process.suspend()
    assert until(lambda: all(process.status() == psutil.STATUS_STOPPED for process in former))
    here._pulse.look()
    let_pass(here, clock, int(LATE_SECONDS) - 1)
    assert here.is_well()
    let_pass(here, clock, 3)
    assert listens(here.port), "by the kernel's doing"
    assert not here.is_well()
    here.revive()
    assert former[0].status() == psutil.STATUS_STOPPED, "it may be busy"
    let_pass(here, clock, int(HUNG_SECONDS - LATE_SECONDS))
    here.revive()
    assert not here.is_well()
    assert len(psutil.wait_procs(former[1:], 10)[0]) == 1, "the part too, which is stopped as well"
    assert until(lambda: not here._process.is_alive())
    here.revive()
    assert here.pid != former[0].pid
    assert here.is_well()
    assert listens(here.port)


def test_one_that_runs_is_well_though_nobody_connects(receive):
    here = receive(processes=2)
    before = here.tally.beats.read()
    assert until(lambda: all(now > then + 1 for now, then in zip(here.tally.beats.read(), before, strict=True)), 60)
    assert here.is_well()


def test_one_that_is_dead_is_not_well(receive):
    here = receive(processes=1)
    os.kill(here.pid, signal.SIGKILL)
    assert until(lambda: not here.is_well(), 5)


def never_listens(settings, started, tally):
    """A receiver that hangs at its start."""
    time.sleep(1e6)


def test_a_receiver_that_hangs_at_its_start_is_an_error_and_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(reception, "run_receiver", never_listens)
    monkeypatch.setattr(reception, "SILENT_SECONDS", 0.5)
    here = Reception(node_settings(tmp_path / "node"))
    with pytest.raises(NodeError, match=r"the receiver hangs at its start: .* neither listened nor ended"):
        here.start()
    assert not here.is_well()
    here._process.join(10)
    assert here._process.exitcode == -signal.SIGKILL
    here.end(0.0)


def test_to_look_whether_it_is_well_leaves_no_trace(receive, tmp_path):
    here = receive(processes=2, tls=Authority(tmp_path / "authority").issue("node").files)
    for _ in range(5):
        assert here.is_well()
    trail = tmp_path / "node" / "audit.log"
    with socket.create_connection(("127.0.0.1", here.port)):
        pass
    assert until(lambda: trail.exists() and trail.read_bytes())
    assert trail.read_bytes().count(b"no TLS") == 1, "of the connection that was one"
