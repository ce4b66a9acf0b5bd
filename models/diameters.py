"""The two diameters of the RANO criteria, of a mask whatever its source: the network's, or one drawn by hand.

Lines run from edge to edge: half a pixel beyond the centres of the lesion's outermost pixels, so that a digital
disc measures what the disc does. Sources: P. Wen et al., "RANO 2.0", J. Clin. Oncol. 2023 (largest diameter on
one slice and the largest perpendicular to it); PS3.16 CID 7470.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist, squareform

BoolArray = NDArray[np.bool_]
Points = NDArray[np.float64]
CHORD_STEP = 0.05
"""How finely chords are sampled along their length, in pixels of the finer side."""
CHORD_GAP = 0.25
"""Distance between neighbouring chords, in pixels of the finer side."""
_EDGE_MIDDLES = np.array([(-0.5, 0.0), (0.5, 0.0), (0.0, -0.5), (0.0, 0.5)])


@dataclass(frozen=True, eq=False)
class Line:
    """A straight line in one slice."""

    millimetres: float
    start: tuple[float, float]
    end: tuple[float, float]
    """End points as (row, column)."""


def diameters(mask: BoolArray, pixel_mm: tuple[float, float]) -> tuple[int, Line, Line] | None:
    """Measure a mask (slices, rows, columns): slice, longest diameter on it, longest at a right angle to that.

    `pixel_mm` is the (row, column) spacing. Parts apart from each other on a slice are measured apart. None for an
    empty mask.
    """
    spacing = np.array(pixel_mm)
    best: tuple[int, BoolArray, Line] | None = None
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        labels, _ = ndimage.label(mask[index], np.ones((3, 3)))
        for label, box in enumerate(ndimage.find_objects(labels), 1):
            # Nothing is longer than the diagonal of its box: of scattered parts, few need a closer look.
            diagonal = float(np.hypot(*([side.stop - side.start for side in box] * spacing)))
            if best is not None and diagonal <= best[2].millimetres:
                continue
            region = labels == label
            found = _long_axis(region, spacing)
            if best is None or found.millimetres > best[2].millimetres:
                best = int(index), region, found
    if best is None:
        return None
    place, region, long_axis = best
    return place, long_axis, _perpendicular(region, long_axis, spacing)


def _long_axis(region: BoolArray, pixel_mm: Points) -> Line:
    """Measure the longest straight line between two points of a region's edge."""
    rim = np.argwhere(region & ~ndimage.binary_erosion(region)).astype(float)
    corners = np.unique((rim[:, None] + _EDGE_MIDDLES).reshape(-1, 2), axis=0)
    corners = corners[ConvexHull(corners).vertices]
    apart = squareform(pdist(corners * pixel_mm))
    first, second = sorted(np.unravel_index(int(apart.argmax()), apart.shape))
    return Line(float(apart[first, second]), _pair(corners[first]), _pair(corners[second]))


def _perpendicular(region: BoolArray, long_axis: Line, pixel_mm: Points) -> Line:
    """Measure the longest chord at a right angle to the long axis that stays inside the region."""
    start, end = np.array(long_axis.start) * pixel_mm, np.array(long_axis.end) * pixel_mm
    along = (end - start) / np.linalg.norm(end - start)
    across = np.array([-along[1], along[0]])
    unit = float(pixel_mm.min())
    reach = long_axis.millimetres + unit
    feet = np.arange(0.0, long_axis.millimetres + CHORD_GAP * unit / 2, CHORD_GAP * unit)
    heights = np.arange(-reach, reach + CHORD_STEP * unit / 2, CHORD_STEP * unit)
    lines = start + feet[:, None, None] * along + heights[:, None] * across  # (chords, samples, 2) in mm
    inside = ndimage.map_coordinates(region.astype(np.float32), np.moveaxis(lines / pixel_mm, -1, 0), order=1) >= 0.5
    chord, first, last = _longest_run(inside)
    beyond = across * (CHORD_STEP * unit / 2)  # a sample stands for half a step on either side
    ends = (lines[chord, first] - beyond) / pixel_mm, (lines[chord, last] + beyond) / pixel_mm
    return Line((last - first + 1) * CHORD_STEP * unit, _pair(ends[0]), _pair(ends[1]))


def _longest_run(inside: BoolArray) -> tuple[int, int, int]:
    """Find the longest unbroken run of True over all rows: its row, first and last index."""
    edges = np.diff(np.pad(inside, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, firsts = np.nonzero(edges == 1)
    lasts = np.nonzero(edges == -1)[1] - 1
    longest = int((lasts - firsts).argmax())
    return int(rows[longest]), int(firsts[longest]), int(lasts[longest])


def _pair(point: Points) -> tuple[float, float]:
    return float(point[0]), float(point[1])
