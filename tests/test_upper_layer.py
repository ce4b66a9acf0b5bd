"""What a peer hears from the connection's thread, byte by byte."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import contextmanager

import pytest
from pydicom.uid import MRImageStorage
from pynetdicom import fsm

from tests.support_dicom import NODE_TITLE, PEER_TITLE, small_mr
from tests.torture.mutations import HEAD, written
from tests.torture.peers import ABORT, DATA, RELEASE, VERIFICATION, command, part, pdu, request

ECHO = pdu(DATA, part(1, 3, command(e0002=VERIFICATION, e0100=0x0030, e0110=1, e0800=0x0101)))


def hear(connection):
    """Return the next PDU's kind and content."""
    head = connection.recv(6, socket.MSG_WAITALL)
    kind, length = struct.unpack(">BxL", head)
    return kind, connection.recv(length, socket.MSG_WAITALL)


@contextmanager
def association(port):
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.settimeout(30)
        connection.sendall(request(NODE_TITLE.encode(), PEER_TITLE.encode()))
        assert hear(connection)[0] == 2
        yield connection


def store(context=3):
    """Return the PDUs of a C-STORE of a small image."""
    ds = small_mr()
    file = written(ds, ds.file_meta.TransferSyntaxUID)
    dataset = file[HEAD + 12 + struct.unpack_from("<L", file, HEAD + 8)[0] :]
    uid = str(ds.SOPInstanceUID)
    said = command(e0002=MRImageStorage, e0100=1, e0110=9, e0700=2, e0800=1, e1000=uid)
    return pdu(DATA, part(context, 3, said)) + pdu(DATA, part(context, 2, dataset))


def status_of(content):
    at = content.index(struct.pack("<HHL", 0, 0x0900, 2)) + 8
    return struct.unpack_from("<H", content, at)[0]


def test_a_message_that_comes_byte_by_byte_is_taken(listen):
    with association(listen()) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in store():
            connection.send(bytes([number]))
        kind, content = hear(connection)
        assert (kind, status_of(content)) == (DATA, 0x0000)


def test_each_pdu_has_its_own_time_however_they_are_cut(listen):
    with association(listen(network_timeout_seconds=1.0)) as connection:
        rest, whole = ECHO * 4, len(ECHO)
        for size in (whole + 3, whole, whole, whole - 3):  # each time the next one's header has begun
            connection.sendall(rest[:size])
            rest = rest[size:]
            time.sleep(0.5)
        assert [status_of(hear(connection)[1]) for _ in range(4)] == [0] * 4


@pytest.mark.parametrize("in_one", [True, False], ids=["the short way", "pynetdicom's way"])
def test_a_message_of_a_fragment_now_and_then_is_cut_off(listen, in_one):
    limit, gap = 1.0, 0.3
    with association(listen(network_timeout_seconds=limit)) as connection:
        said = command(e0002=MRImageStorage, e0100=1, e0110=9, e0700=2, e0800=1, e1000="1.2.3")
        parts = [part(3, 3, said)] if in_one else [part(3, 1, said[:40]), part(3, 3, said[40:])]
        connection.sendall(b"".join(pdu(DATA, one) for one in parts))
        begun = time.monotonic()
        try:
            while time.monotonic() - begun < 20:
                # Each a whole PDU, in time, and far from the object's limit.
                connection.sendall(pdu(DATA, part(3, 0, bytes(100))))
                time.sleep(gap)
        except OSError:
            pass
        assert limit - gap < time.monotonic() - begun < limit + 3.0


def test_slow_but_not_too_slow_is_served_for_as_long_as_it_takes(listen):
    limit = 1.0
    with association(listen(network_timeout_seconds=limit)) as connection:
        said = command(e0002=MRImageStorage, e0100=1, e0110=9, e0700=2, e0800=1, e1000="1.2.3")
        connection.sendall(pdu(DATA, part(3, 3, said)))
        for _ in range(5):
            time.sleep(limit / 2)
            connection.sendall(pdu(DATA, part(3, 0, bytes(15_000))))
        connection.sendall(pdu(DATA, part(3, 2, b"")))
        # It is an answer, that this is no dataset: the message was whole.
        assert status_of(hear(connection)[1]) >> 12 in {0xA, 0xC}
        # Each message has a time of its own, however many come on one association.
        for _ in range(5):
            time.sleep(limit / 2)
            connection.sendall(ECHO)
            assert status_of(hear(connection)[1]) == 0


