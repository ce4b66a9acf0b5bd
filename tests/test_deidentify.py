"""Every action of PS3.15 table E.1-1, at every depth; UIDs, pseudonyms, dates; and what is refused."""

from __future__ import annotations

from copy import deepcopy
from datetime import datetime, timedelta

import pydicom
import pytest
from pydicom import DataElement, Dataset
from pydicom.datadict import DicomDictionary, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

from app.conformance_objects import CREATED
from operators import codes
from operators.deidentify_kinds import DESCRIPTIONS
from operators.deidentify_table import EDITION, Action, action_on, table
from operators.errors import NotDeidentified
from operators.pseudonyms import Pseudonyms
from operators.write_parts import text_item
from tests.support_deidentify import SECRET, deidentifier, encoded, leaks
from tests.support_dicom import small_mr, with_meta
from tests.support_study import ROOT

ROWS = {
    "PatientID": "Z/D", "PatientName": "Z", "PatientBirthDate": "Z", "PatientSex": "Z", "PatientAge": "X",
    "AccessionNumber": "Z", "StudyID": "Z", "StudyDate": "Z", "AcquisitionDate": "X/Z", "AcquisitionDateTime": "X/Z/D",
    "ContentDate": "Z/D", "InstitutionName": "X/Z/D", "SeriesDescription": "X", "StudyDescription": "X",
    "StationName": "X/Z/D", "DeviceSerialNumber": "X/Z/D", "SOPInstanceUID": "U", "FrameOfReferenceUID": "U",
    "TrackingUID": "U", "UID": "U", "ContentSequence": "D", "EncapsulatedDocument": "D", "DateTime": "D",
    "PersonName": "D", "SourceImageSequence": "X/Z/U*", "ReferencedImageSequence": "X/Z/U*",
    "RequestAttributesSequence": "X",
    "OriginalAttributesSequence": "X", "ProtocolName": "X/D", "DerivationDescription": "X", "PatientComments": "X",
    "OtherPatientIDsSequence": "X", "DigitalSignaturesSequence": "X", "AcquisitionContextSequence": "X/Z",
}  # fmt: skip
"""Some rows, written off the standard (2024e)."""
DISTINCT = {
    **dict.fromkeys(("LO", "SH", "ST", "LT", "UT", "UC", "PN", "UR"), "ZEBULON"),
    **{"AE": "ZEBULON_AE", "CS": "ZEBULON_CS", "AS": "043Y", "DA": "19430405", "TM": "040506", "DT": "19430405040506"},
    **{"DS": "43.4344", "IS": "434344", "UI": "1.2.43.4.4344", "AT": 0x00434344},
    **dict.fromkeys(("SS", "US"), 17219),
    **dict.fromkeys(("SL", "UL", "SV", "UV"), 1128481604),
    **dict.fromkeys(("FL", "FD"), 43.4344),
    **dict.fromkeys(("OB", "OW", "OD", "OF", "OL", "OV", "UN"), b"ZEBULON_" * 2),
}  # fmt: skip
"""By VR: a value that is found again wherever it is left."""
CONTENT = {"ContentSequence", "GraphicAnnotationSequence", "EncapsulatedDocument"}
"""Not cleaned but refused, or by other rules."""


def value_of(vr, keeps_references=False):
    if vr != "SQ":
        return DISTINCT[vr.split(" ")[0]]
    item = Dataset()
    if not keeps_references:
        item.CodeValue, item.CodeMeaning = "ZEBULON", "ZEBULON"
    item.ReferencedSOPInstanceUID = DISTINCT["UI"]
    return Sequence([item])


def listed_elements():
    """One element for every row of the table whose VR is known."""
    for tag in sorted(table()):
        if tag in DicomDictionary and tag >> 16 > 0x0007 and keyword_for_tag(tag) not in CONTENT:
            vr = dictionary_VR(tag).split(" ")[0]
            yield DataElement(tag, vr, value_of(vr, table()[tag] is Action.X_Z_U))


@pytest.mark.parametrize(("keyword", "action"), ROWS.items())
def test_the_table_says_what_the_standard_says(keyword, action):
    assert table()[tag_for_keyword(keyword)] == action


def test_the_table_is_whole():
    assert len(table()) > 640
    assert set(table().values()) == set(Action)


