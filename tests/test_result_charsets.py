"""Text of images that were read from disk reaches every result as it was, whichever character set it came in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import ImplicitVRLittleEndian

from operators.domain import REQUIRED, Instance, SourceVolume
from operators.key_image import render_key_image, save_key_image
from operators.report_fonts import MISSING, clean
from operators.results import anonymous
from operators.validators import Ruling
from operators.verify import verify_folder
from operators.write_capture import write_captures
from operators.write_measurements import write_measurements
from operators.write_pdf import write_pdf
from operators.write_seg import write_segs
from operators.write_sr import write_sr
from tests.support_results import MADE_AT, job_of, source_of

SAID = {
    "GB18030": ("头颅 磁共振", "王^大东"),
    "ISO_IR 192": ("Голова МРТ", "Петров^Иван"),
    "ISO_IR 100": ("Schädel-MRT", "Muñoz^José"),
}
"""Study Description and Other Patient Names, by character set."""
ISSUER = "HOSPITAL A"


def reread(source, folder, charset, syntax=None):
    """The same series as the node meets it: its files written, and their headers read without pixels."""
    description, other_name = SAID[charset]
    headers = []
    for number, header in enumerate(source.headers):
        header.StudyDescription, header.OtherPatientNames = description, other_name
        header.PatientComments, header.IssuerOfPatientID = description, ISSUER
        coded = pydicom.Dataset()
        coded.CodeValue, coded.CodingSchemeDesignator, coded.CodeMeaning = "1", "99X", description
        header.ProcedureCodeSequence = [coded]
        header.PixelData = bytes(2 * header.Rows * header.Columns)
        header["PixelData"].VR = "OW"
        if syntax is not None:
            header.file_meta.TransferSyntaxUID = syntax
        path = folder / f"{source.series.number}_{number}.dcm"
        header.save_as(path, enforce_file_format=True)
        headers.append(pydicom.dcmread(path, stop_before_pixels=True))
    instances = tuple(Instance(Path(f"{n}.dcm"), header) for n, header in enumerate(headers))
    return SourceVolume(replace(source.series, instances=instances), source.volume, tuple(headers))


def result_set(folder, charset, syntax=None):
    (folder / "set").mkdir()
    job = job_of(folder / "set", *(reread(source_of(c, charset=charset), folder, charset, syntax) for c in REQUIRED))
    picture = render_key_image(job.stack, job.tumour, job.findings)
    job.results["key image"] = save_key_image(picture, folder / "set" / "key_image.png")
    write_segs(job, "1.0.0", MADE_AT, labelmap=True, probability_map=True)
    for write in (write_measurements, write_captures, write_pdf, write_sr):
        write(job, "1.0.0", MADE_AT)
    return job


@pytest.mark.parametrize("charset", SAID)
def test_text_from_disk_is_the_same_in_every_object(tmp_path, charset):
    job = result_set(tmp_path, charset)
    description, other_name = SAID[charset]
    results = {kind: pydicom.dcmread(path) for kind, path in job.results.items() if path.suffix == ".dcm"}
    assert len(results) == 10
    for kind, ds in results.items():
        assert ds.SpecificCharacterSet == charset, kind
        assert (ds.StudyDescription, ds.IssuerOfPatientID) == (description, ISSUER), kind
        for keyword, said in (("OtherPatientNames", other_name), ("PatientComments", description)):
            assert str(ds.get(keyword, said)) == said, (kind, keyword)
        for item in ds.get("ProcedureCodeSequence", ()):
            assert item.CodeMeaning == description, kind
    assert any("OtherPatientNames" in ds for ds in results.values()), "else nothing but what is verbatim was looked at"
    judged = verify_folder(tmp_path / "set")
    assert {j.ruling for j in judged} <= {Ruling.PASSED, Ruling.NOT_JUDGED}, [j for j in judged if j.complaints]


def test_so_does_text_of_files_that_do_not_say_what_kind_a_value_is(tmp_path):
    job = result_set(tmp_path, "GB18030", ImplicitVRLittleEndian)
    seg = pydicom.dcmread(job.results["SEG T1C"], stop_before_pixels=True)
    assert str(seg.OtherPatientNames) == SAID["GB18030"][1]


def test_a_broken_number_that_nobody_asks_for_stays_raw(tmp_path):
    """A scanner's slip in an attribute that no result has must not cost the study."""
    header = reread(source_of(REQUIRED[0]), tmp_path, "ISO_IR 100").headers[0]
    raw = header.get_item("EchoTrainLength")
    header._dict[raw.tag] = raw._replace(VR="IS", value=b"many")
    copy = anonymous(header)
    assert copy.PatientComments == SAID["ISO_IR 100"][0]
    assert copy.get_item(raw.tag).is_raw


def test_the_copy_names_nobody(tmp_path):
    header = reread(source_of(REQUIRED[0]), tmp_path, "ISO_IR 100").headers[0]
    copy = anonymous(header)
    assert not copy.PatientName
    assert not copy.PatientID
    assert "IssuerOfPatientID" not in copy
    assert str(header.PatientName), "the source keeps its own"


@pytest.mark.parametrize("name", ["홍", "محمد", "כהן", "สมชาย", "हिन्दी", "𠮷"])
def test_scripts_that_the_page_cannot_set_are_the_documented_ones(name):
    assert set(clean(name)) == {MISSING}


@pytest.mark.parametrize("name", ["Nguyễn", "Αλέξης", "Петров", "ヤマダ", "やまだ", "王小东", "陳"])
def test_scripts_that_the_page_can_set(name):
    assert clean(name) == name
