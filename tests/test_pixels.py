"""Slices have the values that highdicom reads of the same files, in every syntax and every way of storing them."""

from __future__ import annotations

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from support_bombs import recode as recode_file
from support_phantom import copy_of, small_phantom

from operators.domain import Contrast
from operators.load_study import load_study
from operators.pixels import read_instances, read_planes


@pytest.fixture
def folder(tmp_path):
    """A FLAIR series that a test may rewrite."""
    return copy_of(small_phantom(contrasts=(Contrast.FLAIR,), rescale_per_slice=True), tmp_path)


def ours(folder):
    """The series' slices in order of instance number, by us."""
    (series,) = load_study(folder).series
    return read_instances(series.instances), series


def theirs(folder):
    """The same by highdicom, put into order of instance number."""
    datasets = sorted((dcmread(p) for p in folder.iterdir()), key=lambda ds: ds.InstanceNumber)
    volume = hd.get_volume_from_series(datasets, dtype=np.float32, apply_real_world_transform=False)
    rank = np.linalg.inv(volume.affine)[0, :3]
    order = np.argsort(np.argsort([np.array(ds.ImagePositionPatient, float) @ rank for ds in datasets]))
    return volume.array[order]


def rewrite(folder, change):
    for path in folder.iterdir():
        ds = dcmread(path)
        change(ds)
        ds.save_as(path)


def test_plain_values_equal_highdicoms_with_a_rescale_per_slice(folder):
    found, series = ours(folder)
    assert all(i.pixels_at for i in series.instances)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, theirs(folder))


def store(ds, values, allocated=16, stored=12, signed=False):
    """Store whole numbers in so many bits."""
    kind = np.dtype(f"<{'i' if signed else 'u'}{allocated // 8}")
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = allocated, stored, stored - 1, int(signed)
    ds.PixelData = values.astype(kind).tobytes()
    ds["PixelData"].VR = "OW" if allocated > 8 else "OB"


def plain_signed(ds):
    store(ds, ds.pixel_array.astype(np.int32) - 700, 16, 16, signed=True)


def bytes_only(ds):
    store(ds, ds.pixel_array // 16, 8, 8)


def long_words(ds):
    store(ds, ds.pixel_array.astype(np.int64) * 3, 32, 32)


def overlay_in_the_high_bits(ds):
    noise = np.random.default_rng(ds.InstanceNumber).integers(0, 16, ds.pixel_array.shape)
    store(ds, ds.pixel_array.astype(np.int64) | (noise << 12))


def signed_with_unused_bits(ds):
    store(ds, (ds.pixel_array.astype(np.int64) - 700) & 0x0FFF, 16, 12)
    ds.PixelRepresentation = 1


def inverted(ds):
    ds.PhotometricInterpretation = "MONOCHROME1"


def inverted_signed(ds):
    plain_signed(ds)
    ds.PresentationLUTShape = "INVERSE"


def identity_shape_on_monochrome1(ds):
    ds.PhotometricInterpretation, ds.PresentationLUTShape = "MONOCHROME1", "IDENTITY"


def padded(ds):
    store(ds, np.where(ds.pixel_array < 40, 4095, ds.pixel_array))
    ds.add_new("PixelPaddingValue", "US", 4095)


def rescale_left_empty(ds):
    ds.RescaleSlope = ds.RescaleIntercept = None


def no_rescale(ds):
    del ds.RescaleSlope, ds.RescaleIntercept


def trailing_padding(ds):
    ds.add_new(0xFFFCFFFC, "OB", bytes(100))


WAYS = [
    plain_signed,
    bytes_only,
    long_words,
    overlay_in_the_high_bits,
    signed_with_unused_bits,
    inverted,
    inverted_signed,
    identity_shape_on_monochrome1,
    padded,
    rescale_left_empty,
    no_rescale,
    trailing_padding,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_each_way_of_storing_equals_highdicoms(folder, way):
    before = ours(folder)[0]
    rewrite(folder, way)
    found, series = ours(folder)
    assert all(i.pixels_at for i in series.instances)
    np.testing.assert_array_equal(found, theirs(folder))
    if way is overlay_in_the_high_bits:
        np.testing.assert_array_equal(found, before)


def recode(folder, syntax, **options):
    for path in folder.iterdir():
        recode_file(path, syntax, **options)


LOSSLESS = [
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLSLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
]


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda uid: uid.name.split(",")[0])
def test_what_loses_nothing_is_exact(folder, syntax):
    before = ours(folder)[0]
    recode(folder, syntax)
    assert {dcmread(p).file_meta.TransferSyntaxUID for p in folder.iterdir()} == {syntax}
    np.testing.assert_array_equal(ours(folder)[0], before)


def test_big_endian_is_exact(folder):
    turned = small_phantom(contrasts=(Contrast.FLAIR,), rescale_per_slice=True, transfer_syntax=ExplicitVRBigEndian)
    found, series = ours(turned.folder)
    assert {i.header.file_meta.TransferSyntaxUID for i in series.instances} == {ExplicitVRBigEndian}
    np.testing.assert_array_equal(found, ours(folder)[0])


@pytest.mark.parametrize("syntax", LOSSLESS[2:], ids=lambda uid: uid.name.split(",")[0])
def test_signed_values_survive_compression(folder, syntax):
    def shift_below_zero(ds):
        store(ds, ds.pixel_array.astype(np.int64) - 700, 16, 13, signed=True)

    rewrite(folder, shift_below_zero)
    before = ours(folder)[0]
    recode(folder, syntax)
    np.testing.assert_array_equal(ours(folder)[0], before)


LOSSY = [(JPEGLSNearLossless, {"jls_error": 2}, 2.0), (JPEG2000, {"j2k_psnr": [60]}, 25.0)]


@pytest.mark.parametrize(("syntax", "options", "bound"), LOSSY, ids=[s.name for s, _, _ in LOSSY])
def test_what_loses_something_stays_near(folder, syntax, options, bound):
    rewrite(folder, no_rescale)
    before = ours(folder)[0]
    recode(folder, syntax, **options)
    found = ours(folder)[0]
    assert 0 < np.abs(found - before).max() <= bound
    np.testing.assert_array_equal(found, theirs(folder))


def test_baseline_jpeg_of_eight_bits_stays_near(folder):
    rewrite(folder, no_rescale)
    rewrite(folder, bytes_only)
    before = ours(folder)[0]
    recode(folder, JPEGBaseline8Bit)
    assert np.abs(ours(folder)[0] - before).max() < 40
    assert np.corrcoef(ours(folder)[0].ravel(), before.ravel())[0, 1] > 0.99


def test_single_slices_are_counted_in_the_order_of_instances(folder):
    whole, series = ours(folder)
    np.testing.assert_array_equal(read_planes(series, [7, 2]), whole[[7, 2]])