def test_the_documents_name_the_edition_of_the_table():
    for name in ("security.md", "conformance.md"):
        assert f"table E.1-1 of edition {EDITION}" in (ROOT / "docs" / name).read_text()


def test_the_descriptions_that_stay_are_those_that_are_written():
    written = {o.description for o in CREATED if o.title != "Report page"}
    assert written == DESCRIPTIONS


def image_with_everything():
    """An MR image that has every attribute of the table: at the top, and in an item of an item."""
    image = small_mr()
    deep, holder = Dataset(), Dataset()
    for element in listed_elements():
        image[element.tag] = element
        deep[element.tag] = deepcopy(element)
    holder.ConceptCodeSequence = [deep]
    image.AnatomicRegionSequence = [holder]
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID
    return image


@pytest.mark.parametrize("profile", ["basic", "shifted-dates"])
def test_every_row_of_the_table_is_obeyed_at_every_depth(profile):
    image = image_with_everything()
    clean = deidentifier(profile)(image)
    deep = clean.AnatomicRegionSequence[0].ConceptCodeSequence[0]
    looked_at = 0
    for level in (clean, deep):
        for element in listed_elements():
            action, moved = table()[int(element.tag)], profile == "shifted-dates" and element.VR in ("DA", "DT", "TM")
            kept = profile == "shifted-dates" and element.keyword == "TimezoneOffsetFromUTC"
            if (moved and "Birth" not in element.keyword) or kept:
                if element.VR in ("DA", "DT"):
                    assert level[element.tag].value[:4] < "1943", element
                continue
            looked_at += 1
            held = level.get(element.tag)
            if action is Action.X:
                assert held is None, element
            elif element.VR == "UI" and action in (Action.U, Action.D):
                assert held.value.startswith("2.25."), element
            elif element.keyword in ("PatientID", "PatientName"):
                assert held.value == clean.PatientID
            elif action is Action.Z:
                assert held.is_empty, element
            elif action is Action.D:
                assert not held.is_empty, element
                assert held.value != element.value, element
            else:
                assert held is None or held.is_empty or held.value != element.value or held.VR == "SQ", element
    assert looked_at > 900
    assert not leaks(encoded(clean), {"ZEBULON", "043Y", "19430405", "1.2.43.4.4344", "43.4344"})


MR, SEG, SC = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.7"


@pytest.mark.parametrize(
    ("sop_class", "keyword", "left"),
    [
        (SEG, "DeviceSerialNumber", "REMOVED"),  # Type 1 in Enhanced General Equipment
        (SC, "DeviceSerialNumber", None),  # Type 3 in General Equipment
        (SEG, "ContentDate", "19000101"),  # Type 1
        (MR, "ContentDate", ""),  # Type 2C
        (MR, "AcquisitionDate", None),  # Type 3
        (MR, "StudyDate", ""),
        (MR, "InstitutionName", None),
        ("1.2.840.10008.5.1.4.1.1.4.99", "InstitutionName", "REMOVED"),  # a kind without tables: what is always valid
    ],
)
def test_of_several_actions_the_first_is_taken_that_leaves_the_object_valid(sop_class, keyword, left):
    image = small_mr()
    image.SOPClassUID, image.BurnedInAnnotation = sop_class, "NO"
    setattr(image, keyword, "20240102" if "Date" in keyword else "ZEBULON")
    clean = deidentifier()(image)
    assert (keyword in clean) == (left is not None)
    assert (clean.get(keyword) or None) == (left or None)


def test_private_unknown_and_retired_ways_round_the_table_are_gone_at_every_depth():
    image, item = small_mr(), Dataset()
    for level in (image, item):
        level.private_block(0x0019, "ZEBULON", create=True).add_new(1, "LO", "ZEBULON")
        level.add_new(0x00080051 + 0x00100000, "LO", "ZEBULON")  # (0018,0051): nobody knows it
        level.add_new(0x60003000, "OW", b"ZEBULON_")
        level.add_new(0x60001500, "LO", "ZEBULON")  # an overlay's label
        level.add_new(0x50000030, "SH", "ZEBULON")
        level.EncryptedAttributesSequence = [Dataset()]
        level.add_new(0x00140104, "PN", "ZEBULON")  # too new for the table: a name is a name
        level.add_new(0x0014407E - 6, "DA", "19430405")
    image.AnatomicRegionSequence = [item]
    clean = deidentifier()(image)
    assert not leaks(encoded(clean), {"ZEBULON", "19430405"})
    assert "EncryptedAttributesSequence" not in clean


