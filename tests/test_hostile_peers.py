"""Peers that are slow, silent, many or mad: others are served meanwhile, and nothing of them is left behind."""

from __future__ import annotations

import multiprocessing
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable

import psutil
import pytest
from pynetdicom.sop_class import MRImageStorage, Verification

from app.capped_socket import REQUEST_SECONDS, CappedSocket
from app.config import ReceiverConfig
from app.places import SPARE_CONNECTIONS, SPARE_PER_PEER
from app.receiver import run_receiver
from tests.support_certificates import Authority
from tests.support_dicom import node_settings
from tests.support_peer import associate

PDU = struct.Struct(">BxL")
OTHER = "127.0.0.2"
"""A second peer's address."""
SLACK = 3.0
"""What a busy machine may be late, in seconds."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    authority = Authority(tmp_path_factory.mktemp("authority"))
    return authority.issue("node"), authority.issue("peer")


class Victim:
    """A receiver in processes of its own, so that its threads and descriptors can be counted."""

    def __init__(self, folder, tls=None, **receiver) -> None:
        self._client_tls = tls[1] if tls else None
        settings = node_settings(folder, tls=tls[0].files if tls else None, **receiver)
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        self._child = spawn.Process(target=run_receiver, args=(settings, theirs))
        self._child.start()
        theirs.close()
        self.port = ours.recv()
        ours.close()
        self._process = psutil.Process(self._child.pid)
        self.echo()
        self._rested = self._wait_for_rest()

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 10, (source, 0))

    def echo(self, source: str = "127.0.0.1") -> float:
        """Have a C-ECHO answered; return how long it took."""
        begun = time.monotonic()
        association = self.associate(source)
        assert association.is_established
        assert association.send_c_echo().Status == 0x0000
        association.release()
        return time.monotonic() - begun

    def associate(self, source: str = "127.0.0.1"):
        tls = (self._client_tls.client_context(), "localhost") if self._client_tls else None
        return associate(self.port, Verification, MRImageStorage, source=source, seconds=15, tls_args=tls)

    def is_at_rest(self, gathering: bool = False) -> bool:
        threads, descriptors = self.load()
        waiting = 1 + len(self._process.children()) if gathering else 0
        return threads - waiting <= self._rested[0] and descriptors <= self._rested[1]

    def load(self) -> tuple[int, int]:
        """Threads and descriptors in use, by all of its processes."""
        processes = [self._process, *self._process.children()]
        return sum(one.num_threads() for one in processes), sum(one.num_fds() for one in processes)

    def _wait_for_rest(self) -> tuple[int, int]:
        seen = [self.load()]
        while len(seen) < 5 or len(set(seen[-5:])) > 1:
            time.sleep(0.1)
            seen.append(self.load())
        return seen[-1]

    def assert_unharmed(self, within: float = 2 * SLACK, gathering: bool = False) -> None:
        """C-ECHO is answered, and no thread or descriptor is left, but those that wait to tell of a flood's size."""
        self.echo()
        deadline = time.monotonic() + within
        while not self.is_at_rest(gathering) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert self.is_at_rest(gathering), f"{self.load()} threads and descriptors, {self._rested} at rest"

    def end(self) -> None:
        self._child.kill()
        self._child.join()


@pytest.fixture
def victim(tmp_path):
    """Start receivers; each ends with the test."""
    open_ones = []

    def start(**settings):
        open_ones.append(Victim(tmp_path / f"node{len(open_ones)}", **settings))
        return open_ones[-1]

    yield start
    for one in open_ones:
        one.end()


def seconds_held(connection: socket.socket, dripping: bytes = b"", gap: float = 0.2, at_most: float = 20.0) -> float:
    """Send bytes one at a time until the other side closes; return how long it took."""
    begun = time.monotonic()
    rest = iter(dripping)
    connection.settimeout(gap)
    try:
        while time.monotonic() - begun < at_most:
            try:
                if not connection.recv(4096):
                    break
            except TimeoutError:
                connection.sendall(bytes([byte for byte in [next(rest, None)] if byte is not None]))
    except OSError:
        pass
    finally:
        connection.close()
    return time.monotonic() - begun


