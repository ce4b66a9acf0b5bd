"""Enhanced multi-frame MR is taken apart into what single-frame files would have been."""

from __future__ import annotations

import random

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import JPEGLSLossless, LegacyConvertedEnhancedMRImageStorage, generate_uid
from support_phantom import change, copy_of, small_phantom

from app.phantom_enhanced import as_enhanced
from app.phantom_files import save_image
from operators.build_volumes import build_volume
from operators.domain import Contrast
from operators.errors import UnreadableInstance
from operators.headers import b_value, number
from operators.load_study import load_study
from operators.series_geometry import coverage_mm, geometry_fault, plane, slice_count

FLAIR = Contrast.FLAIR
SORTING = ("EchoTime", "InversionTime", "RepetitionTime", "FlipAngle", "EchoTrainLength", "DiffusionBValue")


@pytest.fixture(scope="module")
def classic():
    """A FLAIR series as single-frame files."""
    return small_phantom(contrasts=(FLAIR,), rescale_per_slice=True).folder


def slices(folder):
    return [dcmread(path) for path in sorted(folder.iterdir())]


def volume_of(folder, place=0):
    return build_volume(FLAIR, load_study(folder).series[place])


def write(folder, images, name="enhanced.dcm"):
    folder.mkdir(exist_ok=True)
    return save_image(as_enhanced(images), folder / name)


def assert_same_volume(one, other):
    np.testing.assert_allclose(one.volume.affine, other.volume.affine, atol=1e-6)
    np.testing.assert_array_equal(one.volume.array, other.volume.array)


@pytest.mark.parametrize("syntax", [None, JPEGLSLossless], ids=["plain", "JPEG-LS"])
def test_an_enhanced_object_reads_like_the_classic_series(classic, tmp_path, syntax):
    options = {"transfer_syntax": syntax} if syntax else {}
    folder = small_phantom(contrasts=(FLAIR,), rescale_per_slice=True, enhanced=True, **options).folder
    assert len(list(folder.iterdir())) == 1
    (series,), (single,) = load_study(folder).series, load_study(classic).series
    assert_same_volume(volume_of(folder), volume_of(classic))
    assert [number(series.header, k) for k in SORTING] == [number(single.header, k) for k in SORTING]
    assert (slice_count(series), plane(series), geometry_fault(series)) == (12, "axial", "")
    assert coverage_mm(series) == pytest.approx(132, abs=0.01)
    assert [i.frames for i in series.instances] == [(k,) for k in range(12)]
    assert series.header.AcquisitionDateTime.startswith("20260915")


def test_frames_in_any_order_find_their_place(classic, tmp_path):
    images = slices(classic)
    random.Random(1).shuffle(images)
    write(tmp_path / "study", images)
    assert_same_volume(volume_of(tmp_path / "study"), volume_of(classic))


def test_one_object_a_slice_and_one_object_half_make_one_volume(classic, tmp_path):
    for place, image in enumerate(slices(classic)[:5]):
        write(tmp_path / "study", [image], f"{place}.dcm")
    write(tmp_path / "study", slices(classic)[5:], "rest.dcm")
    assert_same_volume(volume_of(tmp_path / "study"), volume_of(classic))


def altered(image, **attributes):
    for keyword, value in attributes.items():
        setattr(image, keyword, value)
    image.PixelData = (image.pixel_array // 2).astype("<u2").tobytes()
    return image


TOLD_APART = {
    "echoes": {"EchoTime": 30.0},
    "b-values": {"DiffusionBValue": 1000.0},
    "stacks": {"StackID": "2"},
    "time points": {"TemporalPositionIdentifier": 2},
    "magnitude and phase": {"ImageType": ["ORIGINAL", "PRIMARY", "P"]},
    "orientations": {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]},
}


@pytest.mark.parametrize("kind", TOLD_APART)
def test_one_object_of_several_kinds_is_divided(classic, tmp_path, kind):
    others = [altered(image, **TOLD_APART[kind]) for image in slices(classic)]
    mixed = [image for pair in zip(slices(classic), others, strict=True) for image in pair]
    write(tmp_path / "study", mixed)
    first, second = load_study(tmp_path / "study").series
    assert [i.frames[0] for i in first.instances] == list(range(0, 24, 2))
    assert [i.frames[0] for i in second.instances] == list(range(1, 24, 2))
    assert_same_volume(volume_of(tmp_path / "study"), volume_of(classic))
    if kind == "echoes":
        assert (number(first.header, "EchoTime"), number(second.header, "EchoTime")) == (114, 30)
    if kind == "b-values":
        assert (b_value(first.header), b_value(second.header)) == (None, 1000)
    if kind == "orientations":
        assert (plane(first), plane(second)) == ("axial", "sagittal")
    else:
        halved = np.array([i.pixel_array // 2 * i.RescaleSlope + i.RescaleIntercept for i in slices(classic)])
        found = np.sort(volume_of(tmp_path / "study", 1).volume.array.ravel())
        assert found == pytest.approx(np.sort(halved.ravel()), abs=1e-3)


def test_a_legacy_converted_object_reads_like_the_classic_series(classic, tmp_path):
    images = slices(classic)
    converted = hd.legacy.LegacyConvertedEnhancedMRImage(images, generate_uid(), 3, generate_uid(), 1)
    (tmp_path / "study").mkdir()
    converted.save_as(tmp_path / "study" / "legacy.dcm")
    (series,) = load_study(tmp_path / "study").series
    assert series.header.SOPClassUID == LegacyConvertedEnhancedMRImageStorage
    assert number(series.header, "EchoTime") == 114
    assert_same_volume(volume_of(tmp_path / "study"), volume_of(classic))


def test_fewer_groups_than_frames_are_a_damaged_file(classic, tmp_path):
    path = write(tmp_path / "study", slices(classic))
    del (ds := dcmread(path)).PerFrameFunctionalGroupsSequence[-1]
    ds.save_as(path)
    with pytest.raises(UnreadableInstance, match=r"enhanced\.dcm is damaged; send it again"):
        load_study(tmp_path / "study")


def test_frames_do_not_share_what_they_say(classic, tmp_path):
    write(tmp_path / "study", slices(classic))
    (series,) = load_study(tmp_path / "study").series
    assert len({tuple(i.header.ImagePositionPatient) for i in series.instances}) == 12
    assert [i.header.InstanceNumber for i in series.instances] == list(range(1, 13))
    assert len({i.header.RescaleSlope for i in series.instances}) == 12


def test_single_frames_stay_as_they_are(classic, tmp_path):
    folder = copy_of(small_phantom(contrasts=(FLAIR,)), tmp_path)
    change(folder / "03_FLAIR_001.dcm", NumberOfFrames=1)
    (series,) = load_study(folder).series
    assert all(i.frames is None for i in series.instances)
