"""From the stack back to a series' own planes, rows and columns, as its images came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from operators.domain import Contrast, SourceVolume, Stack
from operators.errors import AnalysisFailed
from operators.series_geometry import layout

Matrix = NDArray[np.float64]
GEOMETRY_TOLERANCE = 1e-3
"""Directions as cosines, offsets in voxels: what decimal strings of headers may cost."""


def own_shape(source: SourceVolume, contrast: Contrast) -> tuple[int, int, int]:
    """Return how many planes, rows and columns a series came with; its volume is wider where it was put straight.

    Raises AnalysisFailed where the volume has another number of planes than headers.
    """
    planes = source.volume.spatial_shape[0]
    if len(source.headers) != planes:
        raise AnalysisFailed(f"{contrast} has {len(source.headers)} headers for {planes} planes")
    return planes, int(source.headers[0].Rows), int(source.headers[0].Columns)


def as_it_came(source: SourceVolume, contrast: Contrast) -> bool:
    """Say whether a series' volume has the series' own planes, rows and columns; raises as `own_shape` does."""
    return own_shape(source, contrast) == source.volume.spatial_shape


def put_back(image: hd.Volume, source: SourceVolume) -> hd.Volume:
    """Permute and flip voxels on the stack's grid back to T1C's own, which came as its volume is.

    Raises AnalysisFailed where the two grids do not belong together.
    """
    try:
        return image.match_geometry(source.volume.get_geometry(), tol=GEOMETRY_TOLERANCE)
    except RuntimeError as error:
        raise AnalysisFailed("the stack is not a permutation of T1C's voxels") from error


def stack_to_planes(stack: Stack, source: SourceVolume, contrast: Contrast) -> Matrix:
    """Map the stack's (slice, row, column) to a series' own (plane, row, column); 4 x 4, centres at whole numbers."""
    to_planes = (
        source.volume.inverse_affine if as_it_came(source, contrast) else np.linalg.inv(_planes_affine(source.headers))
    )
    mapped: Matrix = to_planes @ stack.to_source[contrast] @ stack.geometry.affine
    return mapped


def _planes_affine(headers: Sequence[Dataset]) -> Matrix:
    """Map plane, row and column of a series' own planes to LPS mm; sheared where the planes are tilted."""
    where = layout(headers)
    affine = np.eye(4)
    affine[:3, 0] = (where.positions[-1] - where.positions[0]) / (len(headers) - 1)
    affine[:3, 1] = where.along_column * where.pixel_mm[0]
    affine[:3, 2] = where.along_row * where.pixel_mm[1]
    affine[:3, 3] = where.positions[0]
    return affine


def frame_numbers(source: SourceVolume) -> Mapping[int, int]:
    """Return the frame number, counted from 1, of each header of a multi-frame object, by the header's `id`."""
    return {id(i.header): i.frames[0] + 1 for i in source.series.instances if i.frames}