REQUEST = PDU.pack(0x01, 200) + bytes(200)
SLOW = [
    ("silent", b"", b""),
    ("half a header", b"\x01\x00\x00", b""),
    ("half a request", REQUEST[:50], b""),
    ("a request of a byte at a time", b"", REQUEST),
]


@pytest.mark.parametrize(("at_once", "dripping"), [case[1:] for case in SLOW], ids=[case[0] for case in SLOW])
@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "TLS"])
def test_who_does_not_ask_in_time_is_cut_off(victim, certificates, over_tls, at_once, dripping):
    node = victim(tls=certificates if over_tls else None)
    connection = node.connect()
    if over_tls:
        connection = certificates[1].client_context().wrap_socket(connection)
    connection.sendall(at_once)
    held = []
    holding = threading.Thread(target=lambda: held.append(seconds_held(connection, dripping)))
    holding.start()
    assert node.echo() < SLACK
    holding.join()
    assert REQUEST_SECONDS - 1 < held[0] < REQUEST_SECONDS + SLACK
    node.assert_unharmed()


@pytest.mark.parametrize("dripping", [b"", b"\x16\x03\x01\x02\x00\x01" + bytes(500)], ids=["silent", "dripping"])
def test_a_tls_handshake_that_is_not_made_holds_up_nobody(victim, certificates, dripping):
    node = victim(tls=certificates, max_associations=10)
    idle = [node.connect() for _ in range(5)]
    held: list[float] = []
    holding = [threading.Thread(target=lambda c=c: held.append(seconds_held(c, dripping))) for c in idle]
    for thread in holding:
        thread.start()
    for source in ("127.0.0.1", OTHER):
        assert node.echo(source) < SLACK
    for thread in holding:
        thread.join()
    assert max(held) < REQUEST_SECONDS + SLACK
    node.assert_unharmed()


def test_a_pdu_that_trickles_in_within_an_association_is_cut_off(victim):
    node = victim(network_timeout_seconds=2.0)
    association = node.associate()
    raw = association.dul.socket.socket
    raw.sendall(PDU.pack(0x04, 1000))
    begun = time.monotonic()
    while association.is_established and time.monotonic() - begun < 20:
        try:
            raw.send(b"\0")
        except OSError:
            break
        time.sleep(0.2)
    assert 1.5 < time.monotonic() - begun < 2.0 + SLACK
    node.assert_unharmed()


@pytest.mark.parametrize("sips", [False, True], ids=["takes nothing", "sips"])
def test_a_peer_that_does_not_take_its_answer_is_cut_off(sips):
    ours, theirs = socket.socketpair()
    connection = CappedSocket.around(ours)
    connection.guard("127.0.0.1", ReceiverConfig(network_timeout_seconds=1.0))
    done = threading.Event()

    def sip() -> None:
        while sips and not done.wait(0.05):
            theirs.recv(1000)

    sipping = threading.Thread(target=sip)
    sipping.start()
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        connection.send(bytes(20_000_000))
    assert 0.9 < time.monotonic() - begun < 1.0 + SLACK
    done.set()
    sipping.join()
    connection.close()
    theirs.close()


def garbage() -> dict[str, bytes]:
    noise = random.Random(7).randbytes(3000)
    return {
        "HTTP": b"GET / HTTP/1.1\r\nHost: node\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise[:500],
        "noise": noise,
        "a request of noise": PDU.pack(0x01, 3000) + noise,
        "an empty request": PDU.pack(0x01, 0),
        "a request of another protocol": PDU.pack(0x01, 68) + b"\0\2" + bytes(66),
        "data first": PDU.pack(0x04, 100) + noise[:100],
        "an acceptance": PDU.pack(0x02, 100) + noise[:100],
        "a release first": PDU.pack(0x05, 4) + bytes(4),
        "an abort first": PDU.pack(0x07, 4) + bytes(4),
    }


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "TLS"])
def test_garbage_is_cut_off_and_leaves_nothing(victim, certificates, over_tls):
    node = victim(tls=certificates if over_tls else None)
    for name, content in garbage().items():
        for secured in {False, over_tls}:
            connection = node.connect()
            if secured:
                connection = certificates[1].client_context().wrap_socket(connection)
            connection.sendall(content)
            assert seconds_held(connection) < REQUEST_SECONDS + SLACK, name
        node.echo()
    # Over TLS what is no handshake is gathered, too.
    node.assert_unharmed(within=REQUEST_SECONDS + SLACK, gathering=over_tls)


