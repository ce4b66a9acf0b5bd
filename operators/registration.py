"""Rigid registration of two images of one head, and how far the outcome can be trusted.

Mattes mutual information over three voxel sizes. The coarsest pass looks at many starts first, because a head that
turned by 15 degrees lies beyond the reach of one; the last pass runs both ways and takes the middle.

Source: D. Mattes et al., IEEE TMI 2003 (mutual information); C. Studholme et al., Pattern Recognition 1999 (the
normalised form, by which an outcome is judged). By SimpleITK.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from operators.domain import FloatArray
from operators.image_figures import without_spots

LEVELS_MM = (8.0, 4.0, 2.0)
"""Voxel sizes of the passes; slices thicker than that keep their spacing."""
SHADING_MM = 40.0
"""What varies over more than this is taken for the shading of a receive coil."""
START_DEGREES = 14.0
"""Turns about each axis that the search starts from, besides none."""
STARTS = 3
"""How many of the starts, the most alike, are followed up."""
DOUBT_MM = 1.0
"""Where the passes there and back end farther apart than this, all starts are followed up."""


class _Pass(NamedTuple):
    """How one level is searched."""

    level: int
    first_mm: float
    last_mm: float
    """Length of the first step, and of the one that is too short to go on."""
    samples: int | None
    """Voxels that the metric looks at; None for all."""


ROUGH, COARSE, FINE = _Pass(0, 6.0, 0.1, 8_000), _Pass(1, 2.0, 0.05, 20_000), _Pass(2, 0.5, 0.03, 25_000)

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Registration:
    """A rigid alignment and how it changed the likeness of the two images."""

    matrix: Matrix
    """4 x 4, from the fixed image's patient coordinates (LPS, mm) to the moving image's."""
    metric_before: float
    metric_after: float
    """Negative mutual information over the same voxels: lower is more alike."""
    disagreement_mm: float
    """How far the passes there and back end apart, over the head."""

    def movement(self, point: NDArray[np.float64]) -> tuple[float, float]:
        """Shift of a point in mm, and the rotation in degrees."""
        moved = self.matrix[:3, :3] @ point + self.matrix[:3, 3]
        turn = Rotation.from_matrix(self.matrix[:3, :3]).magnitude()
        return float(np.linalg.norm(moved - point)), float(np.degrees(turn))


@dataclass(frozen=True, eq=False)
class Pyramid:
    """An image at the sizes the passes work on; made once, whatever is registered to it."""

    image: sitk.Image

    @cached_property
    def levels(self) -> tuple[sitk.Image, ...]:
        """The image from coarse to fine, free of coil shading and of spots, which would fill the histogram's bins."""
        array = sitk.GetArrayViewFromImage(self.image)
        calm = without_spots(array)
        image = self.image
        if calm is not array:
            image = sitk.GetImageFromArray(calm)
            image.CopyInformation(self.image)
        return tuple(_level(image, millimetres) for millimetres in LEVELS_MM)

    @cached_property
    def centre(self) -> NDArray[np.float64]:
        """Middle of the field of view, LPS mm."""
        middle = [(n - 1) / 2 for n in self.image.GetSize()]
        return np.array(self.image.TransformContinuousIndexToPhysicalPoint(middle))

    @cached_property
    def head_centre(self) -> NDArray[np.float64]:
        """Centre of gravity of the head, LPS mm; the field's middle where nothing stands out."""
        coarse = self.levels[0]
        inside = np.argwhere(sitk.GetArrayFromImage(sitk.OtsuThreshold(coarse, 0, 1)))
        if not len(inside):
            return self.centre
        return np.array(coarse.TransformContinuousIndexToPhysicalPoint(inside.mean(axis=0)[::-1].tolist()))


def to_image(array: FloatArray, affine: Matrix) -> sitk.Image:
    """Wrap an array (slice, row, column) whose affine maps those indices to LPS mm."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array, np.float32))
    steps = affine[:3, [2, 1, 0]]  # SimpleITK counts columns first
    spacing = np.linalg.norm(steps, axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((steps / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def resample(moving: sitk.Image, fixed: sitk.Image, matrix: Matrix) -> FloatArray:
    """Bring the moving image linearly onto the fixed one's grid; what it does not cover is zero."""
    brought = sitk.Resample(moving, fixed, affine_transform(matrix), sitk.sitkLinear, 0.0)
    array: FloatArray = sitk.GetArrayFromImage(brought)
    return array


