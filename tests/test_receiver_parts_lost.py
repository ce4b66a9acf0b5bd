"""Several processes on one inbox: the same instance at once, a disk that fails, and processes that are killed."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
from pynetdicom.dsutils import split_dataset

import app.beats
import app.listener
import app.receiver
import app.store
from app.config import Destination
from app.errors import NodeError, PeerError
from app.files import INCOMING
from app.forked import ProcessLock
from app.places import Places
from app.receiver import DRAIN_SECONDS, run_receiver
from app.receiver_parts import LOCK, lock_out
from app.sender import send_files
from tests.support_dicom import NODE_TITLE, PEER_TITLE, node_settings, save, small_mr
from tests.support_port import free_port
from tests.support_receiver import RunningReceiver, until

MANY = {"max_associations": 20, "max_associations_per_peer": 20}
FAILING = "failing"
"""A file beside the inbox; while it is there, names cannot be synced."""


def without_links(settings, started, tally, seconds=0.005):
    """A receiver on a file system without hard links, slow to rename."""

    def refused(source, target):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    rename = Path.replace

    def slow(self, target):
        time.sleep(seconds)
        return rename(self, target)

    os.link, Path.replace = refused, slow
    run_receiver(settings, started, tally)


def that_has_little_patience(settings, started, tally):
    """A receiver that gives a process of its own up after some seconds."""
    app.receiver.HUNG_SECONDS = 5.0
    app.listener.REST_SECONDS = app.beats.BEAT_SECONDS = 0.2
    run_receiver(settings, started, tally)


def whose_part_stops_while_it_admits(settings, started, tally):
    """One of little patience, of which a process is stopped while it holds the lock of all."""
    admit = Places.admit

    def stopped(self, place):
        if place.process:
            with self.lock:
                os.kill(os.getpid(), signal.SIGSTOP)
        return admit(self, place)

    Places.admit = stopped
    that_has_little_patience(settings, started, tally)


def whose_renames_hang(settings, started, tally):
    """A receiver on a file system without hard links, on which a rename takes very long."""
    without_links(settings, started, tally, seconds=20.0)


def on_a_failing_disk(settings, started, tally):
    """A receiver whose disk syncs no names as long as a file says so."""
    sync = app.store._synced_names

    def failing(folder):
        if (settings.data_dir / FAILING).exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return sync(folder)

    app.store._synced_names = failing
    run_receiver(settings, started, tally)


@pytest.fixture
def receiver(tmp_path):
    """Start receivers on one data folder; each ends with the test."""
    running = []

    def start(target=run_receiver, *, listen=True, **config):
        settings = node_settings(tmp_path / "node", **({"processes": 2} | MANY | config))
        running.append(RunningReceiver(settings, target))
        return running[-1].listen() if listen else running[-1]

    yield start
    for one in running:
        one.end()


def kept(tmp_path):
    return sorted((tmp_path / "node" / "inbox").glob("[0-9a-f]*/*.dcm"))


def in_slots(tmp_path):
    found = []
    for path in (tmp_path / "node" / "inbox" / INCOMING).iterdir():
        with suppress(FileNotFoundError):  # let go of in this moment
            found += [path] if path.stat().st_size else []
    return found


def dataset_bytes(path):
    return path.read_bytes()[split_dataset(path)[1] :]


def is_gone(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


# The same inbox


@pytest.mark.parametrize("target", [run_receiver, without_links])
@pytest.mark.parametrize("same", [True, False], ids=["same content", "other content"])
def test_an_instance_that_comes_to_two_processes_at_once_is_kept_once(receiver, tmp_path, target, same):
    running, count = receiver(target), 30
    senders = [running.associate() for _ in range(2)]
    together = threading.Barrier(2)

    def send(number):
        statuses = []
        for instance in range(count):
            ds = small_mr("1.2.3", "1.2.3.1", number=1 if same else number + 1)
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.1.{instance + 1}"
            ds.InstanceNumber = 1 if same else number
            together.wait()
            statuses.append(senders[number].send_c_store(ds).Status)
        return statuses

    with ThreadPoolExecutor(2) as pool:
        answered = list(zip(*pool.map(send, range(2)), strict=True))
    assert all(running.tally.by_process())
    wanted = (0x0000, 0x0000) if same else (0x0000, 0xB000)
    assert [tuple(sorted(pair)) for pair in answered] == [wanted] * count
    assert len(kept(tmp_path)) == count
    for association in senders:
        association.release()
    assert until(lambda: not in_slots(tmp_path))


def test_a_part_syncs_names_once_the_disk_is_well_again_though_nobody_comes(receiver, tmp_path):
    running = receiver(on_a_failing_disk)
    failing = tmp_path / "node" / FAILING
    failing.touch()
    held = [running.associate() for _ in range(2)]
    for association in held:
        assert association.send_c_store(small_mr()).Status == 0x0000
        association.release()
    time.sleep(1.0)
    assert len(in_slots(tmp_path)) == 2
    failing.unlink()
    assert until(lambda: not in_slots(tmp_path))
    assert len(kept(tmp_path)) == 2


# Processes that are killed


def send_until_lost(files, port, outcomes):
    us = Destination(name="node", ae_title=NODE_TITLE, host="127.0.0.1", port=port)
    try:
        send_files(files, us, PEER_TITLE, 10, outcomes.append)
    except PeerError:
        return


@pytest.mark.parametrize("victim", ["part", "main"])
def test_whatever_any_process_answered_with_success_survives_the_death_of_one(receiver, tmp_path, victim):
    running = receiver(port=free_port(), processes=3)
    parts, count = running.parts, 100
    senders = [
        [save(small_mr(f"1.2.{s}", number=n), tmp_path / f"{s}" / f"{n}.dcm") for n in range(count)] for s in range(3)
    ]
    outcomes = []
    with ThreadPoolExecutor(3) as pool:
        sending = [pool.submit(send_until_lost, files, running.port, outcomes) for files in senders]
        assert until(lambda: len(outcomes) >= 30 and all(running.tally.by_process()))
        (parts[0] if victim == "part" else running.process).kill()
        for one in sending:
            one.result()
    running.process.join(10)
    assert running.process.exitcode == (3 if victim == "part" else -signal.SIGKILL)
    assert until(lambda: all(map(is_gone, parts)), 5.0)
    answered = {dataset_bytes(outcome.path) for outcome in outcomes if outcome.delivered}
    assert 30 <= len(answered) < 3 * count
    assert answered <= set(map(dataset_bytes, kept(tmp_path)))

    again = receiver(port=running.port)
    us = Destination(name="node", ae_title=NODE_TITLE, host="127.0.0.1", port=again.port)
    for files in senders:
        assert all(outcome.status == 0x0000 for outcome in send_files(files, us, PEER_TITLE, 10))
    assert len(kept(tmp_path)) == 3 * count
    assert until(lambda: not in_slots(tmp_path))


def test_a_part_that_dies_while_the_node_stops_costs_no_wait(receiver):
    running = receiver()
    held = [running.associate() for _ in range(2)]
    assert all(association.is_established for association in held)
    running.drain()
    assert until(lambda: running.associate().is_rejected)
    running.parts[0].kill()
    running.process.join(DRAIN_SECONDS - 1.0)
    assert running.process.exitcode == 3


def test_no_receiver_begins_before_all_processes_of_the_last_are_gone(receiver, tmp_path):
    first = receiver()
    (stuck,) = first.parts
    stuck.suspend()  # it does not see that it is alone
    first.process.kill()
    first.process.join()
    second = receiver(listen=False)
    assert not second.told.poll(2.0)
    stuck.resume()
    assert second.listen().associate().is_established
    assert is_gone(stuck)


def test_a_receiver_that_does_not_go_is_told(tmp_path):
    lock = lock_out(tmp_path)
    with pytest.raises(NodeError, match="another receiver runs on"):
        lock_out(tmp_path, 0.1)
    os.close(lock)
    os.close(lock_out(tmp_path, 0.1))
    assert (tmp_path / LOCK).stat().st_mode & 0o777 == 0o600


def test_a_part_that_does_not_answer_is_killed_at_the_end(receiver):
    running = receiver()
    (stuck,) = running.parts
    stuck.suspend()
    assert running.stop() == 0
    assert is_gone(stuck)


def test_connections_for_a_part_that_does_not_answer_hold_nobody_up(receiver):
    running = receiver(network_timeout_seconds=60.0)
    (stuck,) = running.parts
    stuck.suspend()
    first = running.associate()
    waiting = socket.create_connection(("127.0.0.1", running.port))  # with the part
    assert first.send_c_echo().Status == 0x0000
    assert running.associate("127.0.0.2").is_established
    stuck.resume()
    waiting.close()


def test_the_lock_between_processes_goes_with_its_holder():
    lock, held = ProcessLock(), os.pipe()
    child = os.fork()
    if child == 0:
        with lock:
            os.write(held[1], b"x")
            signal.pause()
        os._exit(0)
    os.read(held[0], 1)
    waiting = threading.Thread(target=partial(lock.__enter__))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    waiting.join(5)
    assert not waiting.is_alive()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_rename_that_hangs_keeps_nobody_else_out(receiver, processes):
    running = receiver(whose_renames_hang, processes=processes)
    sender = running.associate()
    hanging = threading.Thread(target=sender.send_c_store, args=(small_mr(),), daemon=True)
    hanging.start()
    hanging.join(1.0)
    assert hanging.is_alive()
    begun = time.monotonic()
    assert all(running.associate().send_c_echo().Status == 0x0000 for _ in range(3))
    assert time.monotonic() - begun < 15.0


def test_a_part_that_hangs_is_found_and_replaced_with_all_the_others(receiver):
    running = receiver(that_has_little_patience)
    (stuck,) = running.parts
    first = running.associate()
    stuck.suspend()
    with socket.create_connection(("127.0.0.1", running.port)):  # with the part
        running.process.join(40.0)
    assert running.process.exitcode == 3
    assert is_gone(stuck)
    first.kill()


def test_a_part_that_hangs_is_found_though_nobody_connects_and_one_that_rests_is_not_blamed(receiver):
    running = receiver(that_has_little_patience)
    (stuck,) = running.parts
    running.process.join(10.0)
    assert running.process.is_alive()
    stuck.suspend()
    running.process.join(40.0)
    assert running.process.exitcode == 3
    assert is_gone(stuck)


def test_a_part_that_is_stopped_while_it_lets_a_peer_in_blocks_nobody_for_ever(receiver):
    running = receiver(whose_part_stops_while_it_admits)
    (stuck,) = running.parts
    first = running.associate()
    connecting = threading.Thread(target=running.associate, daemon=True)  # with the part
    connecting.start()
    assert until(lambda: stuck.status() == psutil.STATUS_STOPPED)
    running.process.join(40.0)
    assert running.process.exitcode == 3
    assert is_gone(stuck)
    first.kill()
