"""Bring the sequences of a study to one clean stack on T1C's grid.

T1C is put in display order; every other sequence is registered rigidly to it, because the patient moves
between sequences and headers do not know; the brain is outlined on T1C; T1C and FLAIR, which are segmented,
lose their bias field.

Source: thesis section 4.4.1. Registration after D. Mattes et al., IEEE TMI 2003 (mutual information), by SimpleITK.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from models import frame
from operators.domain import REQUIRED, Contrast, FloatArray, Stack, Volumes
from operators.errors import UnusableImage
from operators.stage import Job, StageOperator, needed

DISPLAY_ORDER = "HPL"
"""Slices toward the head, rows toward the back, columns toward the patient's left."""
LEVELS_MM = (8.0, 4.0, 2.0)
"""Voxel sizes of the registration's passes; slices thicker than that keep their spacing."""
SHADING_MM = 40.0
"""What varies over more than this is taken for the shading of a receive coil."""


@dataclass(frozen=True)
class Registration:
    """A rigid alignment and how it changed the likeness of the two images."""

    matrix: NDArray[np.float64]
    """4 x 4, from the fixed image's patient coordinates (LPS, mm) to the moving image's."""
    metric_before: float
    metric_after: float
    """Negative mutual information: lower is more alike."""

    def movement(self, point: NDArray[np.float64]) -> tuple[float, float]:
        """Shift of a point in mm, and the rotation in degrees."""
        moved = self.matrix[:3, :3] @ point + self.matrix[:3, 3]
        cosine = np.clip((np.trace(self.matrix[:3, :3]) - 1.0) / 2.0, -1.0, 1.0)
        return float(np.linalg.norm(moved - point)), float(np.degrees(np.arccos(cosine)))


def to_image(array: FloatArray, affine: NDArray[np.float64]) -> sitk.Image:
    """Wrap an array (slice, row, column) whose affine maps those indices to LPS mm."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array, np.float32))
    steps = affine[:3, [2, 1, 0]]  # SimpleITK counts columns first
    spacing = np.linalg.norm(steps, axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((steps / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def register(fixed: sitk.Image, moving: sitk.Image) -> Registration:
    """Align two images of one head rigidly; of two starts the one that ends more alike is kept.

    The last pass runs both ways and takes the middle: interpolation between thick slices pulls each way a
    little to its own side.
    """
    rough, coarse, fine = (_Pair(_level(fixed, mm), _level(moving, mm)) for mm in LEVELS_MM)
    starts = [_identity(fixed), _centred(fixed, moving)]
    best, _ = min((_optimise(rough, start, share=1.0, step=4.0) for start in starts), key=lambda found: found[1])
    best, _ = _optimise(coarse, best, share=0.3, step=1.0)
    there, _ = _optimise(fine, best, share=0.1, step=0.5)
    back, _ = _optimise(_Pair(fine.moving, fine.fixed), _euler(_inverse(_matrix(best)), moving), share=0.1, step=0.5)
    final = _between(_matrix(there), _inverse(_matrix(back)), np.array(_centre(fixed)))
    before, after = (_metric(coarse, transform) for transform in (_identity(fixed), _euler(final, fixed)))
    if after > before:  # alignment that makes things worse is none
        return Registration(np.eye(4), before, before)
    return Registration(final, before, after)


class _Pair(NamedTuple):
    fixed: sitk.Image
    moving: sitk.Image


def _level(image: sitk.Image, millimetres: float) -> sitk.Image:
    """Average voxels to about this size, and divide out what varies slowly over the head.

    Coils shade each sequence differently; left in, the shading pulls the alignment by half a pixel.
    """
    small = sitk.BinShrink(image, [max(1, round(millimetres / s)) for s in image.GetSpacing()])
    head = sitk.Cast(sitk.OtsuThreshold(small, 0, 1), sitk.sitkFloat32)
    around = sitk.SmoothingRecursiveGaussian(small * head, SHADING_MM) + 1e-3
    level: sitk.Image = small * sitk.SmoothingRecursiveGaussian(head, SHADING_MM) / around
    return level


def _centre(image: sitk.Image) -> tuple[float, ...]:
    middle: tuple[float, ...] = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    return middle


def _identity(fixed: sitk.Image) -> sitk.Euler3DTransform:
    transform = sitk.Euler3DTransform()
    transform.SetCenter(_centre(fixed))
    return transform


def _centred(fixed: sitk.Image, moving: sitk.Image) -> sitk.Euler3DTransform:
    """Start from matching centres of mass."""
    start = sitk.CenteredTransformInitializer(
        fixed, moving, _identity(fixed), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    return sitk.Euler3DTransform(start)


def _method(share: float) -> sitk.ImageRegistrationMethod:
    """Set up mutual information over a share of the voxels; the seed makes reruns equal."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetInterpolator(sitk.sitkLinear)
    if share < 1.0:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(share, 7)
    return method