def test_messages_that_come_at_once_are_answered_in_turn(listen):
    with association(listen()) as connection:
        connection.sendall(ECHO * 5 + store() + ECHO + pdu(RELEASE, bytes(4)))
        answers = [hear(connection) for _ in range(8)]
        assert [kind for kind, _ in answers] == [DATA] * 7 + [6]
        assert [status_of(content) for _, content in answers[:7]] == [0] * 7
        assert connection.recv(1) == b""


BROKEN = {
    "without a command": command(e0002=VERIFICATION, e0110=1, e0800=0x0101),
    "with an unknown command": command(e0002=VERIFICATION, e0100=0x0FFF, e0110=1, e0800=0x0101),
    "that is noise": bytes(range(1, 90)),
    "without a word on its dataset": command(e0002=VERIFICATION, e0100=0x0030, e0110=1),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_command_set_that_is_none_is_answered_by_an_abort(listen, monkeypatch, what):
    died = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    port = listen()
    with association(port) as connection:
        connection.sendall(pdu(DATA, part(1, 3, BROKEN[what])))
        assert hear(connection)[0] == ABORT
    with association(port) as connection:
        connection.sendall(ECHO)
        assert status_of(hear(connection)[1]) == 0
    assert not died


@pytest.mark.parametrize(("source", "reason"), [(2, 3), (2, 255), (1, 0), (77, 9)])
def test_an_abort_for_no_reason_that_there_is_ends_the_association(listen, monkeypatch, source, reason):
    died = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    with association(listen()) as connection:
        connection.sendall(pdu(ABORT, bytes([0, 0, source, reason])))
        assert connection.recv(1) == b""
    assert not died


def first_context(asked):
    return asked.index(b"\x20\x00", 74)


def with_number(number):
    def change(asked):
        at = first_context(asked) + 4
        return asked[:at] + bytes([number]) + asked[at + 1 :]

    return change


def without_abstract_syntax(asked):
    at = asked.index(b"\x30\x00", first_context(asked))
    return asked[:at] + b"\x40" + asked[at + 1 :]


@pytest.mark.parametrize("change", [with_number(0), with_number(2), with_number(254), without_abstract_syntax])
def test_a_request_for_a_context_that_is_none_is_answered_by_an_abort(listen, monkeypatch, change):
    died = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    with socket.create_connection(("127.0.0.1", listen()), 30) as connection:
        connection.sendall(change(request(NODE_TITLE.encode(), PEER_TITLE.encode())))
        assert hear(connection)[0] == ABORT
        assert connection.recv(1) == b""
    assert not died


def test_an_event_that_has_no_place_ends_the_connection_alone(listen, monkeypatch):
    died = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    monkeypatch.delitem(fsm.TRANSITION_TABLE, ("Evt12", "Sta6"))  # a request for release, while associated
    port = listen()
    with association(port) as connection:
        connection.sendall(pdu(RELEASE, bytes(4)))
        assert connection.recv(1) == b""
    with association(port) as connection:
        connection.sendall(ECHO)
        assert status_of(hear(connection)[1]) == 0
    assert not died


def test_a_request_under_a_context_that_nobody_agreed_on_is_answered_by_an_abort(listen):
    with association(listen()) as connection:
        connection.sendall(store(context=77))
        assert hear(connection)[0] == ABORT
        assert connection.recv(1) == b""


def test_a_silent_association_is_ended_in_time(listen):
    with association(listen(network_timeout_seconds=1.0)) as connection:
        connection.sendall(ECHO)
        assert hear(connection)[0] == DATA
        assert hear(connection)[0] == ABORT


def test_an_association_that_ends_leaves_no_thread(listen):
    port = listen()
    before = threading.active_count()
    for ending in (pdu(RELEASE, bytes(4)), pdu(ABORT, bytes(4)), b""):
        with association(port) as connection:
            connection.sendall(ECHO + ending)
    for _ in range(100):
        if threading.active_count() <= before:
            break
        threading.Event().wait(0.1)
    assert threading.active_count() <= before
