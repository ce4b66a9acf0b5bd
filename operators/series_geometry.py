"""How a series' slices lie, from headers alone: count, plane, coverage, and what keeps them from being a volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from operators.domain import Series
from operators.headers import number, values

FEWEST_SLICES = 3
"""With fewer there is nothing to register or to measure in three dimensions."""
SPACING_TOLERANCE = 0.02
"""Slice distances may differ by this part of their median."""


def slice_count(series: Series) -> int:
    """Slices, or frames of multi-frame objects."""
    return sum(int(number(i.header, "NumberOfFrames") or 1) for i in series.instances)


def coverage_mm(series: Series) -> float:
    """Extent across the slices in mm, from the slice count and their spacing."""
    spacing = number(series.header, "SpacingBetweenSlices") or number(series.header, "SliceThickness") or 0.0
    return slice_count(series) * spacing


def plane(series: Series) -> str:
    """Say which plane is nearest: axial, sagittal, coronal; empty if unknown."""
    cosines = values(series.header, "ImageOrientationPatient")
    if len(cosines) != 6:
        return ""
    normal = np.cross(*np.array(cosines, float).reshape(2, 3))
    return ("sagittal", "coronal", "axial")[int(np.abs(normal).argmax())]


def geometry_fault(series: Series) -> str:
    """Say what keeps a series of single-frame instances from being a regular volume, and the remedy; empty if none."""
    headers = [i.header for i in series.instances]
    if len(headers) < FEWEST_SLICES:
        return f"{len(headers)} slice{'s' * (len(headers) != 1)} cannot make a volume"
    for header in headers:
        if len(header.get("ImagePositionPatient") or ()) != 3 or len(header.get("ImageOrientationPatient") or ()) != 6:
            return "a slice does not say where it lies (0020,0032 or 0020,0037 is missing)"
    along = np.sort(heights(headers))
    steps = np.diff(along)
    usual = float(np.median(steps))
    if steps.min() < 0.1 * max(usual, 0.1):
        return f"two slices lie at {along[int(steps.argmin())]:.1f} mm; send the series without doubles"
    if steps.max() > 1.5 * usual:
        low = int(steps.argmax())
        missing = round(float(steps[low]) / usual) - 1
        what = "a slice is" if missing <= 1 else f"{missing} slices are"
        return f"{what} missing between {along[low]:.1f} mm and {along[low + 1]:.1f} mm; send the series again"
    if np.abs(steps - usual).max() > SPACING_TOLERANCE * usual:
        return f"slices lie {steps.min():.2f} to {steps.max():.2f} mm apart, not evenly"
    return ""


def heights(headers: Sequence[Dataset]) -> NDArray[np.float64]:
    """Position of each slice along the normal of the first, in mm."""
    normal = np.cross(*np.array(headers[0].ImageOrientationPatient, float).reshape(2, 3))
    return np.array([h.ImagePositionPatient for h in headers], float) @ normal
