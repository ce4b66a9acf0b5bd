"""A header is read in bounded memory, with all that the analysis asks for and without what it does not."""

from __future__ import annotations

import io
import struct

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)
from support_bombs import Peak
from support_phantom import copy_of, small_phantom

import operators.load_study
from app.pipeline import has_all_contrasts
from operators.domain import Contrast
from operators.errors import StudyRejected, UnreadableInstance
from operators.headers import first
from operators.load_study import load_study, read_instance
from operators.reading import LARGE_SEQUENCE
from operators.sequences import MOST_DEPTH, MOST_ELEMENTS
from tests.torture.mutations import deep, image, many_elements, many_items, with_bytes, written

BOMBS = {"items": many_items, "elements": many_elements}


def header_of(folder, content):
    (folder / "a.dcm").write_bytes(content)
    ((instance,),) = [series.instances for series in load_study(folder).series]
    return instance


@pytest.mark.parametrize("form", ["closed", "defined"])
def test_sequences_as_deep_as_may_be_are_read(tmp_path, form):
    inner, levels = header_of(tmp_path, deep(MOST_DEPTH, form)).header, 0
    while items := inner.get("ContentSequence"):
        inner, levels = items[0], levels + 1
    assert levels == MOST_DEPTH


def test_items_that_nobody_asks_for_take_no_memory(tmp_path):
    file = many_items(400_000)
    at = file.rindex(struct.pack("<HH", 0x7FE0, 0x0010))
    with_length = struct.pack("<HH2sHL", 0x0040, 0xA732, b"SQ", 0, 800_000) + file[at - 800_008 : at - 8]
    (tmp_path / "a.dcm").write_bytes(file[:at] + with_length + file[at:])
    with Peak() as peak:
        ((instance,),) = [series.instances for series in load_study(tmp_path).series]
        read = [element.tag for element in instance.header]
    assert peak.here < 60_000_000, "as Datasets they take 330 MB"
    assert 0x0040A730 not in read
    assert 0x0040A732 not in read
    assert instance.header.AnatomicRegionSequence[0].CodeValue == "1"
    assert 40 > instance.elements > len(instance.header)


@pytest.mark.parametrize("what", BOMBS)
def test_an_object_of_more_than_may_be_is_refused(tmp_path, what):
    (tmp_path / "a.dcm").write_bytes(BOMBS[what](MOST_ELEMENTS))
    with pytest.raises(
        UnreadableInstance, match=r"^a.dcm is not read: it holds more than 1,000,000 elements and items$"
    ):
        load_study(tmp_path)
    assert not has_all_contrasts(tmp_path)


def test_private_sequences_are_not_read(tmp_path):
    private = struct.pack("<HH2sHL", 0x0029, 0x1001, b"SQ", 0, 8) + struct.pack("<HHL", 0xFFFE, 0xE000, 0)
    header = header_of(tmp_path, with_bytes(private)).header
    assert 0x00291001 not in header


SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]


