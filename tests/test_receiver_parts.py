"""Several processes behind one port: connections are spread, limits hold for all of them together, all end together."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
import time
from xml.etree import ElementTree

import pytest
from pydicom.uid import MRImageStorage, generate_uid

from app.config import Peer, ReceiverConfig
from app.metrics import processes_of
from app.places import Places, Shared
from app.receiver import Receiver
from app.receiver_parts import Parts
from tests.support_certificates import Authority, renew
from tests.support_dcmtk import dcmtk
from tests.support_dicom import NODE_TITLE, PEER_TITLE, node_settings, save, small_mr
from tests.support_port import free_port
from tests.support_receiver import PATIENCE_SECONDS, RunningReceiver, until
from tests.test_upper_layer import association as raw_association
from tests.test_upper_layer import hear, status_of
from tests.torture.peers import DATA, command, part, pdu

MANY = {"max_associations": 20, "max_associations_per_peer": 20}


@pytest.fixture
def receiver(tmp_path):
    """Start receivers; each ends with the test."""
    running = []

    def start(processes=3, **config):
        settings = node_settings(tmp_path / "node", **({"processes": processes} | config))
        running.append(RunningReceiver(settings))
        return running[-1].listen()

    yield start
    for one in running:
        one.end()


def audit(tmp_path):
    path = tmp_path / "node" / "audit.log"
    return [ElementTree.fromstring(line) for line in path.read_bytes().splitlines()]  # noqa: S314 - our own


# Who serves


def test_each_sender_is_served_by_the_process_that_serves_fewest(receiver):
    running = receiver()
    held = [running.associate() for _ in range(3)]
    for association in held:
        for _ in range(2):
            assert association.send_c_store(small_mr()).Status == 0x0000
    assert running.tally.by_process() == [2, 2, 2]
    assert running.tally.read() == {"kept": 6, "coerced": 0, "refused": 0}
    for association in held:
        association.release()


def test_a_sender_alone_is_served_by_the_process_that_listens(receiver):
    running = receiver()
    association = running.associate()
    assert [association.send_c_store(small_mr()).Status for _ in range(5)] == [0x0000] * 5
    association.release()
    assert running.tally.by_process() == [5, 0, 0]


def test_storescu_by_the_dozen_is_spread_and_nothing_is_lost(receiver, tmp_path):
    running = receiver(**MANY)
    command_line = [dcmtk("storescu"), "-aet", PEER_TITLE, "-aec", NODE_TITLE, "+sd", "127.0.0.1", str(running.port)]
    for sender in range(6):
        for number in range(20):
            save(small_mr(f"1.2.{sender}", number=number, size=64), tmp_path / f"{sender}" / f"{number}.dcm")
    senders = [subprocess.Popen([*command_line, str(tmp_path / f"{sender}")]) for sender in range(6)]
    assert [sender.wait() for sender in senders] == [0] * 6
    assert sum(running.tally.by_process()) == 120
    assert all(running.tally.by_process())
    assert len(list((tmp_path / "node" / "inbox").glob("[0-9a-f]*/*.dcm"))) == 120


def test_the_metrics_name_each_process(receiver):
    running = receiver()
    pids = [running.process.pid, *(part.pid for part in running.parts)]
    assert processes_of("receiver", running.process.pid) == dict(
        zip(["receiver", "receiver_2", "receiver_3"], pids, strict=True)
    )
    assert processes_of("receiver", None) == {"receiver": None}


def test_one_process_forks_none(receiver):
    running = receiver(1)
    assert running.parts == []
    assert running.associate().send_c_store(small_mr()).Status == 0x0000


def test_idle_a_part_runs_but_now_and_then_to_tell_that_it_can(receiver):
    running = receiver(2)
    held = [running.associate() for _ in range(2)]
    for association in held:
        assert association.send_c_store(small_mr()).Status == 0x0000
        association.release()
    (idle,) = running.parts

    def runs():
        before = idle.num_ctx_switches()
        time.sleep(1.5)
        return idle.num_ctx_switches() != before

    # What the association left is collected first, every six seconds.
    assert until(lambda: not runs(), 40)


def test_processes_are_forked_before_there_is_any_thread():
    stop = threading.Event()
    threading.Thread(target=stop.wait, daemon=True).start()
    with pytest.raises(RuntimeError, match="before any thread"):
        Parts(1, lambda number, channel: None)
    stop.set()


class Deaf:
    """Parts that take nothing."""

    def __init__(self):
        self.asked = []

    def begin(self, port):
        pass

    def hand_over(self, place, connection, address):
        self.asked.append(place.process)
        return False

    def end(self):
        pass

    def stop(self):
        pass


def test_what_a_part_does_not_take_is_served_by_the_process_that_listens(tmp_path):
    settings, parts = node_settings(tmp_path / "node"), Deaf()
    listening = Receiver(settings, shared=Shared(settings.receiver, 2), parts=parts)
    try:
        with raw_association(listening.port), raw_association(listening.port), raw_association(listening.port):
            assert parts.asked == [1, 1]
    finally:
        listening.close()


# Limits


REJECTED = "Local limit exceeded"


def lost(association):
    association.dul.socket.socket.shutdown(socket.SHUT_RDWR)


ENDS = {"release": lambda one: one.release(), "abort": lambda one: one.abort(), "loss": lost}


@pytest.mark.parametrize("end", ENDS)
def test_limits_are_those_of_all_processes_together(receiver, end):
    running = receiver(max_associations=3, max_associations_per_peer=2)
    for _ in range(2):
        held = [running.associate_in_time(), running.associate_in_time(), running.associate_in_time("127.0.0.2")]
        assert all(held)
        for source in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
            turned_away = running.associate(source)
            assert turned_away.is_rejected
            assert turned_away.acceptor.primitive.reason_str == REJECTED
        for association in held:
            assert association.send_c_store(small_mr()).Status == 0x0000
            ENDS[end](association)
    assert all(running.tally.by_process()), "every process had some"


def test_of_one_address_no_more_are_let_in_however_they_are_spread(receiver):
    running = receiver(max_associations=10, max_associations_per_peer=2)
    held = [running.associate() for _ in range(2)]
    assert running.associate().is_rejected
    held.append(running.associate("127.0.0.2"))
    assert all(association.is_established for association in held)


def test_connections_that_ask_for_nothing_are_counted_over_all_processes(receiver):
    running = receiver(max_associations=2, max_associations_per_peer=1, network_timeout_seconds=60.0)
    silent = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(5)]
    with socket.create_connection(("127.0.0.1", running.port)) as beyond:
        beyond.settimeout(4)  # sooner than the silence of the others ends
        assert beyond.recv(1) == b""
    for connection in silent:
        connection.close()
    assert running.associate_in_time()


def test_a_place_that_another_has_by_now_is_not_admitted():
    places = Places(ReceiverConfig(max_associations=1, max_associations_per_peer=1), 2)
    first = places.take("127.0.0.1")
    places.free(first)
    second = places.take("127.0.0.1")
    assert second.number == first.number
    assert not places.admit(first)
    assert places.admit(second)
    assert not places.admit(places.take("127.0.0.2")), "there is one alone"


def test_the_address_with_the_longest_name_is_told_from_its_neighbour():
    config = ReceiverConfig(max_associations=9, max_associations_per_peer=1)
    places = Places(config)
    one, other = (f"fe80:1111:2222:3333:4444:5555:6666:777{n}%interface123456" for n in (1, 2))
    assert places.admit(places.take(one))
    assert places.admit(places.take(other))
    assert not places.admit(places.take(one))


def test_memory_is_bounded_for_all_processes_together(receiver):
    running = receiver(2, memory_mb=2, max_object_mb=2)
    said = command(e0002=MRImageStorage, e0100=1, e0110=9, e0700=2, e0800=1, e1000="1.2.3.4")

    def begin(connection, count):
        connection.sendall(pdu(DATA, part(3, 3, said)) + pdu(DATA, part(3, 0, bytes(100_000))) * count)

    def status_of_a_big_one(connection):
        begin(connection, 9)
        connection.sendall(pdu(DATA, part(3, 2, bytes(2))))
        return status_of(hear(connection)[1])

    def is_refused_beside_another():
        # Taken by the process that listens; where `other` was there first, it is the one that is refused, unseen.
        with raw_association(running.port) as full:
            begin(full, 15)
            time.sleep(0.5)
            return status_of_a_big_one(other) == 0xA700

    with raw_association(running.port), raw_association(running.port) as other:
        assert until(is_refused_beside_another)
        assert until(lambda: status_of_a_big_one(other) != 0xA700)
    assert not running.tally.by_process()[0], "all were answered by the part"


# The end


def test_while_the_node_stops_no_process_lets_anybody_in(receiver, tmp_path):
    running = receiver(**MANY)
    held = [running.associate() for _ in range(4)]  # the next two go to other processes than the first
    running.drain()
    assert until(lambda: running.associate().is_rejected)
    for turned_away in [running.associate() for _ in range(4)]:
        assert turned_away.acceptor.primitive.reason_str == "Temporary congestion"
    running.process.terminate()
    for association in held:
        assert association.send_c_store(small_mr()).Status == 0x0000
        association.release()
    running.process.join(PATIENCE_SECONDS)
    assert running.process.exitcode == 0
    assert len([m for m in audit(tmp_path) if m.find(".//SOPClass") is not None]) == 4


def test_each_association_is_once_in_the_audit_trail_however_it_ends(receiver, tmp_path):
    running = receiver(**MANY)
    studies = [str(generate_uid()) for _ in range(9)]
    held = [running.associate() for _ in studies]
    for association, study in zip(held, studies, strict=True):
        assert association.send_c_store(small_mr(study)).Status == 0x0000
    for number, association in enumerate(held[:6]):
        association.release() if number % 2 else association.abort()
    parts = running.parts
    assert running.stop() == 0
    assert not [one for one in parts if one.is_running()]
    told = [m.find("ParticipantObjectIdentification").get("ParticipantObjectID") for m in audit(tmp_path)]
    assert sorted(told) == sorted(studies)
    assert not [p for p in (tmp_path / "node" / "inbox" / ".incoming").iterdir() if p.stat().st_size]


def test_a_port_that_is_taken_ends_all_processes_with_status_2(tmp_path):
    with socket.create_server(("127.0.0.1", port := free_port())):
        running = RunningReceiver(node_settings(tmp_path / "node", port=port, processes=3))
        with pytest.raises(EOFError):
            running.listen()
        running.process.join(5)
        assert running.process.exitcode == 2


# TLS


def test_a_part_shakes_hands_checks_certificates_and_reads_renewed_ones(receiver, tmp_path):
    authority = Authority(tmp_path / "authority")
    node, peer, other = (authority.issue(name) for name in ("node", "peer", "other"))
    peers = (Peer(ae_title=PEER_TITLE, certificate_common_name="peer"),)
    running = receiver(2, tls=node.files, peers=peers, **MANY)
    ours, theirs = ((issued.client_context(), "localhost") for issued in (peer, other))
    held = [running.associate(tls_args=ours) for _ in range(3)]
    assert held[1].send_c_store(small_mr()).Status == 0x0000
    assert running.tally.by_process() == [0, 1], "of three the second is with the part, and so is what comes next"
    held[1].release()
    assert until(lambda: running.associate(tls_args=theirs).is_rejected)
    former = node.sha256
    renew(node, authority.issue("renewed"))
    assert node.sha256 != former

    def shown():
        plain = socket.create_connection(("127.0.0.1", running.port), 10)
        with peer.client_context().wrap_socket(plain) as connection:
            return ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True)).strip()

    assert until(lambda: shown() in node.certificate.read_text())
    assert held[0].send_c_echo().Status == 0x0000


def test_the_default_is_a_process_for_each_cpu_and_four_at_most(monkeypatch):
    for cpus, count in ((1, 1), (2, 2), (4, 4), (64, 4)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cpus=cpus: set(range(cpus)))
        assert ReceiverConfig().process_count == count
    assert ReceiverConfig(processes=6).process_count == 6
