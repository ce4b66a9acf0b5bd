"""Volumes have the files' values and places; what is not a volume is refused with the place of the fault."""

from dataclasses import replace

import numpy as np
import pytest
from pydicom import Dataset, Sequence, dcmread
from pydicom.uid import EnhancedMRImageStorage, JPEG2000Lossless, JPEGLSLossless, RLELossless
from support_phantom import SMALL, change, copy_of, small_phantom

from app.phantom import Plane, make_phantom
from operators.build_volumes import BuildVolumesOperator, build_volume
from operators.domain import Contrast, Selection, Verdict
from operators.errors import BrokenGeometry, UnreadableInstance
from operators.load_study import load_study
from operators.stage import Job


def flair_of(folder):
    """The FLAIR series of a phantom's folder, as loaded."""
    (series,) = (s for s in load_study(folder).series if s.number == 3)
    return series


def build_flair(folder):
    return build_volume(Contrast.FLAIR, flair_of(folder))


def rescaled(path):
    """One file's pixels by pydicom alone."""
    ds = dcmread(path)
    return ds.pixel_array * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))


WAYS = [
    {},
    {"plane": Plane.SAGITTAL, "tilt_degrees": (0.0, 0.0, 0.0)},
    {"plane": Plane.CORONAL},
    {"tilt_degrees": (25.0, -10.0, 15.0)},
    {"rescale_per_slice": True},
    {"transfer_syntax": RLELossless},
    {"transfer_syntax": JPEGLSLossless},
    {"transfer_syntax": JPEG2000Lossless},
]


@pytest.mark.parametrize("changes", WAYS, ids=lambda c: " ".join(map(str, c.values())) or "default")
def test_every_voxel_has_its_files_value_and_place(changes):
    source = build_flair(small_phantom(contrasts=(Contrast.FLAIR,), **changes).folder)
    volume = source.volume
    assert volume.array.dtype == np.float32
    assert volume.frame_of_reference_uid == source.headers[0].FrameOfReferenceUID
    files = {i.header.SOPInstanceUID: i.path for i in source.series.instances}
    for number, header in enumerate(source.headers):
        np.testing.assert_allclose(volume.array[number], rescaled(files[header.SOPInstanceUID]), atol=1e-3)
        start, row_end = volume.affine @ [number, 0, 0, 1], volume.affine @ [number, 1, 0, 1]
        np.testing.assert_allclose(start[:3], header.ImagePositionPatient, atol=1e-3)
        down = np.array(header.ImageOrientationPatient[3:], float) * header.PixelSpacing[0]
        np.testing.assert_allclose((row_end - start)[:3], down, atol=1e-4)


def test_the_affine_is_the_phantoms_own_up_to_slice_order():
    truth = small_phantom()
    volume = build_flair(truth.folder).volume
    grid = truth.grid(Contrast.FLAIR)
    corners = [grid.affine[:3, 3], (grid.affine @ [grid.shape[0] - 1, 0, 0, 1])[:3]]
    found = [volume.affine[:3, 3], (volume.affine @ [volume.spatial_shape[0] - 1, 0, 0, 1])[:3]]
    assert min(np.abs(np.subtract(found, corners)).max(), np.abs(np.subtract(found[::-1], corners)).max()) < 1e-3


@pytest.fixture
def folder(tmp_path):
    """A FLAIR series that a test may spoil."""
    return copy_of(small_phantom(contrasts=(Contrast.FLAIR,)), tmp_path)


def shift(path, millimetres, along=(0, 0, 1)):
    position = np.array(dcmread(path).ImagePositionPatient, float) + millimetres * np.array(along)
    change(path, ImagePositionPatient=[f"{p:.6f}" for p in position])


def normal_of(path):
    return np.cross(*np.array(dcmread(path).ImageOrientationPatient, float).reshape(2, 3))


def test_a_missing_slice_is_located(folder):
    gone = folder / "03_FLAIR_006.dcm"
    height = float(np.array(dcmread(gone).ImagePositionPatient, float) @ normal_of(gone))
    gone.unlink()
    expected = rf"FLAIR \(series 3\): a slice is missing between {height - 11:.1f} mm and {height + 11:.1f} mm; send"
    with pytest.raises(BrokenGeometry, match=expected):
        build_flair(folder)


def test_several_missing_slices_are_counted(folder):
    for number in (5, 6):
        (folder / f"03_FLAIR_{number:03d}.dcm").unlink()
    with pytest.raises(BrokenGeometry, match="2 slices are missing"):
        build_flair(folder)


def test_a_missing_end_slice_leaves_a_shorter_volume(folder):
    (folder / "03_FLAIR_012.dcm").unlink()
    assert build_flair(folder).volume.spatial_shape[0] == 11


def test_two_slices_at_one_place_are_refused(folder):
    change(folder / "03_FLAIR_004.dcm", "03_FLAIR_004b.dcm")
    with pytest.raises(BrokenGeometry, match="two slices lie at"):
        build_flair(folder)


def test_uneven_slices_are_refused(folder):
    path = folder / "03_FLAIR_004.dcm"
    shift(path, 2.0, normal_of(path))
    with pytest.raises(BrokenGeometry, match="not evenly"):
        build_flair(folder)


