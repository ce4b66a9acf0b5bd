"""Segmentations lie where the tumour is, on exactly the grid of the series they belong to."""

from copy import deepcopy
from dataclasses import replace

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom import DataElement
from pydicom.config import IGNORE
from scipy.spatial.transform import Rotation

from app.phantom import Plane
from app.phantom_enhanced import as_enhanced
from app.phantom_files import save_image
from operators.build_volumes import build_volume
from operators.domain import Contrast, SourceVolume, Stack, TumourMap
from operators.errors import AnalysisFailed
from operators.load_study import load_study
from operators.write_seg import resample_mask, segment_on_source, write_segs
from tests.support_phantom import small_phantom
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


def phantom_volumes(folder):
    """T1C and FLAIR of a phantom by series number, as read from its files."""
    numbers = {3: FLAIR, 4: T1C}
    return {
        numbers[s.number]: build_volume(numbers[s.number], s) for s in load_study(folder).series if s.number in numbers
    }


def lesion_job(folder, truth):
    """A job that has found the phantom's true lesion, every sequence at its true pose."""
    job = job_of(folder)
    job.volumes = phantom_volumes(truth.folder)
    geometry = job.volumes[T1C].volume.get_geometry().to_patient_orientation("HPL")
    occupancy = truth.lesion_occupancy(geometry.affine, geometry.spatial_shape, T1C)
    empty = np.zeros(geometry.spatial_shape, np.float32)
    to_source = {c: truth.motion[c] for c in (T1C, FLAIR)}
    job.stack = Stack(geometry, {T1C: empty, FLAIR: empty}, empty > 0, to_source)
    job.tumour = TumourMap(geometry, occupancy, "truth", "0")
    return job


def measured(path, grid):
    """Volume in mm3 and centroid in LPS of a segmentation, plane by plane: tilted ones are no volume to a reader."""
    seg = hd.seg.segread(path)
    inside = [np.argwhere(plane) for plane in seg.pixel_array]
    starts = [f.PlanePositionSequence[0].ImagePositionPatient for f in seg.PerFrameFunctionalGroupsSequence]
    points = np.concatenate(
        [np.array(s, float) + i @ grid.affine[:3, 1:3].T for s, i in zip(starts, inside, strict=True)]
    )
    return len(points) * abs(np.linalg.det(grid.affine[:3, :3])), points.mean(axis=0)


TILTED = {"contrasts": (T1C, FLAIR), "rows": 96, "columns": 96, "pixel_mm": 2.4, "slices": 40, "spacing_mm": 4.0}
WAYS = {
    "tilted by 10 degrees": {"gantry_tilt_degrees": 10.0},
    "tilted by -20 degrees, oblique": {"gantry_tilt_degrees": -20.0, "tilt_degrees": (8.0, 5.0, -4.0)},
    "tilted, sagittal": {"gantry_tilt_degrees": 15.0, "plane": Plane.SAGITTAL},
    "tilted, enhanced": {"gantry_tilt_degrees": 15.0, "enhanced": True},
    "straight, enhanced": {"enhanced": True},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_segmentation_lies_right_on_the_planes_as_they_came(tmp_path, way):
    truth = small_phantom(**TILTED, thickness_mm=4.0, **WAYS[way])
    job = lesion_job(tmp_path, truth)
    write_segs(job, "1.0", MADE_AT)
    for contrast in (T1C, FLAIR):
        path, grid = job.results[f"SEG {contrast}"], truth.grid(contrast)
        volume, centroid = measured(path, grid)
        assert volume == pytest.approx(truth.lesion_mm3, rel=0.02)
        off = np.linalg.inv(grid.affine[:3, :3]) @ (centroid - truth.lesion_centroid_lps(contrast))
        assert np.abs(off).max() < 0.5
        assert not iod_errors(path)
        assert_names_its_planes(path, truth.folder)


def assert_names_its_planes(path, folder):
    """Each plane of a segmentation names the object, and the frame of it, that lies where it lies."""
    seg = pydicom.dcmread(path)
    places = {}
    for instance in (i for s in load_study(folder).series for i in s.instances):
        frame = instance.frames[0] + 1 if instance.frames else None
        header = instance.header
        places[header.SOPInstanceUID, frame] = list(map(float, header.ImagePositionPatient)), header.SOPClassUID
    for group in seg.PerFrameFunctionalGroupsSequence:
        (reference,) = group.DerivationImageSequence[0].SourceImageSequence
        named = reference.ReferencedSOPInstanceUID, reference.get("ReferencedFrameNumber")
        position, kind = places[named]
        assert position == pytest.approx([float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient])
        assert reference.ReferencedSOPClassUID == kind
    listed = [r.ReferencedSOPInstanceUID for r in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence]
    assert (
        sorted(listed) == sorted(set(listed)) == sorted({r.ReferencedSOPInstanceUID for r in seg.SourceImageSequence})
    )


def test_a_part_of_an_enhanced_object_is_named_by_its_frames(tmp_path):
    classic = small_phantom(contrasts=(T1C, FLAIR))
    folder = tmp_path / "study"
    for name in ("03_FLAIR", "04_T1C"):
        images = [pydicom.dcmread(p) for p in sorted(classic.folder.glob(f"{name}_*"))]
        second = deepcopy(images)
        for image in second:
            image.EchoTime = 300.0
        folder.mkdir(exist_ok=True)
        mixed = [i for pair in zip(second, images, strict=True) for i in pair]
        save_image(as_enhanced(mixed), folder / f"{name}.dcm")
    truth = replace(classic, folder=folder)
    job = lesion_job(tmp_path, truth)
    assert {int(v.headers[0].EchoTime) for v in job.volumes.values()} == {12, 114}
    write_segs(job, "1.0", MADE_AT)
    for kind in ("SEG T1C", "SEG FLAIR"):
        assert_names_its_planes(job.results[kind], folder)
        frames = {
            f.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
            for f in pydicom.dcmread(job.results[kind]).PerFrameFunctionalGroupsSequence
        }
        assert frames == set(range(2, 25, 2))
        assert not iod_errors(job.results[kind])


def test_rounding_noise_and_an_absent_thickness_do_not_stop_a_segmentation(tmp_path):
    t1c = source_of(T1C)
    for number, header in enumerate(t1c.headers):
        header.ImageOrientationPatient = [f"{float(c) + 1e-6 * number:.8f}" for c in header.ImageOrientationPatient]
        header.SliceThickness = None
    job = job_of(tmp_path, t1c=t1c)
    write_segs(job, "1.0", MADE_AT)
    assert read_mask(job.results["SEG T1C"])[0].sum() == job.tumour.mask.sum()
    assert not iod_errors(job.results["SEG T1C"])


@pytest.mark.parametrize("decimals", [2, 3, 4])
def test_directions_with_few_decimals_become_valid_ones(tmp_path, decimals):
    t1c = source_of(T1C, tilt_degrees=(9, -12, 5))
    written = [round(float(c), decimals) for c in t1c.headers[0].ImageOrientationPatient]
    for header in t1c.headers:
        header.ImageOrientationPatient = [f"{c:.{decimals}f}" for c in written]
    write_segs(job_of(tmp_path, t1c=t1c), "1.0", MADE_AT)
    seg = pydicom.dcmread(tmp_path / "seg_t1c.dcm")
    found = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    assert [float(c) for c in found] == pytest.approx(written, abs=10.0**-decimals)
    assert not iod_errors(tmp_path / "seg_t1c.dcm")
