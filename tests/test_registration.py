"""Registration on known movements, and whether a failed one is told."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from app.phantom import Motion, PhantomOptions, Plane, phantom_image, phantom_truth
from operators.alignment import judge
from operators.domain import Alignment, Contrast
from operators.registration import Pyramid, register, to_image

THICK = PhantomOptions(seed=1, rows=128, columns=128, pixel_mm=1.8, one_matrix=True)
GRIDS = {
    "thick": THICK,
    "sagittal": replace(THICK, plane=Plane.SAGITTAL, slices=90, thickness_mm=1.8, spacing_mm=1.9),
    "slab": replace(THICK, slices=16),
    "few": replace(THICK, slices=5),
}
BRAIN = np.array([[x, y, z] for x in (-50, 50) for y in (-55, 70) for z in (-25, 50)], float)
STILL = Motion()
FAR = Motion((12.0, -9.0, 8.0), (10.0, -6.0, 9.0))
MOVES = [
    (Motion((3.0, -2.0, 1.0), (2.0, -1.0, 3.0)), "thick"), (FAR, "thick"),
    (Motion((-8, 6, -11), (-8, 9, -8)), "thick"), (FAR, "sagittal"), (Motion((5, 10, 3), (-8, 2, 5)), "slab"),
]  # fmt: skip
MOVED_IDS = ["a little", "far", "far the other way", "far, sagittal 3-D", "a slab"]


@pytest.fixture(autouse=True)
def one_thread():
    """As operators.cleaning has it: ITK's threads add up in an order of their own."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    yield
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


@lru_cache(maxsize=8)
def taken(contrast: Contrast, motion: Motion = STILL, grid: str = "thick") -> Pyramid:
    """A sequence of the phantom, without the way over DICOM files."""
    truth = phantom_truth(Path(), replace(GRIDS[grid], contrasts=(contrast,), motion={contrast: motion}))
    return Pyramid(to_image(phantom_image(truth, contrast), truth.grid(contrast).affine))


@lru_cache(maxsize=1)
def brain() -> sitk.Image:
    """The phantom's true brain on T1C's grid."""
    truth, grid = phantom_truth(Path(), THICK), phantom_truth(Path(), THICK).grid(Contrast.T1C)
    share = truth.head.brain_grid.resample(truth.head.parenchyma, grid.affine, grid.shape)
    return to_image((share > 0.5).astype(np.float32), grid.affine)


def residual(found: np.ndarray, truth: np.ndarray) -> float:
    off = found - truth
    return float(np.linalg.norm(BRAIN @ off[:3, :3].T + off[:3, 3], axis=1).mean())


def judged(moving: Pyramid) -> Alignment:
    return judge(taken(Contrast.T1C), moving, register(taken(Contrast.T1C), moving), brain())


def changed(pyramid: Pyramid, array: np.ndarray, shift_mm: tuple[float, float, float] = (0, 0, 0)) -> Pyramid:
    """Another array where an image lies, or somewhere else."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array, np.float32))
    image.SetSpacing(pyramid.image.GetSpacing())
    image.SetDirection(pyramid.image.GetDirection())
    image.SetOrigin((np.array(pyramid.image.GetOrigin()) + shift_mm).tolist())
    return Pyramid(image)


def pixels(pyramid: Pyramid) -> np.ndarray:
    return sitk.GetArrayFromImage(pyramid.image)


@pytest.mark.parametrize(("motion", "grid"), MOVES, ids=MOVED_IDS)
def test_a_known_movement_is_found(motion, grid):
    fixed, moving = taken(Contrast.T1C), taken(Contrast.FLAIR, motion, grid)
    found = register(fixed, moving)
    assert residual(found.matrix, motion.matrix) < 1.0  # mm
    assert found.metric_after < found.metric_before
    alignment = judge(fixed, moving, found, brain())
    assert not alignment.fault
    assert alignment.overlap > (0.5 if grid == "slab" else 0.9)


def test_headers_that_lie_far_apart_are_overcome():
    moving = taken(Contrast.FLAIR, FAR)
    far = changed(moving, pixels(moving), (150.0, -90.0, 120.0))
    apart = np.eye(4)
    apart[:3, 3] = 150.0, -90.0, 120.0
    assert residual(register(taken(Contrast.T1C), far).matrix, apart @ FAR.matrix) < 1.0


def test_what_is_aligned_stays():
    assert residual(register(taken(Contrast.T1C), taken(Contrast.T1C)).matrix, np.eye(4)) < 0.05
    assert residual(register(taken(Contrast.T1C), taken(Contrast.T1)).matrix, np.eye(4)) < 0.2


def test_the_same_images_give_the_same_matrix():
    fixed, moving = taken(Contrast.T1C), taken(Contrast.T2, FAR)
    once, again = (register(fixed, moving).matrix for _ in range(2))
    assert np.array_equal(once, again)


def noise(flair: Pyramid) -> Pyramid:
    return changed(flair, np.random.default_rng(0).rayleigh(40.0, pixels(flair).shape))


BAD = {
    "noise": noise,
    "nothing": lambda flair: changed(flair, np.zeros_like(pixels(flair))),
    "one grey": lambda flair: changed(flair, np.full_like(pixels(flair), 300.0)),
    "elsewhere": lambda flair: changed(flair, np.where(np.arange(26)[:, None, None] < 22, 0, pixels(flair))),
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD.keys())
def test_an_image_that_shows_something_else_is_told(make):
    assert judged(make(taken(Contrast.FLAIR))).fault


def test_a_slab_that_misses_most_of_the_brain_is_told():
    few = taken(Contrast.FLAIR, STILL, "few")
    assert "covers" in judged(few).fault


@pytest.mark.parametrize("spoilt", ["fixed", "moving"])
def test_a_spot_far_above_all_else_moves_nothing(spoilt):
    """As a defect or an implant leaves it: it filled the bins of the histogram, and took the head's place."""
    fixed, moving = taken(Contrast.T1C), taken(Contrast.FLAIR, FAR)
    expected = register(fixed, moving).matrix
    array = sitk.GetArrayFromImage((fixed if spoilt == "fixed" else moving).image)
    middle = [n // 2 for n in array.shape]
    array[middle[0], middle[1] : middle[1] + 10, middle[2] : middle[2] + 20] = 50.0 * array.max()
    if spoilt == "fixed":
        fixed = changed(fixed, array)
    else:
        moving = changed(moving, array)
    assert residual(register(fixed, moving).matrix, expected) < 0.3
