"""Files that were made to harm: each is read without the harm, or refused in one line; nothing is taken for it."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, EnhancedMRImageStorage
from support_bombs import Peak
from support_phantom import change, copy_of, small_phantom

import operators.reading
from app.pipeline import has_all_contrasts
from operators.build_volumes import read_volumes
from operators.domain import Contrast, Study
from operators.errors import PipelineError, PixelDataRefused, UnreadableInstance
from operators.load_study import load_study, read_instance
from operators.select_series import recognised, select_series
from tests.support_bombs import recode

VICTIM = "03_FLAIR_006.dcm"
NODE_BYTES = 60_000_000
SEEN = {"rows": 96, "columns": 96, "pixel_mm": 2.4}


@pytest.fixture
def folder(tmp_path):
    return copy_of(small_phantom(contrasts=(Contrast.T1C, Contrast.FLAIR), **SEEN), tmp_path)


def put(path: Path, keyword: str, vr: bytes, value: bytes) -> None:
    """Put an element of any VR and bytes into an uncompressed explicit file."""
    ds = dcmread(path)
    tag = Tag(tag_for_keyword(keyword))
    ds._dict[tag] = RawDataElement(tag, vr.decode("latin-1"), len(value), value, 0, False, True)
    ds.save_as(path)


def analysed(folder: Path) -> tuple[str, str]:
    """Take a folder as far as its volumes; returns how that ended, and its reason. Else what went wrong is raised."""
    try:
        study = load_study(folder)
        recognised(study)
        read_volumes(select_series(study))
    except PipelineError as refusal:
        return refusal.code, str(refusal)
    return "read", ""


# Lengths


def with_length(path: Path, length: int) -> None:
    """Let one element claim a length that the file does not have."""
    whole = bytearray(path.read_bytes())
    at = whole.index(struct.pack("<HH2s", 0x0008, 0x103E, b"LO"))  # Series Description
    whole[at + 4 : at + 8] = b"UT\0\0"
    whole[at + 8 : at + 8] = struct.pack("<L", length)
    path.write_bytes(whole)


@pytest.mark.parametrize("length", [0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFE, 0xFFFFFFFF, 1_000_000])
def test_a_length_beyond_the_file_takes_no_memory(folder, length):
    with_length(folder / VICTIM, length)
    with Peak() as peak, pytest.raises(UnreadableInstance, match=VICTIM):
        read_instance(folder / VICTIM)
    assert peak.here < NODE_BYTES


# Deflate


def deflated(path: Path, behind: int) -> None:
    """Deflate a file, with so many zeros in a private element in front of its pixels."""
    recode(path, DeflatedExplicitVRLittleEndian)
    whole = path.read_bytes()
    (length,) = struct.unpack_from("<L", whole, 140)
    start = 144 + length
    plain = zlib.decompress(whole[start:], -zlib.MAX_WBITS)
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    at = plain.index(struct.pack("<HH", 0x7FE0, 0x0010))
    element = struct.pack("<HH2sHL", 0x0029, 0x1010, b"OB", 0, behind)
    with path.open("wb") as file:
        file.write(whole[:start] + squeeze.compress(plain[:at] + element))
        for _ in range(behind // 10_000_000):
            file.write(squeeze.compress(bytes(10_000_000)))
        file.write(squeeze.compress(plain[at:]) + squeeze.flush())


def test_a_deflate_bomb_is_not_inflated(folder):
    deflated(folder / VICTIM, 1_500_000_000)
    assert (folder / VICTIM).stat().st_size < 3_000_000
    with Peak() as peak, pytest.raises(PixelDataRefused, match=rf"{VICTIM} inflates to more than 512 MB"):
        load_study(folder)
    assert peak.here < NODE_BYTES


def test_an_honest_deflated_file_is_read_whatever_its_size(folder, monkeypatch):
    monkeypatch.setattr(operators.reading, "MOST_INFLATED_BYTES", 1_000_000)
    deflated(folder / VICTIM, 0)
    assert isinstance(load_study(folder), Study)
    deflated(folder / VICTIM, 10_000_000)
    with pytest.raises(PixelDataRefused):
        load_study(folder)


def test_a_deflated_file_whose_head_lies_about_its_length_is_damaged(folder, monkeypatch):
    monkeypatch.setattr(operators.reading, "MOST_INFLATED_BYTES", 1_000_000)
    deflated(folder / VICTIM, 0)
    whole = bytearray((folder / VICTIM).read_bytes())
    struct.pack_into("<L", whole, 140, 20)
    (folder / VICTIM).write_bytes(whole)
    with pytest.raises(UnreadableInstance, match=VICTIM):
        load_study(folder)


# Values

PATHS = [
    "../../../etc/passwd",
    "/etc/passwd",
    "1.2/../../3",
    "..",
    "$(reboot)",
    "1.2.3\\..\\4",
    "C:\\windows",
    "a" * 300,
]
UIDS = ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"]


@pytest.mark.parametrize("value", PATHS)
def test_a_path_in_the_place_of_any_uid_names_no_file(folder, tmp_path, value):
    """Read or refused: what names files is a hash or ours; and no message quotes the value."""
    outside = sorted(tmp_path.rglob("*"))
    for keyword in UIDS:
        for path in folder.glob("*.dcm") if keyword != "SOPInstanceUID" else [folder / VICTIM]:
            with warnings.catch_warnings(action="ignore"):
                change(path, **{keyword: value})
    _, reason = analysed(folder)
    assert "passwd" not in reason
    assert value not in reason or value == ".."
    assert sorted(tmp_path.rglob("*")) == outside


VALUES = {
    "path": (b"LO", b"../../../etc/passwd\0"),
    "not a number": (b"DS", b"NaN "),
    "beyond numbers": (b"DS", b"1e999 "),
    "negative": (b"DS", b"-1"),
    "bytes": (b"UN", b"\xff\xfe\x00\x80" * 4),
    "short float": (b"FD", b"\0" * 7),
    "broken escapes": (b"LO", b"\x1b$B\xff\xff\x1b(J\\\\\\\\"),
    "no VR": (b"XX", b"abcd"),
    "empty": (b"LO", b""),
    "too many": (b"DS", b"1\\2\\3\\4\\5\\6\\7\\8"),
}
REFUSALS = {
    "read", "unreadable-instance", "study-rejected", "broken-geometry", "missing-sequence", "mixed-patients",
    "pixel-data-refused",
}  # fmt: skip
KEYWORDS = [
    "ImageType",
    "SOPClassUID",
    "Modality",
    "SeriesDescription",
    "ProtocolName",
    "SeriesNumber",
    "InstanceNumber",
    "AcquisitionNumber",
    "RepetitionTime",
    "EchoTime",
    "InversionTime",
    "ScanningSequence",
    "ContrastBolusAgent",
    "AcquisitionDate",
    "AcquisitionTime",
    "SliceThickness",
    "SpacingBetweenSlices",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "RescaleSlope",
    "RescaleIntercept",
    "NumberOfFrames",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "FrameOfReferenceUID",
    "DiffusionBValue",
    "EchoNumbers",
]


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_any_element_may_hold_anything(folder, keyword):
    """A wrong VR, bytes of no character set, numbers that are none: a study is read without the value, or refused."""
    whole = (folder / VICTIM).read_bytes()
    for name, (vr, value) in VALUES.items():
        put(folder / VICTIM, keyword, vr, value)
        try:
            ended, reason = analysed(folder)
        except Exception as error:
            raise AssertionError(f"{keyword}: {name}") from error
        assert "\n" not in reason, name
        assert "passwd" not in reason, name
        assert ended in REFUSALS, name
        (folder / VICTIM).write_bytes(whole)


CHARSETS = ["NONSENSE", "ISO_IR 999", "\\\\\\", "ISO 2022 IR 87\\GB18030", "GB18030", "ISO_IR 192", "\x00", "A" * 500]


@pytest.mark.parametrize("charset", CHARSETS)
def test_a_broken_character_set_keeps_nobody_from_being_analysed(folder, charset):
    for path in folder.glob("*_FLAIR_*.dcm"):
        put(path, "SpecificCharacterSet", b"CS", charset.encode() + b" " * (len(charset) % 2))
        put(path, "SeriesDescription", b"LO", b"FLAIR \xff\xfe\x1b$B\xe9\x80")
    assert analysed(folder) == ("read", "")


# Enhanced multi-frame


@pytest.fixture
def enhanced(tmp_path):
    return copy_of(small_phantom(contrasts=(Contrast.FLAIR,), enhanced=True), tmp_path)


LIES = [
    {"NumberOfFrames": 0},
    {"NumberOfFrames": -3},
    {"NumberOfFrames": 1_000_000_000},
    {"NumberOfFrames": 11},
    {"Rows": 65_535, "Columns": 65_535},
    {"Rows": 0},
    {"BitsAllocated": 64},
    {"BitsAllocated": 0},
    {"SamplesPerPixel": 3},
]


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_an_enhanced_object_whose_sizes_lie_is_refused(enhanced, lie):
    (path,) = enhanced.glob("*.dcm")
    assert dcmread(path, stop_before_pixels=True).SOPClassUID == EnhancedMRImageStorage
    change(path, **lie)
    with Peak() as peak:
        assert analysed(enhanced)[0] in {"unreadable-instance", "pixel-data-refused", "missing-sequence"}
    assert peak.here < NODE_BYTES


def test_functional_groups_that_are_none_are_refused(enhanced):
    (path,) = enhanced.glob("*.dcm")
    ds = dcmread(path)
    for groups in (ds.PerFrameFunctionalGroupsSequence[:3], []):
        ds.PerFrameFunctionalGroupsSequence = groups
        ds.save_as(path)
        assert analysed(enhanced)[0] in {"unreadable-instance", "missing-sequence"}


def test_the_main_loops_question_has_an_answer_whatever_a_folder_holds(folder):
    """Asked while a study arrives, an error would end the node."""
    assert not has_all_contrasts(folder)
    put(folder / VICTIM, "AcquisitionTime", b"FD", b"\0" * 7)
    put(sorted(folder.glob("*_FLAIR_*.dcm"))[0], "AcquisitionTime", b"FD", b"\0" * 7)
    assert not has_all_contrasts(folder)
    deflated(folder / VICTIM, 0)
    (folder / VICTIM).write_bytes((folder / VICTIM).read_bytes()[:-50])
    assert not has_all_contrasts(folder)
