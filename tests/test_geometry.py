"""The way from patient to network and back, apart from the network: the phantom's truth stands in for it."""

from __future__ import annotations

from datetime import UTC, datetime

import highdicom as hd
import numpy as np
import pytest

from app.phantom import Motion, Plane
from operators.build_volumes import build_volumes
from operators.domain import Contrast, TumourMap
from operators.load_study import load_study
from operators.preprocess import preprocess
from operators.select_series import select_series
from operators.stage import Job
from operators.write_seg import write_segs
from tests.support_study import phantom

CASES = {
    "oblique, moved between sequences": {},
    "more oblique, moved far": {
        "tilt_degrees": (-18.0, 8.0, 12.0),
        "slices": 44,
        "thickness_mm": 3.0,
        "spacing_mm": 3.3,
        "motion": {Contrast.FLAIR: Motion((9.0, -6.0, 5.0), (5.0, -4.0, 7.0)), Contrast.T1: Motion((-4.0, 3.0, 2.0))},
        "contrasts": (Contrast.T1C, Contrast.FLAIR),
    },
    "acquired sagittally, thin": {
        "plane": Plane.SAGITTAL,
        "slices": 110,
        "thickness_mm": 1.6,
        "spacing_mm": 1.6,
        "contrasts": (Contrast.T1C, Contrast.FLAIR),
    },
}


@pytest.mark.parametrize("name", CASES)
def test_a_segmentation_lies_where_the_lesion_lies(name, tmp_path, tmp_path_factory):
    truth = phantom(tmp_path_factory.getbasetemp(), name.replace(" ", "_"), **CASES[name])
    job = Job("geometry", truth.folder, tmp_path)
    job.study = load_study(truth.folder)
    job.selection = select_series(job.study)
    job.volumes = build_volumes(job.selection)
    job.stack = preprocess(job.volumes)
    grid = job.stack.geometry
    occupancy = truth.lesion_occupancy(grid.affine, grid.spatial_shape, Contrast.T1C)
    job.tumour = TumourMap(grid, occupancy, "truth", "0")
    write_segs(job, "0.1.0", datetime(2026, 1, 1, tzinfo=UTC))
    for contrast in (Contrast.T1C, Contrast.FLAIR):
        volume_mm3, centroid, spacing = read_back(job.results[f"SEG {contrast}"])
        source = job.volumes[contrast].volume
        assert volume_mm3 == pytest.approx(truth.lesion_mm3, rel=0.02), contrast
        off = np.linalg.inv(source.affine[:3, :3]) @ (centroid - truth.lesion_centroid_lps(contrast))
        assert np.abs(off).max() < 0.5, f"{contrast}: centre off by {off} voxels"
        assert spacing == pytest.approx(source.spacing)


def read_back(path):
    """Volume in mm3, centroid in LPS mm and spacing of a SEG's only segment, by highdicom alone."""
    seg = hd.seg.segread(path)
    volume = seg.get_volume(combine_segments=False)
    mask = np.asarray(volume.array)[..., 0] > 0
    indices = np.argwhere(mask).mean(axis=0)
    centroid = volume.affine[:3, :3] @ indices + volume.affine[:3, 3]
    return mask.sum() * np.prod(volume.spacing), centroid, volume.spacing
