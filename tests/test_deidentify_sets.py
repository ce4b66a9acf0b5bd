"""A whole result set, and its images, under both profiles: nothing that tells who, where or when is in any byte."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pydicom
import pytest

from operators.domain import Contrast
from operators.errors import NotDeidentified
from operators.validators import Ruling
from operators.verify import verify_folder
from tests.support_deidentify import (
    EARLIER_DAY,
    NAMES,
    STUDY_DAY,
    deidentifier,
    identified_job,
    identity_of,
    leaks,
    result_files,
    write_images,
)

PROFILES = ("basic", "shifted-dates")


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return identified_job(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def first_job(tmp_path_factory):
    """One that replaces no earlier result, to which a reference would lead out of the set."""
    return identified_job(tmp_path_factory.mktemp("first"), replaces=False)


def copy_all(files, folder, profile="basic"):
    """De-identify files into a folder; only a document may be left out."""
    folder.mkdir(parents=True, exist_ok=True)
    clean, made, left = deidentifier(profile), [], []
    for file in files:
        try:
            ds = clean(pydicom.dcmread(file))
        except NotDeidentified as error:
            left.append((file.name, str(error)))
            continue
        made.append(folder / file.name)
        ds.save_as(made[-1], enforce_file_format=True)
    assert all("document" in why for _, why in left), left
    return made


def shown(ds):
    """Every text of a report's content."""
    for item in ds.get("ContentSequence", ()):
        yield str(item.get("TextValue", ""))
        yield from shown(item)


def test_the_set_as_it_was_names_the_patient_everywhere(job):
    """Else the search below would find nothing in anything."""
    said = identity_of(job)
    for path in result_files(job):
        found = leaks(path.read_bytes(), said)
        assert {"HOSP-778899", "ACC5551234", STUDY_DAY, "Overbeck"} <= found, path.name
        assert any(part in found for part in NAMES["ISO_IR 192"].split("^")), path.name


@pytest.mark.parametrize("charset", NAMES)
def test_no_byte_of_any_object_tells_who_where_or_when(tmp_path, charset):
    job = identified_job(tmp_path / "job", charset)
    said = identity_of(job)
    files = [*result_files(job), *write_images(job, tmp_path / "images")]
    for profile in PROFILES:
        made = copy_all(files, tmp_path / profile, profile)
        assert len(made) == len(files) - 1, "all but the report page"
        for path in made:
            assert not leaks(path.read_bytes(), said), path.name


@pytest.mark.parametrize("profile", PROFILES)
def test_the_set_is_valid_and_belongs_together(first_job, tmp_path, profile):
    copy_all(result_files(first_job), tmp_path, profile)
    judged = verify_folder(tmp_path)
    assert {j.ruling for j in judged} <= {Ruling.PASSED, Ruling.NOT_JUDGED}, [j for j in judged if j.complaints]
    unjudged = {(j.subject, j.validator) for j in judged if j.ruling is Ruling.NOT_JUDGED}
    assert {validator for _, validator in unjudged} <= {"dciodvfy"}
    assert all("labelmap" in subject for subject, _ in unjudged)


@pytest.mark.parametrize("profile", PROFILES)
def test_images_that_are_deidentified_alike_are_those_that_the_results_refer_to(job, tmp_path, profile):
    images = [pydicom.dcmread(p) for p in copy_all(write_images(job, tmp_path / "in"), tmp_path / "images", profile)]
    results = [pydicom.dcmread(p) for p in copy_all(result_files(job), tmp_path / "results", profile)]
    held = {str(ds.SOPInstanceUID) for ds in (*images, *results)}
    ahead = set()
    for ds in results:
        for item in ds.get("PredecessorDocumentsSequence", ()):
            ahead |= {
                str(s.ReferencedSOPInstanceUID) for r in item.ReferencedSeriesSequence for s in r.ReferencedSOPSequence
            }
    referred = set()
    for ds in results:
        ds.walk(lambda _, e: referred.add(str(e.value)) if e.keyword == "ReferencedSOPInstanceUID" else None)
    assert len(referred - ahead) > 20
    assert referred - ahead <= held
    assert len({(ds.PatientID, ds.StudyInstanceUID) for ds in (*images, *results)}) == 1
    t1c = [ds for ds in images if ds.SeriesNumber == 1 + list(Contrast).index(Contrast.T1C)]
    seg = next(ds for ds in results if ds.SeriesNumber == 9001)
    assert {ds.FrameOfReferenceUID for ds in t1c} == {seg.FrameOfReferenceUID}
    assert {ds.SeriesInstanceUID for ds in t1c} == {seg.ReferencedSeriesSequence[0].SeriesInstanceUID}


