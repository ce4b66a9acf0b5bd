"""An earlier examination: whose report counts, what is read of it, and how the new report compares."""

from __future__ import annotations

from datetime import date

import pydicom
import pytest

from app.config import HistoryConfig
from app.history import ArchivedReports, History
from models.segments import Segment
from operators import codes
from operators.compare_earlier import CompareEarlierOperator
from operators.domain import Contrast, Earlier, Findings
from operators.earlier import change_since, comparison_sentences, latest_before, read_earlier, same_patient
from operators.errors import HistoryUnavailable
from operators.key_image import render_key_image, save_key_image
from operators.report_words import WORDS
from operators.results import headers_of
from operators.statements import volume_figure
from operators.validators import Ruling
from operators.verify import verify_folder
from operators.write_capture import write_captures
from operators.write_measurements import write_measurements
from operators.write_pdf import write_pdf
from operators.write_seg import write_segs
from operators.write_sr import write_sr
from tests.support_results import MADE_AT, iod_errors, job_of, source_of

YEAR = 366
FOUND = ("121232", *(code.value for code in (codes.COMMENT, codes.TUMOUR_DETECTION, codes.PART_DETECTION)))
"""The first is the series that was segmented."""
TIME = tuple(code.value for code in (codes.TIME_POINT, codes.SUBJECT_TIME_POINT, codes.TIME_POINT_ORDER))


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
    assert f"{volume_figure(1000 * earlier.tumour_ml)} ml on 2024-01-02" in text
    assert f"in {YEAR} days" in text
    change = 100 * (after.findings.tumour_mm3 / before.findings.tumour_mm3 - 1) if then else None
    assert (f"{change:+.0f} %" in text) if then else ("%" not in text)
    groups = [_told(group) for group in _named(report, codes.MEASUREMENT_GROUP.value)]
    assert [(group["order"], group["point"], group["subject"]) for group in groups] == [
        (2, "2025-01-02", "2025-01-02"), (1, "2024-01-02", "2024-01-02")
    ]  # fmt: skip
    assert [group["days"] for group in groups] == [None, YEAR]
    assert groups[1]["volume"] == earlier.tumour_ml
    assert groups[0]["volume"] == (pytest.approx(after.findings.tumour_mm3 / 1000, abs=0.01) if now else None)
    assert groups[0]["percent"] is None
    assert groups[1]["percent"] == (pytest.approx(change, abs=0.1) if then else None)
    for group in groups:
        assert group["places"] == sorted(group["places"]), "its time point comes ahead of what was found"
        assert {*group["places"]} == {0, 1, 2}
    again = read_earlier(report)
    assert again.tumour_ml == pytest.approx(after.findings.tumour_mm3 / 1000, abs=0.01), "its own, not the earlier one"


def _told(group):
    """What a measurement group says of its time, and where in it: what it is on, time point, then what was found."""
    found, kinds = {}, []
    for item in group.ContentSequence:
        name = item.ConceptNameCodeSequence[0].CodeValue
        value = item.MeasuredValueSequence[0].NumericValue if item.ValueType == "NUM" else item.get("TextValue")
        found[name] = float(value) if item.ValueType == "NUM" else value
        kinds.append(1 if name in TIME else 2 if item.ValueType in ("NUM", "IMAGE") or name in FOUND else 0)
    named = zip(("point", "subject", "order"), TIME, strict=True)
    return {
        **{key: found.get(code) for key, code in named},
        "days": found.get(codes.DAYS_BETWEEN.value),
        "percent": found.get(codes.VOLUME_CHANGE.value),
        "volume": found.get(codes.VOLUME.value),
        "places": kinds,
    }


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


def lesion(ml, parts=()):
    return Earlier(date(2024, 1, 2), "1.2", ml, None, None, None, "nasbranet", "0.9", "1.2.3", dict(parts))


SAID = [
    (10.0, 9980.0, "10.0 ml on 2024-01-02, 10.0 ml now, 0 % in 30 days.", "变化 0 %"),
    (10.0, 10040.0, "10.0 ml on 2024-01-02, 10.0 ml now, 0 % in 30 days.", "变化 0 %"),
    (0.04, 60.0, "0.04 ml on 2024-01-02, 0.06 ml now, +50 % in 30 days.", "0.04 ml，本次 0.06 ml，变化 +50 %"),
    (0.005, 0.4, "0.005 ml on 2024-01-02, 0.0004 ml now, -92 % in 30 days.", "变化 -92 %"),
    (0.0, 60.0, "0 ml on 2024-01-02, 0.06 ml now in 30 days.", "为 0 ml"),
    (31.44, 0.0, "31.4 ml on 2024-01-02, 0 ml now, -100 % in 30 days.", "变化 -100 %"),
]


@pytest.mark.parametrize(("then_ml", "now_mm3", "english", "chinese"), SAID)
def test_small_lesions_and_small_changes_are_told_as_they_are(then_ml, now_mm3, english, chinese):
    (said,) = comparison_sentences(lesion(then_ml), Findings(now_mm3), date(2024, 2, 1), ("nasbranet", "0.9"))
    assert said == f"Whole tumour {english}"
    assert chinese in WORDS["zh"].phrases(said)


def test_small_parts_are_too():
    part = Findings(60.0, segments={Segment.ENHANCING: Findings(29.9)})
    earlier = lesion(0.04, {Segment.ENHANCING: 0.03})
    said = comparison_sentences(earlier, part, date(2024, 2, 1), ("nasbranet", "0.9"))[1]
    assert said == "Enhancing part: 0.03 ml then, 0.03 ml now, 0 %."
    assert WORDS["zh"].phrases(said) == "强化部分：既往 0.03 ml，本次 0.03 ml，变化 0 %。"


def test_a_longitudinal_set_passes_every_validator(tmp_path, first):
    later = study(tmp_path / "later", "20250102", semi_axes_mm=(18, 14, 15), earlier=read_earlier(report_of(first)))
    picture = render_key_image(later.stack, later.tumour, later.findings)
    later.results["key image"] = save_key_image(picture, later.output_folder / "key_image.png")
    for write in (write_measurements, write_captures, write_pdf, write_sr):
        write(later, "1.0.0", MADE_AT)
    judged = verify_folder(later.output_folder)
    assert {j.ruling for j in judged} == {Ruling.PASSED}, [j for j in judged if j.complaints]
    assert len({j.subject for j in judged if j.kind != "set"}) == 6


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
