"""Volumes have the files' values and places; what is not a volume is refused with the place of the fault."""

from dataclasses import replace
from types import SimpleNamespace

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
from operators.pixels import HERE
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


def test_slices_that_came_twice_are_read_once(folder):
    whole = build_flair(folder).volume
    for number in (1, 4, 12):
        change(folder / f"03_FLAIR_{number:03d}.dcm", f"03_FLAIR_{number:03d}b.dcm")
    source = build_flair(folder)
    np.testing.assert_array_equal(source.volume.array, whole.array)
    np.testing.assert_array_equal(source.volume.affine, whole.affine)
    assert len(source.headers) == 12
    assert source.notes == ("3 slices of FLAIR (series 3) came twice and were read once",)


def test_different_slices_at_one_place_are_refused(folder):
    other = dcmread(folder / "03_FLAIR_005.dcm")
    change(folder / "03_FLAIR_004.dcm", "03_FLAIR_004b.dcm", PixelData=other.PixelData)
    height = float(
        np.array(dcmread(folder / "03_FLAIR_004.dcm").ImagePositionPatient, float)
        @ normal_of(folder / "03_FLAIR_004.dcm")
    )
    with pytest.raises(BrokenGeometry, match=f"two different slices lie at {height:.1f} mm"):
        build_flair(folder)


def test_two_slices_almost_at_one_place_are_refused(folder):
    path = change(folder / "03_FLAIR_004.dcm", "03_FLAIR_004b.dcm")
    shift(path, 0.2, normal_of(path))
    with pytest.raises(BrokenGeometry, match="two slices lie at"):
        build_flair(folder)


def test_uneven_slices_are_refused(folder):
    path = folder / "03_FLAIR_004.dcm"
    shift(path, 2.0, normal_of(path))
    with pytest.raises(BrokenGeometry, match="not evenly"):
        build_flair(folder)


def lean_by(folder, millimetres):
    """Move each slice of a straight stack in its own plane, toward growing rows, farther than the one before."""
    for number, path in enumerate(sorted(folder.iterdir())):
        shift(path, millimetres * number, np.array(dcmread(path).ImageOrientationPatient[3:], float))


def test_a_leaning_stack_is_put_straight_value_by_value(folder):
    pixel = float(dcmread(folder / "03_FLAIR_001.dcm").PixelSpacing[0])
    upright = build_flair(folder).volume
    lean_by(folder, 2 * pixel)  # whole pixels: nothing is interpolated
    source = build_flair(folder)
    assert source.volume.spatial_shape == (12, 64 + 22, 52)
    assert source.notes == ("FLAIR (series 3) was taken with its slices tilted by 33.2 degrees and put straight",)
    np.testing.assert_allclose(source.volume.spacing, upright.spacing, rtol=1e-5)
    files = {i.header.SOPInstanceUID: i.path for i in source.series.instances}
    for number, header in enumerate(source.headers):
        row = source.volume.inverse_affine @ [*map(float, header.ImagePositionPatient), 1]
        np.testing.assert_allclose(row[[0, 2]], [number, 0], atol=2e-3)
        assert row[1] == pytest.approx(round(row[1]), abs=2e-3)
        top = round(row[1])
        np.testing.assert_allclose(
            source.volume.array[number, top : top + 64], rescaled(files[header.SOPInstanceUID]), atol=1
        )


def test_a_stack_that_leans_too_far_is_refused(folder):
    lean_by(folder, 12.0)
    with pytest.raises(BrokenGeometry, match="more than 45 degrees"):
        build_flair(folder)


def test_a_slice_beside_the_others_is_refused(folder):
    path = folder / "03_FLAIR_006.dcm"
    shift(path, 4.0, np.array(dcmread(path).ImageOrientationPatient[:3], float))
    with pytest.raises(BrokenGeometry, match=r"a slice lies 1\.\d pixels beside the line"):
        build_flair(folder)


def test_slices_turned_against_one_another_are_refused(folder):
    path = folder / "03_FLAIR_006.dcm"
    cosines = [float(c) for c in dcmread(path).ImageOrientationPatient]
    change(path, ImageOrientationPatient=[f"{c + 3e-3:.6f}" for c in cosines])
    with pytest.raises(BrokenGeometry, match="turned against"):
        build_flair(folder)


@pytest.mark.parametrize("decimals", [2, 3, 5])
def test_directions_written_with_few_decimals_are_borne(tmp_path, decimals):
    folder = copy_of(small_phantom(contrasts=(Contrast.FLAIR,), tilt_degrees=(25.0, -10.0, 15.0)), tmp_path)
    exact = build_flair(folder).volume
    for path in folder.iterdir():
        change(
            path, ImageOrientationPatient=[f"{float(c):.{decimals}f}" for c in dcmread(path).ImageOrientationPatient]
        )
    found = build_flair(folder).volume
    assert np.abs(found.affine[:3, :3] - exact.affine[:3, :3]).max() < 11 * 10.0**-decimals
    assert found.spacing == pytest.approx(exact.spacing, rel=0.01)


