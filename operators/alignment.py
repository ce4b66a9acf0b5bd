"""How far a registration can be trusted: what is measured of it, and what counts as a failure.

The likeness of T1C's brain with the other sequence must be there, and must fall off when the images are pushed
apart: noise is like everything, another part of the body like nothing.

Source: C. Studholme et al., Pattern Recognition 1999 (normalised mutual information).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from operators.domain import Alignment, BoolArray
from operators.registration import Matrix, Pyramid, Registration, affine_transform

BINS = 24
"""Grey levels that the likeness tells apart."""
PUSH_MM = 10.0
"""How far the images are pushed apart."""
LEAST_INFORMATION, LEAST_PEAK = 1.012, 0.0025
"""Normalised mutual information of two sequences of one brain, and what of it a push must cost on average."""
FLAT, LOOSE_MM = 0.3, 0.6
"""An optimum that loses less than this share of the likeness when pushed, and that the passes there and back put this
far apart, is that of another head: of one head, sequences never show both."""
LEAST_OVERLAP = 0.3
"""Share of the brain that a sequence must cover for the rest to mean anything."""
FARTHEST_SHIFT_MM, WIDEST_TURN_DEGREES = 60.0, 45.0
"""No patient moves this far between two sequences."""
WIDEST_DISAGREEMENT_MM = 4.0
"""The passes there and back may end this far apart."""


@dataclass(frozen=True)
class _Likeness:
    information: float
    """Normalised mutual information over the brain: 1 unrelated, 2 the same."""
    overlap: float
    """Share of the brain that the moving image covers."""


def judge(fixed: Pyramid, moving: Pyramid, found: Registration, brain: sitk.Image) -> Alignment:
    """Measure a registration over the brain, a mask on the fixed image's grid, and name its fault if it has one."""
    level = fixed.levels[1]
    mask = sitk.GetArrayFromImage(sitk.Resample(brain, level, sitk.Transform(), sitk.sitkLinear)) > 0.5
    at = _likeness(level, moving.levels[1], found.matrix, mask)
    apart = [_likeness(level, moving.levels[1], _pushed(found.matrix, push), mask) for push in _pushes()]
    peak = at.information - float(np.mean([other.information for other in apart]))
    shift, turn = found.movement(fixed.head_centre)
    return Alignment(
        shift, turn, found.metric_before, found.metric_after, at.overlap,
        _fault(shift, turn, at, peak, found.disagreement_mm),
    )  # fmt: skip


def _fault(shift_mm: float, turn_degrees: float, at: _Likeness, peak: float, disagreement_mm: float) -> str:
    """Say in one sentence why a registration cannot be trusted; nothing where it can."""
    faults = {
        f"it covers {at.overlap:.0%} of the brain that T1C shows, and {LEAST_OVERLAP:.0%} are needed":
            at.overlap < LEAST_OVERLAP,
        f"a movement by {shift_mm:.0f} mm and {turn_degrees:.0f} degrees is not plausible":
            shift_mm > FARTHEST_SHIFT_MM or turn_degrees > WIDEST_TURN_DEGREES,
        f"registering there and back ends {disagreement_mm:.1f} mm apart ({WIDEST_DISAGREEMENT_MM:.0f} at most)":
            disagreement_mm > WIDEST_DISAGREEMENT_MM,
        f"it is not like T1C: likeness is {at.information:.3f}, and {LEAST_INFORMATION} is expected":
            at.information < LEAST_INFORMATION,
        f"it fits T1C nowhere: likeness falls by {peak:.4f} when pushed apart, and {LEAST_PEAK} is expected":
            peak < LEAST_PEAK,
        f"it does not fit T1C closely: ends lie {disagreement_mm:.1f} mm apart and likeness hardly falls off":
            peak < FLAT * (at.information - 1.0) and disagreement_mm > LOOSE_MM,
    }  # fmt: skip
    return next((reason for reason, fails in faults.items() if fails), "")


def _pushes() -> NDArray[np.float64]:
    return PUSH_MM * np.array([*np.eye(3), *-np.eye(3)])


def _pushed(matrix: Matrix, push_mm: NDArray[np.float64]) -> Matrix:
    moved = matrix.copy()
    moved[:3, 3] += push_mm
    return moved


def _likeness(fixed: sitk.Image, moving: sitk.Image, matrix: Matrix, mask: BoolArray) -> _Likeness:
    """Compare two images where a matrix puts one upon the other, over the brain."""
    nowhere = -1e9
    there = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, affine_transform(matrix), sitk.sitkLinear, nowhere))
    covered = mask & (there > nowhere / 2)
    overlap = float(covered.sum() / max(1, mask.sum()))
    if not covered.any():
        return _Likeness(1.0, overlap)
    joint = np.histogram2d(_grey(sitk.GetArrayFromImage(fixed)[covered]), _grey(there[covered]), bins=BINS)[0]
    together = _entropy(joint)
    alone = _entropy(joint.sum(axis=0)) + _entropy(joint.sum(axis=1))
    return _Likeness(alone / together if together > 0 else 1.0, overlap)


def _grey(values: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = np.percentile(values, (1, 99))
    return np.clip(values, low, high)


def _entropy(counts: NDArray[np.float64]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
