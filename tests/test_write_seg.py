"""Segmentations lie where the tumour is, on exactly the grid of the series they belong to."""

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom import DataElement
from pydicom.config import IGNORE
from scipy.spatial.transform import Rotation

from operators.domain import Contrast, SourceVolume
from operators.errors import AnalysisFailed
from operators.write_seg import resample_mask, segment_on_source, write_segs
from tests.support_results import (
    MADE_AT,
    PATIENTS,
    affine_of,
    ellipsoid,
    iod_errors,
    job_of,
    source_of,
)

T1C, FLAIR = Contrast.T1C, Contrast.FLAIR
SOURCES = {
    "axial, anisotropic": {},
    "oblique": {"tilt_degrees": (9, -12, 5), "centre": (3, -4, 20)},
    "sagittal, near isotropic": {"plane": "sagittal", "spacing": (1.4, 1.0, 1.1), "shape": (40, 48, 56)},
    "coronal, tilted": {
        "plane": "coronal",
        "spacing": (3.0, 0.9, 0.9),
        "shape": (20, 56, 50),
        "tilt_degrees": (4, 3, 7),
    },
    "one slice": {"shape": (1, 64, 48)},
}


def rigid(degrees, shift_mm):
    """A movement of the head between two series."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    matrix[:3, 3] = shift_mm
    return matrix


def read_mask(path):
    """A segmentation as volume: bool array (slice, row, column) with its affine."""
    volume = hd.seg.segread(path).get_volume(combine_segments=True)
    return volume.array > 0, volume


def centroid_mm(mask, affine):
    return np.argwhere(mask).mean(axis=0) @ affine[:3, :3].T + affine[:3, 3]


@pytest.mark.parametrize("name", SOURCES)
def test_t1c_segmentation_is_the_mask_on_the_series_own_planes(tmp_path, name):
    t1c = source_of(T1C, **SOURCES[name])
    job = job_of(tmp_path, t1c=t1c, centre_mm=t1c.volume.center_position)
    write_segs(job, "1.0", MADE_AT)
    mask, volume = read_mask(job.results["SEG T1C"])
    back = t1c.volume.get_geometry()
    assert volume.frame_of_reference_uid == t1c.headers[0].FrameOfReferenceUID
    assert mask.sum() == job.tumour.mask.sum() > 0
    assert mask.sum() * back.voxel_volume == pytest.approx(job.findings.tumour_mm3)
    expected = ellipsoid(back, (14, 11, 12), t1c.volume.center_position) > 0.5
    # A single plane has no spacing to read back.
    on_source = mask if len(mask) == 1 else volume.match_geometry(back, tol=1e-4).array > 0
    assert (on_source != expected).sum() <= 0.002 * expected.sum() + 2  # rounding of samples on the surface
    assert not iod_errors(job.results["SEG T1C"])


@pytest.mark.parametrize("name", SOURCES)
def test_every_plane_of_the_series_is_there_and_names_its_image(tmp_path, name):
    t1c = source_of(T1C, **SOURCES[name])
    job = job_of(tmp_path, t1c=t1c, centre_mm=t1c.volume.center_position)
    write_segs(job, "1.0", MADE_AT)
    seg = pydicom.dcmread(job.results["SEG T1C"])
    assert (seg.NumberOfFrames, seg.Rows, seg.Columns) == t1c.volume.spatial_shape
    image_of = {
        tuple(f.PlanePositionSequence[0].ImagePositionPatient):
            f.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        for f in seg.PerFrameFunctionalGroupsSequence
    }  # fmt: skip
    assert image_of == {tuple(h.ImagePositionPatient): h.SOPInstanceUID for h in t1c.headers}
    assert len(seg.ReferencedSeriesSequence) == 1
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == t1c.series.uid


MOVES = [((0, 0, 0), (0, 0, 0)), ((8, -6, 5), (10, -7, 6)), ((-5, 8, -8), (-9, 10, 10))]
FLAIRS = {
    "thick": {"spacing": (5.5, 0.8, 0.8), "shape": (20, 110, 110), "centre": (1, 2, 2.4)},
    "thick, oblique": {"spacing": (6.0, 0.9, 0.7), "shape": (20, 90, 120), "tilt_degrees": (8, 7, -6)},
    "sagittal": {"plane": "sagittal", "spacing": (1.2, 1.1, 1.1), "shape": (70, 80, 80), "centre": (0.4, 0, 0)},
}


@pytest.mark.parametrize(("degrees", "shift_mm"), MOVES)
@pytest.mark.parametrize("flair", FLAIRS)
def test_flair_segmentation_keeps_volume_and_place(tmp_path, flair, degrees, shift_mm):
    t1c = source_of(T1C, spacing=(5.5, 0.9, 0.9), shape=(18, 80, 80))
    moved = rigid(degrees, shift_mm)
    centre = np.array([3.0, -5.0, 4.0])
    job = job_of(
        tmp_path,
        t1c=t1c,
        flair=source_of(FLAIR, **FLAIRS[flair]),
        to_flair=moved,
        semi_axes_mm=(16, 12, 14),
        centre_mm=centre,
    )
    write_segs(job, "1.0", MADE_AT)
    mask, volume = read_mask(job.results["SEG FLAIR"])
    assert mask.sum() * volume.voxel_volume == pytest.approx(job.findings.tumour_mm3, rel=0.02)
    expected = moved @ (*centroid_mm(job.tumour.mask, job.stack.geometry.affine), 1.0)
    off = volume.inverse_affine[:3, :3] @ (centroid_mm(mask, volume.affine) - expected[:3])
    assert np.abs(off).max() < 0.5
    assert not iod_errors(job.results["SEG FLAIR"])


def test_the_same_grid_gives_the_same_mask():
    mask = np.random.default_rng(5).random((6, 30, 30)) > 0.7
    assert np.array_equal(resample_mask(mask, np.eye(4), (5.0, 1.0, 1.0), mask.shape), mask)


def test_what_the_other_series_does_not_cover_is_left_out():
    mask = np.zeros((20, 30, 30), bool)
    mask[4:16, 8:20, 8:20] = True
    shift = np.eye(4)
    shift[0, 3] = -10.0  # the target begins ten slices higher
    assert np.array_equal(resample_mask(mask, shift, (1.0, 1.0, 1.0), (20, 30, 30))[:6], mask[10:16])
    shift[0, 3] = -100.0
    assert not resample_mask(mask, shift, (1.0, 1.0, 1.0), (20, 30, 30)).any()


def test_a_single_voxel_is_not_lost_between_thick_slices():
    fine, thick = (
        affine_of("axial", (1, 1, 1), (30, 30, 30)),
        affine_of("axial", (6, 1, 1), (5, 30, 30), centre=(0, 0, 2.9)),
    )
    mask = np.zeros((30, 30, 30), bool)
    mask[15, 12, 14] = True
    assert resample_mask(mask, np.linalg.inv(thick) @ fine, (1, 1, 1), (5, 30, 30)).sum() == 1


def test_an_empty_tumour_makes_valid_empty_segmentations(tmp_path):
    job = job_of(tmp_path, semi_axes_mm=None)
    write_segs(job, "1.0", MADE_AT)
    for kind, contrast in (("SEG T1C", T1C), ("SEG FLAIR", FLAIR)):
        seg = hd.seg.segread(job.results[kind])
        assert not seg.pixel_array.any()
        assert seg.NumberOfFrames == len(job.volumes[contrast].headers)
        assert not iod_errors(job.results[kind])


@pytest.mark.parametrize("charset", PATIENTS)
def test_the_patient_survives_in_the_source_character_set(tmp_path, charset):
    job = job_of(tmp_path, t1c=source_of(T1C, charset=charset), flair=source_of(FLAIR, charset=charset))
    write_segs(job, "1.0", MADE_AT)
    seg = pydicom.dcmread(job.results["SEG T1C"])
    assert seg.get("SpecificCharacterSet") == charset
    assert str(seg.PatientName) == PATIENTS[charset]
    assert (seg.PatientID, seg.PatientBirthDate, seg.StudyDate, seg.AccessionNumber) == (
        "P-1",
        "19600101",
        "20240102",
        "A1",
    )
    assert seg.StudyInstanceUID == job.study.uid
    assert not iod_errors(job.results["SEG T1C"])


def test_an_odd_patient_is_neither_refused_nor_told_to_a_log(tmp_path, recwarn, caplog):
    t1c = source_of(T1C)
    for header in t1c.headers:
        header.PatientName = "SECRETNAME"
        del header.PatientBirthDate, header.AccessionNumber
        header.PatientSex = "U"
        header["PatientID"] = DataElement("PatientID", "LO", "SECRETID" * 12, validation_mode=IGNORE)
    job = job_of(tmp_path, t1c=t1c)
    before = t1c.headers[0].to_json()
    write_segs(job, "1.0", MADE_AT)
    assert pydicom.dcmread(job.results["SEG T1C"]).PatientName == "SECRETNAME"
    assert "SECRET" not in caplog.text + " ".join(str(w.message) for w in recwarn)
    assert t1c.headers[0].to_json() == before


def test_both_segmentations_describe_one_lesion(tmp_path):
    job = job_of(tmp_path)
    write_segs(job, "2.3", MADE_AT)
    segs = [pydicom.dcmread(job.results[kind]) for kind in ("SEG T1C", "SEG FLAIR")]
    first, second = (seg.SegmentSequence[0] for seg in segs)
    assert first.TrackingUID == second.TrackingUID
    assert first.SegmentLabel == "Whole tumour"
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeValue == "108369006"
    assert first.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "1.2.0"
    assert len(first.RecommendedDisplayCIELabValue) == 3
    assert len({seg.SeriesInstanceUID for seg in segs} | {seg.SOPInstanceUID for seg in segs}) == 4
    assert {seg.SoftwareVersions for seg in segs} == {"2.3"}
    assert {seg.file_meta.TransferSyntaxUID.name for seg in segs} == {"Explicit VR Little Endian"}
    assert any(e.PurposeOfReferenceCodeSequence[0].CodeValue == "109102" for e in segs[0].ContributingEquipmentSequence)


def test_a_second_run_writes_the_same_bytes_and_another_version_another_object(tmp_path):
    folders = [tmp_path / name for name in ("first", "second", "newer")]
    for folder, version in zip(folders, ("1.0", "1.0", "1.1"), strict=True):
        folder.mkdir()
        write_segs(job_of(folder), version, MADE_AT)
    first, second, newer = ((folder / "seg_flair.dcm").read_bytes() for folder in folders)
    assert first == second
    uids = [pydicom.dcmread(folder / "seg_flair.dcm").SOPInstanceUID for folder in (folders[0], folders[2])]
    assert uids[0] != uids[1]
    assert {p.name for p in folders[0].iterdir()} == {"seg_t1c.dcm", "seg_flair.dcm"}
    assert newer != first


def test_headers_that_do_not_match_the_grid_end_the_analysis(tmp_path):
    job = job_of(tmp_path)
    whole = job.volumes[T1C]
    short = SourceVolume(whole.series, whole.volume, whole.headers[:-1])
    with pytest.raises(AnalysisFailed, match="9 headers for 10 planes"):
        segment_on_source(job.stack, job.tumour, short, T1C)
    other = source_of(T1C, spacing=(5.5, 0.8, 1.1))
    with pytest.raises(AnalysisFailed, match="not a permutation"):
        segment_on_source(job.stack, job.tumour, other, T1C)
