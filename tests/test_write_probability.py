"""The map of probability is the network's own, on T1C's own planes, in steps of a 255th."""

from __future__ import annotations

from dataclasses import replace

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom import uid

from app.config import load_settings
from operators.domain import Contrast
from operators.write_probability import in_steps
from operators.write_seg import write_segs
from tests.support_phantom import small_phantom
from tests.support_results import MADE_AT, iod_errors, job_of, source_of
from tests.test_write_seg import SOURCES, TILTED, WAYS, assert_names_its_planes, lesion_job

T1C = Contrast.T1C
KIND = "SEG T1C probability"


def written(job, **asked):
    write_segs(job, "1.0", MADE_AT, probability_map=True, **asked)
    return pydicom.dcmread(job.results[KIND])


def noisy(job):
    """The job with another probability at every voxel, one half and its neighbours among them."""
    chance = np.random.default_rng(3).random(job.tumour.geometry.spatial_shape).astype(np.float32)
    half = np.float32(0.5)
    chance.flat[:5] = [half, np.nextafter(half, np.float32(1)), np.nextafter(half, np.float32(0)), 0.0, 1.0]
    job.tumour = replace(job.tumour, probability=chance)
    return job


@pytest.mark.parametrize("name", SOURCES)
def test_every_voxel_has_its_probability_at_its_place(tmp_path, name):
    t1c = source_of(T1C, **SOURCES[name])
    job = noisy(job_of(tmp_path, t1c=t1c))
    ds = written(job)
    expected = np.ceil(job.tumour.probability.astype(float) * 255 - 0.5)
    if len(t1c.headers) == 1:  # a single plane has no spacing to read back
        assert sorted(ds.pixel_array.ravel()) == sorted(expected.ravel())
        return
    volume = hd.seg.segread(job.results[KIND]).get_volume(segment_numbers=[1]).squeeze_channel()
    on_stack = volume.match_geometry(job.stack.geometry, tol=1e-3)
    assert np.array_equal(np.rint(on_stack.array * 255), expected)
    assert np.abs(on_stack.array - job.tumour.probability).max() <= 0.5 / 255 + 1e-6
    assert not iod_errors(job.results[KIND])


@pytest.mark.parametrize("name", SOURCES)
def test_128_and_more_is_the_binary_segmentation(tmp_path, name):
    job = noisy(job_of(tmp_path, t1c=source_of(T1C, **SOURCES[name])))
    ds, binary = written(job), pydicom.dcmread(job.results["SEG T1C"])
    assert np.array_equal(ds.pixel_array >= 128, binary.pixel_array > 0)
    places, others = (
        [f.PlanePositionSequence[0].ImagePositionPatient for f in seg.PerFrameFunctionalGroupsSequence]
        for seg in (ds, binary)
    )
    assert places == others


def test_one_half_goes_down_and_no_probability_leaves_its_bounds():
    chance = np.array([0.0, 0.5, np.nextafter(np.float32(0.5), np.float32(1)), 1.0], np.float32)
    assert (in_steps(chance) * 255).tolist() == [0, 127, 128, 255]


@pytest.mark.parametrize("way", WAYS)
def test_on_planes_as_they_came_it_keeps_amount_and_place(tmp_path, way):
    truth = small_phantom(**TILTED, thickness_mm=4.0, **WAYS[way])
    job = lesion_job(tmp_path, truth)
    ds, grid = written(job), truth.grid(T1C)
    weight = ds.pixel_array / 255
    assert (ds.NumberOfFrames, ds.Rows, ds.Columns) == weight.shape == truth.grid(T1C).shape
    assert weight.sum() * abs(np.linalg.det(grid.affine[:3, :3])) == pytest.approx(truth.lesion_mm3, rel=0.03)
    index = np.indices(weight.shape).reshape(3, -1).T
    starts = np.array(
        [
            [float(v) for v in f.PlanePositionSequence[0].ImagePositionPatient]
            for f in ds.PerFrameFunctionalGroupsSequence
        ]
    )
    points = starts[index[:, 0]] + index[:, 1:] @ grid.affine[:3, 1:3].T
    centroid = (points * weight.reshape(-1, 1)).sum(axis=0) / weight.sum()
    off = np.linalg.inv(grid.affine[:3, :3]) @ (centroid - truth.lesion_centroid_lps(T1C))
    assert np.abs(off).max() < 0.5
    assert not iod_errors(job.results[KIND])
    assert_names_its_planes(job.results[KIND], truth.folder)


def test_it_says_what_it_is(tmp_path):
    job = job_of(tmp_path)
    ds = written(job, labelmap=True)
    assert (ds.SOPClassUID, ds.SeriesNumber) == (uid.SegmentationStorage, 9007)
    assert (ds.SegmentationType, ds.SegmentationFractionalType, ds.MaximumFractionalValue) == (
        "FRACTIONAL",
        "PROBABILITY",
        255,
    )
    (segment,) = ds.SegmentSequence
    assert segment.SegmentLabel == "Whole tumour, probability"
    assert "probability" in ds.ContentDescription
    assert ds.BitsAllocated == 8
    others = [pydicom.dcmread(path) for kind, path in job.results.items() if kind != KIND]
    assert len(others) == 4
    assert {o.SegmentSequence[0].TrackingUID for o in others} == {segment.TrackingUID}
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert ds[keyword].value not in {o[keyword].value for o in others}


def test_the_same_input_gives_the_same_bytes(tmp_path):
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
        written(job_of(folder))
    first, second = ((folder / "seg_t1c_probability.dcm").read_bytes() for folder in folders)
    assert first == second


def test_without_tumour_it_is_a_valid_map_of_nothing(tmp_path):
    job = job_of(tmp_path, semi_axes_mm=None)
    assert not written(job).pixel_array.any()
    assert not iod_errors(job.results[KIND])


def test_it_is_written_only_where_it_is_asked_for(tmp_path):
    job = job_of(tmp_path)
    write_segs(job, "1.0", MADE_AT)
    assert KIND not in job.results
    assert not load_settings().results.probability_map
    assert load_settings(results={"probability_map": True}).results.probability_map
