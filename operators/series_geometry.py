"""How a series' slices lie, from headers alone: count, plane, coverage, and what keeps them from being a volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from operators.domain import Series
from operators.headers import number, values

FEWEST_SLICES = 3
"""With fewer there is nothing to register or to measure in three dimensions."""
SPACING_TOLERANCE = 0.02
"""Slice distances may differ by this part of their median."""
SAME_PLACE_MM = 0.01
"""Slices that lie closer than this lie at one place."""
TURN_TOLERANCE = 1e-3
"""Direction cosines of a volume's slices may differ by this: a tenth of a millimetre at the edge of a head."""
LINE_TOLERANCE_PIXELS = 0.5
"""Slices may lie this far beside the straight line that they are stacked along."""
STEEPEST_DEGREES = 45.0
"""A stack that leans more against its slices' normal is none."""

PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")

Vectors = NDArray[np.float64]


class Layout(NamedTuple):
    """Where slices lie, in patient coordinates (LPS, mm)."""

    positions: Vectors
    """Centre of each slice's first pixel: (slices, 3)."""
    along_row: Vectors
    """Direction of growing column index; as the other directions, of length 1."""
    along_column: Vectors
    pixel_mm: tuple[float, float]
    """Distance of rows and of columns."""

    @property
    def normal(self) -> Vectors:
        """Direction across the slices, right-handed with the other two in their order."""
        return np.cross(self.along_row, self.along_column)

    @property
    def heights(self) -> Vectors:
        """Position of each slice along the normal, in mm."""
        return self.positions @ self.normal


def layout(headers: Sequence[Dataset]) -> Layout:
    """Read where single-frame slices lie; directions and pixel size are the first slice's.

    Directions are made exactly perpendicular, which they are not when written with few decimals.
    """
    along_row, along_column = np.array(headers[0].ImageOrientationPatient, float).reshape(2, 3)
    along_row = along_row / np.linalg.norm(along_row)
    along_column = along_column - (along_column @ along_row) * along_row
    along_column = along_column / np.linalg.norm(along_column)
    rows, columns = (float(v) for v in headers[0].PixelSpacing)
    positions = np.array([list(h.ImagePositionPatient) for h in headers], float)
    return Layout(positions, along_row, along_column, (rows, columns))


def slice_count(series: Series) -> int:
    """Count the places of a series' slices; where positions are unknown, its slices or frames."""
    headers = [i.header for i in series.instances]
    if all(_is_placed(h) for h in headers):
        return len(_distinct(np.sort(layout(headers).heights)))
    return sum(int(number(h, "NumberOfFrames") or 1) for h in headers)


def coverage_mm(series: Series) -> float:
    """Extent across the slices in mm: from their positions, or else from their count and spacing."""
    headers = [i.header for i in series.instances]
    spacing = number(series.header, "SpacingBetweenSlices") or number(series.header, "SliceThickness") or 0.0
    if all(_is_placed(h) for h in headers):
        places = _distinct(np.sort(layout(headers).heights))
        if len(places) > 1:
            return float(np.ptp(places) * len(places) / (len(places) - 1))
    return slice_count(series) * spacing


def plane(series: Series) -> str:
    """Say which plane is nearest: axial, sagittal, coronal; empty if unknown."""
    cosines = values(series.header, "ImageOrientationPatient")
    if len(cosines) != 6:
        return ""
    normal = np.cross(*np.array(cosines, float).reshape(2, 3))
    return ("sagittal", "coronal", "axial")[int(np.abs(normal).argmax())]


def geometry_fault(series: Series) -> str:
    """Say what keeps a series from being a regular volume, and the remedy; empty if nothing does.

    Doubles, slices that lie where another does, are no fault here: only their pixels tell whether they agree. Nor is
    a gantry tilt, as of slices that lean against the line they are stacked along.
    """
    headers = [i.header for i in series.instances]
    if not all(_is_placed(h) for h in headers):
        return "a slice does not say where it lies (0020,0032, 0020,0037 or 0028,0030 is missing); send it complete"
    if not all(h.get("FrameOfReferenceUID") for h in headers):
        return "a slice names no frame of reference (0020,0052); send it complete"
    where = layout(headers)
    along = _distinct(np.sort(where.heights))
    if len(along) < FEWEST_SLICES:
        return f"{len(along)} slice{'s' * (len(along) != 1)} cannot make a volume"
    return _uneven(along) or _out_of_line(where) or _turned(headers)


def _is_placed(header: Dataset) -> bool:
    """Say whether a slice tells where it lies, in values that can be true."""
    try:
        position, cosines, spacing = (np.array(list(header.get(k) or ()), float) for k in PLACE)
    except (TypeError, ValueError):
        return False
    if (len(position), len(cosines), len(spacing)) != (3, 6, 2):
        return False
    normal = np.cross(*cosines.reshape(2, 3))
    return bool(np.isfinite(position).all() and spacing.min() > 0 and abs(np.linalg.norm(normal) - 1) < 0.01)


def _distinct(along: Vectors) -> Vectors:
    """Drop every height that repeats the one before."""
    return along[np.diff(along, prepend=-np.inf) > SAME_PLACE_MM]


def _uneven(along: Vectors) -> str:
    """Say where sorted heights are not even."""
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


def lean(where: Layout) -> tuple[Vectors, Vectors]:
    """Fit how slices move in their own plane per mm of height: (row, column) in mm, and each slice's distance to it.

    Both are (2,) and (slices, 2); a stack along its own normal has a lean of 0.
    """
    heights = where.heights - where.heights.mean()
    beside = (where.positions - where.positions.mean(axis=0)) @ np.stack([where.along_column, where.along_row], axis=1)
    slope = heights @ beside / (heights @ heights)
    return slope, beside - np.outer(heights, slope)


def _out_of_line(where: Layout) -> str:
    slope, beside = lean(where)
    if np.degrees(np.arctan(np.linalg.norm(slope))) > STEEPEST_DEGREES:
        return f"slices are stacked at more than {STEEPEST_DEGREES:.0f} degrees to their normal"
    worst = float(np.abs(beside / where.pixel_mm).max())
    if worst > LINE_TOLERANCE_PIXELS:
        return f"a slice lies {worst:.1f} pixels beside the line of the others; send the series again"
    return ""


def _turned(headers: Sequence[Dataset]) -> str:
    cosines = np.array([list(h.ImageOrientationPatient) for h in headers], float)
    if np.abs(cosines - cosines[0]).max() > TURN_TOLERANCE:
        return "its slices are turned against one another"
    return ""
