"""The audit trail: what it says, that nothing is lost on the way to a collector, and that nobody's name is in it."""

from __future__ import annotations

import multiprocessing
import re
import socket
import stat
import threading
import time
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest

from app.audit import AuditTrail, Party, Transfer
from app.audit_forward import Forwarder, framed
from app.config import Destination
from app.config_operation import AuditConfig, SyslogConfig
from app.errors import PeerError
from app.sender import send_files
from app.witness import Witness
from tests.support_dicom import NODE_TITLE, PEER_TITLE, node_settings, save, small_mr

PEER = Party("SCANNER", "10.0.0.7")
MR = "1.2.840.10008.5.1.4.1.1.4"


@pytest.fixture
def trail(tmp_path):
    return AuditTrail(tmp_path / "audit.log", "GLIOMA_NODE", lambda: datetime(2026, 3, 1, 9, 30, tzinfo=UTC))


def parsed(message):
    return ElementTree.fromstring(message)  # noqa: S314 - our own


def messages(folder):
    return [parsed(line) for line in (folder / "audit.log").read_bytes().splitlines()]


def test_every_kind_of_message_has_its_code_outcome_and_parties(trail, tmp_path):
    trail.started()
    trail.received(PEER, [Transfer("1.2.3", Counter({MR: 104}))])
    trail.sent(Party("PACS", "pacs.example"), [Transfer("1.2.3", Counter({MR: 2}), failed=1)])
    trail.turned_away(Party("STRANGER", "10.0.0.9"), "not a known peer")
    trail.stopped()
    found = messages(tmp_path)
    assert [m.find("EventIdentification/EventID").get("csd-code") for m in found] == [
        "110100", "110104", "110104", "110113", "110100",
    ]  # fmt: skip
    assert [m.find("EventIdentification").get("EventOutcomeIndicator") for m in found] == ["0", "0", "4", "8", "0"]
    assert found[0].find("EventIdentification/EventTypeCode").get("csd-code") == "110120"
    received = found[1]
    roles = {p.find("RoleIDCode").get("csd-code"): p for p in received.findall("ActiveParticipant")}
    assert roles["110153"].get("UserID") == "SCANNER"
    assert roles["110153"].get("UserIsRequestor") == "true"
    assert roles["110153"].get("NetworkAccessPointTypeCode") == "2"
    assert roles["110152"].get("UserID") == "GLIOMA_NODE"
    study = received.find("ParticipantObjectIdentification")
    assert study.get("ParticipantObjectID") == "1.2.3"
    assert study.find("ParticipantObjectDescription/SOPClass").attrib == {"UID": MR, "NumberOfInstances": "104"}
    assert "1 instances were not taken" in found[2].findtext("EventIdentification/EventOutcomeDescription")
    order = [child.tag for child in found[1]]
    assert order == [
        "EventIdentification", "ActiveParticipant", "ActiveParticipant", "AuditSourceIdentification",
        "ParticipantObjectIdentification",
    ], "as the schema has it"  # fmt: skip


def test_the_file_is_the_nodes_alone(trail, tmp_path):
    trail.started()
    assert stat.S_IMODE((tmp_path / "audit.log").stat().st_mode) == 0o600


@pytest.mark.parametrize("title", ['"/><Evil/>', "A\nB", "\x00\x1b[2J", "ÄÖÜ"])
def test_a_peers_words_stay_words(trail, tmp_path, title):
    trail.turned_away(Party(title, "10.0.0.9"), "not a known peer")
    (message,) = messages(tmp_path)
    assert message.find("Evil") is None
    assert len(message.findall("ActiveParticipant")) == 2


def write_many(path, name):
    trail = AuditTrail(path, name)
    for i in range(50):
        trail.received(PEER, [Transfer(f"1.2.{i}", Counter({MR: i}))])


def test_lines_of_several_processes_stay_whole(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=write_many, args=(tmp_path / "audit.log", f"NODE{i}")) for i in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(messages(tmp_path)) == 150


def test_the_syslog_frame_counts_octets_and_names_what_it_holds(trail, tmp_path):
    trail.turned_away(Party("ÄÖ", "10.0.0.9"), "not a known peer")
    line = (tmp_path / "audit.log").read_bytes().rstrip(b"\n")
    count, rest = framed(line).split(b" ", 1)
    assert int(count) == len(rest)
    assert re.match(
        rb"<85>1 2026-03-01T09:30:00\.000\+00:00 \S+ glioma-node \d+ DICOM\+RFC3881 - \xef\xbb\xbf<Audit", rest
    )