def test_uids_are_the_same_wherever_they_stand_and_names_of_kinds_stay():
    image, item = small_mr(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    item.ContextUID = "1.2.840.10008.6.1.1"
    image.SourceImageSequence = [item]
    image.IrradiationEventUID = [image.SeriesInstanceUID, image.StudyInstanceUID]
    image.SOPInstanceUIDOfConcatenationSource = image.SOPInstanceUID  # a UID that the table does not list
    image.FrameOfReferenceUID = "1.2.840.10008.1.4.1.1"  # an atlas: the same for all the world
    image.CodingSchemeIdentificationSequence = [Dataset()]
    image.CodingSchemeIdentificationSequence[0].CodingSchemeUID = "1.2.43.1"
    clean = deidentifier()(image)
    reference = clean.SourceImageSequence[0]
    assert clean.SOPInstanceUID == reference.ReferencedSOPInstanceUID == clean.SOPInstanceUIDOfConcatenationSource
    assert clean.file_meta.MediaStorageSOPInstanceUID == clean.SOPInstanceUID != image.SOPInstanceUID
    assert list(clean.IrradiationEventUID) == [clean.SeriesInstanceUID, clean.StudyInstanceUID]
    assert clean.SOPClassUID == reference.ReferencedSOPClassUID == image.SOPClassUID
    assert reference.ContextUID == "1.2.840.10008.6.1.1"
    assert clean.FrameOfReferenceUID == "1.2.840.10008.1.4.1.1"
    assert clean.CodingSchemeIdentificationSequence[0].CodingSchemeUID == "1.2.43.1"
    assert all(UID(str(clean[k].value)).is_valid for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"))


def test_the_file_meta_information_is_made_anew():
    image = small_mr()
    image.file_meta.SourceApplicationEntityTitle = "ZEBULON"
    image.file_meta.PrivateInformationCreatorUID, image.file_meta.PrivateInformation = "1.2.43", b"ZEBULON_"
    image.preamble = b"ZEBULON" + bytes(121)
    assert not leaks(encoded(deidentifier()(image)), {"ZEBULON"})


def test_what_was_done_is_declared():
    clean = deidentifier()(small_mr())
    assert (clean.PatientIdentityRemoved, clean.LongitudinalTemporalInformationModified) == ("YES", "REMOVED")
    assert [i.CodeValue for i in clean.DeidentificationMethodCodeSequence] == ["113100"]
    assert list(clean.DeidentificationMethod) == ["Glioma Node", "PS3.15 2026c Basic Profile"]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_file_is_cleaned_as_an_object_in_memory_is(tmp_path, syntax):
    image = with_meta(image_with_everything(), syntax)
    image.save_as(tmp_path / "in.dcm", enforce_file_format=True)
    clean = deidentifier()(pydicom.dcmread(tmp_path / "in.dcm"))
    assert not leaks(encoded(clean), {"ZEBULON", "19430405", "1.2.43.4.4344"})
    assert clean.PixelData == image.PixelData
    assert clean.file_meta.TransferSyntaxUID == syntax


def test_compressed_pixels_stay_as_they_are(tmp_path):
    image = small_mr()
    image.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    clean = deidentifier()(image)
    (tmp_path / "out.dcm").write_bytes(encoded(clean))
    assert (pydicom.dcmread(tmp_path / "out.dcm").pixel_array == image.pixel_array).all()


# Pseudonyms


def header(patient_id=None, study="1.2.3"):
    ds = Dataset()
    ds.StudyInstanceUID = study
    if patient_id is not None:
        ds.PatientID = patient_id
    return ds


def test_a_pseudonym_is_the_patients_alone_whatever_the_study_and_padding():
    names = Pseudonyms(SECRET)
    assert names.patient(header("A-1")) == names.patient(header("A-1 ", "1.2.4")) != names.patient(header("A-2"))
    assert names.patient(header("Mu\u0308ller")) == names.patient(header("M\u00fcller"))
    assert names.patient(header("A-1")) != Pseudonyms(SECRET + b"!").patient(header("A-1"))
    assert names.patient(header(["A", "1"])) == names.patient(header("A\\1"))


def test_a_study_without_patient_id_is_a_patient_of_its_own():
    names = Pseudonyms(SECRET)
    assert names.patient(header()) == names.patient(header("")) == names.patient(header(" "))
    assert names.patient(header()) != names.patient(header(study="1.2.4"))


def test_no_repr_shows_the_secret():
    assert "secret" not in repr(Pseudonyms(SECRET)) + repr(deidentifier())


def test_uids_are_valid_and_do_not_meet():
    names = Pseudonyms(SECRET)
    made = {names.uid(f"1.2.3.{n}") for n in range(2000)}
    assert len(made) == 2000
    assert all(uid.is_valid and uid.startswith("2.25.") and len(uid) <= 64 for uid in made)
    assert names.uid("") == ""


# Dates


def dated(**values):
    image = small_mr()
    for keyword, value in values.items():
        setattr(image, keyword, value)
    return deidentifier("shifted-dates")(image)


def test_dates_move_by_whole_days_and_times_stay():
    clean = dated(
        StudyDate="20240301",
        AcquisitionDateTime="20240229120000.5+0100",
        StudyTime="101500",
        TimezoneOffsetFromUTC="+0100",
    )
    assert clean.AcquisitionDateTime.endswith("120000.5+0100")
    moved = Pseudonyms(SECRET).shift_days(clean.PatientID)
    assert 366 <= moved <= 3653
    assert datetime.strptime(clean.StudyDate, "%Y%m%d") + timedelta(moved) == datetime(2024, 3, 1)
    assert clean.AcquisitionDateTime[:8] == f"{datetime(2024, 2, 29) - timedelta(moved):%Y%m%d}"
    assert (clean.StudyTime, clean.TimezoneOffsetFromUTC) == ("101500", "+0100")


@pytest.mark.parametrize("date", ["2024.03.01", "20241301", "202403", "Zebulon", "00010101"])
def test_a_date_that_cannot_be_moved_goes(date):
    assert not dated(StudyDate=date).StudyDate
    assert not dated(StudyDate=["20240301", date]).StudyDate


def test_a_day_of_birth_is_never_moved_but_goes():
    clean = dated(PatientBirthDate="19600117", PatientBirthTime="0815")
    assert not clean.PatientBirthDate
    assert "PatientBirthTime" not in clean


# What is refused


def refusable(kind):
    image = small_mr()
    if kind == "burned in":
        image.BurnedInAnnotation = "YES"
    elif kind == "a screenshot that says nothing":
        image.SOPClassUID = SC
    elif kind == "a document":
        image.EncapsulatedDocument = b"%PDF"
    elif kind == "a report of others":
        image.ContentSequence = [text_item(codes.COMMENT, "Zebulon was here")]
    elif kind == "annotations":
        image.GraphicAnnotationSequence = [Dataset()]
    elif kind == "a recording":
        image.WaveformSequence = [Dataset()]
    elif kind == "a directory":
        image.DirectoryRecordSequence = []
    elif kind == "a private kind":
        image.SOPClassUID = generate_uid()
    elif kind == "an image cut short":
        del image.PixelData
    elif kind == "no UID":
        image.SeriesInstanceUID = ""
    elif kind == "no SOP class":
        del image.SOPClassUID
    elif kind == "no value that a VR may hold":
        image.add_new(0x00720066, "XX", "Zebulon")
    return image


REFUSED = {
    "burned in": "pixels hold text",
    "a screenshot that says nothing": "nothing says that its pixels hold no text",
    "a document": "document",
    "a report of others": "report of other software",
    "annotations": "annotations",
    "a recording": "recording",
    "a directory": "directory",
    "a private kind": "private kind",
    "an image cut short": "without pixels",
    "no UID": "lacks a UID",
    "no SOP class": "nothing says what it is",
    "no value that a VR may hold": "cannot be read",
}


@pytest.mark.parametrize(("kind", "reason"), REFUSED.items())
def test_what_cannot_be_cleaned_is_refused_in_words_without_a_value(kind, reason):
    with pytest.raises(NotDeidentified, match=reason) as caught:
        deidentifier()(refusable(kind))
    assert not leaks(str(caught.value).encode(), {"Zebulon", "Secret", "PID-SECRET"})


LEFT = {
    "ContentDescription": "of PID-SECRET",  # the profile lets it be
    "SegmentLabel": "Secret^Person",
    "ManufacturerModelName": "made on 20240102",
    "SoftwareVersions": "for 2024-01-02",
    "ContentLabel": None,
}


@pytest.mark.parametrize("keyword", LEFT)
def test_an_identity_in_an_attribute_that_the_profile_lets_be_is_found(keyword):
    image = small_mr()
    image.StudyDate = "20240102"
    if LEFT[keyword] is None:
        keyword, value = "ContentDescription", f"see {image.StudyInstanceUID}."
    else:
        value = LEFT[keyword]
    image.add_new(tag_for_keyword(keyword), "UT", value)
    with pytest.raises(NotDeidentified, match=f"still in {keyword}") as caught:
        deidentifier()(image)
    assert not leaks(str(caught.value).encode(), {"Secret", "PID-SECRET", "20240102", str(image.StudyInstanceUID)})


def test_short_and_common_values_are_no_reason_to_refuse():
    image = small_mr()
    image.PatientID, image.AccessionNumber, image.Manufacturer = "7", "MR", "MR 7 Company"
    assert deidentifier()(image).Manufacturer == "MR 7 Company"


# Content items of this node's own reports


def own_report(*items):
    ds = small_mr()
    del ds.PixelData
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.34"
    ds.Manufacturer = "Glioma Node"
    title = Dataset()
    title.CodeValue, title.CodingSchemeDesignator = codes.REPORT_TITLE.value, codes.REPORT_TITLE.scheme_designator
    ds.ConceptNameCodeSequence = [title]
    ds.ContentSequence = list(items)
    return with_meta(ds, ExplicitVRLittleEndian)


TEXTS = [
    (codes.SERIES_USED, 'T1C: series 3, "AX for Zebulon": Zebulon says T1', "T1C: series 3"),
    (codes.SERIES_USED, 'T2: an unnumbered series, "x"', "T2: an unnumbered series"),
    (codes.SERIES_USED, "Zebulon", "REMOVED"),
    (codes.PROCESSING_NOTE, "Earlier examinations could not all be looked for: ZEB at 10.0.0.1.",
     "Earlier examinations could not all be looked for."),
    (codes.PROCESSING_NOTE, "The report of 2024-01-02 09:30 was 1.2.3.4.5.6.", None),
    (codes.QUALITY_WARNING, "spacing: 6.0 mm", "spacing: 6.0 mm"),
    (codes.REPORT_TITLE, "a concept that no text of ours has: Zebulon", "REMOVED"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "left"), TEXTS)
def test_text_is_kept_where_it_is_ours_and_cut_where_it_may_not_be(name, text, left):
    (item,) = deidentifier()(own_report(text_item(name, text))).ContentSequence
    said = str(item.TextValue)
    if left is None:
        assert said == f"The report of REMOVED was {Pseudonyms(SECRET).uid('1.2.3.4.5.6')}."
    else:
        assert said == left


def test_dates_and_names_in_content_items_go_too():
    item = Dataset()
    item.ValueType, item.DateTime, item.PersonName, item.UID = "DATETIME", "20240102", "Zebulon^Z", "1.2.3.4.5"
    clean = deidentifier()(own_report(item)).ContentSequence[0]
    assert (clean.DateTime, clean.PersonName) == ("19000101000000", "REMOVED")
    assert Pseudonyms(SECRET).uid("1.2.3.4.5") == clean.UID


def test_the_actions_on_what_the_table_does_not_list():
    assert action_on(DataElement("TransferSyntaxUID", "UI", JPEGBaseline8Bit)) is None
    assert action_on(DataElement("Rows", "US", 5)) is None
    assert action_on(DataElement("VolumeFrameOfReferenceUID", "UI", "1.2")) is Action.U
    assert action_on(DataElement("EvaluatorName", "PN", "x")) is Action.D
    assert action_on(DataElement(0x00189FF0, "UN", b"")) is Action.X