def test_a_slice_without_frame_of_reference_is_refused(folder):
    for path in folder.iterdir():
        change(path, FrameOfReferenceUID=None)
    with pytest.raises(BrokenGeometry, match="names no frame of reference"):
        build_flair(folder)


@pytest.mark.parametrize("jitter", [0.01, 0.008])
def test_the_jitter_of_two_dimensional_slices_is_borne(folder, jitter):
    rng = np.random.default_rng(0)
    for path in sorted(folder.iterdir()):
        shift(path, 11 * jitter * rng.uniform(-1, 1), normal_of(path))
    assert build_flair(folder).volume.spacing[0] == pytest.approx(11, rel=0.01)


@pytest.mark.parametrize("flip", ["rows", "columns", "both", "descending"])
def test_each_value_keeps_its_place_however_the_image_is_stored(folder, flip):
    """The same head written with mirrored rows or columns, or from the last slice to the first."""
    before = build_flair(folder).volume
    for path in sorted(folder.iterdir()):
        ds = dcmread(path)
        along_row, along_column = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
        position, pixels = np.array(ds.ImagePositionPatient, float), ds.pixel_array
        if flip in {"columns", "both"}:
            position, along_row, pixels = (
                position + along_row * ds.PixelSpacing[1] * (ds.Columns - 1),
                -along_row,
                pixels[:, ::-1],
            )
        if flip in {"rows", "both"}:
            position, along_column, pixels = (
                position + along_column * ds.PixelSpacing[0] * (ds.Rows - 1),
                -along_column,
                pixels[::-1],
            )
        change(
            path,
            ImagePositionPatient=[f"{v:.6f}" for v in position],
            ImageOrientationPatient=[f"{v:.10f}" for v in (*along_row, *along_column)],
            PixelData=np.ascontiguousarray(pixels).tobytes(),
            InstanceNumber=13 - ds.InstanceNumber if flip == "descending" else ds.InstanceNumber,
        )
    after = build_flair(folder).volume
    assert np.linalg.det(after.affine[:3, :3]) * np.linalg.det(before.affine[:3, :3]) > 0
    same = after.match_geometry(before.get_geometry(), tol=1e-3)
    np.testing.assert_array_equal(same.array, before.array)


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
    with pytest.raises(
        UnreadableInstance, match=r"pixel data \(JPEG-LS Lossless Image Compression\) cannot be decoded"
    ):
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
    with pytest.raises(BrokenGeometry, match="a slice is missing between"):
        build_flair(as_enhanced(folder, tmp_path / "enhanced"))


def test_the_operator_adds_the_volumes_to_its_job(tmp_path):
    truth = make_phantom(tmp_path / "study", replace(SMALL, contrasts=(Contrast.FLAIR,)))
    series = flair_of(truth.folder)
    job = Job("1", truth.folder, tmp_path)
    job.selection = Selection({Contrast.FLAIR: Verdict(series, Contrast.FLAIR, "test")}, ())
    BuildVolumesOperator.process(SimpleNamespace(_decoder=HERE), job)
    assert job.volumes[Contrast.FLAIR].series is series


def study_with_t1(folder):
    """A selection of FLAIR and T1C, which must be, and of T1, which may be."""
    series = {s.number: s for s in load_study(folder).series}
    contrasts = {1: Contrast.T1, 3: Contrast.FLAIR, 4: Contrast.T1C}
    verdicts = {c: Verdict(series[n], c, "said so", str(c)) for n, c in contrasts.items()}
    return Selection(verdicts, tuple(verdicts.values()))


def test_a_t1_that_is_no_volume_is_left_out_and_recorded(tmp_path):
    contrasts = (Contrast.T1, Contrast.FLAIR, Contrast.T1C)
    folder = copy_of(small_phantom(contrasts=contrasts), tmp_path)
    (folder / "01_T1_006.dcm").unlink()
    job = Job("1", folder, tmp_path, selection=study_with_t1(folder))
    BuildVolumesOperator.process(SimpleNamespace(_decoder=HERE), job)
    assert set(job.volumes) == set(job.selection.chosen) == {Contrast.FLAIR, Contrast.T1C}
    (note,) = job.notes
    assert note.startswith("T1 (series 1): a slice is missing between")
    assert note.endswith("; analysed without T1")
    (verdict,) = (v for v in job.selection.verdicts if v.series.number == 1)
    assert verdict.contrast is None
    assert verdict.reason.startswith("said so; not used: T1 (series 1): a slice is missing")


def test_a_t1c_that_is_no_volume_ends_the_study(tmp_path):
    contrasts = (Contrast.T1, Contrast.FLAIR, Contrast.T1C)
    folder = copy_of(small_phantom(contrasts=contrasts), tmp_path)
    (folder / "04_T1C_006.dcm").unlink()
    with pytest.raises(BrokenGeometry, match=r"T1C \(series 4\): a slice is missing"):
        BuildVolumesOperator.process(
            SimpleNamespace(_decoder=HERE), Job("1", folder, tmp_path, selection=study_with_t1(folder))
        )
