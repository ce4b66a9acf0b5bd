"""Bring a mask, and its division into parts, from the stack to a series' own planes.

FLAIR lies between T1C's slices, as tilted planes lie between straight ones, and thresholding what is interpolated
between two slices loses or doubles a slice's edge; so the distance to the surface is interpolated instead, and its
level chosen to keep the volume. Parts are brought over by the same rule within the whole, the smallest first, so that
they neither overlap nor leave a gap, and a small part is not lost.

Source: S. Raya and J. Udupa, "Shape-based interpolation", IEEE TMI 1990.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from operators.domain import BoolArray, FloatArray
from operators.write_planes import Matrix

MARGIN_VOXELS = 3
"""Kept around the tumour when distances are computed."""


def resample_mask(
    mask: BoolArray, to_target: Matrix, spacing_mm: tuple[float, float, float], shape: tuple[int, int, int]
) -> BoolArray:
    """Resample a mask to another grid of `shape`, keeping the volume of what that grid covers.

    `to_target` (4 x 4) maps the mask's indices to the target's.
    """
    wanted = _voxels_wanted(mask, to_target, shape)
    if not wanted:
        return np.zeros(shape, bool)
    depth = _depth(mask, to_target, spacing_mm, shape)
    near = depth[np.isfinite(depth)]
    level = np.partition(near, -wanted)[-wanted] if wanted < len(near) else 0.0
    return np.asarray(depth >= level, bool)


def resample_labels(
    labels: NDArray[np.uint8], whole: BoolArray, to_target: Matrix, spacing_mm: tuple[float, float, float]
) -> NDArray[np.uint8]:
    """Divide `whole`, the tumour on the target's grid, as `labels` divides it on its own; `to_target` as above.

    Every voxel of `whole` gets a label. Each part gets the voxels that lie deepest in it, compared with the parts that
    are still to come, as many as keep its volume; the largest gets the rest.
    """
    out = np.zeros(whole.shape, np.uint8)
    counts = {int(n): _voxels_wanted(labels == n, to_target, whole.shape) for n in np.unique(labels[labels > 0])}
    left = sorted((n for n in counts if counts[n]), key=lambda n: (counts[n], n))
    if not left or not whole.any():
        return out
    inside = np.nonzero(whole)
    corner, end = np.array([(i.min(), i.max() + 1) for i in inside]).T
    to_box = np.array(to_target, float)
    to_box[:3, 3] -= corner
    within = tuple(i - first for i, first in zip(inside, corner, strict=True))
    depths = {n: _depth(labels == n, to_box, spacing_mm, tuple(end - corner))[within] for n in left}
    given = np.zeros(len(inside[0]), np.uint8)
    while left:
        label, *left = left
        free = np.flatnonzero(given == 0)
        if left:
            rivals = np.max([depths[n][free] for n in left], axis=0)
            # Where neither has been measured, both are minus infinity.
            lead = np.nan_to_num(depths[label][free] - rivals, nan=-np.inf)
            free = free[np.argsort(-lead, kind="stable")[: counts[label]]]
        given[free] = label
    out[inside] = given
    return out


def _voxels_wanted(mask: BoolArray, to_target: Matrix, shape: tuple[int, ...]) -> int:
    """Say how many voxels of a grid of `shape` have the volume of what it covers of a mask: one at least of any."""
    voxels = np.argwhere(mask)
    landed = voxels @ to_target[:3, :3].T + to_target[:3, 3]
    covered = int(np.all((landed > -0.5) & (landed < np.array(shape) - 0.5), axis=1).sum())
    return max(1, round(covered * abs(float(np.linalg.det(to_target[:3, :3]))))) if covered else 0


def _depth(
    mask: BoolArray, to_target: Matrix, spacing_mm: tuple[float, float, float], shape: tuple[int, ...]
) -> FloatArray:
    """Give how deep each voxel of the target lies in a mask, in mm; negative outside, far outside minus infinity."""
    distance, corner = _signed_distance(mask, np.argwhere(mask), spacing_mm)
    to_mask = np.linalg.inv(to_target)
    depth: FloatArray = ndimage.affine_transform(
        distance, to_mask[:3, :3], to_mask[:3, 3] - corner, shape, np.float32, order=1, mode="constant", cval=-np.inf
    )
    return depth


def _signed_distance(
    mask: BoolArray, voxels: NDArray[np.int64], spacing_mm: tuple[float, float, float]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Compute the distance in mm to the mask's surface around it, positive inside, and where that box begins."""
    corner = voxels.min(axis=0) - MARGIN_VOXELS
    box = np.zeros(voxels.max(axis=0) - corner + 1 + MARGIN_VOXELS, bool)
    box[tuple((voxels - corner).T)] = True
    inside, outside = (ndimage.distance_transform_edt(part, spacing_mm) for part in (box, ~box))
    return (inside - outside).astype(np.float32), corner