def test_a_sheared_stack_is_refused(folder):
    for number, path in enumerate(sorted(folder.iterdir())):
        shift(path, 1.0 * number, np.array(dcmread(path).ImageOrientationPatient[3:], float))
    with pytest.raises(BrokenGeometry, match="do not form a regular volume"):
        build_flair(folder)


def test_the_rounding_of_scanners_is_borne(folder):
    rng = np.random.default_rng(0)
    for path in folder.iterdir():
        shift(path, 1e-3, rng.uniform(-1, 1, 3))
    assert build_flair(folder).volume.spatial_shape[0] == 12


@pytest.mark.parametrize("kept", [1, 2])
def test_one_or_two_slices_are_refused(folder, kept):
    for path in sorted(folder.iterdir())[kept:]:
        path.unlink()
    with pytest.raises(BrokenGeometry, match=f"{kept} slices? cannot make a volume"):
        build_flair(folder)


def test_a_slice_without_position_is_refused(folder):
    ds = dcmread(folder / "03_FLAIR_002.dcm")
    del ds.ImagePositionPatient
    ds.save_as(folder / "03_FLAIR_002.dcm")
    with pytest.raises(BrokenGeometry, match="does not say where it lies"):
        build_flair(folder)


def test_pixel_data_that_cannot_be_decoded_are_refused(tmp_path):
    folder = copy_of(small_phantom(contrasts=(Contrast.FLAIR,), transfer_syntax=JPEGLSLossless), tmp_path)
    path = folder / "03_FLAIR_003.dcm"
    raw = bytearray(path.read_bytes())
    start = raw.index(b"\xff\xd8\xff")
    raw[start : start + 40] = bytes(40)
    path.write_bytes(bytes(raw))
    with pytest.raises(UnreadableInstance, match="cannot be decoded"):
        build_flair(folder)


def test_two_echoes_become_two_volumes(folder):
    for path in sorted(folder.iterdir()):
        change(path, f"echo2_{path.name}", EchoNumbers=2, EchoTime=30)
    parts = [s for s in load_study(folder).series if s.number == 3]
    assert [build_volume(Contrast.FLAIR, p).volume.spatial_shape[0] for p in parts] == [12, 12]


def as_enhanced(folder, target):
    """The folder's series as one enhanced multi-frame object, with as much of it as reading needs."""
    slices = [dcmread(p) for p in sorted(folder.iterdir())]
    ds = Dataset()
    ds.update(slices[0])
    ds.file_meta = slices[0].file_meta
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    ds.NumberOfFrames = len(slices)
    ds.DimensionOrganizationSequence = [Dataset()]
    ds.DimensionOrganizationSequence[0].DimensionOrganizationUID = "1.2.3"
    ds.DimensionIndexSequence = [Dataset()]
    ds.DimensionIndexSequence[0].DimensionOrganizationUID = "1.2.3"
    ds.DimensionIndexSequence[0].DimensionIndexPointer = 0x00209057
    ds.DimensionIndexSequence[0].FunctionalGroupPointer = 0x00209111
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = ds.PixelSpacing, ds.SliceThickness
    orientation.ImageOrientationPatient = ds.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    ds.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for number, plane in enumerate(slices):
        frame, content, place, scale = Dataset(), Dataset(), Dataset(), Dataset()
        content.StackID, content.InStackPositionNumber, content.DimensionIndexValues = "1", number + 1, number + 1
        place.ImagePositionPatient = plane.ImagePositionPatient
        scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = 1 + number, -number, "US"
        frame.FrameContentSequence, frame.PlanePositionSequence = [content], [place]
        frame.PixelValueTransformationSequence = [scale]
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = Sequence(frames)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(ds, keyword)
    ds.PixelData = b"".join(s.PixelData for s in slices)
    target.mkdir()
    ds.save_as(target / "enhanced.dcm", enforce_file_format=True)
    return target


def test_enhanced_multi_frame_has_each_frames_values_place_and_rescale(folder, tmp_path):
    slices = [dcmread(p) for p in sorted(folder.iterdir())]
    source = build_flair(as_enhanced(folder, tmp_path / "enhanced"))
    volume = source.volume
    assert volume.array.dtype == np.float32
    assert len(source.headers) == len(volume.array) == len(slices)
    positions = np.array([s.ImagePositionPatient for s in slices], float)
    for number, plane in enumerate(volume.array):
        away = np.linalg.norm(positions - (volume.affine @ [number, 0, 0, 1])[:3], axis=1)
        frame = int(away.argmin())
        assert away[frame] < 1e-3
        np.testing.assert_allclose(plane, slices[frame].pixel_array * (1.0 + frame) - frame)


def test_an_enhanced_object_with_a_gap_is_refused(folder, tmp_path):
    (folder / "03_FLAIR_006.dcm").unlink()
    with pytest.raises(BrokenGeometry, match="do not form a regular volume"):
        build_flair(as_enhanced(folder, tmp_path / "enhanced"))


def test_the_operator_adds_the_volumes_to_its_job(tmp_path):
    truth = make_phantom(tmp_path / "study", replace(SMALL, contrasts=(Contrast.FLAIR,)))
    series = flair_of(truth.folder)
    job = Job("1", truth.folder, tmp_path)
    job.selection = Selection({Contrast.FLAIR: Verdict(series, Contrast.FLAIR, "test")}, ())
    BuildVolumesOperator.process(None, job)
    assert job.volumes[Contrast.FLAIR].series is series
