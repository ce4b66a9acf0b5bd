"""The node shows the network what training shows it: exactly on equal arrays, closely on one real patient."""

from __future__ import annotations

import csv
from dataclasses import replace

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from scipy import ndimage

from models import frame
from models.novelty import features, likeness
from models.training import data
from models.training.judge import network_view
from operators.build_volumes import build_volumes
from operators.domain import Contrast, Stack
from operators.errors import UnusableImage
from operators.load_study import load_study
from operators.network_view import view_of
from operators.preprocess import preprocess
from operators.select_series import select_series


def stack_of(t1c: np.ndarray, flair: np.ndarray, brain: np.ndarray, pixel_mm: float) -> Stack:
    spacing = (data.ASSUMED_SLICE_MM, pixel_mm, pixel_mm)
    geometry = hd.VolumeGeometry.from_attributes(
        image_position=[0, 0, 0],
        image_orientation=[1, 0, 0, 0, 1, 0],
        pixel_spacing=[pixel_mm, pixel_mm],
        spacing_between_slices=spacing[0],
        rows=t1c.shape[1],
        columns=t1c.shape[2],
        number_of_frames=len(t1c),
        coordinate_system="PATIENT",
    )
    images = {Contrast.T1C: t1c, Contrast.FLAIR: flair}
    return Stack(geometry, {c: frame.correct_bias(a, brain, spacing) for c, a in images.items()}, brain, {})


def head_slices(seed: int = 0) -> np.ndarray:
    """Slices as training data have them: (slices, rows, columns, 3), 8 bit, a head with a brain in it."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:20, :256, :256]
    r = np.sqrt(((z - 9.5) / 11) ** 2 + ((y - 128) / 95) ** 2 + ((x - 128) / 75) ** 2)
    layers = 200.0 * ((r > 0.92) & (r < 1.0)) + 20.0 * ((r > 0.85) & (r <= 0.92)) + 110.0 * (r <= 0.85)
    channels = [layers * gain + rng.normal(0, 6, layers.shape) for gain in (1.0, 0.9, 0.8)]
    return np.clip(np.stack(channels, axis=-1), 0, 255).astype(np.uint8)


def test_equal_arrays_are_seen_equally(tmp_path, monkeypatch):
    images = head_slices()
    brain = images[..., data.T1C].astype(float) > 60
    monkeypatch.setattr(frame, "brain_mask", lambda *_: brain)
    folder = tmp_path / "CASE"
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03d}.webp", lossless=True)
        Image.fromarray(np.zeros(image.shape[:2], np.uint8)).save(folder / f"{i:03d}_mask.png")
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("case", "patient", "has_t1c"), ("CASE", "P", "True")])
    prepared = data.prepare(data.read_cases(tmp_path)[0], tmp_path / "cache")

    t1c, flair = (images[..., c].astype(np.float32) for c in (data.T1C, data.FLAIR))
    view = view_of(stack_of(t1c, flair, brain, frame.estimate_pixel_mm(brain)))
    trained = network_view(prepared)
    assert view.images.shape == trained.shape
    assert (view.images.any(axis=1) == trained.any(axis=1)).mean() > 0.9999
    assert np.abs(view.images - trained).max() < 0.01  # prepared cases are kept in half precision


def test_a_study_that_came_without_skull_is_not_widened():
    """Around its brain lies nothing but background, which would look to the network like no tissue it knows."""
    images = head_slices()
    t1c, flair = (images[..., c].astype(np.float32) for c in (data.T1C, data.FLAIR))
    brain = t1c > 60
    whole = stack_of(t1c, flair, brain, 1.0)
    bare = replace(whole, images={c: image * brain for c, image in whole.images.items()}, stripped=True)
    framed = frame.to_frame(brain, frame.place(brain, (1.0, 1.0)), linear=False) > 0.5
    assert view_of(whole).images[:, 0][~framed].any()
    assert not view_of(bare).images[:, 0][~framed].any()
    inside = ndimage.binary_erosion(framed, np.ones((1, 5, 5)))  # at the edge, background is mixed in
    seen, seen_bare = (view_of(stack).images[:, 0][inside] for stack in (whole, bare))
    assert np.abs(seen - seen_bare).max() < 0.01, "the brain itself looks the same"


def test_no_brain_is_an_error():
    empty = np.zeros((3, 64, 64), np.float32)
    geometry = stack_of(empty + 1, empty + 1, np.ones_like(empty, bool), 1.0).geometry
    with pytest.raises(UnusableImage, match="no brain"):
        view_of(Stack(geometry, {Contrast.T1C: empty, Contrast.FLAIR: empty}, empty > 0, {}))


@pytest.fixture(scope="module")
def both(shared, tmp_path_factory):
    """TCGA-FG-6692 as training slices and as the node's study, (slices, 2, 224, 224) each."""
    case = next(c for c in data.read_cases(shared / "data" / "tcga_lgg") if "FG_6692" in c.name)
    trained = network_view(data.prepare(case, tmp_path_factory.mktemp("cache")))
    volumes = build_volumes(select_series(load_study(shared / "data" / "studies" / "TCGA-FG-6692")))
    return trained, view_of(preprocess(volumes)).images


def as_image(array: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(array.astype(np.float32))
    image.SetSpacing((1.0, 1.0, 5.5))
    image.SetOrigin([-s * (n - 1) / 2 for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)])
    return image


def aligned(fixed: np.ndarray, moving: np.ndarray) -> sitk.Similarity3DTransform:
    """Turn, shift and scale that bring one stack upon the other."""
    transform = sitk.Similarity3DTransform()
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsCorrelation()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 200, gradientMagnitudeTolerance=1e-8)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2])
    method.SetSmoothingSigmasPerLevel([2, 1])
    method.SetInitialTransform(transform, True)
    method.Execute(as_image(fixed), as_image(moving))
    return transform


@pytest.mark.shared
def test_one_patient_looks_alike_from_both_sources(both):
    """The slices were resampled by their makers (other grid, 8 bit): likeness through 5.5 mm slices has a ceiling."""
    trained, node = both
    transform = aligned(node[:, 1], trained[:, 1])
    assert transform.GetScale() == pytest.approx(1.0, abs=0.03)  # one pixel size

    def moved(array):
        return sitk.GetArrayFromImage(sitk.Resample(as_image(array), as_image(node[:, 1]), transform, sitk.sitkLinear))

    inside = moved(trained.any(axis=1)) > 0.5
    seen = node.any(axis=1)
    assert 2 * (inside & seen).sum() / (inside.sum() + seen.sum()) > 0.95
    shared_brain = inside & seen
    for channel, least in ((0, 0.65), (1, 0.8)):
        there, here = moved(trained[:, channel])[shared_brain], node[:, channel][shared_brain]
        assert likeness(there, here) > least
        assert abs(np.median(there) - np.median(here)) < 0.15  # one intensity scale, in deviations


@pytest.mark.shared
def test_one_patient_has_the_same_figures_from_both_sources(both):
    """Intensity quartiles of each channel agree within a fifth of a deviation."""
    quartiles = slice(2, 5)
    figures = [features(view) for view in both]
    per_channel = (len(figures[0]) - 4) // 2
    for channel in range(2):
        one, other = (f[channel * per_channel :][quartiles] for f in figures)
        assert one == pytest.approx(other, abs=0.2)
