"""What is wrong with a result is found and named, whatever is wrong, and nobody's name with it."""

import io
import shutil
from copy import deepcopy

import highdicom as hd
import numpy as np
import pydicom
import pytest
from matplotlib.figure import Figure
from pydicom import Dataset, config
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from operators import validators
from operators.attribute_check import attribute_faults
from operators.errors import StudyRejected
from operators.validators import Ruling
from operators.verify import describe_judgements, object_faults, verify_folder
from operators.write_seg import write_segs
from operators.write_sr import write_sr
from tests.support_results import MADE_AT, job_of, source_of
from tests.test_write_sr import ASSESSED


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A whole result set: two segmentations and their report."""
    folder = tmp_path_factory.mktemp("results")
    job = job_of(folder, markers=ASSESSED)
    write_segs(job, "1.0", MADE_AT)
    write_sr(job, "1.0", MADE_AT)
    return folder


def failures(folder):
    return {(j.subject, j.validator): j.complaints for j in verify_folder(folder) if j.ruling is Ruling.FAILED}


def spoilt(results, folder, name, spoil):
    """A copy of the result set in which one object is spoilt."""
    copied = shutil.copytree(results, folder / "spoilt")
    ds = pydicom.dcmread(copied / name)
    with config.disable_value_validation():
        spoil(ds)
        ds.save_as(copied / name)
    return copied


def pdf_of(document: bytes, header: Dataset) -> Dataset:
    """An encapsulated PDF (PS3.3 A.45.1)."""
    ds = Dataset()
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID"):
        ds[keyword] = header[keyword]
    for keyword in ("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "SpecificCharacterSet"):
        ds[keyword] = header[keyword]
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.104.1", generate_uid()
    ds.Modality, ds.SeriesInstanceUID, ds.SeriesNumber, ds.InstanceNumber = "DOC", generate_uid(), 9009, 1
    ds.Manufacturer, ds.ConversionType, ds.BurnedInAnnotation = "Maker", "WSD", "YES"
    ds.ContentDate, ds.ContentTime, ds.AcquisitionDateTime, ds.DocumentTitle = "20260301", "0930", "202603010930", "T"
    ds.ConceptNameCodeSequence = [hd.sr.CodedConcept("18748-4", "LN", "Diagnostic imaging study")]
    ds.MIMETypeOfEncapsulatedDocument, ds.EncapsulatedDocumentLength = "application/pdf", len(document)
    ds.EncapsulatedDocument = document + b"\0" * (len(document) % 2)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def test_a_whole_result_set_passes_every_validator(results):
    judged = verify_folder(results)
    assert {j.ruling for j in judged} == {Ruling.PASSED}
    assert {(j.kind, j.validator) for j in judged} >= {
        ("SEG", "dciodvfy"), ("SR", "dciodvfy"), ("SR", "DCMTK dsrdump"), ("SEG", "read back"),
        ("SR", "PS3.3 Type 1 and 2"), ("set", "references resolve"),
    }  # fmt: skip


def no_flag(ds):
    del ds.CompletionFlag


def no_text(ds):
    text = next(i for i in ds.ContentSequence if i.ValueType == "TEXT")
    del text.TextValue


def no_meaning_deep(ds):
    measured = next(i for i in ds.ContentSequence if i.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurements")
    measured.ContentSequence[0].ContentSequence[0].ConceptNameCodeSequence[0].CodeMeaning = ""


def no_label(ds):
    ds.SegmentSequence[0].SegmentLabel = None


def no_position(ds):
    del ds.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence[0].ImagePositionPatient


def other_segment(ds):
    ds.SharedFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 3


def short_pixels(ds):
    ds.PixelData = ds.PixelData[: len(ds.PixelData) // 2]


def renumbered(ds):
    ds.SegmentSequence[0].SegmentNumber = 2


def other_study(ds):
    ds.StudyInstanceUID = generate_uid()


def other_issuer(ds):
    ds.IssuerOfPatientID = "ANOTHER HOSPITAL"


def other_uid(ds):
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()


def no_evidence(ds):
    for series in ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence:
        series.ReferencedSOPSequence = [
            r for r in series.ReferencedSOPSequence if "66.4" not in r.ReferencedSOPClassUID
        ]


TABLES, READ, REFER = "PS3.3 Type 1 and 2", "read back", "references resolve"
SPOILT = [
    ("sr.dcm", no_flag, "dciodvfy", "CompletionFlag"),
    ("sr.dcm", no_flag, TABLES, "CompletionFlag (Type 1) is missing"),
    ("sr.dcm", no_text, TABLES, "TextValue (Type 1) is missing"),
    ("sr.dcm", no_text, "DCMTK dsrdump", "TextValue"),
    ("sr.dcm", no_meaning_deep, TABLES, "CodeMeaning (Type 1) is empty"),
    ("seg_t1c.dcm", no_label, TABLES, "SegmentSequence[1].SegmentLabel (Type 1) is empty"),
    ("seg_t1c.dcm", no_position, READ, "cannot be read"),
    ("seg_t1c.dcm", other_segment, READ, "name segment 3"),
    ("seg_t1c.dcm", short_pixels, READ, ""),
    ("seg_t1c.dcm", renumbered, REFER, "refers to segment 1"),
    ("seg_flair.dcm", other_study, "one patient and study", "StudyInstanceUID"),
    ("seg_flair.dcm", other_issuer, "one patient and study", "IssuerOfPatientID"),
    ("seg_t1c.dcm", other_uid, REFER, "refers to a SEG that is not here"),
    ("sr.dcm", no_evidence, REFER, "not among its evidence"),
]


@pytest.mark.parametrize(("name", "spoil", "validator", "word"), SPOILT)
def test_what_is_spoilt_is_named(results, tmp_path, name, spoil, validator, word):
    folder = spoilt(results, tmp_path, name, spoil)
    found = {v: " ".join(c) for (_, v), c in failures(folder).items()}
    assert validator in found, found
    assert word in found[validator]


def test_one_object_twice_is_told(results, tmp_path):
    folder = shutil.copytree(results, tmp_path / "twice")
    shutil.copy(folder / "sr.dcm", folder / "sr2.dcm")
    assert "of 2 files" in failures(folder)["all objects", "UIDs are unique"][0]


def test_no_identity_is_in_any_complaint(results, tmp_path):
    def identify(ds):
        ds.PatientName = "SECRET^a^b^c^d^e^f=x=y=z=q"
        ds.PatientID, ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "SECRET" * 20, "19SECRET", "SECRET", "SECRET"
        ds.StudyInstanceUID = "1.2.SECRET"

    folder = spoilt(results, tmp_path, "sr.dcm", identify)
    told = str(failures(folder))
    assert "PatientName" in told
    assert "SECRET" not in told


def test_a_file_cut_short_is_told_and_others_are_judged(results, tmp_path):
    folder = shutil.copytree(results, tmp_path / "cut")
    whole = (folder / "seg_flair.dcm").read_bytes()
    (folder / "seg_flair.dcm").write_bytes(whole[:400])
    judged = verify_folder(folder)
    assert any(j.subject == "seg_flair.dcm" and j.ruling is Ruling.FAILED for j in judged)
    assert any(j.subject == "seg_t1c.dcm" and j.ruling is Ruling.PASSED for j in judged)


def test_a_validator_that_is_not_installed_does_not_pass(results, monkeypatch):
    monkeypatch.setattr(validators.shutil, "which", lambda _: None)
    judged = verify_folder(results)
    absent = [j for j in judged if j.ruling is Ruling.NOT_INSTALLED]
    assert {j.complaints[0] for j in absent} == {"apt-get install dicom3tools", "apt-get install dcmtk"}
    lenient, strict = (describe_judgements(judged, strict=strict) for strict in (False, True))
    assert (lenient["passed"], strict["passed"]) == (True, False)
    assert "no full verification" in lenient["closing"]


def test_a_folder_without_results_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(StudyRejected, match="no DICOM result objects"):
        verify_folder(tmp_path)


def test_images_of_the_study_are_not_judged(results, tmp_path):
    folder = shutil.copytree(results, tmp_path / "with images")
    image = deepcopy(source_of("T1C").headers[0])
    image.PixelData = bytes(2 * image.Rows * image.Columns)
    image.save_as(folder / "image.dcm", enforce_file_format=True)
    assert "image.dcm" not in {j.subject for j in verify_folder(folder)}


def document():
    buffer = io.BytesIO()
    Figure().savefig(buffer, format="pdf")
    return buffer.getvalue()


def cut(whole):
    return whole[:-200]


def no_head(whole):
    return b"<html>" + whole


@pytest.mark.parametrize(("change", "complaint"), [(bytes, ""), (cut, "%%EOF"), (no_head, "%PDF-")])
def test_a_pdf_is_whole_or_told(results, tmp_path, change, complaint):
    header = pydicom.dcmread(results / "sr.dcm")
    pdf_of(change(document()), header).save_as(tmp_path / "report.dcm", enforce_file_format=True)
    faults = object_faults(tmp_path / "report.dcm")
    assert bool(faults) == bool(complaint), faults
    assert all(complaint in fault for fault in faults)


def test_a_secondary_capture_is_decoded(results, tmp_path):
    reference = source_of("T1C").headers[3]
    picture = np.random.default_rng(1).integers(0, 255, (40, 50, 3), np.uint8)
    names = {"series_instance_uid": generate_uid(), "series_number": 5, "instance_number": 1}
    made = hd.sc.SCImage.from_ref_dataset(
        reference, picture, "RGB", 8, "PATIENT", sop_instance_uid=generate_uid(), manufacturer="Maker",
        patient_orientation=("L", "P"), **names,
    )  # fmt: skip
    made.BodyPartExamined = "BRAIN"
    made.save_as(tmp_path / "key.dcm")
    assert not object_faults(tmp_path / "key.dcm")
    del made.ConversionType
    made.PixelData = made.PixelData[:100]
    made.save_as(tmp_path / "key.dcm")
    assert "ConversionType" in " ".join(object_faults(tmp_path / "key.dcm"))
    assert any(fault.startswith("read back") for fault in object_faults(tmp_path / "key.dcm"))


def test_an_optional_module_counts_once_something_of_it_is_there(results):
    ds = pydicom.dcmread(results / "seg_t1c.dcm")
    assert not attribute_faults(ds)
    ds.ClinicalTrialProtocolID = "P"
    assert any("ClinicalTrialSponsorName (Type 1) is missing" in fault for fault in attribute_faults(ds))
