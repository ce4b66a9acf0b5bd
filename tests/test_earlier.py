"""An earlier examination: whose report counts, what is read of it, and how the new report compares."""

from __future__ import annotations

from datetime import date

import pydicom
import pytest

from app.config import HistoryConfig
from app.history import ArchivedReports, History
from operators import codes
from operators.compare_earlier import CompareEarlierOperator
from operators.domain import Contrast, Findings
from operators.earlier import change_since, comparison_sentences, latest_before, read_earlier, same_patient
from operators.errors import HistoryUnavailable
from operators.results import headers_of
from operators.write_seg import write_segs
from operators.write_sr import write_sr
from tests.support_results import MADE_AT, iod_errors, job_of, source_of

YEAR = 366


def study(folder, day, semi_axes_mm=(14, 11, 12), earlier=None, patient="P-1", labelmap=False):
    """One examination of a patient on a day, written; with what the pipeline found of an earlier one."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = {}
    for contrast in (Contrast.T1C, Contrast.FLAIR):
        sources[contrast] = source_of(contrast)
        for number, header in enumerate(sources[contrast].headers):
            header.StudyDate, header.PatientID = day, patient
            header.StudyInstanceUID = f"1.2.{day}"
            header.SeriesInstanceUID = f"1.2.{day}.{len(contrast)}"
            header.SOPInstanceUID = f"1.2.{day}.{len(contrast)}.{number + 1}"
    job = job_of(folder, t1c=sources[Contrast.T1C], flair=sources[Contrast.FLAIR], semi_axes_mm=semi_axes_mm)
    job.earlier = earlier
    write_segs(job, "1.0.0", MADE_AT, labelmap=labelmap)
    write_sr(job, "1.0.0", MADE_AT)
    return job


def report_of(job):
    return pydicom.dcmread(job.results["SR"])


def header_of(job):
    return headers_of(job.volumes)[0]


@pytest.fixture
def first(tmp_path):
    return study(tmp_path / "first", "20240102")


def test_what_was_written_is_read_again(first):
    found = read_earlier(report_of(first))
    assert found.examined_on == date(2024, 1, 2)
    assert found.tumour_ml == pytest.approx(first.findings.tumour_mm3 / 1000, abs=0.01)
    assert found.long_axis_mm == pytest.approx(first.findings.long_axis.millimetres, abs=0.06)
    assert found.short_axis_mm == pytest.approx(first.findings.short_axis.millimetres, abs=0.06)
    assert (found.model, found.model_version) == ("nasbranet", "1.2.0")
    segment = pydicom.dcmread(first.results["SEG T1C"]).SegmentSequence[0]
    assert found.tracking_uid == segment.TrackingUID


def test_no_tumour_is_read_as_none(tmp_path):
    found = read_earlier(report_of(study(tmp_path, "20240102", semi_axes_mm=None)))
    assert found.tumour_ml == 0.0
    assert found.tracking_uid is None
    assert found.long_axis_mm is None


@pytest.mark.parametrize("then", [(14, 11, 12), None])
@pytest.mark.parametrize("now", [(18, 14, 15), None])
def test_the_new_report_holds_both_time_points(tmp_path, then, now):
    before = study(tmp_path / "then", "20240102", semi_axes_mm=then)
    after_header = header_of(study(tmp_path / "plain", "20250102", semi_axes_mm=now))
    earlier = latest_before([report_of(before)], after_header)
    after = study(tmp_path / "now", "20250102", semi_axes_mm=now, earlier=earlier)
    report = report_of(after)
    assert not iod_errors(after.results["SR"])
    text = _comparison(report)
    assert f"{earlier.tumour_ml:.1f} ml on 2024-01-02" in text
    assert f"in {YEAR} days" in text
    change = 100 * (after.findings.tumour_mm3 / before.findings.tumour_mm3 - 1) if then else None
    assert (f"{change:+.0f} %" in text) if then else ("%" not in text)
    orders = [item.MeasuredValueSequence[0].NumericValue for item in _named(report, "126073")]
    assert sorted(map(int, orders)) == [1, 2]
    again = read_earlier(report)
    assert again.tumour_ml == pytest.approx(after.findings.tumour_mm3 / 1000, abs=0.01), "its own, not the earlier one"


def _items(dataset):
    for item in dataset.get("ContentSequence", ()):
        yield item
        yield from _items(item)


def _named(report, code):
    return [
        i for i in _items(report) if "ConceptNameCodeSequence" in i and i.ConceptNameCodeSequence[0].CodeValue == code
    ]


def _comparison(report):
    (item,) = _named(report, codes.COMPARISON.value)
    return item.TextValue


def test_a_lesion_keeps_its_tracking_uid(tmp_path, first):
    earlier = read_earlier(report_of(first))
    later = study(tmp_path / "later", "20250102", earlier=earlier)
    for contrast in ("T1C", "FLAIR"):
        segment = pydicom.dcmread(later.results[f"SEG {contrast}"]).SegmentSequence[0]
        assert segment.TrackingUID == earlier.tracking_uid
    alone = study(tmp_path / "alone", "20250102")
    objects = [{pydicom.dcmread(p).SOPInstanceUID for p in j.results.values()} for j in (later, alone)]
    assert not objects[0] & objects[1], "what depends on more is another object"


def test_the_latest_earlier_examination_counts(tmp_path):
    days = ("20220101", "20231231", "20240102", "20250101")
    jobs = [study(tmp_path / day, day) for day in days]
    found = latest_before([report_of(job) for job in jobs], header_of(jobs[2]))
    assert found.examined_on == date(2023, 12, 31), "not its own, not a later one"
    assert latest_before([report_of(jobs[3])], header_of(jobs[2])) is None


def test_a_revision_made_later_replaces_the_first(tmp_path):
    job = study(tmp_path, "20220101")
    old, new = report_of(job), report_of(study(tmp_path / "new", "20220101", semi_axes_mm=(20, 15, 16)))
    new.ContentTime = "235959"
    header = header_of(study(tmp_path / "now", "20240102"))
    assert latest_before([new, old], header).report_uid == new.SOPInstanceUID


STRANGERS = [
    lambda r: setattr(r, "PatientID", "P-2"),
    lambda r: setattr(r, "PatientID", ""),
    lambda r: setattr(r, "PatientBirthDate", "19700101"),
    lambda r: setattr(r, "Manufacturer", "Another"),
    lambda r: setattr(r, "StudyDate", ""),
    lambda r: setattr(r, "ContentSequence", []),
]


@pytest.mark.parametrize("change", STRANGERS)
def test_a_report_of_another_patient_or_maker_is_not_taken(tmp_path, first, change):
    now = header_of(study(tmp_path / "now", "20250102"))
    report = report_of(first)
    assert latest_before([report], now) is not None
    change(report)
    assert latest_before([report], now) is None


def test_issuers_tell_equal_identifiers_apart():
    one, other = pydicom.Dataset(), pydicom.Dataset()
    one.PatientID = other.PatientID = "7"
    assert same_patient(one, other)
    one.IssuerOfPatientID = "A"
    assert same_patient(one, other), "what is not there speaks for nothing"
    other.IssuerOfPatientID = "B"
    assert not same_patient(one, other)


def test_another_version_is_named_as_a_reason(first):
    earlier = read_earlier(report_of(first))
    (same,) = comparison_sentences(earlier, Findings(5000.0), date(2024, 1, 3), ("nasbranet", "1.2.0"))
    assert same.endswith("in 1 day.")
    assert (
        "the method's" in comparison_sentences(earlier, Findings(5000.0), date(2024, 1, 3), ("nasbranet", "2.0.0"))[1]
    )
    assert change_since(earlier, 0.0, date(2024, 1, 3)).percent == -100.0


@pytest.fixture
def archive(tmp_path, first):
    """An archive as the outbox lays it out."""
    folder = tmp_path / "archive" / "study" / "job"
    folder.mkdir(parents=True)
    (folder / "sr.dcm").write_bytes(first.results["SR"].read_bytes())
    return tmp_path / "archive"


def test_the_archive_is_looked_through(tmp_path, archive):
    header = header_of(study(tmp_path / "now", "20250102"))
    archived = ArchivedReports(archive)
    assert len(list(archived.of_patient(header))) == 1
    other = header_of(study(tmp_path / "other", "20250102", patient="P-2"))
    assert list(archived.of_patient(other)) == []
    (archive / "study" / "later").mkdir()
    (archive / "study" / "later" / "sr.dcm").write_bytes(b"no report")
    assert len(list(archived.of_patient(header))) == 1, "what cannot be read is passed over"
    assert list(History(archive, HistoryConfig(archive=False)).find(header)) == []


def operator(find):
    made = CompareEarlierOperator.__new__(CompareEarlierOperator)
    made._find = find
    return made


def test_the_stage_finds_it_and_a_lost_archive_costs_no_study(tmp_path, archive):
    job = study(tmp_path / "now", "20250102")
    operator(History(archive, HistoryConfig()).find).process(job)
    assert job.earlier.examined_on == date(2024, 1, 2)

    def lost(header):
        yield from History(archive, HistoryConfig()).find(header) if job.earlier is None else ()
        raise HistoryUnavailable("PACS at pacs:104 does not answer")

    job.earlier = None
    operator(lost).process(job)
    assert job.earlier is not None, "the node's own archive had it"
    operator(lost).process(job)
    assert job.earlier is None
    assert "does not answer" in job.notes[-1]
