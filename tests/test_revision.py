"""A result of more images replaces that of fewer, and says so; made again after a crash, it does not replace itself."""

from __future__ import annotations

import shutil
from datetime import UTC, timedelta, timezone

import pydicom
import pytest

from app.config import HistoryConfig
from app.history import History
from operators.compare_earlier import CompareEarlierOperator
from operators.domain import Contrast
from operators.key_image import render_key_image, save_key_image
from operators.report_content import content_of
from operators.report_identity import time_of
from operators.report_words import WORDS
from operators.results import Origin, headers_of
from operators.revision import predecessors_among, replaced_by
from operators.validators import Ruling
from operators.verify import verify_folder
from operators.write_capture import write_captures
from operators.write_measurements import write_measurements
from operators.write_pdf import write_pdf
from operators.write_seg import write_segs
from operators.write_sr import write_sr
from tests.support_results import MADE_AT, iod_errors, job_of, source_of

LATER = MADE_AT + timedelta(hours=1)


def revision(folder, archive, made_at, planes=10, patient="P-1", version="1.0", depends_on=(), **tumour):
    """One revision of the study, through the stages that know of others; `made_at` is what the clock says."""
    folder.mkdir(exist_ok=True)
    sources = [source_of(c, shape=(planes, 64, 48)) for c in (Contrast.T1C, Contrast.FLAIR)]
    for source in sources:
        for header in source.headers:
            header.PatientID = patient
    job = job_of(folder, *sources, **tumour)
    job.depends_on = depends_on
    compare = CompareEarlierOperator.__new__(CompareEarlierOperator)
    compare._find = History(archive, HistoryConfig()).find
    compare.process(job)
    at = time_of(job, version, lambda: made_at)
    picture = render_key_image(job.stack, job.tumour, job.findings)
    job.results["key image"] = save_key_image(picture, folder / "key_image.png")
    for write in (write_segs, write_measurements, write_captures, write_pdf, write_sr):
        write(job, version, at)
    return job


def same_bytes(one, other):
    assert set(one.results) == set(other.results)
    for kind, path in one.results.items():
        assert path.read_bytes() == other.results[kind].read_bytes(), kind


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


@pytest.mark.parametrize("kind", ["SR", "measurements SR", "PDF"])
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
    same_bytes(revision(tmp_path / "again", archive, LATER, planes=12), second)
    same_bytes(revision(tmp_path / "first again", tmp_path / "none", MADE_AT), first)


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
    assert {p.made_at for p in found} == {MADE_AT}
    assert replaced_by("1.2", 9003, found).sop_instance_uid == read(first).SOPInstanceUID
    assert replaced_by("1.2", 9999, found) is None


def test_a_revision_and_what_it_replaces_pass_every_validator(two):
    archive, _, second = two
    archived(second, archive, "second")
    for folder in (second.output_folder, archive):
        judged = verify_folder(folder)
        assert {j.ruling for j in judged} == {Ruling.PASSED}, [j for j in judged if j.complaints]
    assert len(list(archive.rglob("*.dcm"))) == 12


@pytest.mark.parametrize("zone", [None, UTC, timezone(timedelta(hours=8))])
def test_made_again_on_another_day_every_object_is_the_same_to_the_byte(tmp_path, zone):
    archive, at = tmp_path / "archive", MADE_AT.replace(tzinfo=zone)
    first = revision(tmp_path / "first", archive, at)
    archived(first, archive, "first")
    again = revision(tmp_path / "again", archive, at + timedelta(days=40))
    assert again.made_at == at
    same_bytes(again, first)


def test_made_again_after_it_was_replaced_it_is_the_same_and_does_not_point_back(two, tmp_path):
    """Its tracking UID too: the first had found no tumour, and the second has named one since."""
    archive = tmp_path / "another archive"
    first = revision(tmp_path / "empty", archive, MADE_AT, semi_axes_mm=None)
    archived(first, archive, "first")
    archived(revision(tmp_path / "grown", archive, LATER, planes=12), archive, "second")
    same_bytes(revision(tmp_path / "empty again", archive, LATER, semi_axes_mm=None), first)


@pytest.mark.parametrize("kind", ["SR", "measurements SR", "PDF"])
def test_nothing_replaces_what_came_of_it_at_however_many_removes(two, tmp_path, kind):
    """The archive has lost the first: it is made again without its time, and points to none of those that follow."""
    archive, _, second = two
    archived(second, archive, "second")
    third = revision(tmp_path / "third", archive, LATER + timedelta(hours=1), planes=14)
    assert points_to(read(third, kind))[2] == read(second, kind).SOPInstanceUID
    archived(third, archive, "third")
    shutil.rmtree(archive / "study" / "first")
    again = revision(tmp_path / "again", archive, LATER + timedelta(days=1))
    assert "PredecessorDocumentsSequence" not in read(again, kind)
    assert again.replaces is None


def test_what_another_version_made_of_the_same_images_is_not_said_to_be_of_others(tmp_path):
    archive = tmp_path / "archive"
    archived(revision(tmp_path / "first", archive, MADE_AT), archive, "first")
    second = revision(tmp_path / "second", archive, LATER, version="1.1")
    (note,) = (i.TextValue for i in read(second).ContentSequence if "replaces" in i.get("TextValue", ""))
    assert note.endswith("of other images, or by another version, model or setting.")
    header = headers_of(second.volumes)[0]
    for language, said in (("en", "other images, version, model or setting"), ("zh", "图像、版本、模型或设置不同")):
        origin = Origin("1.1", LATER, ())
        assert said in content_of(second, header, WORDS[language], language, origin, {}).made


def test_other_settings_make_other_objects_which_replace_the_first(tmp_path):
    archive = tmp_path / "archive"
    first = revision(tmp_path / "first", archive, MADE_AT, depends_on=("refinement a",))
    archived(first, archive, "first")
    second = revision(tmp_path / "second", archive, LATER, depends_on=("refinement b",))
    for kind in (kind for kind, path in first.results.items() if path.suffix == ".dcm"):
        assert read(first, kind).SOPInstanceUID != read(second, kind).SOPInstanceUID, kind
    assert points_to(read(second))[2] == read(first).SOPInstanceUID
