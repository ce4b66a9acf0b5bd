"""What a folder may hold, and how its series are told apart."""

from dataclasses import replace

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    RLELossless,
)
from support_phantom import SMALL, change, copy_of, small_phantom

from app.phantom import make_phantom
from app.phantom_extra import add_localizer
from operators.domain import Contrast, Study
from operators.errors import StudyRejected, UnreadableInstance
from operators.load_study import LoadStudyOperator, load_study
from operators.series_geometry import plane
from operators.stage import Job

FIRST = "03_FLAIR_001.dcm"
FLAIR_SERIES = 3


@pytest.fixture
def study_folder(tmp_path):
    """A small study that a test may spoil."""
    return copy_of(small_phantom(), tmp_path)


def parts_of(folder, number=FLAIR_SERIES):
    """How many slices each set has that a series was divided into."""
    return sorted(len(s.instances) for s in load_study(folder).series if s.number == number)


def test_a_study_has_its_four_series_in_order_of_number():
    truth = small_phantom()
    study = load_study(truth.folder)
    assert study.uid == truth.study_uid
    assert [(s.number, len(s.instances), s.modality) for s in study.series] == [(n, 12, "MR") for n in (1, 2, 3, 4)]
    assert study.series[3].uid == truth.series_uid(Contrast.T1C)
    assert [i.header.InstanceNumber for i in study.series[0].instances] == list(range(1, 13))


def test_pixel_data_are_not_read():
    assert all("PixelData" not in i.header for s in load_study(small_phantom().folder).series for i in s.instances)


def test_other_files_subfolders_and_a_dicomdir_do_no_harm(study_folder):
    inner = study_folder / "deep" / "deeper"
    inner.mkdir(parents=True)
    (study_folder / FIRST).rename(inner / "noname")
    (study_folder / "notes.txt").write_text("not DICOM")
    (study_folder / "empty").touch()
    directory = Dataset()
    directory.file_meta = FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.DirectoryRecordSequence = []
    directory.save_as(study_folder / "DICOMDIR", enforce_file_format=True)
    assert parts_of(study_folder) == [12]


def test_an_instance_that_comes_twice_counts_once(study_folder):
    (study_folder / "again.dcm").write_bytes((study_folder / FIRST).read_bytes())
    assert parts_of(study_folder) == [12]


@pytest.mark.parametrize("kept", [0.995, 0.6, 0.11, 0.02], ids="{:.1%} left".format)
def test_a_truncated_file_is_named_and_to_be_sent_again(study_folder, kept):
    path = study_folder / FIRST
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(UnreadableInstance, match="send it again") as caught:
        load_study(study_folder)
    assert FIRST in str(caught.value)
    assert "Phantom" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_compressed_pixel_data_are_found(tmp_path):
    folder = copy_of(small_phantom(transfer_syntax=RLELossless), tmp_path)
    assert parts_of(folder) == [12]
    (folder / FIRST).write_bytes((folder / FIRST).read_bytes()[:-200])
    with pytest.raises(UnreadableInstance, match=f"{FIRST} is cut off within its pixel data"):
        load_study(folder)


def test_pixel_data_shorter_than_the_header_says_are_found(study_folder):
    ds = dcmread(study_folder / FIRST)
    change(study_folder / FIRST, PixelData=ds.PixelData[:-100])
    with pytest.raises(UnreadableInstance, match="cut off within its pixel data"):
        load_study(study_folder)


def test_an_empty_file_named_as_dicom_is_refused(study_folder):
    (study_folder / FIRST).write_bytes(b"")
    with pytest.raises(UnreadableInstance, match="is not complete"):
        load_study(study_folder)


def test_an_instance_without_uid_is_refused(study_folder):
    ds = dcmread(study_folder / FIRST)
    del ds.SOPInstanceUID
    ds.save_as(study_folder / FIRST)
    with pytest.raises(UnreadableInstance, match="has no SOP Instance UID"):
        load_study(study_folder)


def test_two_studies_in_one_folder_are_refused(study_folder):
    change(study_folder / FIRST, StudyInstanceUID="1.2.3")
    with pytest.raises(StudyRejected, match="2 studies"):
        load_study(study_folder)


