"""Write the tumour as DICOM segmentations: one on T1C's grid, one on FLAIR's.

Each is BINARY, Explicit VR little endian. What else a site may ask for, label maps and a map of probability, is
written of the same masks and grids.

T1C's voxels are only put back in place. FLAIR lies between T1C's slices, as tilted planes lie between straight ones,
and thresholding what is interpolated between two slices loses or doubles a slice's edge; so the distance to the
tumour's surface is interpolated instead, and its level chosen to keep the volume.

Sources: PS3.3 A.51 and C.8.20; S. Raya and J. Udupa, "Shape-based interpolation", IEEE TMI 1990.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from operators.domain import BoolArray, Contrast, SourceVolume, Stack, TumourMap
from operators.errors import AnalysisFailed
from operators.results import Origin, earlier_input, origin_of, save
from operators.segmentation_form import LABELMAP_TWINS
from operators.stage import Job, StageOperator, needed
from operators.write_labelmap import build_labelmap
from operators.write_planes import Matrix, as_it_came, own_shape, put_back, stack_to_planes
from operators.write_probability import build_probability, probability_on_t1c
from operators.write_seg_parts import build_object, describe_segment

SERIES_NUMBERS = {Contrast.T1C: 9001, Contrast.FLAIR: 9002}
"""Far above any scanner's own."""
MARGIN_VOXELS = 3
"""Kept around the tumour when distances are computed."""


def segment_on_source(stack: Stack, tumour: TumourMap, source: SourceVolume, contrast: Contrast) -> BoolArray:
    """Bring the tumour to a source series' own grid (planes, rows, columns).

    Raises AnalysisFailed where the series' grid and its headers, or the stack and T1C, do not belong together.
    """
    if contrast is Contrast.T1C and as_it_came(source, contrast):
        return _put_back(stack.geometry.with_array(tumour.mask.astype(np.uint8)), source)
    return resample_mask(
        tumour.mask, stack_to_planes(stack, source, contrast), stack.spacing_mm, own_shape(source, contrast)
    )


def _put_back(mask: hd.Volume, source: SourceVolume) -> BoolArray:
    """Permute and flip a mask on the stack's grid back to T1C's own."""
    matched = put_back(mask, source)
    if int(matched.array.sum()) != int(mask.array.sum()):
        raise AnalysisFailed("part of the tumour lies outside T1C's grid")
    return np.asarray(matched.array, bool)


def resample_mask(
    mask: BoolArray, to_target: Matrix, spacing_mm: tuple[float, float, float], shape: tuple[int, int, int]
) -> BoolArray:
    """Resample a mask to another grid of `shape`, keeping the volume of what that grid covers.

    `to_target` (4 x 4) maps the mask's indices to the target's.
    """
    out = np.zeros(shape, bool)
    voxels = np.argwhere(mask)
    if not len(voxels):
        return out
    landed = voxels @ to_target[:3, :3].T + to_target[:3, 3]
    covered = np.all((landed > -0.5) & (landed < np.array(shape) - 0.5), axis=1)
    if not covered.any():
        return out
    wanted = max(1, round(int(covered.sum()) * abs(float(np.linalg.det(to_target[:3, :3])))))
    distance, corner = _signed_distance(mask, voxels, spacing_mm)
    to_mask = np.linalg.inv(to_target)
    depth = ndimage.affine_transform(
        distance, to_mask[:3, :3], to_mask[:3, 3] - corner, shape, np.float32, order=1, mode="constant", cval=-np.inf
    )
    near = depth[np.isfinite(depth)]
    level = np.partition(near, -wanted)[-wanted] if wanted < len(near) else 0.0
    return np.asarray(depth >= level, bool)


def _signed_distance(
    mask: BoolArray, voxels: NDArray[np.int64], spacing_mm: tuple[float, float, float]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Compute the distance in mm to the mask's surface around it, positive inside, and where that box begins."""
    corner = voxels.min(axis=0) - MARGIN_VOXELS
    box = np.zeros(voxels.max(axis=0) - corner + 1 + MARGIN_VOXELS, bool)
    box[tuple((voxels - corner).T)] = True
    inside, outside = (ndimage.distance_transform_edt(part, spacing_mm) for part in (box, ~box))
    return (inside - outside).astype(np.float32), corner


def build_seg(
    mask: BoolArray,
    source: SourceVolume,
    contrast: Contrast,
    tumour: TumourMap,
    origin: Origin,
    tracking_uid: str | None = None,
) -> hd.seg.Segmentation:
    """Make the BINARY segmentation of a mask (planes, rows, columns) on a source series' own grid."""
    return build_object(
        mask.astype(np.uint8),
        source,
        describe_segment(tumour, origin, tracking_uid),
        origin,
        ("SEG", contrast),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        series_number=SERIES_NUMBERS[contrast],
        series_description=f"AI whole tumour on {contrast} (research)",
        content_label="WHOLE_TUMOUR",
        content_description=f"Whole tumour on {contrast}, automatic",
    )


def known_tracking_uid(job: Job) -> str | None:
    """Return the tracking UID that the lesion has had: at an earlier examination, or in a result that is replaced."""
    if job.earlier and job.earlier.tracking_uid:
        return job.earlier.tracking_uid
    return next((p.tracking_uid for p in job.predecessors if p.tracking_uid), None)


def write_segs(
    job: Job, version: str, made_at: datetime, *, labelmap: bool = False, probability_map: bool = False
) -> None:
    """Write a job's segmentations into its output folder and list them in its results.

    `labelmap` adds the same masks as label maps, `probability_map` what the network thought of each voxel of T1C.
    """
    stack, tumour, volumes = needed(job.stack), needed(job.tumour), needed(job.volumes)
    origin = origin_of(volumes, tumour, version, made_at).also(job.engine, *earlier_input(job.earlier))
    known = known_tracking_uid(job)
    for contrast in SERIES_NUMBERS:
        kind, name, source = f"SEG {contrast}", f"seg_{contrast.lower()}", volumes[contrast]
        mask = segment_on_source(stack, tumour, source, contrast)
        seg = build_seg(mask, source, contrast, tumour, origin, known)
        job.results[kind] = save(seg, job.output_folder / f"{name}.dcm")
        if labelmap:
            seg = build_labelmap(mask, source, contrast, tumour, origin, known)
            job.results[LABELMAP_TWINS[kind]] = save(seg, job.output_folder / f"{name}_labelmap.dcm")
    if probability_map:
        t1c = volumes[Contrast.T1C]
        seg = build_probability(probability_on_t1c(stack, tumour, t1c), t1c, tumour, origin, known)
        job.results["SEG T1C probability"] = save(seg, job.output_folder / "seg_t1c_probability.dcm")


class WriteSegOperator(StageOperator):
    """Stack, tumour and volumes to a segmentation on T1C and one on FLAIR."""

    def __init__(
        self,
        fragment: Any,
        *args: Any,
        version: str,
        clock: Callable[[], datetime],
        labelmap: bool = False,
        probability_map: bool = False,
        **kwargs: Any,
    ) -> None:
        """`labelmap` and `probability_map` ask for what `write_segs` adds."""
        self._version, self._clock = version, clock
        self._asked = {"labelmap": labelmap, "probability_map": probability_map}
        super().__init__(fragment, *args, **kwargs)

    def process(self, job: Job) -> None:
        """Add "SEG T1C" and "SEG FLAIR" to `job.results`, and what else is asked for."""
        write_segs(job, self._version, self._clock(), **self._asked)