class Collector:
    """A syslog collector on this machine that can go away and come back."""

    def __init__(self):
        self.port = 0
        self.received = b""
        self._server = None

    @contextmanager
    def up(self):
        self._server = socket.create_server(("127.0.0.1", self.port))
        self.port = self._server.getsockname()[1]
        thread = threading.Thread(target=self._serve, args=(self._server,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown(socket.SHUT_RDWR)
            self._server.close()
            thread.join(5)

    def _serve(self, server):
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(65536):
                    self.received += data

    def bodies(self):
        found, rest = [], self.received
        while rest:
            count, rest = rest.split(b" ", 1)
            found.append(parsed(rest[: int(count)].split(b"\xef\xbb\xbf", 1)[1]))
            rest = rest[int(count) :]
        return found

    def wait(self, count):
        until = time.monotonic() + 20
        while len(self.bodies()) < count and time.monotonic() < until:
            time.sleep(0.05)
        return self.bodies()


def uids(bodies):
    return [b.find("ParticipantObjectIdentification").get("ParticipantObjectID") for b in bodies]


def test_what_a_collector_missed_it_gets_once_and_in_order(trail, tmp_path):
    collector = Collector()

    def say(uid):
        trail.received(PEER, [Transfer(uid, Counter({MR: 1}))])

    with collector.up():
        first = Forwarder(tmp_path / "audit.log", SyslogConfig(host="127.0.0.1", port=collector.port, plain=True))
        say("1.1")
        first.start()
        assert uids(collector.wait(1)) == ["1.1"]
        first.stop()
    say("1.2")
    away = Forwarder(tmp_path / "audit.log", SyslogConfig(host="127.0.0.1", port=collector.port, plain=True))
    away.start()
    away.stop()
    say("1.3")
    with collector.up():
        again = Forwarder(tmp_path / "audit.log", SyslogConfig(host="127.0.0.1", port=collector.port, plain=True))
        again.start()
        assert uids(collector.wait(3)) == ["1.1", "1.2", "1.3"]
        again.stop()


def test_a_trail_that_was_moved_away_begins_anew(trail, tmp_path):
    collector = Collector()
    with collector.up():
        forwarder = Forwarder(tmp_path / "audit.log", SyslogConfig(host="127.0.0.1", port=collector.port, plain=True))
        trail.received(PEER, [Transfer("1.1", Counter({MR: 1})), Transfer("1.2", Counter({MR: 1}))])
        forwarder.start()
        collector.wait(2)
        (tmp_path / "audit.log").rename(tmp_path / "audit.old")
        trail.received(PEER, [Transfer("1.3", Counter({MR: 1}))])
        assert uids(collector.wait(3)) == ["1.1", "1.2", "1.3"]
        forwarder.stop()


def test_a_certificate_that_cannot_be_read_is_an_error_at_the_start(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        Forwarder(tmp_path / "audit.log", SyslogConfig(host="collector", ca=tmp_path / "none.pem"))


def trail_of(folder, count=1):
    """What the trail of the receivers of `listen` says, once it says as much."""
    path = folder / "node" / "audit.log"
    for _ in range(400):
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return [parsed(line) for line in path.read_bytes().splitlines()]
        time.sleep(0.05)
    raise AssertionError("the trail says less")


def test_the_receiver_writes_down_what_came_from_whom_and_nobodys_name(listen, tmp_path):
    port = listen()
    images = [save(small_mr("1.2.3", number=n), tmp_path / f"{n}.dcm") for n in range(3)]
    broken = save(small_mr("1.2.3"), tmp_path / "broken.dcm")
    broken.write_bytes(broken.read_bytes()[:-100])
    peer = Destination(name="node", ae_title=NODE_TITLE, host="127.0.0.1", port=port)
    send_files([*images, broken], peer, PEER_TITLE, 10)
    found = trail_of(tmp_path, 2)
    counts = {
        m.find("ParticipantObjectIdentification").get("ParticipantObjectID"): m.find(".//SOPClass") for m in found
    }
    assert counts["1.2.3"].get("NumberOfInstances") == "3"
    (source,) = [p for p in found[0].findall("ActiveParticipant") if p.find("RoleIDCode").get("csd-code") == "110153"]
    assert (source.get("UserID"), source.get("NetworkAccessPointID")) == (PEER_TITLE, "127.0.0.1")
    assert "4" in {m.find("EventIdentification").get("EventOutcomeIndicator") for m in found}, "one was refused"
    written = (tmp_path / "node" / "audit.log").read_text()
    assert "Secret" not in written
    assert "PID-SECRET" not in written


def test_the_receiver_writes_down_who_was_turned_away(listen, tmp_path):
    peer = Destination(name="node", ae_title=NODE_TITLE, host="127.0.0.1", port=listen())
    with pytest.raises(PeerError, match="rejected us"):
        send_files([save(small_mr(), tmp_path / "1.dcm")], peer, "STRANGER", 10)
    (message,) = trail_of(tmp_path)
    assert message.find("EventIdentification/EventID").get("csd-code") == "110113"
    assert "STRANGER" in {p.get("UserID") for p in message.findall("ActiveParticipant")}


def test_switched_off_nothing_is_written(tmp_path):
    settings = node_settings(tmp_path / "node").model_copy(update={"audit": AuditConfig(enabled=False)})
    witness = Witness.of(settings)
    witness.turned_away(None, "reason")
    assert not (tmp_path / "node" / "audit.log").exists()


def test_a_trail_that_cannot_be_written_costs_no_image(listen, tmp_path, caplog):
    port = listen()
    (tmp_path / "node" / "audit.log").mkdir()
    peer = Destination(name="node", ae_title=NODE_TITLE, host="127.0.0.1", port=port)
    (outcome,) = send_files([save(small_mr(), tmp_path / "1.dcm")], peer, PEER_TITLE, 10)
    assert outcome.delivered
    for _ in range(100):
        if "audit trail cannot be written" in caplog.text:
            return
        time.sleep(0.05)
    pytest.fail("nobody was told")
