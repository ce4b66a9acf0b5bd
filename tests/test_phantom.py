"""The phantom keeps its word: its images show what its truth says, in headers that validate."""

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import (
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from support_phantom import SMALL, small_phantom

from app.phantom import (
    DEFAULT_MOTION,
    Grid,
    Motion,
    PhantomOptions,
    Plane,
    make_ct,
    make_phantom,
    phantom_image,
    phantom_truth,
)
from app.phantom_extra import add_diffusion, add_dual_echo, add_localizer, add_reformat, add_subtraction
from app.phantom_headers import Vendor
from operators.domain import Contrast
from operators.load_study import load_study
from operators.series_geometry import plane


def volume_and_centroid(occupancy, grid):
    """Lesion volume in mm3 and centroid in LPS of fractions on a grid."""
    voxel = abs(np.linalg.det(grid.affine[:3, :3]))
    index = np.indices(occupancy.shape).reshape(3, -1) @ occupancy.ravel() / occupancy.sum()
    return occupancy.sum() * voxel, grid.affine[:3, :3] @ index + grid.affine[:3, 3]


GRIDS = [(c, p) for p in (Plane.AXIAL, Plane.SAGITTAL) for c in Contrast] + [(Contrast.T1C, Plane.CORONAL)]


@pytest.mark.parametrize(("contrast", "plane"), GRIDS)
def test_occupancy_has_the_lesions_volume_and_place_on_every_grid(tmp_path, contrast, plane):
    truth = phantom_truth(tmp_path, replace(SMALL, plane=plane))
    grid = truth.grid(contrast)
    occupancy = truth.lesion_occupancy(grid.affine, grid.shape, contrast)
    volume, centroid = volume_and_centroid(occupancy, grid)
    assert occupancy.max() == 1
    assert occupancy.min() == 0
    assert volume == pytest.approx(truth.lesion_mm3, rel=0.005)
    assert np.linalg.norm(centroid - truth.lesion_centroid_lps(contrast)) < 0.15


def test_lesion_volume_does_not_depend_on_the_step_of_its_sum(tmp_path):
    truth = phantom_truth(tmp_path, SMALL)
    step, n = 1.1, int(2 * truth.lesion.reach_mm / 1.1)
    points = Grid(truth.lesion.centre - step * (n - 1) / 2, step, (n, n, n)).points()
    assert truth.is_lesion(points).sum() * step**3 == pytest.approx(truth.lesion_mm3, rel=0.003)


def test_lesion_lies_in_the_brain_and_its_size_is_as_asked(tmp_path):
    truth = phantom_truth(tmp_path, SMALL)
    ball = 4 / 3 * np.pi * SMALL.lesion_radius_mm**3
    assert 0.7 * ball < truth.lesion_mm3 < 1.3 * ball
    assert np.linalg.norm(truth.lesion_centroid_lps() - SMALL.lesion_centre_lps) < 5


@pytest.mark.parametrize(("contrast", "low", "high"), [("FLAIR", 1.4, 2.6), ("T2", 1.4, 2.6), ("T1", 0.5, 0.85)])
def test_images_show_the_lesion_where_the_truth_has_it(contrast, low, high):
    contrast = Contrast(contrast)
    truth = small_phantom(bias=0.0, noise=0.0)
    grid = truth.grid(contrast)
    image = phantom_image(truth, contrast)
    mirrored = phantom_image(phantom_truth(truth.folder, replace(truth.options, lesion_radius_mm=0)), contrast)
    inside = truth.lesion_occupancy(grid.affine, grid.shape, contrast) > 0.95
    outside = truth.lesion_occupancy(grid.affine, grid.shape, contrast) == 0
    assert low < (image[inside] / mirrored[inside]).mean() < high
    # The infiltrating edge reaches a little beyond the outline, in few voxels.
    assert (np.abs(image - mirrored)[outside] > 30).mean() < 0.02


def test_motion_moves_the_lesion_as_its_matrix_says(tmp_path):
    truth = phantom_truth(tmp_path, SMALL)
    reference = np.append(truth.lesion_centroid_lps(Contrast.T1C), 1)
    assert np.allclose(truth.motion[Contrast.T1C], np.eye(4))
    moved = truth.lesion_centroid_lps(Contrast.FLAIR)
    assert np.allclose(truth.motion[Contrast.FLAIR] @ reference, [*moved, 1])
    assert 1 < np.linalg.norm(moved - reference[:3]) < 8


def test_shift_alone_is_a_shift():
    assert np.allclose(Motion((1, 2, 3)).matrix[:3, 3], (1, 2, 3))
    assert np.allclose(np.linalg.det(DEFAULT_MOTION[Contrast.T1].matrix), 1)


def test_equal_options_make_identical_files(tmp_path):
    options = replace(SMALL, contrasts=(Contrast.FLAIR,), slices=3)
    make_phantom(tmp_path / "a", options)
    make_phantom(tmp_path / "b", options)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == ["03_FLAIR_001.dcm", "03_FLAIR_002.dcm", "03_FLAIR_003.dcm"]
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_another_seed_is_another_study_with_another_lesion(tmp_path):
    one, two = (phantom_truth(tmp_path, replace(SMALL, seed=seed)) for seed in (0, 1))
    assert one.study_uid != two.study_uid
    assert one.lesion_mm3 != two.lesion_mm3


def test_a_healthy_head_has_no_lesion(tmp_path):
    truth = phantom_truth(tmp_path, replace(SMALL, lesion_radius_mm=0))
    assert truth.lesion_mm3 == 0
    assert not truth.lesion_occupancy(np.eye(4), (4, 4, 4)).any()


def test_the_patient_is_obviously_synthetic():
    header = dcmread(next(small_phantom().folder.iterdir()), stop_before_pixels=True)
    assert header.PatientName == "Phantom^Glioma"
    assert header.PatientAge == "055Y"


def test_the_truth_shows_no_header(tmp_path):
    assert "Phantom^Glioma" not in repr(phantom_truth(tmp_path, SMALL))


def validation_errors(folder):
    """Error lines of dciodvfy over the first and last file of each series."""
    lines = []
    for path in sorted(folder.iterdir()):
        if path.stem[-3:] in {"001", "012"} or not path.stem[-3:].isdigit():
            done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
            lines += [f"{path.name}: {li}" for li in done.stderr.splitlines() if li.startswith("Error")]
    return lines


needs_dciodvfy = pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not installed")
SYNTAXES = [
    RLELossless,
    JPEGLSLossless,
    JPEG2000Lossless,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
]
DIALECTS = [
    *({"vendor": v} for v in Vendor),
    *({"transfer_syntax": s} for s in SYNTAXES),
    {"gantry_tilt_degrees": 15.0},
]


@needs_dciodvfy
@pytest.mark.parametrize("changes", DIALECTS, ids=lambda c: str(*c.values()))
def test_headers_validate(changes):
    assert validation_errors(small_phantom(**changes).folder) == []


@needs_dciodvfy
def test_thin_slices_and_ct_validate(tmp_path):
    options = replace(
        SMALL, spacing_mm=1.0, thickness_mm=1.0, vendor=Vendor.GE, contrasts=(Contrast.T1, Contrast.FLAIR)
    )
    make_phantom(tmp_path / "thin", options)
    make_ct(tmp_path / "ct", SMALL)
    assert validation_errors(tmp_path / "thin") + validation_errors(tmp_path / "ct") == []


@needs_dciodvfy
@pytest.mark.parametrize("vendor", Vendor)
def test_enhanced_objects_validate(vendor):
    folder = small_phantom(enhanced=True, vendor=vendor).folder
    assert len(list(folder.iterdir())) == 4
    assert validation_errors(folder) == []


def test_a_gantry_tilt_shears_the_stack_and_leaves_its_planes_as_they_are(tmp_path):
    upright, tilted = (
        phantom_truth(tmp_path, replace(SMALL, gantry_tilt_degrees=a)).grid(Contrast.T1C) for a in (0.0, 15.0)
    )
    step, lean = upright.affine[:3, 0], tilted.affine[:3, 0] - upright.affine[:3, 0]
    assert np.allclose(upright.affine[:3, 1:3], tilted.affine[:3, 1:3])
    assert np.allclose(lean / np.linalg.norm(lean), upright.affine[:3, 1] / SMALL.pixel_mm)
    assert np.degrees(np.arctan(np.linalg.norm(lean) / np.linalg.norm(step))) == pytest.approx(15)


def test_options_that_came_later_leave_the_uids_of_older_phantoms(tmp_path):
    """This one is in tests and documents since before they came."""
    expected = "1.2.826.0.1.3680043.8.498.93507992709931958486551268172623949223"
    assert phantom_truth(tmp_path, PhantomOptions()).study_uid == expected
    assert phantom_truth(tmp_path, PhantomOptions(enhanced=True)).study_uid != expected


@pytest.mark.parametrize("enhanced", [False, True], ids=["classic", "enhanced"])
def test_the_series_beside_the_four_are_what_they_say(tmp_path, enhanced):
    truth = make_phantom(tmp_path, replace(SMALL, contrasts=(Contrast.T1,), enhanced=enhanced))
    for add in (add_localizer, add_diffusion, add_dual_echo, add_subtraction, add_reformat):
        add(truth)
    found = [(s.number, plane(s), len(s.instances)) for s in load_study(tmp_path).series]
    localizer = [(20, p, 3) for p in ("axial", "coronal", "sagittal")]
    others = [(21, "axial", 12)] * 2 + [(22, "axial", 12), (23, "axial", 12), (23, "axial", 12), (24, "axial", 12)]
    assert sorted(found) == [(1, "axial", 12), *localizer, *others, (25, "coronal", 12)]
    derived = {s.number for s in load_study(tmp_path).series if s.header.ImageType[0] == "DERIVED"}
    assert derived == {22, 24, 25}
    if shutil.which("dciodvfy"):
        assert validation_errors(tmp_path) == []