INSIDE = {
    "noise": os.urandom(500),
    "another request": REQUEST,
    "an empty PDU": PDU.pack(0x04, 0),
    "a command of nothing": PDU.pack(0x04, 6) + struct.pack(">LBB", 2, 1, 3),
    "a context that was not agreed": PDU.pack(0x04, 8) + struct.pack(">LBB", 4, 99, 3) + b"ab",
    "a fragment longer than its PDU": PDU.pack(0x04, 10) + struct.pack(">LBB", 4000, 1, 2) + b"abcd",
    "an answer to nothing": PDU.pack(0x06, 4) + bytes(4),
    "release, then noise": PDU.pack(0x05, 4) + bytes(4) + os.urandom(100),
}


def test_garbage_within_an_association_ends_it_and_leaves_nothing(victim, capfd):
    node = victim(network_timeout_seconds=2.0)
    for name, content in INSIDE.items():
        association = node.associate()
        association.dul.socket.socket.sendall(content)
        deadline = time.monotonic() + 2.0 + SLACK
        while association.is_established and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not association.is_established, name
        node.echo()
    node.assert_unharmed()
    # pynetdicom would die of one of these; a traceback would end with what the peer sent.
    log = capfd.readouterr().err
    assert "a command set that cannot be read (AttributeError)" in log
    assert " ended: " not in log
    assert "Traceback" not in log


def reset(connection: socket.socket) -> None:
    """Close with RST, as a scanner or a crash does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("end", [reset, socket.socket.close], ids=["reset", "closed"])
@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "TLS"])
def test_half_open_connections_by_the_hundred_take_no_room(victim, certificates, over_tls, end: Callable):
    node = victim(tls=certificates if over_tls else None, max_associations=2)
    for number in range(100):
        connection = node.connect()
        if number % 2:
            connection.sendall(b"\x16\x03" if over_tls else b"\x01\0")
        end(connection)
    time.sleep(0.5)
    assert node.echo() < SLACK
    # In each process for a minute, as handshakes came to nothing.
    node.assert_unharmed(gathering=over_tls)


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "TLS"])
def test_a_flood_from_one_address_leaves_room_for_another(victim, certificates, over_tls, capfd):
    node = victim(tls=certificates if over_tls else None, max_associations=6, max_associations_per_peer=3)
    flood = []
    stop = threading.Event()

    def pour() -> None:
        while not stop.is_set() and len(flood) < 300:
            flood.append(node.connect())
            time.sleep(0.01)

    pouring = threading.Thread(target=pour)
    pouring.start()
    try:
        for _ in range(5):
            assert node.echo(OTHER) < SLACK
            time.sleep(0.2)
        threads, descriptors = node.load()
        assert threads < 4 * (3 + SPARE_PER_PEER) + 20
        assert descriptors < 6 + SPARE_CONNECTIONS + 30
    finally:
        stop.set()
        pouring.join()
        for connection in flood:
            connection.close()
    node.assert_unharmed(within=REQUEST_SECONDS + SLACK)
    assert 1 <= capfd.readouterr().err.count("a connection from 127.0.0.1 is cut off: 7 of its, ") <= 3


def test_one_address_gets_its_share_of_the_associations_and_is_told_so(victim):
    node = victim(max_associations=3, max_associations_per_peer=2)
    held = [node.associate() for _ in range(2)]
    assert all(association.is_established for association in held)
    third = node.associate()
    assert third.is_rejected
    assert third.acceptor.primitive.reason_str == "Local limit exceeded"
    other = node.associate(OTHER)
    assert other.is_established
    assert node.associate("127.0.0.3").is_rejected
    for association in (*held, other):
        association.release()
    node.assert_unharmed()
