"""The brain mask: the same as its makers', and images that came without skull."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from app.phantom import PhantomOptions, phantom_image, phantom_truth
from models.brain import BrainNotFound, dice, outline_brain, region_in_view
from operators.domain import Contrast

OPTIONS = PhantomOptions(rows=128, columns=128, pixel_mm=1.8, one_matrix=True, tilt_degrees=(0, 0, 0), motion={})
SPACING = (5.5, 1.8, 1.8)


@lru_cache(maxsize=1)
def head() -> tuple[np.ndarray, np.ndarray]:
    """A phantom's T1C and its true brain."""
    truth = phantom_truth(Path(), OPTIONS)
    grid = truth.grid(Contrast.T1C)
    share = truth.head.brain_grid.resample(truth.head.parenchyma, grid.affine, grid.shape)
    return phantom_image(truth, Contrast.T1C), share > 0.5


def test_the_mask_is_the_brain():
    image, truth = head()
    found = outline_brain(image, SPACING)
    assert dice(found.mask, truth) > 0.95
    assert not found.stripped


def test_the_mask_is_deepbets_own():
    """What OpenVINO computes is what the makers' own program does with torch."""
    import nibabel as nib
    from deepbet import BrainExtraction

    image, _ = head()
    canonical = np.ascontiguousarray(image.transpose(2, 1, 0)[::-1, ::-1, :])
    _, theirs, _ = BrainExtraction(no_gpu=True).run(nib.Nifti1Image(canonical, np.diag([1.8, 1.8, 5.5, 1.0])))
    mask = np.asarray(theirs.dataobj)[::-1, ::-1, :].transpose(2, 1, 0) > 0
    assert dice(outline_brain(image, SPACING).mask, mask) > 0.999


@pytest.mark.parametrize("background", [0.0, -1024.0, 37.0])
def test_a_stripped_image_is_left_as_it_is(background):
    image, truth = head()
    bare = np.where(truth, image, background).astype(np.float32)
    found = outline_brain(bare, SPACING)
    assert found.stripped
    assert dice(found.mask, truth) > 0.98


@pytest.mark.parametrize("shape", [(1, 64, 64), (8, 1, 64)])
def test_where_there_is_one_section_alone_no_brain_is_found(shape):
    with pytest.raises(BrainNotFound, match=" x ".join(map(str, shape))):
        outline_brain(np.ones(shape, np.float32), SPACING)


def cleared_around(image: np.ndarray) -> np.ndarray:
    """Vendors clear the air around a head."""
    body = ndimage.binary_fill_holes(ndimage.binary_opening(image > 60, iterations=2))
    return np.where(body, image, 0).astype(np.float32)


def defaced(image: np.ndarray) -> np.ndarray:
    gone = cleared_around(image)
    gone[:12, :45] = 0
    return gone


def cropped(image: np.ndarray) -> np.ndarray:
    """A head that the field of view cuts."""
    return np.ascontiguousarray(cleared_around(image)[:, 22:-22, 26:-26])


@pytest.mark.parametrize("make", [cleared_around, defaced, cropped])
def test_a_head_is_not_taken_for_a_stripped_brain(make):
    assert not outline_brain(make(head()[0]), SPACING).stripped


def test_noise_around_a_head_is_no_empty_background():
    assert region_in_view(head()[0]) is None


@pytest.mark.parametrize(
    "image",
    [np.zeros((12, 64, 64)), np.full((12, 64, 64), 5.0), np.random.default_rng(0).rayleigh(20, (12, 64, 64))],
    ids=["zero", "one grey", "noise"],
)
def test_an_image_without_a_brain_is_refused(image):
    with pytest.raises(BrainNotFound):
        outline_brain(image.astype(np.float32), (5.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("sections", "slice_mm", "shown"), [(12, 5.0, 30), (17, 5.0, 30), (18, 5.0, 18), (80, 1.0, 150)]
)
def test_a_part_of_a_head_is_shown_in_the_middle_of_a_whole_ones_height(sections, slice_mm, shown, monkeypatch):
    """deepbet stretches what it is given to a cube, and eats into the brain of a thin slab."""
    rng = np.random.default_rng(0)
    stack = rng.uniform(50.0, 100.0, (sections, 40, 40)).astype(np.float32)
    seen = []

    def deepbet(whole):
        seen.append(whole)
        return whole > 60.0

    monkeypatch.setattr("models.brain._deepbet", deepbet)
    found = outline_brain(stack, (slice_mm, 5.0, 5.0))
    assert np.array_equal(found.mask, stack > 60.0)
    assert len(seen[0]) == shown
    below = (shown - sections) // 2
    assert np.array_equal(seen[0][below : below + sections], stack)
    assert (np.delete(seen[0], slice(below, below + sections), axis=0) == stack.min()).all()


def test_an_empty_slice_takes_no_part_of_a_stripped_brain_away():
    stack = np.zeros((10, 32, 32), np.float32)
    stack[:, 8:24, 8:24] = 7.0
    stack[2] = 0.0
    stack[9, 1, 1] = 1.0
    region = region_in_view(stack)
    assert region is not None
    assert np.array_equal(region, stack == 7.0)