def _optimise(
    images: _Pair, start: sitk.Euler3DTransform, *, share: float, step: float
) -> tuple[sitk.Euler3DTransform, float]:
    method = _method(share)
    method.SetOptimizerAsRegularStepGradientDescent(step, step / 200.0, 60, gradientMagnitudeTolerance=1e-8)
    method.SetOptimizerScalesFromPhysicalShift()
    transform = sitk.Euler3DTransform(start)
    method.SetInitialTransform(transform, True)
    try:
        method.Execute(*images)
    except RuntimeError:  # ITK raises where the images do not overlap: the worst metric there is
        return sitk.Euler3DTransform(start), float("inf")
    return transform, float(method.GetMetricValue())


def _metric(images: _Pair, transform: sitk.Euler3DTransform) -> float:
    method = _method(1.0)
    method.SetInitialTransform(transform)
    try:
        return float(method.MetricEvaluate(*images))
    except RuntimeError:
        return float("inf")


def _euler(matrix: NDArray[np.float64], fixed: sitk.Image) -> sitk.Euler3DTransform:
    """Write a 4 x 4 matrix as a rotation about the fixed image's centre."""
    transform, centre = _identity(fixed), np.array(_centre(fixed))
    rotation = matrix[:3, :3]
    transform.SetMatrix(rotation.ravel().tolist(), 1e-6)
    transform.SetTranslation((matrix[:3, 3] + rotation @ centre - centre).tolist())
    return transform


def _inverse(rigid: NDArray[np.float64]) -> NDArray[np.float64]:
    inverse = np.eye(4)
    inverse[:3, :3] = rigid[:3, :3].T
    inverse[:3, 3] = -rigid[:3, :3].T @ rigid[:3, 3]
    return inverse


def _between(one: NDArray[np.float64], other: NDArray[np.float64], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take the middle of two rigid matrices, as seen from `centre`."""
    middle = np.eye(4)
    middle[:3, :3] = Rotation.from_matrix([one[:3, :3], other[:3, :3]]).mean().as_matrix()
    target = sum(m[:3, :3] @ centre + m[:3, 3] for m in (one, other)) / 2.0
    middle[:3, 3] = target - middle[:3, :3] @ centre
    return middle


def _matrix(transform: sitk.Euler3DTransform) -> NDArray[np.float64]:
    """Write x -> R (x - c) + c + t as a 4 x 4 matrix."""
    rotation = np.array(transform.GetMatrix()).reshape(3, 3)
    centre, shift = np.array(transform.GetCenter()), np.array(transform.GetTranslation())
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = centre + shift - rotation @ centre
    return matrix


def _resample(moving: sitk.Image, fixed: sitk.Image, matrix: NDArray[np.float64]) -> FloatArray:
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    array: FloatArray = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, 0.0))
    return array


def preprocess(volumes: Volumes) -> Stack:
    """Register, outline and clean a study; raises UnusableImage where T1C shows no brain."""
    reference = volumes[Contrast.T1C].volume.to_patient_orientation(DISPLAY_ORDER)
    t1c: FloatArray = np.ascontiguousarray(reference.array, np.float32)
    z, r, c = (float(step) for step in reference.spacing)
    # Neither keeps two cores busy by itself; side by side they end a second sooner.
    with ThreadPoolExecutor(1) as beside:
        outline = beside.submit(frame.brain_mask, t1c, (z, r, c))
        images, to_source, notes = _align(volumes, t1c, reference.affine)
        try:
            brain = outline.result()
        except frame.BrainNotFound as error:
            raise UnusableImage(f"T1C (series {volumes[Contrast.T1C].series.number}): {error}") from error
    for contrast in REQUIRED:
        images[contrast] = frame.correct_bias(images[contrast], brain, (z, r, c))
    return Stack(reference.get_geometry(), images, brain, to_source, tuple(notes))


def _align(
    volumes: Volumes, t1c: FloatArray, affine: NDArray[np.float64]
) -> tuple[dict[Contrast, FloatArray], dict[Contrast, NDArray[np.float64]], list[str]]:
    """Bring every sequence to T1C: images on its grid, matrices to their own coordinates, and what was moved."""
    fixed = to_image(t1c, affine)
    images, to_source, notes = {Contrast.T1C: t1c}, {Contrast.T1C: np.eye(4)}, []
    for contrast, source in volumes.items():
        if contrast is Contrast.T1C:
            continue
        moving = to_image(source.volume.array, source.volume.affine)
        found = register(fixed, moving)
        images[contrast], to_source[contrast] = _resample(moving, fixed, found.matrix), found.matrix
        shift, turn = found.movement(np.array(_centre(fixed)))
        notes.append(f"{contrast} was aligned to T1C by {shift:.1f} mm and {turn:.1f} degrees")
    return images, to_source, notes


class PreprocessOperator(StageOperator):
    """Volumes to the clean stack."""

    def process(self, job: Job) -> None:
        """Add `job.stack`."""
        job.stack = preprocess(needed(job.volumes))


def warm_up() -> None:
    """Load the brain outliner before the first study needs it."""
    with contextlib.suppress(frame.BrainNotFound):
        frame.brain_mask(np.zeros((16, 16, 16), np.float32), (5.0, 5.0, 5.0))
