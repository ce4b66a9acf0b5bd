"""The frame every network sees: brain only, one pixel size, one field of view, one intensity scale.

Training slices and the node's volumes go through these same functions, so that a network meets in a
hospital what it was trained on. Arrays here are axial stacks of shape (slices, rows, columns) in display
order: slices run from feet to head, rows from front to back, columns from the patient's right to left.

Sources: thesis section 4.4.1 (skull stripping, 224 x 224, mean-variance normalisation); N. Tustison et al.,
"N4ITK", IEEE TMI 2010 (bias field).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from models.brain import MASK_MARGIN_MM, BrainNotFound, brain_mask

__all__ = [
    "MASK_MARGIN_MM", "BrainNotFound", "Placement", "brain_mask", "correct_bias", "estimate_pixel_mm", "from_frame",
    "network_input", "place", "standardise", "to_frame", "widen",
]  # fmt: skip

VERSION = 2
"""Raised whenever a step below changes what a network sees; prepared training data are made anew then."""
FRAME_SIZE = 224
"""Rows and columns of the networks' input, in pixels (thesis section 4.4.1)."""
FRAME_PIXEL_MM = 1.0
"""Side of a frame pixel: 224 of them span more than any adult brain."""
INTENSITY_LIMIT = 5.0
"""Normalised intensities are clipped here: bright vessels and fat residue carry no more than that."""
WIDEST_SECTION_MM2 = 18_000.0
"""Area of the largest axial section of an adult brain mask; gives a pixel size where none is recorded."""

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Placement:
    """Where the frame lies on a stack's slices: the same for every slice of a study."""

    centre: tuple[float, float]
    """Centre of the frame on the stack's grid, in (row, column) pixels."""
    pixel_mm: tuple[float, float]
    """The stack's own pixel spacing between (rows, columns), in mm."""


def correct_bias(stack: FloatArray, mask: BoolArray, spacing_mm: tuple[float, float, float]) -> FloatArray:
    """Divide out the slow intensity drift of receive coils, estimated by N4 on an 8 mm grid."""
    image = sitk.GetImageFromArray(np.maximum(stack, 0.0).astype(np.float32))
    image.SetSpacing([float(s) for s in spacing_mm[::-1]])
    inside = sitk.GetImageFromArray(mask.astype(np.uint8))
    inside.CopyInformation(image)
    # N4 fits splines through its grid, and through fewer than four points along an axis there is none.
    shrink = [max(1, min(round(8.0 / s), n // 4)) for s, n in zip(image.GetSpacing(), image.GetSize(), strict=True)]
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations([10, 10, 10])
    n4.Execute(sitk.Shrink(image, shrink), sitk.Shrink(inside, shrink))
    field = np.exp(sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)))
    corrected: FloatArray = (stack / np.maximum(field, 1e-3)).astype(np.float32)
    return corrected


def standardise(stack: FloatArray, mask: BoolArray) -> FloatArray:
    """Mean-variance normalisation over the brain of the whole study, clipped (thesis section 4.4.1).

    Slices that hold nothing, where a sequence does not reach as far as the one that it lies on, tell nothing of the
    brain's intensities, and stay zero as a sequence that is missing.
    """
    covered = np.array([section.any() for section in stack])
    inside = stack[mask & covered[:, None, None]]
    if not inside.size:
        return np.zeros_like(stack, np.float32)
    # Bright vessels and rims would widen the deviation; the middle 99 % of the brain sets the scale.
    low, high = np.percentile(inside, (0.5, 99.5))
    core = inside[(inside >= low) & (inside <= high)]
    scaled = (stack - core.mean()) / max(float(core.std()), 1e-6)
    clipped: FloatArray = np.clip(scaled, -INTENSITY_LIMIT, INTENSITY_LIMIT).astype(np.float32)
    clipped[~covered] = 0.0
    return clipped


def estimate_pixel_mm(mask: BoolArray) -> float:
    """Guess a square pixel's side from the brain's widest section, for images that record no spacing."""
    return float(np.sqrt(WIDEST_SECTION_MM2 / mask.sum(axis=(1, 2)).max()))


def place(mask: BoolArray, pixel_mm: tuple[float, float]) -> Placement:
    """Centre the frame on the middle of the brain's in-plane extent."""
    rows, columns = np.nonzero(mask.any(axis=0))
    return Placement(((rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2), pixel_mm)


def widen(mask: BoolArray, pixel_mm: tuple[float, float], margin_mm: float = MASK_MARGIN_MM) -> BoolArray:
    """Grow a brain mask in-plane by `margin_mm`."""
    reach = [max(0, round(margin_mm / p)) for p in pixel_mm]
    if not any(reach):
        return mask
    disc = np.hypot(*np.meshgrid(*(np.arange(-r, r + 1) / max(r, 1) for r in reach), indexing="ij")) <= 1.0
    wide: BoolArray = ndimage.binary_dilation(mask, disc[None])
    return wide


def to_frame(
    stack: NDArray[np.generic], placement: Placement, size: int = FRAME_SIZE, *, linear: bool = True
) -> FloatArray:
    """Resample each slice of a stack to the frame: (slices, rows, columns) to (slices, size, size)."""
    zoom = np.array([FRAME_PIXEL_MM / p for p in placement.pixel_mm])
    source = np.asarray(stack, np.float32)
    if linear and zoom.max() > 1.0:  # finer than the frame: smooth first, or thin lines alias
        source = ndimage.gaussian_filter(source, (0.0, *np.maximum(0.0, (zoom - 1.0) / 2.0)))
    offset = np.array(placement.centre) - zoom * (size - 1) / 2
    return _resample(source, zoom, offset, (size, size), linear=linear)


def from_frame(framed: FloatArray, placement: Placement, rows: int, columns: int) -> FloatArray:
    """Resample a framed map linearly back to the stack's own grid; outside the frame it is zero."""
    zoom = np.array([p / FRAME_PIXEL_MM for p in placement.pixel_mm])
    offset = (framed.shape[-1] - 1) / 2 - zoom * np.array(placement.centre)
    return _resample(framed, zoom, offset, (rows, columns), linear=True)


def _resample(
    stack: FloatArray, zoom: NDArray[np.float64], offset: NDArray[np.float64], shape: tuple[int, int], *, linear: bool
) -> FloatArray:
    """Sample slice by slice at `zoom * index + offset`."""
    out = np.empty((len(stack), *shape), np.float32)
    for target, image in zip(out, stack, strict=True):
        ndimage.affine_transform(image, zoom, offset, shape, target, order=int(linear))
    return out


def network_input(
    channels: list[FloatArray], mask: BoolArray, placement: Placement, margin_mm: float = MASK_MARGIN_MM
) -> FloatArray:
    """Assemble what a network sees of a study: (slices, channels, size, size), zero outside the brain.

    `channels` are bias-corrected stacks on one grid, `mask` their brain mask, which grows by `margin_mm`.
    """
    inside = to_frame(widen(mask, placement.pixel_mm, margin_mm), placement, linear=False)
    framed = [to_frame(standardise(c, mask), placement) * inside for c in channels]
    return np.stack(framed, axis=1)
