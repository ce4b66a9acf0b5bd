"""The audit trail: what it says, that nothing is lost on the way to a collector, and that nobody's name is in it."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import re
import socket
import ssl
import stat
import struct
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from pynetdicom.sop_class import Verification

from app.audit import AuditTrail, Party, Transfer
from app.audit_forward import Forwarder, framed
from app.audit_jobs import TOLD, JobEndings
from app.config import Destination
from app.config_operation import AuditConfig, SyslogConfig
from app.errors import PeerError, TlsError
from app.journal import Journal
from app.receiver import Receiver
from app.sender import send_files
from app.tls import common_names
from app.witness import Witness
from tests.support_audit import messages_in, told
from tests.support_dicom import NODE_TITLE, PEER_TITLE, node_settings, save, small_mr
from tests.support_peer import associate

PEER = Party("SCANNER", "10.0.0.7")
MR = "1.2.840.10008.5.1.4.1.1.4"


@pytest.fixture
def trail(tmp_path):
    return AuditTrail(tmp_path / "audit.log", "GLIOMA_NODE", lambda: datetime(2026, 3, 1, 9, 30, tzinfo=UTC))


def parsed(message):
    return ElementTree.fromstring(message)  # noqa: S314 - our own


def messages(folder):
    return messages_in(folder / "audit.log")


def test_every_kind_of_message_has_its_code_outcome_and_parties(trail, tmp_path):
    trail.started()
    trail.received(PEER, [Transfer("1.2.3", Counter({MR: 104}))])
    trail.sent(Party("PACS", "pacs.example"), [Transfer("1.2.3", Counter({MR: 2}), failed=1)])
    trail.turned_away(Party("STRANGER", "10.0.0.9"), "not a known peer")
    trail.stopped()
    trail.turned_away(PEER, "the node stops", for_now=True)
    trail.visited(PEER, "1 C-ECHO")
    trail.not_analysed("1.2.3", "job j1 failed: missing-sequence")
    trail.not_analysed("1.2.3", "job j2 quarantined: hung", grave=True)
    found = messages(tmp_path)
    assert [m.find("EventIdentification/EventID").get("csd-code") for m in found] == [
        "110100", "110104", "110104", "110113", "110100", "110113", "110113", "110103", "110103",
    ]  # fmt: skip
    assert [m.find("EventIdentification").get("EventOutcomeIndicator") for m in found] == list("004804048")
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

    def __init__(self, context=None):
        """With a context it speaks TLS, and notes whose certificate it was shown."""
        self.port = 0
        self.received = b""
        self.shown = []
        self._context = context
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
            with suppress(ssl.SSLError), connection:
                if self._context is not None:
                    connection = self._context.wrap_socket(connection, server_side=True)
                    self.shown += common_names(connection.getpeercert())
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

    with collector.up():
        first = Forwarder(tmp_path / "audit.log", SyslogConfig(host="127.0.0.1", port=collector.port, plain=True))
        say(trail, "1.1")
        first.start()
        assert uids(collector.wait(1)) == ["1.1"]
        first.stop()
    say(trail, "1.2")
    away = Forwarder(tmp_path / "audit.log", SyslogConfig(host="127.0.0.1", port=collector.port, plain=True))
    away.start()
    away.stop()
    say(trail, "1.3")
    with collector.up():
        again = Forwarder(tmp_path / "audit.log", SyslogConfig(host="127.0.0.1", port=collector.port, plain=True))
        again.start()
        assert uids(collector.wait(3)) == ["1.1", "1.2", "1.3"]
        again.stop()


@pytest.fixture
def collector():
    return Collector()


@pytest.fixture
def forward(tmp_path, collector):
    """Send what the trail holds, as a node that starts and stops does."""

    @contextmanager
    def running():
        forwarder = Forwarder(tmp_path / "audit.log", SyslogConfig(host="127.0.0.1", port=collector.port, plain=True))
        forwarder.start()
        try:
            yield
        finally:
            forwarder.stop()

    return running


def say(trail, *uids):
    trail.received(PEER, [Transfer(uid, Counter({MR: 1})) for uid in uids])


def held(folder):
    return [path.read_bytes().count(b"\n") for path in sorted(folder.glob("audit.log.unsent-*"))]


def test_a_trail_that_is_moved_away_is_sent_to_its_end_before_the_next_begins(trail, tmp_path, collector, forward):
    with collector.up(), forward():
        say(trail, "1.1")
        collector.wait(1)
    say(trail, "1.2", "1.3")
    (tmp_path / "audit.log").rename(tmp_path / "elsewhere")
    say(trail, "1.4")
    with forward():  # a node that starts, with its collector still away
        pass
    assert held(tmp_path) == [3, 1]
    (tmp_path / "elsewhere").unlink()  # compressed, say
    (tmp_path / "audit.log").unlink()
    say(trail, "1.5")
    with collector.up(), forward():
        assert uids(collector.wait(5)) == ["1.1", "1.2", "1.3", "1.4", "1.5"]
    assert held(tmp_path) == [1], "what was sent takes no room any more"


def test_moved_away_under_a_forwarder_that_runs_nothing_is_sent_twice(trail, tmp_path, collector, forward):
    with collector.up(), forward():
        say(trail, "1.1", "1.2")
        collector.wait(2)
        for number in range(3, 6):
            (tmp_path / "audit.log").rename(tmp_path / f"audit.{number}")
            say(trail, f"1.{number}")
            assert uids(collector.wait(number)) == [f"1.{n}" for n in range(1, number + 1)]
    assert held(tmp_path) == [1]


@pytest.mark.parametrize("after", [["1.2"], ["1.2", "1.3", "1.4"]], ids=["as long as before", "longer"])
def test_a_trail_that_was_cut_and_written_on_begins_anew(trail, tmp_path, collector, forward, after):
    with collector.up(), forward():
        say(trail, "1.1")
        collector.wait(1)
    os.truncate(tmp_path / "audit.log", 0)
    trail._now = lambda: datetime(2026, 3, 1, 9, 31, tzinfo=UTC)
    say(trail, *after)
    with collector.up(), forward():
        assert uids(collector.wait(1 + len(after))) == ["1.1", *after]


def test_whoever_moves_the_trail_while_it_is_written_loses_no_line(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=write_many, args=(tmp_path / "audit.log", f"NODE{i}")) for i in range(2)]
    for writer in writers:
        writer.start()
    ends = {}
    while any(writer.is_alive() for writer in writers):
        with suppress(FileNotFoundError):
            moved = (tmp_path / "audit.log").rename(tmp_path / f"moved-{len(ends)}")
            with moved.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                ends[moved] = len(file.read())
        time.sleep(0.005)
    assert len(ends) > 3
    assert {path: path.stat().st_size for path in ends} == ends, "nothing was added to a file that was gone"
    lines = b"".join(path.read_bytes() for path in [*ends, *tmp_path.glob("audit.log")]).splitlines()
    assert len({line.split(b"EventDateTime")[1] for line in lines}) == len(lines) == 100


def test_a_certificate_that_cannot_be_read_is_an_error_at_the_start(tmp_path):
    with pytest.raises(TlsError, match=r"CA file .*none\.pem cannot be read \(No such file"):
        Forwarder(tmp_path / "audit.log", SyslogConfig(host="collector", ca=tmp_path / "none.pem"))


def trail_of(folder, count=1):
    """What the trail of the receivers of `listen` says, once it says as much."""
    path = folder / "node" / "audit.log"
    for _ in range(400):
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return messages_in(path)
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


def test_whoever_calls_another_title_is_in_trail_and_log(listen, tmp_path, caplog):
    assert associate(listen(), Verification, called="OTHER_NODE").is_rejected
    assert [told(m) for m in trail_of(tmp_path)] == [("8", f"it calls OTHER_NODE, not {NODE_TITLE}")]
    line, until = f"'{PEER_TITLE}' at 127.0.0.1 calls 'OTHER_NODE', not {NODE_TITLE}", time.monotonic() + 5
    while line not in caplog.text:
        assert time.monotonic() < until, "nothing in the log"
        time.sleep(0.02)


def test_one_too_many_is_in_the_trail_and_may_come_again(listen, tmp_path):
    port = listen(max_associations=1)
    first = associate(port, Verification)
    assert associate(port, Verification).is_rejected
    assert [told(m) for m in trail_of(tmp_path)] == [("4", "as many associations as may be are open")]
    first.release()


def test_an_association_that_only_echoes_is_in_the_trail(listen, tmp_path):
    association = associate(listen(), Verification)
    association.send_c_echo()
    association.send_c_echo()
    association.release()
    (message,) = trail_of(tmp_path)
    assert told(message) == ("0", "2 C-ECHO, no instances")
    assert message.find("EventIdentification/EventTypeCode").get("csd-code") == "110126"


def test_an_association_that_asks_for_nothing_we_serve_is_in_trail_and_log(listen, tmp_path, caplog):
    find = "1.2.840.10008.5.1.4.1.2.2.1"
    assert associate(listen(), find).is_aborted
    (message,) = trail_of(tmp_path)
    assert told(message) == ("4", f"0 C-ECHO, no instances; the node serves none of what it asked for: {find}")
    assert f"none of what it asked for: {find}" in caplog.text


def test_an_association_that_breaks_off_is_in_the_trail_with_what_it_brought(listen, tmp_path):
    association = associate(listen(), MR)
    association.send_c_store(small_mr("1.2.3"))
    association.abort()
    (message,) = trail_of(tmp_path)
    assert told(message) == ("4", "ended without a release")
    assert message.find(".//SOPClass").get("NumberOfInstances") == "1"


def test_an_association_whose_protocol_breaks_is_in_the_trail(listen, tmp_path):
    association = associate(listen(), Verification)
    association.dul.socket.send(struct.pack(">BxL", 0x42, 4) + bytes(4))
    assert [told(m) for m in trail_of(tmp_path)] == [("4", "0 C-ECHO, no instances; ended without a release")]


def test_what_is_open_when_the_receiver_ends_is_in_the_trail(tmp_path):
    receiver = Receiver(node_settings(tmp_path / "node"))
    association = associate(receiver.port, MR)
    association.send_c_store(small_mr("1.2.3"))
    receiver.close()
    (message,) = trail_of(tmp_path)
    assert message.find("ParticipantObjectIdentification").get("ParticipantObjectID") == "1.2.3"


# Studies without a result


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite")
    yield journal
    journal.close()


def job_ends(journal, number, how):
    journal.study_arriving(f"k{number}", f"1.2.{number}")
    journal.job_ready(f"j{number}", f"k{number}", 7)
    journal.take_ready()
    how(f"j{number}")


def test_studies_that_end_without_a_result_are_in_the_trail_once_over_restarts(journal, trail, tmp_path):
    def fail(job):
        journal.job_failed(job, "missing-sequence", "FLAIR has no candidate", "select")

    job_ends(journal, 0, fail)  # before there was anybody to tell
    endings = JobEndings(journal, trail, tmp_path)
    job_ends(journal, 1, fail)
    endings.step()
    endings.step()
    job_ends(journal, 2, lambda job: journal.job_done(job, 2, {}))
    job_ends(journal, 3, lambda job: journal.job_crashed(job, "hung", "no answer", "", 1))
    # The node was killed before it told; the next one does.
    JobEndings(journal, trail, tmp_path).step()
    JobEndings(journal, trail, tmp_path).step()
    found = messages(tmp_path)
    assert uids(found) == ["1.2.1", "1.2.3"]
    assert [told(m) for m in found] == [("4", "job j1 failed: missing-sequence"), ("8", "job j3 quarantined: hung")]


def test_a_folder_that_takes_no_file_stops_no_node(journal, trail, tmp_path, caplog):
    endings = JobEndings(journal, trail, tmp_path)
    (tmp_path / f"{TOLD}.part").mkdir()
    job_ends(journal, 1, lambda job: journal.job_failed(job, "code", "message", "stage"))
    endings.step()
    endings.step()
    assert uids(messages(tmp_path)) == ["1.2.1"]
    assert "cannot be kept: Is a directory" in caplog.text


def test_switched_off_nothing_is_written(tmp_path):
    settings = node_settings(tmp_path / "node").model_copy(update={"audit": AuditConfig(enabled=False)})
    witness = Witness.of(settings)
    stranger = SimpleNamespace(requestor=SimpleNamespace(primitive=None, address="10.0.0.9"))
    assert witness.turned_away(stranger, "reason"), "but in the log it is"
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
