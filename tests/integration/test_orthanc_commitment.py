"""A real Orthanc is asked for storage commitment, and reports on an association of its own to the node's receiver."""

from __future__ import annotations

import time
from contextlib import contextmanager

from app import commitment
from app.config import Peer
from app.delivery import Sender
from app.doctor import examine
from app.journal import DeliveryState, JobState, Journal
from app.outbox import Outbox
from app.phantom import PhantomOptions, make_phantom
from app.receiver import Receiver
from app.sender import reference_of
from tests.integration.orthanc import Orthanc
from tests.support_dicom import node_settings, result_files
from tests.support_port import free_port
from tests.support_study import RunningNode


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


@contextmanager
def delivering(tmp_path, server, port, before=lambda journal, outbox: None, **commitment_settings):
    """A receiver and a sender beside a journal that owes three results; yields journal and settings."""
    destination = server.destination().model_dump() | {"commitment": commitment_settings}
    settings = node_settings(
        tmp_path / "node",
        port=port,
        peers=(Peer(ae_title="ORTHANC", address="127.0.0.1"),),
        sender={"destinations": [destination], "first_retry_seconds": 0.2, "longest_retry_seconds": 1.0},
    )
    journal = Journal(settings.journal_path)
    outbox = Outbox(settings, journal)
    journal.study_arriving("k1", "1.2.3")
    journal.job_ready("j1", "k1", 4)
    journal.take_ready()
    outbox.commit("j1", result_files(tmp_path / "output", 3))
    before(journal, outbox)
    receiver = Receiver(settings)
    sender = Sender(settings.sender, journal, outbox)
    sender.start()
    try:
        yield journal, settings
    finally:
        sender.stop()
        receiver.close()
        journal.close()


def all_delivered(journal):
    return {row.state for row in journal.deliveries("j1")} == {DeliveryState.DELIVERED}


def test_what_orthanc_commits_itself_to_is_delivered(tmp_path):
    port = free_port()
    server = Orthanc(tmp_path, modalities={"node": ("GLIOMA_NODE", port)})
    with server, delivering(tmp_path, server, port) as (journal, settings):
        until(lambda: all_delivered(journal))
        until(lambda: not (settings.outbox_dir / "j1").exists())
        assert server.instance_uids() == {row.sop_instance for row in journal.deliveries("j1")}
        assert {row.attempts for row in journal.deliveries("j1")} == {1}
        assert {row.asks for row in journal.deliveries("j1")} == {1}


def test_what_orthanc_took_and_does_not_have_is_sent_again(tmp_path):
    port = free_port()

    def lied(journal, outbox):
        """Two of three results are said to be stored, and are not."""
        for row in journal.owed("orthanc")[:2]:
            commitment.stored(journal, row.delivery_id, "", *reference_of(outbox.path(row.job_id, row.file)))

    server = Orthanc(tmp_path, modalities={"node": ("GLIOMA_NODE", port)})
    with server, delivering(tmp_path, server, port, lied) as (journal, _):
        until(lambda: all_delivered(journal))
        assert len(server.instance_uids()) == 3
        assert sorted(row.attempts for row in journal.deliveries("j1")) == [1, 2, 2]
        told = " ".join(event.what for event in journal.events("k1"))
        assert told.count("does not keep it, no such object instance (0x0112); it is sent again") == 2


def test_an_orthanc_that_does_not_know_us_is_told_and_asked_until_it_does(tmp_path):
    port = free_port()
    server = Orthanc(tmp_path)
    with server, delivering(tmp_path, server, port, timeout_seconds=1.0) as (journal, _):
        until(lambda: min(row.asks for row in journal.deliveries("j1")) >= 2)
        assert {row.state for row in journal.deliveries("j1")} == {DeliveryState.STORED}
        assert len(server.instance_uids()) == 3
        server.stop()
        server.know(node=("GLIOMA_NODE", port))
        server.start()
        until(lambda: all_delivered(journal))
        assert len(server.instance_uids()) == 3


def test_doctor_says_whether_commitment_can_work(tmp_path):
    port = free_port()
    server = Orthanc(tmp_path, modalities={"node": ("GLIOMA_NODE", port)})
    with server, delivering(tmp_path, server, port) as (_, settings):
        found = {check.subject: check for check in examine(settings) if "commitment" in check.subject}
        assert [check.ok for check in found.values()] == [True]
        strangers = settings.model_copy(
            update={"receiver": settings.receiver.model_copy(update={"peers": (), "ae_title": "ELSE"})}
        )
        (check,) = [check for check in examine(strangers) if "commitment" in check.subject]
        assert not check.ok
        assert "ORTHANC is not among node.receiver.peers" in check.found


def test_a_whole_node_delivers_to_one_that_commits_and_to_one_over_the_web(tmp_path):
    """`app serve` with its receiver in a process of its own: that is where the report comes in."""
    port = free_port()
    study = make_phantom(tmp_path / "study", PhantomOptions(slices=12, rows=96, columns=96, pixel_mm=2.4))
    pacs = Orthanc(tmp_path, modalities={"node": ("GLIOMA_NODE", port)})
    web = Orthanc(tmp_path / "web", dicomweb=True)
    destinations = [
        pacs.destination().model_dump(mode="json") | {"commitment": {}},
        {"name": "web", "stow": {"url": f"{web.url}/dicom-web"}},
    ]
    peers = [{"ae_title": "SCANNER"}, {"ae_title": "ORTHANC", "address": "127.0.0.1"}]
    receiver = {"host": "127.0.0.1", "port": port, "peers": peers}
    with pacs, web:
        node = RunningNode(tmp_path, destinations, port=port, more={"receiver": receiver}).start()
        try:
            node.send(study.folder)
            (job,) = node.settled()
            assert job.state is JobState.DONE
            outbox = tmp_path / "data" / "outbox"
            node.wait(lambda: not list(outbox.iterdir()), 120, "something stays owed")
        finally:
            assert node.stop() == 0
        journal = Journal(tmp_path / "data" / "journal.sqlite")
        rows = journal.deliveries(job.job_id)
        journal.close()
        assert {row.state for row in rows} == {DeliveryState.DELIVERED}
        assert {row.asks for row in rows if row.destination == "orthanc"} == {1}
        assert pacs.instance_uids() == web.instance_uids()
        assert len(pacs.instance_uids()) == len(rows) // 2 > 4