@pytest.mark.parametrize("undefined", [True, False], ids=["undefined length", "defined length"])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_small_sequences_are_read_and_large_ones_left_out(tmp_path, syntax, undefined):
    ds = image(None)
    for keyword, count in (
        ("RequestAttributesSequence", LARGE_SEQUENCE // 8),
        ("ProcedureCodeSequence", LARGE_SEQUENCE),
    ):
        items = [Dataset() for _ in range(count)]
        for item in items:
            item.CodeMeaning, item.CodeValue = "x" * 100, "1"
            item.is_undefined_length_sequence_item = undefined
        setattr(ds, keyword, Sequence(items))
        ds[keyword].is_undefined_length = undefined
    instance = header_of(tmp_path, written(ds, syntax))
    assert len(instance.header.RequestAttributesSequence) == LARGE_SEQUENCE // 8
    assert instance.header.RequestAttributesSequence[-1].CodeValue == "1"
    assert "ProcedureCodeSequence" not in instance.header
    assert instance.header.PixelSpacing == [1, 1], "what lies behind"


def test_a_sequence_longer_than_what_is_looked_at_first_is_found_to_its_end(tmp_path):
    groups = b"".join(
        struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
        + struct.pack("<HH2sHL", 0x0018, 0x9005, b"UT", 0, 3_000)
        + bytes([65 + k % 26]) * 3_000
        + struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
        for k in range(400)
    )
    head, end = struct.pack("<HH2sHL", 0x5200, 0x9230, b"SQ", 0, 0xFFFFFFFF), struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    header = header_of(tmp_path, with_bytes(head + groups + end)).header
    assert [str(item[0x00189005].value)[0] for item in header.PerFrameFunctionalGroupsSequence] == [
        chr(65 + k % 26) for k in range(400)
    ]


@pytest.mark.parametrize("where", ["its end", "an item", "an element"])
def test_functional_groups_without_an_end_are_damaged(tmp_path, where):
    head = struct.pack("<HH2sHL", 0x5200, 0x9230, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHL", 0xFFFE, 0xE000, {"its end": 0, "an item": 60_000}.get(where, 0xFFFFFFFF))
    element = struct.pack("<HH2sHL", 0x0018, 0x9005, b"UT", 0, 2**31) if where == "an element" else b""
    (tmp_path / "a.dcm").write_bytes(with_bytes(head + item + element))
    with pytest.raises(UnreadableInstance, match=r"^a.dcm is damaged; send it again$"):
        load_study(tmp_path)


def test_a_directory_of_many_records_is_passed_over(tmp_path):
    folder = copy_of(small_phantom(contrasts=(Contrast.FLAIR,)), tmp_path)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = MediaStorageDirectoryStorage, "1.2"
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.DirectoryRecordSequence = [Dataset() for _ in range(LARGE_SEQUENCE + 1)]
    ds.save_as(folder / "DICOMDIR", enforce_file_format=True)
    assert len(load_study(folder).series) == 1


def test_the_headers_of_a_study_hold_no_more_than_may_be_in_all(tmp_path, monkeypatch):
    folder = copy_of(small_phantom(contrasts=(Contrast.FLAIR,)), tmp_path)
    held = [read_instance(path).elements for path in folder.glob("*.dcm")]
    monkeypatch.setattr(operators.load_study, "MOST_HELD", sum(held))
    assert load_study(folder)
    monkeypatch.setattr(operators.load_study, "MOST_HELD", sum(held) - 1)
    with pytest.raises(StudyRejected, match=r"^its headers hold more than [\d,]+ elements; divide the study"):
        load_study(folder)
    assert not has_all_contrasts(folder)


def test_frames_without_number_that_repeat_a_long_header_are_refused(tmp_path):
    """Each of 100,000 frames would have a header of its own: 200 elements more of the object are 20,000,000."""
    folder = copy_of(small_phantom(contrasts=(Contrast.FLAIR,), enhanced=True), tmp_path)
    (path,) = folder.glob("*.dcm")
    ds = dcmread(path)
    ds.NumberOfFrames, ds.Rows, ds.Columns, ds.PixelData = 100_000, 1, 1, bytes(200_000)
    ds.PerFrameFunctionalGroupsSequence = []
    for number in range(200):
        ds.add_new((0x0021, 0x1000 + number), "LO", "x")
    ds.save_as(path)
    whole = path.read_bytes()
    at = whole.index(struct.pack("<HH2s", 0x5200, 0x9230, b"SQ"))
    groups = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 100_000
    path.write_bytes(whole[: at + 8] + struct.pack("<L", len(groups)) + groups + whole[at + 12 :])
    with Peak() as peak, pytest.raises(StudyRejected, match="its headers hold more than 4,000,000 elements"):
        load_study(folder)
    assert peak.here < 200_000_000


def test_private_elements_of_functional_groups_are_not_asked_what_they_are():
    """pydicom knows some for sequences, and would make their items."""
    block = Dataset()
    block.private_block(0x2005, "Philips MR Imaging DD 005", create=True).add_new(0x0E, "SQ", [Dataset()] * 3)
    block.MREchoSequence = [Dataset()]
    block.MREchoSequence[0].EffectiveEchoTime = 90.0
    ds = image(None)
    ds.SharedFunctionalGroupsSequence = [block]
    read = dcmread(io.BytesIO(written(ds, ImplicitVRLittleEndian)))
    assert first(read, "EffectiveEchoTime") == 90.0
    assert first(read, "InversionTimes") is None, "so all of them were looked at"
    (groups,) = read.SharedFunctionalGroupsSequence
    assert isinstance(groups.get_item(0x2005100E), RawDataElement)
