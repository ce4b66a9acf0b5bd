"""Strangers by their address: they are not heard where they can be no peers, and take no listed peer's place."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

import pytest

from app.addresses import Addresses
from app.audit import Party
from app.audit_flood import FIRST, MOST_WINDOWS, WINDOW_SECONDS, Rejections
from app.config import Peer, ReceiverConfig
from app.places import SPARE_CONNECTIONS, Places
from tests.support_dicom import PEER_TITLE, Clock, node_settings
from tests.support_receiver import RunningReceiver, until

LISTED = "127.0.0.9"
FLOODERS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
WITH_ADDRESS = (Peer(ae_title=PEER_TITLE, address=LISTED),)
SOME_WITHOUT = (*WITH_ADDRESS, Peer(ae_title="ANYWHERE"))


@pytest.fixture
def receiver(tmp_path):
    """Start receivers; each ends with the test."""
    running = []

    def start(**config):
        running.append(RunningReceiver(node_settings(tmp_path / "node", processes=2, **config)))
        return running[-1].listen()

    yield start
    for one in running:
        one.end()


class Flood:
    """Addresses that each open as many connections as they get, say nothing, and come again."""

    def __init__(self, port):
        self._port, self._stop = port, threading.Event()
        self._threads = [threading.Thread(target=self._pour, args=(source,)) for source in FLOODERS]
        self.came = 0

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        assert until(lambda: self.came >= 100)
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _pour(self, source):
        held = []
        while not self._stop.is_set():
            with suppress(OSError):
                held.append(socket.create_connection(("127.0.0.1", self._port), 5, (source, 0)))
                self.came += 1
            for connection in held[:-30]:
                connection.close()
            held = held[-30:]
            time.sleep(0.01)
        for connection in held:
            connection.close()


@pytest.mark.parametrize("peers", [WITH_ADDRESS, SOME_WITHOUT], ids=["all with addresses", "some without"])
def test_a_listed_peer_is_served_while_three_strangers_flood(receiver, peers):
    running = receiver(peers=peers)
    with Flood(running.port):
        for _ in range(5):
            association = running.associate(LISTED)
            assert association.is_established
            assert association.send_c_echo().Status == 0x0000
            association.release()


def test_who_comes_from_no_peers_address_is_not_heard_but_told_of(receiver, tmp_path):
    running = receiver(peers=WITH_ADDRESS)
    for _ in range(4 * FIRST):
        with socket.create_connection(("127.0.0.1", running.port), 10) as stranger:
            assert stranger.recv(1) == b""
    trail = tmp_path / "node" / "audit.log"
    assert until(lambda: trail.exists() and trail.read_bytes().count(b"its address is no known peer") == FIRST)
    assert running.stop() == 0
    told = trail.read_text().splitlines()
    assert len(told) == FIRST + 1
    assert f"further rejections within a minute: {3 * FIRST}, of" in told[-1]
    assert all('NetworkAccessPointID="127.0.0.1"' in line for line in told)


@pytest.mark.parametrize(
    "config", [{"peers": SOME_WITHOUT}, {"peers": ()}, {"peers": WITH_ADDRESS, "allow_any_peer": True}], ids=str
)
def test_where_a_peer_may_come_from_anywhere_each_is_heard(receiver, config):
    running = receiver(**config)
    association = running.associate(calling="ANYWHERE")
    assert association.is_established if config["peers"] else association.is_rejected


# Places


def places(*peers, **config):
    return Places(ReceiverConfig(peers=peers, **config))


def test_strangers_have_as_many_places_as_before_and_those_that_are_listed_as_many_of_their_own():
    table = places(*SOME_WITHOUT, max_associations=10, max_associations_per_peer=10)
    strangers = [table.take(f"10.0.{number}.1") for number in range(100)]
    assert sum(place is not None for place in strangers) == 10 + SPARE_CONNECTIONS
    listed = [table.take(LISTED) for _ in range(10)]
    assert None not in listed
    assert all(table.admit(place) for place in listed)
    assert not table.admit(strangers[0]), "ten are open"


def test_of_the_associations_some_are_for_listed_addresses():
    table = places(*SOME_WITHOUT, max_associations=8, max_associations_per_peer=5)
    strangers = [table.take(f"10.0.{number}.1") for number in range(8)]
    assert [table.admit(place) for place in strangers] == [True] * 6 + [False] * 2
    assert table.admit(table.take(LISTED))
    assert table.admit(table.take(LISTED))
    assert not table.admit(table.take(LISTED)), "eight are open"


def test_without_any_address_listed_all_are_alike():
    table = places(Peer(ae_title=PEER_TITLE), max_associations=8)
    taken = [table.take(f"10.0.{number}.1") for number in range(100)]
    assert sum(place is not None for place in taken) == 8 + SPARE_CONNECTIONS
    assert [table.admit(place) for place in taken[:9]] == [True] * 8 + [False]


def test_a_network_of_ipv6_has_one_share():
    table = places(max_associations=20, max_associations_per_peer=2)
    admitted = [table.admit(table.take(f"2001:db8:0:1::{number}")) for number in range(4)]
    assert admitted == [True, True, False, False]
    assert table.admit(table.take("2001:db8:0:2::1"))


SHARES = [
    ("10.1.2.3", "10.1.2.3"),
    ("::ffff:10.1.2.3", "10.1.2.3"),
    ("2001:db8::1:2:3:4", "2001:db8::/64"),
    ("2001:db8::5", "2001:db8::5"),
    ("fd00:1:2:3::9", "fd00:1:2:3::/64"),
    ("fe80::1%eth0", "fe80::1%eth0"),
]


@pytest.mark.parametrize(("address", "share"), SHARES)
def test_an_address_counts_with_its_network_unless_it_is_listed(address, share):
    listed = Addresses([Peer(ae_title="A", address="2001:db8::5"), Peer(ae_title="B", address="10.9.9.9")])
    assert listed.share_of(address) == share
    assert (address in listed) == (address == "2001:db8::5")
    assert listed.is_closed


def test_an_address_of_ipv4_is_the_same_in_the_form_of_ipv6():
    listed = Addresses([Peer(ae_title="B", address="10.9.9.9")])
    assert "::ffff:10.9.9.9" in listed
    assert "::ffff:10.9.9.8" not in listed


# Told by another thread than the one that accepts


@pytest.fixture
def slow():
    """A disk that takes what is written once it is let go."""
    reached, let_go, lines = threading.Event(), threading.Event(), []

    def write(peer, reason, for_now):
        reached.set()
        assert let_go.wait(30)
        lines.append((peer, reason))

    yield reached, let_go, lines, write
    let_go.set()


def test_who_tells_does_not_wait_for_the_disk_and_one_thread_at_most_does(slow):
    reached, let_go, lines, write = slow
    rejections = Rejections(write)
    before = threading.active_count()
    alone = [
        rejections.tell_soon(Party("unknown", f"10.0.0.{n}"), "why") for _ in range(10) for n in range(MOST_WINDOWS)
    ]
    assert reached.wait(10)
    assert until(lambda: threading.active_count() <= before + 2), "the one that writes, and one that is just ending"
    assert not lines
    let_go.set()
    assert until(lambda: len(lines) == sum(alone))
    rejections.close()
    assert sum(alone) == FIRST * MOST_WINDOWS
    assert len(lines) == (FIRST + 1) * MOST_WINDOWS


def test_after_quiet_a_single_one_is_told_alone_again(slow):
    _, let_go, lines, write = slow
    let_go.set()
    clock = Clock()
    rejections = Rejections(write, clock)
    stranger = Party("unknown", "10.0.0.9")
    for _ in range(2 * FIRST):
        rejections.tell_soon(stranger, "why")
    clock.seconds += WINDOW_SECONDS
    assert rejections.tell_soon(stranger, "why")
    assert until(lambda: len(lines) == FIRST + 2)
    rejections.close()
    assert len(lines) == FIRST + 2