def test_empty_and_absent_folders_are_refused(tmp_path):
    with pytest.raises(StudyRejected, match="no DICOM images"):
        load_study(tmp_path)
    with pytest.raises(StudyRejected, match="does not exist"):
        load_study(tmp_path / "absent")


MIXED = [
    ({"EchoNumbers": 2, "EchoTime": 30}, "echoes"),
    ({"DiffusionBValue": 1000.0}, "b-values"),
    ({"Rows": 32}, "matrices"),
    ({"StackID": "2"}, "stacks"),
    ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "orientations"),
    ({"ImageType": ["ORIGINAL", "PRIMARY", "P"]}, "magnitude and phase"),
    ({"AcquisitionNumber": 2}, "repeats"),
    ({"TemporalPositionIdentifier": 2}, "time points"),
    ({"InversionTime": 700}, "inversion times"),
    ({"FrameOfReferenceUID": "1.2.3"}, "frames of reference"),
]


@pytest.mark.parametrize(("changes", "what"), MIXED, ids=[what for _, what in MIXED])
def test_what_must_not_be_mixed_is_divided(study_folder, changes, what):
    for path in sorted(study_folder.glob("03_*"))[:5]:
        change(path, f"other_{path.name}", **changes)
    assert parts_of(study_folder) == [5, 12], what


HARMLESS = [
    {"ImageType": ["DERIVED", "PRIMARY", "M"]},
    {"AcquisitionNumber": 2},
    {"ImageOrientationPatient": None},
    {"EchoTime": 114.02},
]


@pytest.mark.parametrize("changes", HARMLESS, ids=lambda c: next(iter(c)))
def test_what_differs_without_meaning_is_not_divided(study_folder, changes):
    path = study_folder / FIRST
    if "ImageOrientationPatient" in changes:  # scanners repeat the direction with rounding noise
        cosines = dcmread(path).ImageOrientationPatient
        changes = {"ImageOrientationPatient": [f"{float(c) + 2e-4:.6f}" for c in cosines]}
    change(path, **changes)
    assert parts_of(study_folder) == [12]


def test_a_slice_taken_again_stands_apart(study_folder):
    change(study_folder / "03_FLAIR_004.dcm", "03_FLAIR_004b.dcm", AcquisitionNumber=2)
    assert parts_of(study_folder) == [1, 12]


def test_interleaved_acquisitions_are_not_torn_apart_by_a_double(study_folder):
    """Odd and even slices are acquisitions of their own; the double tells nothing of either."""
    for number in range(2, 13, 2):
        change(study_folder / f"03_FLAIR_{number:03d}.dcm", AcquisitionNumber=2)
    change(study_folder / "03_FLAIR_004.dcm", "03_FLAIR_004b.dcm")
    assert parts_of(study_folder) == [13]


def test_a_three_plane_localizer_is_divided_into_its_planes(tmp_path):
    truth = make_phantom(tmp_path, replace(SMALL, contrasts=(Contrast.T1,)))
    add_localizer(truth)
    planes = {plane(s): len(s.instances) for s in load_study(tmp_path).series if s.number == 20}
    assert planes == {"axial": 3, "sagittal": 3, "coronal": 3}


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian])
def test_truncated_files_of_other_syntaxes_are_found(tmp_path, syntax):
    folder = copy_of(small_phantom(contrasts=(Contrast.FLAIR,), transfer_syntax=syntax), tmp_path)
    assert parts_of(folder) == [12]
    (folder / FIRST).write_bytes((folder / FIRST).read_bytes()[:-400])
    with pytest.raises(UnreadableInstance, match=FIRST):
        load_study(folder)


def test_large_private_elements_are_not_kept(study_folder):
    ds = dcmread(study_folder / FIRST)
    block = ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", bytes(100_000))
    block.add_new(0x20, "OB", bytes(1000))
    ds.save_as(study_folder / FIRST)
    header = next(i.header for s in load_study(study_folder).series for i in s.instances if i.path.name == FIRST)
    assert 0x00291010 not in header
    assert len(header[0x00291020].value) == 1000


def test_the_operator_adds_the_study_to_its_job(tmp_path):
    job = Job("1", small_phantom().folder, tmp_path)
    LoadStudyOperator.process(None, job)
    assert isinstance(job.study, Study)
