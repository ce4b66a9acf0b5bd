"""The whole chain with real parts: DCMTK sends a phantom to the node, the node stores results in Orthanc.

One node lives through all of it, in this order: killed in the middle of its first study, started again, sent the
same study twice, sent studies it cannot use, and stopped by SIGTERM in the middle of another.
"""

from __future__ import annotations

import subprocess
import time
import urllib.request

import highdicom as hd
import numpy as np
import pydicom
import pytest

from app.journal import JobState
from app.phantom import PhantomOptions, make_ct, make_phantom
from operators.domain import Contrast
from operators.validators import Ruling
from operators.verify import verify_folder
from tests.integration.orthanc import Orthanc
from tests.support_dcmtk import dcmtk
from tests.support_port import free_port
from tests.support_study import RunningNode, phantom

SMALL = {"slices": 12, "rows": 96, "columns": 96, "pixel_mm": 2.4, "spacing_mm": 11.0, "thickness_mm": 10.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("node")


@pytest.fixture(scope="module")
def truth(folder):
    return phantom(folder, "study")


@pytest.fixture(scope="module")
def pacs(folder):
    with Orthanc(folder, dicomweb=True) as server:
        yield server


@pytest.fixture(scope="module")
def newer_pacs(folder):
    """A second PACS, which takes label maps: Orthanc does not know them, but can be told to keep them."""
    with Orthanc(folder / "newer", UnknownSopClassAccepted=True) as server:
        yield server


@pytest.fixture(scope="module")
def node(folder, pacs, newer_pacs, truth):
    """A node that was killed with kill -9 while it analysed the phantom, and started again."""
    labelled = {"name": "newer", "segmentation": "labelmap"}
    destinations = [pacs.destination().model_dump(), newer_pacs.destination().model_dump() | labelled]
    more = {"results": {"probability_map": True}, "operation": {"port": free_port()}}
    running = RunningNode(folder, destinations, more=more).start()
    running.send(truth.folder)
    running.wait(lambda: [j for j in running.jobs() if j.state is JobState.PROCESSING], 60, "no job begins")
    time.sleep(1.0)
    running.kill()
    assert [j.state for j in running.jobs()] == [JobState.PROCESSING]
    running.start()
    running.settled()
    yield running
    if running.process.poll() is None:
        running.kill()


def studies(pacs, **query):
    return pacs.get("/dicom-web/instances?" + "&".join(f"{k}={v}" for k, v in query.items()))


def test_a_study_interrupted_by_kill_is_finished_once(node):
    (job,) = node.jobs()
    assert (job.state, job.attempts) == (JobState.DONE, 2)
    assert [p.name for p in node.archived()] == [
        "attention_idh.dcm",
        "key_image.dcm",
        "measurements.dcm",
        "report.pdf.dcm",
        "seg_flair.dcm",
        "seg_flair_labelmap.dcm",
        "seg_t1c.dcm",
        "seg_t1c_labelmap.dcm",
        "seg_t1c_probability.dcm",
        "sr.dcm",
        "sr_labelmap.dcm",
    ]


def test_the_pacs_finds_seg_sr_and_pdf_in_the_same_study(node, pacs, truth):
    def held():
        found = studies(pacs, StudyInstanceUID=truth.study_uid)
        return sorted(entry["00080060"]["Value"][0] for entry in found)

    node.wait(lambda: held() == ["DOC", "OT", "OT", "SEG", "SEG", "SEG", "SR", "SR"], 30, f"Orthanc holds {held()}")


def uids(paths):
    return {str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in paths}


def test_each_pacs_gets_the_segmentations_in_its_own_form(node, pacs, newer_pacs):
    archived = node.archived()
    labelmap = [p for p in archived if p.stem.endswith("_labelmap")]
    binary = [p for p in archived if f"{p.stem}_labelmap" in {q.stem for q in labelmap}]
    assert len(binary) == len(labelmap) == 3
    for server, absent in ((pacs, labelmap), (newer_pacs, binary)):
        expected = uids(set(archived) - set(absent))
        node.wait(lambda s=server, e=expected: s.instance_uids() == e, 30, "a PACS has not what it is to have")


def test_every_result_is_valid(node):
    judged = verify_folder(node.archived()[0].parent)
    assert [j for j in judged if j.ruling is not Ruling.PASSED and "_labelmap" not in j.subject] == []
    assert {j.ruling for j in judged} == {Ruling.PASSED, Ruling.NOT_JUDGED}


def test_the_shipped_network_finds_the_phantoms_lesion(node, truth):
    seg = hd.seg.segread(next(p for p in node.archived() if p.name == "seg_t1c.dcm"))
    volume = seg.get_volume(combine_segments=False)
    found = np.asarray(volume.array)[..., 0] > 0
    lesion = truth.lesion_occupancy(volume.affine, found.shape, Contrast.T1C) > 0.5
    assert 2 * (found & lesion).sum() / (found.sum() + lesion.sum()) >= 0.6


def test_the_report_says_what_was_measured(node):
    report = next(p for p in node.archived() if p.name == "sr.dcm")
    text = subprocess.run(["dsrdump", str(report)], capture_output=True, text=True, check=True).stdout
    for words in ("Oncology Measurement Report", "Volume", "Long Axis", "Research use only", "not assessed"):
        assert words.lower() in text.lower()


def test_a_study_sent_twice_is_analysed_once(node, truth):
    node.send(truth.folder)
    time.sleep(4.0)  # longer than it takes a study to count as complete
    assert len(node.jobs()) == 1


def test_a_stranger_is_not_let_in(node, truth):
    one = sorted(truth.folder.glob("*.dcm"))[0]
    command = [dcmtk("storescu"), "-aet", "STRANGER", "-aec", "GLIOMA_NODE", "127.0.0.1", str(node.port), str(one)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "Rejected" in refused.stderr


def without_flair(folder):
    make_phantom(folder, PhantomOptions(seed=2, contrasts=(Contrast.T1, Contrast.T1C, Contrast.T2), **SMALL))


def ct_study(folder):
    make_ct(folder, PhantomOptions(seed=3, **SMALL))


def missing_slice(folder):
    make_phantom(folder, PhantomOptions(seed=4, **SMALL))
    flair = [p for p in sorted(folder.glob("*.dcm")) if "InversionTime" in pydicom.dcmread(p, stop_before_pixels=True)]
    flair[5].unlink()


BAD = [
    (without_flair, "missing-sequence", "FLAIR"),
    (ct_study, "missing-sequence", "T1C"),
    (missing_slice, "broken-geometry", "missing"),
]


@pytest.mark.parametrize(("make", "code", "word"), BAD)
def test_a_study_that_cannot_be_used_fails_with_its_reason(node, folder, make, code, word):
    before = len(node.jobs())
    make(folder / make.__name__)
    node.send(folder / make.__name__)
    job = node.settled(before + 1, 60)[-1]
    assert (job.state, job.code) == (JobState.FAILED, code)
    assert word in job.message
    trail = folder / "data" / "audit.log"
    node.wait(lambda: f"job {job.job_id} failed: {code}" in trail.read_text(), 30, "the trail does not tell")
    shown = {page: page_of(node, page) for page in ("/health", "/ready", "/metrics")}
    assert 'glioma_jobs_total{outcome="failed"}' in shown["/metrics"]
    sample = pydicom.dcmread(next((folder / make.__name__).rglob("*.dcm")), stop_before_pixels=True)
    who = [str(sample.PatientName).split("^")[0], str(sample.PatientID)]
    assert all(who)
    for place, text in {"log": node.log(), "trail": trail.read_text(), **shown}.items():
        assert not [word for word in who if word in text], f"the patient is named in {place}"


def page_of(node, page):
    address = f"http://127.0.0.1:{node.more['operation']['port']}{page}"
    with urllib.request.urlopen(address, timeout=30) as answer:
        return answer.read().decode()


def test_sigterm_finishes_the_study_in_hand(node, folder):
    before = len(node.jobs())
    make_phantom(folder / "last", PhantomOptions(seed=5, **SMALL))
    node.send(folder / "last")
    node.wait(lambda: len(node.jobs()) > before and node.jobs()[-1].state is JobState.PROCESSING, 60, "no job begins")
    assert node.stop() == 0
    assert node.jobs()[-1].state in {JobState.DONE, JobState.FAILED}
    assert not node.listens()
