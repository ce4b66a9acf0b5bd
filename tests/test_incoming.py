"""What associations hold in memory of what they receive: once, within one bound for all, given back at every end."""

from __future__ import annotations

import gc
import multiprocessing
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import psutil
import pytest
from pydantic import ValidationError
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE

from app.config import ReceiverConfig
from app.files import instance_name, study_key
from app.incoming import Incoming, Memory
from app.receiver import Receiver, run_receiver
from tests.support_dicom import NODE_TITLE, PEER_TITLE, node_settings, small_mr
from tests.test_upper_layer import ECHO, association, hear, status_of, store
from tests.torture.peers import DATA, RELEASE, command, part, pdu

SAID = pdu(DATA, part(3, 3, command(e0002=MRImageStorage, e0100=1, e0110=9, e0700=2, e0800=1, e1000="1.2.3.4")))
FRAGMENT = 100_000


@pytest.fixture
def receiver(tmp_path):
    """A receiver whose associations may take 2 MB together, and one instance as much."""
    with ExitStack() as ends:
        made = Receiver(node_settings(tmp_path / "node", memory_mb=2, max_object_mb=2, network_timeout_seconds=2.0))
        ends.callback(made.close)
        yield made


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def begin(connection, size):
    """Send the beginning of an instance, of so many bytes."""
    connection.sendall(SAID)
    for _ in range(size // FRAGMENT):
        connection.sendall(pdu(DATA, part(3, 0, bytes(FRAGMENT))))


def test_an_instance_for_which_there_is_no_room_is_told_to_come_again_and_the_association_goes_on(receiver):
    with association(receiver.port) as full, association(receiver.port) as other:
        begin(full, 1_500_000)
        assert until(lambda: receiver.memory.used > 1_500_000)
        begin(other, 1_000_000)
        other.sendall(pdu(DATA, part(3, 2, bytes(FRAGMENT))))
        assert status_of(hear(other)[1]) == 0xA700
        assert receiver.memory.used < 1_600_000, "what was refused takes no room"
        other.sendall(ECHO + store())
        assert [status_of(hear(other)[1]) for _ in range(2)] == [0x0000, 0x0000]


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


def too_long(connection):
    with suppress(ConnectionError):  # it is cut off meanwhile
        begin(connection, 1_000_000)


ENDS = {
    "served": lambda connection: connection.sendall(pdu(DATA, part(3, 2, bytes(2)))),
    "released in mid-message": lambda connection: connection.sendall(pdu(RELEASE, bytes(4))),
    "aborted": lambda connection: connection.sendall(pdu(7, bytes(4))),
    "closed": lambda connection: connection.close(),
    "reset": reset,
    "silent": lambda connection: None,
    "garbage": lambda connection: connection.sendall(pdu(DATA, b"\0\0\0\1")),
    "a command set that is none": lambda connection: connection.sendall(pdu(DATA, part(3, 3, b"\1\2\3"))),
    "too long": too_long,
}


@pytest.mark.parametrize("end", ENDS)
def test_memory_is_given_back_however_it_ends(receiver, end):
    with association(receiver.port) as connection:
        begin(connection, 1_500_000)
        assert until(lambda: receiver.memory.used > 1_500_000)
        gc.disable()  # at once, not when Python looks for garbage
        try:
            ENDS[end](connection)
            assert until(lambda: receiver.memory.used == 0)
        finally:
            gc.enable()
    with association(receiver.port) as connection:
        connection.sendall(store())
        assert status_of(hear(connection)[1]) == 0x0000


def test_a_command_set_that_does_not_end_ends_its_association(receiver):
    with association(receiver.port) as connection:
        connection.sendall(pdu(DATA, part(3, 1, bytes(FRAGMENT))))
        assert hear(connection)[0] == 7


def test_a_dataset_that_begins_in_the_pdu_of_its_command_is_kept_byte_for_byte(receiver, tmp_path):
    """As some toolkits send it."""
    pdus = store()
    first = int.from_bytes(pdus[2:6], "big") + 6
    joined = pdu(DATA, pdus[6:first] + pdus[first + 6 :])
    with association(receiver.port) as connection:
        connection.sendall(joined)
        assert status_of(hear(connection)[1]) == 0x0000
    (kept,) = (tmp_path / "node" / "inbox").glob("[0-9a-f]*/*.dcm")
    assert kept.read_bytes().endswith(pdus[first + 12 :])


def test_what_is_refused_or_closed_gives_back_all_it_took():
    memory = Memory(100)
    first, second = Incoming(memory), Incoming(memory)
    first.begin_file(b"h" * 40)
    second.write(b"x" * 50)
    assert (first.is_file, memory.used) == (True, 90)
    assert second.write(b"y" * 20) == 20
    assert (second.is_refused, second.getvalue(), memory.used) == (True, b"", 40)
    assert first.write(b"z" * 60) == 60, "there is room again"
    assert first.getvalue() == b"h" * 40 + b"z" * 60
    second.close()
    del first
    assert memory.used == 0


def test_memory_for_the_largest_object_there_must_be():
    with pytest.raises(ValidationError, match="memory_mb must be at least max_object_mb"):
        ReceiverConfig(memory_mb=10, max_object_mb=11)


def test_an_instance_is_in_memory_once(tmp_path):
    """Of the receiver's own processes; 3 instances of 60 MB at once."""
    count, size = 3, 60_000_000
    settings = node_settings(tmp_path / "node", network_timeout_seconds=60.0)
    spawn = multiprocessing.get_context("spawn")
    ours, its = spawn.Pipe()
    process = spawn.Process(target=run_receiver, args=(settings, its))
    process.start()
    its.close()
    try:
        port = ours.recv()
        main, stop = psutil.Process(process.pid), threading.Event()
        processes = [main, *main.children()]

        def look():
            return sum(one.memory_info().rss for one in processes)

        before = peak = look()

        def watch():
            nonlocal peak
            while not stop.wait(0.01):
                peak = max(peak, look())

        watching = threading.Thread(target=watch)
        watching.start()

        def send(number):
            ds = small_mr("1.2.3", number=number)
            ds.Rows, ds.PixelData = 1, bytes(size)
            ae = AE(ae_title=PEER_TITLE)
            ae.add_requested_context(MRImageStorage, ExplicitVRLittleEndian)
            ae.maximum_pdu_size = 0
            opened = ae.associate("127.0.0.1", port, ae_title=NODE_TITLE)
            status = opened.send_c_store(ds).Status
            opened.release()
            return status, tmp_path / "node" / "inbox" / study_key("1.2.3") / instance_name(ds.SOPInstanceUID)

        with ThreadPoolExecutor(count) as pool:
            sent = list(pool.map(send, range(count)))
        stop.set()
        watching.join()
        assert [status for status, _ in sent] == [0x0000] * count
        assert all(path.stat().st_size > size for _, path in sent)
        assert peak - before < 1.4 * count * size
    finally:
        process.terminate()
        process.join(30)
