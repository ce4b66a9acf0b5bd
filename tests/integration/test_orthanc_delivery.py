"""A real Orthanc gets what the node owes it, also when it was down; and can send to the node."""

import io
import time

import pydicom
import pytest
from pydicom import uid
from pydicom.uid import generate_uid

from app.config import Peer
from app.delivery import Sender
from app.journal import Journal
from app.outbox import Outbox
from app.receiver import Receiver
from app.sender import send_files
from operators.write_seg import write_segs
from tests.integration.orthanc import Orthanc, running_orthanc  # noqa: F401 - a fixture
from tests.support_dicom import node_settings, result_files, save, small_mr, with_meta
from tests.support_port import free_port
from tests.support_results import MADE_AT, job_of


def until(condition, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


def test_files_arrive_whole(orthanc, tmp_path):
    study = generate_uid()
    images = [small_mr(study, number=number, size=64) for number in range(20)]
    images[0].compress(uid.JPEG2000Lossless, generate_instance_uid=False)
    images[1].compress(uid.RLELossless, generate_instance_uid=False)
    files = [save(ds, tmp_path / f"{ds.InstanceNumber}.dcm") for ds in images]
    outcomes = send_files(files, orthanc.destination(), "GLIOMA_NODE", 10)
    assert [(outcome.status, outcome.note) for outcome in outcomes] == [(0x0000, "")] * 20
    assert orthanc.instance_uids() == {ds.SOPInstanceUID for ds in images}
    for ds in images[:3]:
        held = pydicom.dcmread(io.BytesIO(orthanc.file(ds.SOPInstanceUID)))
        assert held.file_meta.TransferSyntaxUID == ds.file_meta.TransferSyntaxUID
        assert held.PixelData == ds.PixelData


def test_sending_again_is_success_and_makes_no_second_copy(orthanc, tmp_path):
    files = result_files(tmp_path / "files")
    for _ in range(2):
        assert all(outcome.delivered for outcome in send_files(files, orthanc.destination(), "GLIOMA_NODE", 10))
    assert len(orthanc.instance_uids()) == 2


def test_segmentation_and_report_classes_are_taken(orthanc, tmp_path):
    files = []
    for sop_class in (uid.SegmentationStorage, uid.Comprehensive3DSRStorage, uid.SecondaryCaptureImageStorage):
        ds = small_mr()
        ds.SOPClassUID = sop_class
        files.append(save(with_meta(ds, uid.ExplicitVRLittleEndian), tmp_path / f"{sop_class}.dcm"))
    assert all(outcome.delivered for outcome in send_files(files, orthanc.destination(), "GLIOMA_NODE", 10))


def test_a_label_map_is_refused_by_an_orthanc_that_takes_known_classes_alone(orthanc, tmp_path):
    job = job_of(tmp_path)
    write_segs(job, "1.0", MADE_AT, labelmap=True)
    files = [job.results["SEG T1C"], job.results["SEG T1C labelmap"]]
    taken, refused = send_files(files, orthanc.destination(), "GLIOMA_NODE", 10)
    assert taken.delivered
    assert not refused.delivered
    assert "does not take" in refused.note


def test_a_label_map_arrives_whole_where_unknown_classes_are_taken(tmp_path):
    job = job_of(tmp_path)
    write_segs(job, "1.0", MADE_AT, labelmap=True)
    path = job.results["SEG T1C labelmap"]
    with Orthanc(tmp_path, UnknownSopClassAccepted=True) as server:
        (outcome,) = send_files([path], server.destination(), "GLIOMA_NODE", 10)
        assert (outcome.status, outcome.note) == (0x0000, "")
        sent = pydicom.dcmread(path)
        assert pydicom.dcmread(io.BytesIO(server.file(sent.SOPInstanceUID))) == sent


def test_an_orthanc_that_is_down_gets_everything_once_it_is_up(tmp_path):
    server = Orthanc(tmp_path)
    sender_settings = {
        "destinations": (server.destination(),),
        "first_retry_seconds": 0.2,
        "longest_retry_seconds": 1.0,
    }
    settings = node_settings(tmp_path / "node", sender=sender_settings)
    journal = Journal(settings.journal_path)
    outbox = Outbox(settings, journal)
    journal.study_arriving("k1", "1.2.3")
    journal.job_ready("j1", "k1", 4)
    journal.take_ready()
    files = result_files(tmp_path / "output", 3)
    outbox.commit("j1", files)
    sender = Sender(settings.sender, journal, outbox)
    sender.start()
    try:
        until(lambda: all(delivery.attempts for delivery in journal.deliveries("j1")))
        with server:
            until(lambda: journal.owed("orthanc") == [])
            assert server.instance_uids() == {str(pydicom.dcmread(file).SOPInstanceUID) for file in files}
    finally:
        sender.stop()
    assert not (settings.outbox_dir / "j1").exists()


@pytest.mark.parametrize("count", [30])
def test_orthanc_sends_a_study_to_the_node(tmp_path, count):
    port = free_port()
    receiver = Receiver(
        node_settings(tmp_path / "node", port=port, peers=(Peer(ae_title="ORTHANC", address="127.0.0.1"),))
    )
    study = generate_uid()
    images = [small_mr(study, number=number, size=64) for number in range(count)]
    try:
        with Orthanc(tmp_path, modalities={"node": ("GLIOMA_NODE", port)}) as server:
            for ds in images:
                buffer = io.BytesIO()
                ds.save_as(buffer, enforce_file_format=True)
                server.post("/instances", buffer.getvalue())
            server.post("/modalities/node/echo", {})
            (held,) = server.get("/studies")
            answer = server.post("/modalities/node/store", {"Resources": [held], "Synchronous": True})
            assert answer["FailedInstancesCount"] == 0
    finally:
        receiver.close()
    kept = [pydicom.dcmread(path).SOPInstanceUID for path in (tmp_path / "node" / "inbox").glob("[0-9a-f]*/*.dcm")]
    assert sorted(kept) == sorted(ds.SOPInstanceUID for ds in images)
