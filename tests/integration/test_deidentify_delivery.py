"""A real Orthanc of researchers gets a set in which nobody is named, while the PACS gets the patient's."""

from __future__ import annotations

import json
import time

import pydicom

from app.config import Destination
from app.deidentify import copy_folder, open_deidentifier
from app.delivery import Sender
from app.journal import Journal
from app.outbox import Outbox
from app.sender import send_files
from operators.validators import Ruling
from operators.verify import verify_folder
from tests.integration.orthanc import Orthanc
from tests.support_deidentify import identified_job, identity_of, leaks, result_files, write_images
from tests.support_dicom import node_settings


def destination(server, **more):
    return server.destination().model_copy(update=more)


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


def test_researchers_get_a_set_that_names_nobody(tmp_path, caplog):
    job = identified_job(tmp_path / "job", replaces=False)
    said = identity_of(job)
    with Orthanc(tmp_path / "pacs") as pacs, Orthanc(tmp_path / "research") as research:
        wanted: tuple[Destination, ...] = (
            destination(pacs, name="pacs"),
            destination(research, name="research", deidentify="shifted-dates"),
        )
        settings = node_settings(tmp_path / "node", sender={"destinations": wanted, "first_retry_seconds": 0.5})
        journal = Journal(settings.journal_path)
        outbox = Outbox(settings, journal)
        journal.study_arriving("k1", "1.2.3")
        journal.job_ready("j1", "k1", 4)
        journal.take_ready()
        outbox.commit("j1", [path for path in result_files(job) if "labelmap" not in path.name])
        sender = Sender(settings.sender, journal, outbox)
        sender.start()
        try:
            until(lambda: not journal.owing_jobs())
        finally:
            sender.stop()
            journal.close()
        images = copy_folder(
            write_images(job, tmp_path / "images")[0].parent,
            tmp_path / "images-out",
            open_deidentifier(settings, "shifted-dates"),
        )
        assert all(o.delivered for o in send_files(images.made, research.destination(), "RESEARCHER", 30))

        assert len(pacs.instance_uids()) == 8
        (study,) = research.get("/studies?expand")
        assert study["PatientMainDicomTags"]["PatientID"].startswith("P-"), "results and images are one study"
        (tmp_path / "received").mkdir()
        received = research.instance_uids()
        assert len(received) == 7 + 20, "all results but the page, and the images"
        for uid in received:
            (tmp_path / "received" / f"{uid}.dcm").write_bytes(research.file(uid))
        everything = json.dumps([research.get(f"/instances/{i}/tags") for i in research.get("/instances")])
    for path in (tmp_path / "received").iterdir():
        assert not leaks(path.read_bytes(), said), pydicom.dcmread(path).SOPClassUID.name
    assert not leaks(everything.encode(), said)
    judged = verify_folder(tmp_path / "received")
    assert {j.ruling for j in judged} == {Ruling.PASSED}, [j for j in judged if j.complaints]
    assert not leaks(caplog.text.encode(), said)