def test_what_makes_a_result_useful_stays(job, tmp_path):
    copies = {p.name: pydicom.dcmread(p) for p in copy_all(result_files(job), tmp_path)}
    for path in result_files(job):
        if path.name in copies and "PixelData" in (original := pydicom.dcmread(path)):
            assert np.array_equal(copies[path.name].pixel_array, original.pixel_array), path.name
    report, seg = copies["sr.dcm"], copies["seg_t1c.dcm"]
    texts = list(shown(report))
    assert {"nasbranet", "1.2.0", "IDH mutation status" if job.markers else "nasbranet"} <= set(texts)
    assert {"T1C: series 2", "FLAIR: series 4", "T2 was moved by 4 mm"} <= set(texts)
    assert "Earlier examinations could not all be looked for." in texts
    assert any(text.startswith("Research use only") for text in texts)
    assert seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "nasbranet"
    assert (seg.Manufacturer, seg.SoftwareVersions) == ("Glioma Node", "1.0.0")
    assert seg.SeriesDescription == "AI whole tumour on T1C (research)"


def test_the_basic_profile_leaves_nothing_of_what_lies_between_two_examinations(job, tmp_path):
    copies = {p.name: pydicom.dcmread(p) for p in copy_all(result_files(job), tmp_path)}
    report = copies["sr.dcm"]
    assert "DAYS_BETWEEN" in str(pydicom.dcmread(job.results["SR"]))
    assert not {"DAYS_BETWEEN", "COMPARISON", "126070", "126073", "C2348792"} & set(
        str(report).replace("'", " ").split()
    )
    assert (report.StudyDate, report.ContentDate, report.LongitudinalTemporalInformationModified) == (
        "", "19000101", "REMOVED",
    )  # fmt: skip


def test_shifted_dates_keep_what_lies_between(job, tmp_path):
    report = pydicom.dcmread(
        next(p for p in copy_all(result_files(job), tmp_path, "shifted-dates") if p.name == "sr.dcm")
    )
    original = pydicom.dcmread(job.results["SR"])

    def day(text):
        return datetime.strptime(text.replace("-", ""), "%Y%m%d").date()

    moved = day(original.StudyDate) - day(report.StudyDate)
    assert 366 <= moved.days <= 3653
    assert day(original.ContentDate) - day(report.ContentDate) == moved
    assert report.ContentTime == original.ContentTime
    (sentence,) = [text for text in shown(report) if "Whole tumour" in text and " now" in text]
    assert (EARLIER_DAY - moved).isoformat() in sentence
    assert "in 58 days" in sentence
    assert report.LongitudinalTemporalInformationModified == "MODIFIED"
    assert "113107" in [item.CodeValue for item in report.DeidentificationMethodCodeSequence]


@pytest.mark.parametrize("profile", PROFILES)
def test_the_same_input_and_secret_give_the_same_bytes(job, tmp_path, profile):
    first, second = (copy_all(result_files(job), tmp_path / n, profile) for n in ("a", "b"))
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_another_secret_gives_another_patient_and_other_uids(job):
    original = pydicom.dcmread(job.results["SR"])
    one, other = deidentifier()(original), deidentifier(secret=b"another secret, of the same length")(original)
    for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert one[keyword].value != other[keyword].value


def test_two_studies_of_a_patient_stay_together(tmp_path):
    first = identified_job(tmp_path / "a", day="20230102")
    second = identified_job(tmp_path / "b")
    stranger = identified_job(tmp_path / "c", PatientID="HOSP-778898")
    one, two, three = (
        deidentifier("shifted-dates")(pydicom.dcmread(job.results["SR"])) for job in (first, second, stranger)
    )
    assert one.PatientID == two.PatientID != three.PatientID
    days = [datetime.strptime(ds.StudyDate, "%Y%m%d") for ds in (one, two)]
    assert (days[1] - days[0]).days == 365


def test_the_pixels_of_the_pictures_do_not_depend_on_who_the_patient_is(tmp_path):
    """So no identity is burned into them, and it is true that Burned In Annotation says NO."""
    pictures = []
    for n, changes in enumerate(({}, {"PatientID": "X", "PatientBirthDate": "20010203", "StudyID": "7"})):
        job = identified_job(tmp_path / str(n), ("ISO_IR 192", None)[n], ("20240102", "20200511")[n], **changes)
        pictures.append(pydicom.dcmread(job.results["key image SC"]))
    assert pictures[0].PixelData == pictures[1].PixelData
    assert pictures[0].BurnedInAnnotation == "NO"


def test_the_report_page_is_a_document_and_stays_here(job):
    with pytest.raises(NotDeidentified, match="document"):
        deidentifier()(pydicom.dcmread(job.results["PDF"]))


def test_the_original_stays_as_it_is(job):
    original = pydicom.dcmread(job.results["SR"])
    deidentifier()(original)
    assert original == pydicom.dcmread(job.results["SR"])