def affine_transform(matrix: Matrix) -> sitk.AffineTransform:
    """Write a 4 x 4 matrix as SimpleITK wants it."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    return transform


def register(fixed: Pyramid, moving: Pyramid) -> Registration:
    """Align two images of one head rigidly, as far as their likeness tells."""
    found = _register(fixed, moving, STARTS)
    if found.disagreement_mm <= DOUBT_MM:
        return found
    return min(found, _register(fixed, moving, None), key=lambda end: end.metric_after)


def _register(fixed: Pyramid, moving: Pyramid, starts: int | None) -> Registration:
    """Align from the best few starts, or with None from all."""
    best = _optimise(fixed, moving, _search(fixed, moving, starts), COARSE)
    there = _optimise(fixed, moving, best, FINE)
    # Interpolation between thick slices pulls each way a little to its own side.
    back = inverse(_optimise(moving, fixed, inverse(best), FINE))
    final = _between(there, back, fixed.head_centre)
    before, after = (_metric(fixed, moving, matrix, COARSE) for matrix in (np.eye(4), final))
    apart = distance(there, back, fixed.head_centre)
    if after > before:  # alignment that makes things worse is none
        return Registration(np.eye(4), before, before, apart)
    return Registration(final, before, after, apart)


def inverse(rigid: Matrix) -> Matrix:
    """Invert a rigid 4 x 4 matrix."""
    inverted = np.eye(4)
    inverted[:3, :3] = rigid[:3, :3].T
    inverted[:3, 3] = -rigid[:3, :3].T @ rigid[:3, 3]
    return inverted


def distance(one: Matrix, other: Matrix, centre: NDArray[np.float64], radius_mm: float = 60.0) -> float:
    """Mean distance in mm between where two matrices bring points of a head about `centre`."""
    corners = centre + radius_mm * np.array([*np.eye(3), *-np.eye(3)])
    off = one - other
    return float(np.linalg.norm(corners @ off[:3, :3].T + off[:3, 3], axis=1).mean())


def _level(image: sitk.Image, millimetres: float) -> sitk.Image:
    """Average voxels to about this size, and divide out what varies slowly over the head.

    Coils shade each sequence differently; left in, the shading pulls the alignment by half a pixel.
    """
    small = sitk.BinShrink(image, [max(1, round(millimetres / s)) for s in image.GetSpacing()])
    head = sitk.Cast(sitk.OtsuThreshold(small, 0, 1), sitk.sitkFloat32)
    around = sitk.SmoothingRecursiveGaussian(small * head, SHADING_MM) + 1e-3
    level: sitk.Image = small * sitk.SmoothingRecursiveGaussian(head, SHADING_MM) / around
    return level


def _search(fixed: Pyramid, moving: Pyramid, starts: int | None) -> Matrix:
    """Follow the most promising starts on the coarsest level, and keep the one that ends most alike."""
    ranked = sorted(_starts(fixed, moving), key=lambda start: _metric(fixed, moving, start, ROUGH))
    followed = [_optimise(fixed, moving, start, ROUGH) for start in ranked[:starts]]
    # Compared at the next level: at this one, part of a head can be most alike where it does not belong.
    return min(followed, key=lambda end: _metric(fixed, moving, end, COARSE))


def _starts(fixed: Pyramid, moving: Pyramid) -> Iterator[Matrix]:
    """Where the head may lie: as the headers say, or centre upon centre; straight, or turned about an axis."""
    turns = [np.zeros(3), *(sign * START_DEGREES * axis for axis in np.eye(3) for sign in (-1, 1))]
    for shift, turn in product((np.zeros(3), moving.head_centre - fixed.head_centre), turns):
        start = np.eye(4)
        start[:3, :3] = Rotation.from_rotvec(turn, degrees=True).as_matrix()
        start[:3, 3] = fixed.head_centre + shift - start[:3, :3] @ fixed.head_centre
        yield start


def _method() -> sitk.ImageRegistrationMethod:
    """Set up mutual information; the moving image's slope is taken where it is asked for, not everywhere first."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.MetricUseFixedImageGradientFilterOff()
    method.MetricUseMovingImageGradientFilterOff()
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _optimise(fixed: Pyramid, moving: Pyramid, start: Matrix, how: _Pass) -> Matrix:
    """Descend from a start, turning about the fixed image's middle; where the two never meet, stay there."""
    images = fixed.levels[how.level], moving.levels[how.level]
    method = _method()
    share = (how.samples or np.inf) / images[0].GetNumberOfPixels()
    if share < 1.0:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(share, 7)  # seeded: reruns are equal
    # Steps shrink by a fifth where the slope turns; by half, as is usual, they end too soon.
    method.SetOptimizerAsRegularStepGradientDescent(how.first_mm, how.last_mm, 120, 0.8, 1e-8)
    method.SetOptimizerScalesFromPhysicalShift()
    transform = _euler(start, fixed.centre)
    method.SetInitialTransform(transform, True)
    try:
        method.Execute(*images)
    except RuntimeError:  # ITK raises where the images do not overlap
        return start
    return _matrix(transform)


def _metric(fixed: Pyramid, moving: Pyramid, matrix: Matrix, how: _Pass) -> float:
    """Evaluate the metric over all voxels of a level."""
    method = _method()
    method.SetInitialTransform(_euler(matrix, fixed.centre))
    try:
        return float(method.MetricEvaluate(fixed.levels[how.level], moving.levels[how.level]))
    except RuntimeError:  # no overlap: the worst metric there is
        return float("inf")


def _euler(matrix: Matrix, centre: NDArray[np.float64]) -> sitk.Euler3DTransform:
    """Write a 4 x 4 matrix as a rotation about a centre."""
    transform = sitk.Euler3DTransform()
    transform.SetCenter(centre.tolist())
    rotation = matrix[:3, :3]
    transform.SetMatrix(rotation.ravel().tolist(), 1e-6)
    transform.SetTranslation((matrix[:3, 3] + rotation @ centre - centre).tolist())
    return transform


def _matrix(transform: sitk.Euler3DTransform) -> Matrix:
    """Write x -> R (x - c) + c + t as a 4 x 4 matrix."""
    rotation = np.array(transform.GetMatrix()).reshape(3, 3)
    centre, shift = np.array(transform.GetCenter()), np.array(transform.GetTranslation())
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = centre + shift - rotation @ centre
    return matrix


def _between(one: Matrix, other: Matrix, centre: NDArray[np.float64]) -> Matrix:
    """Take the middle of two rigid matrices, as seen from `centre`."""
    middle = np.eye(4)
    middle[:3, :3] = Rotation.from_matrix([one[:3, :3], other[:3, :3]]).mean().as_matrix()
    target = sum(m[:3, :3] @ centre + m[:3, 3] for m in (one, other)) / 2.0
    middle[:3, 3] = target - middle[:3, :3] @ centre
    return middle
