"""The tally of the kills sees what must not be: each fault is made by hand, and counted."""

from __future__ import annotations

import pydicom
import pytest

from app.files import instance_name, study_key
from app.journal import EventRow, Journal
from app.sender import send_files
from tests.integration.orthanc import Orthanc
from tests.support_dicom import save, small_mr
from tests.support_study import RunningNode
from tests.torture.kills import RESULTS, Tally, _count, content_of

STUDY, JOB = "1.2.3.4", "job1"


@pytest.fixture(scope="module")
def pacs(tmp_path_factory):
    with Orthanc(tmp_path_factory.mktemp("pacs")) as server:
        yield server


@pytest.fixture
def run(tmp_path, pacs):
    """What a run leaves when all went well: one study of two images, done once and delivered whole."""
    data, key = tmp_path / "data", study_key(STUDY)
    for folder in ("inbox/.incoming", "work"):
        (data / folder).mkdir(parents=True)
    images = [small_mr(STUDY, number=number) for number in range(2)]
    for image in images:
        save(image, data / "inbox" / key / instance_name(image.SOPInstanceUID))
    archive = data / "archive" / key / JOB
    results = [save(small_mr(STUDY, number=number), archive / f"{number}.dcm") for number in range(RESULTS)]
    journal = Journal(data / "journal.sqlite")
    journal.study_arriving(key, STUDY)
    journal.job_ready(JOB, key, len(images))
    journal.take_ready()
    journal.job_done(JOB, RESULTS, {})
    for held in pacs.get("/instances"):
        pacs.delete(f"/instances/{held}")
    send_files(results, pacs.destination(), "GLIOMA_NODE", 10)
    yield RunningNode(tmp_path), data, journal, results, dict(map(content_of, (data / "inbox" / key).iterdir()))
    journal.close()


def counted(run, pacs):
    tally = Tally(accepted={STUDY: run[4]})
    _count(run[0], pacs, tally)
    return tally


def faults(tally):
    assert not tally.sound
    return {what: times for what, times in tally.wrong.items() if times}


def test_a_run_in_which_all_went_well_is_sound(run, pacs):
    tally = counted(run, pacs)
    assert tally.sound, tally.wrong
    assert (tally.kept_instances, tally.revisions, tally.result_sets) == (2, 1, 1)


def test_an_instance_that_is_gone_is_lost(run, pacs):
    next((run[1] / "inbox").glob("*/*.dcm")).unlink()
    assert faults(counted(run, pacs)) == {"instances lost": 1}


def test_an_instance_of_other_content_is_told(run, pacs):
    path = next((run[1] / "inbox").glob("*/*.dcm"))
    ds = pydicom.dcmread(path)
    ds.InstanceNumber = 77
    ds.save_as(path)
    assert faults(counted(run, pacs)) == {"instances whose content is another": 1}


def test_a_result_that_orthanc_lacks_is_lost(run, pacs):
    pacs.delete(f"/instances/{pacs.get('/instances')[0]}")
    assert faults(counted(run, pacs)) == {"results lost": 1}


def test_a_result_beyond_the_archived_is_doubled(run, pacs, tmp_path):
    send_files([save(small_mr(STUDY), tmp_path / "again.dcm")], pacs.destination(), "GLIOMA_NODE", 10)
    assert faults(counted(run, pacs)) == {"results doubled": 1}


def test_a_result_unlike_the_archived_is_told(run, pacs):
    ds = pydicom.dcmread(run[3][0])
    ds.PixelData = bytes(len(ds.PixelData))
    ds.save_as(run[3][0])
    assert faults(counted(run, pacs)) == {"results that differ from the archive": 1}


def test_a_job_done_twice_is_told(run, pacs):
    journal = run[2]
    with journal.transaction() as session:
        session.add(EventRow(at=0.0, study_key=study_key(STUDY), job_id=JOB, what="done: 6 results"))
    assert faults(counted(run, pacs)) == {"jobs done twice": 1}


def test_what_is_left_half_made_is_told(run, pacs):
    (run[1] / "inbox" / ".incoming" / "x.part").write_bytes(b"DICM")
    (run[1] / "work" / "old").mkdir()
    assert faults(counted(run, pacs)) == {"left half-made": 1, "left in work": 1}


def test_a_result_of_fewer_images_than_were_accepted_is_told(run, pacs):
    more = small_mr(STUDY, number=9)
    save(more, run[1] / "inbox" / study_key(STUDY) / instance_name(more.SOPInstanceUID))
    instance, digest = content_of(run[1] / "inbox" / study_key(STUDY) / instance_name(more.SOPInstanceUID))
    run[4][instance] = digest
    assert faults(counted(run, pacs)) == {"studies whose last result lacks images": 1}


def test_an_interrupted_tally_goes_on(tmp_path):
    tally = Tally(seed=3, rounds=7, sent=2, pace_seconds=4.5, accepted={STUDY: {"1.2": "ab", "1.3": "cd"}})
    tally.kills["node"] = 4
    tally.save(tmp_path / "tally.json")
    assert Tally.load(tmp_path / "tally.json", 0) == tally
