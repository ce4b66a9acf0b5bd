"""A result of more images replaces that of fewer, and says so; made again after a crash, it does not replace itself."""

from __future__ import annotations

from datetime import timedelta

import pydicom
import pytest

from app.config import HistoryConfig
from app.history import History
from operators.compare_earlier import CompareEarlierOperator
from operators.domain import Contrast
from operators.results import headers_of
from operators.revision import predecessors_among, replaced_by
from operators.write_measurements import write_measurements
from operators.write_seg import write_segs
from operators.write_sr import write_sr
from tests.support_results import MADE_AT, iod_errors, job_of, source_of

LATER = MADE_AT + timedelta(hours=1)


def revision(folder, archive, made_at, planes=10, patient="P-1"):
    """One revision of the study, through the stages that know of others."""
    folder.mkdir(exist_ok=True)
    sources = [source_of(c, shape=(planes, 64, 48)) for c in (Contrast.T1C, Contrast.FLAIR)]
    for source in sources:
        for header in source.headers:
            header.PatientID = patient
    job = job_of(folder, *sources)
    compare = CompareEarlierOperator.__new__(CompareEarlierOperator)
    compare._find = History(archive, HistoryConfig()).find
    compare.process(job)
    write_segs(job, "1.0", made_at)
    write_measurements(job, "1.0", made_at)
    write_sr(job, "1.0", made_at)
    return job


def archived(job, archive, name):
    """Keep a job's results as the outbox does."""
    folder = archive / "study" / name
    folder.mkdir(parents=True)
    for path in job.results.values():
        (folder / path.name).write_bytes(path.read_bytes())


def read(job, kind="SR"):
    return pydicom.dcmread(job.results[kind])


def points_to(document):
    (study,) = document.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    (instance,) = series.ReferencedSOPSequence
    return study.StudyInstanceUID, series.SeriesInstanceUID, instance.ReferencedSOPInstanceUID


@pytest.fixture
def two(tmp_path):
    """A first result, archived, and one of a study that has grown."""
    archive = tmp_path / "archive"
    first = revision(tmp_path / "first", archive, MADE_AT)
    archived(first, archive, "first")
    return archive, first, revision(tmp_path / "second", archive, LATER, planes=12)


def test_the_first_result_replaces_nothing(two):
    _, first, _ = two
    assert "PredecessorDocumentsSequence" not in read(first)
    assert first.replaces is None


@pytest.mark.parametrize("kind", ["SR", "measurements SR"])
def test_a_revision_points_to_what_it_replaces(two, kind):
    _, first, second = two
    before, now = read(first, kind), read(second, kind)
    assert before.SOPInstanceUID != now.SOPInstanceUID
    assert points_to(now) == (before.StudyInstanceUID, before.SeriesInstanceUID, before.SOPInstanceUID)
    assert not iod_errors(second.results[kind])


def test_the_lesion_keeps_its_tracking_uid_and_the_report_says_what_it_replaces(two):
    _, first, second = two
    uids = {
        read(job, kind).SegmentSequence[0].TrackingUID for job in (first, second) for kind in ("SEG T1C", "SEG FLAIR")
    }
    assert len(uids) == 1
    notes = [item.TextValue for item in read(second).ContentSequence if item.ValueType == "TEXT"]
    assert any("replaces that of 2026-03-01 09:30" in note for note in notes)


def test_made_again_it_is_the_same_and_never_its_own_predecessor(two, tmp_path):
    archive, first, second = two
    archived(second, archive, "second")
    again = revision(tmp_path / "again", archive, LATER, planes=12)
    assert again.results["SR"].read_bytes() == second.results["SR"].read_bytes()
    first_again = revision(tmp_path / "first again", tmp_path / "none", MADE_AT)
    assert first_again.results["SR"].read_bytes() == first.results["SR"].read_bytes()


def test_another_patient_with_the_same_study_uid_is_not_replaced(two, tmp_path):
    archive, _, _ = two
    assert revision(tmp_path / "other", archive, LATER, planes=12, patient="P-2").predecessors == ()


def test_objects_of_other_makers_and_studies_are_left_out(two):
    _, first, second = two
    header = headers_of(second.volumes)[0]
    foreign, elsewhere = read(first), read(first)
    foreign.Manufacturer = "Maker"
    elsewhere.StudyInstanceUID = "1.2.3"
    assert predecessors_among([foreign, elsewhere], header) == ()
    found = predecessors_among([read(first), read(first, "measurements SR")], header)
    assert {p.series_number for p in found} == {9003, 9005}
    assert replaced_by("1.2", 9003, found).sop_instance_uid == read(first).SOPInstanceUID
    assert replaced_by("1.2", 9999, found) is None
