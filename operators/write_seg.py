"""Write the tumour as DICOM segmentations: one on T1C's grid, one on FLAIR's.

Each is BINARY, Explicit VR little endian. What else a site may ask for, label maps and a map of probability, is
written of the same masks and grids.

T1C's voxels are only put back in place; FLAIR's are resampled (write_resample). Where the network tells parts of the
tumour apart, the whole is the first segment, and each part that was found one more: they overlap, as BINARY may.

Source: PS3.3 A.51 and C.8.20.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray

from models.segments import Segment
from operators.domain import BoolArray, Contrast, LabelMap, SourceVolume, Stack, TumourMap
from operators.errors import AnalysisFailed
from operators.report_identity import time_of
from operators.results import Origin, earlier_input, origin_of, save
from operators.segmentation_form import LABELMAP_TWINS
from operators.stage import Job, StageOperator, needed
from operators.write_labelmap import build_labelmap
from operators.write_planes import as_it_came, own_shape, put_back, stack_to_planes
from operators.write_probability import build_probability, probability_on_t1c
from operators.write_resample import resample_labels, resample_mask
from operators.write_seg_parts import build_object, describe_segments, described_as

SERIES_NUMBERS = {Contrast.T1C: 9001, Contrast.FLAIR: 9002}
"""Far above any scanner's own."""


def segment_on_source(stack: Stack, tumour: TumourMap, source: SourceVolume, contrast: Contrast) -> BoolArray:
    """Bring the tumour to a source series' own grid (planes, rows, columns).

    Raises AnalysisFailed where the series' grid and its headers, or the stack and T1C, do not belong together.
    """
    if contrast is Contrast.T1C and as_it_came(source, contrast):
        return _put_back(stack.geometry.with_array(tumour.mask.astype(np.uint8)), source) > 0
    return resample_mask(
        tumour.mask, stack_to_planes(stack, source, contrast), stack.spacing_mm, own_shape(source, contrast)
    )


def _put_back(mask: hd.Volume, source: SourceVolume) -> NDArray[np.uint8]:
    """Permute and flip a mask, or labels, on the stack's grid back to T1C's own."""
    matched = put_back(mask, source)
    if np.count_nonzero(matched.array) != np.count_nonzero(mask.array):
        raise AnalysisFailed("part of the tumour lies outside T1C's grid")
    return np.asarray(matched.array)


def parts_on_source(
    stack: Stack, labels: LabelMap, mask: BoolArray, source: SourceVolume, contrast: Contrast
) -> LabelMap:
    """Divide the tumour on a source series' own grid, which is `mask`, into parts; raises as `segment_on_source`."""
    if contrast is Contrast.T1C and as_it_came(source, contrast):
        return replace(labels, array=_put_back(stack.geometry.with_array(labels.array), source))
    to_planes = stack_to_planes(stack, source, contrast)
    return replace(labels, array=resample_labels(labels.array, mask, to_planes, stack.spacing_mm))


def build_seg(
    mask: BoolArray,
    source: SourceVolume,
    contrast: Contrast,
    tumour: TumourMap,
    origin: Origin,
    tracking_uid: str | None = None,
    parts: LabelMap | None = None,
) -> hd.seg.Segmentation:
    """Make the BINARY segmentation of a mask (planes, rows, columns) on a source series' own grid.

    `parts` divides the same mask; of those without a voxel there is no segment, as viewers choke on empty ones.
    """
    segments, pixels = [Segment.WHOLE], mask.astype(np.uint8)
    if parts is not None and parts.found:
        segments += parts.found
        pixels = np.stack([mask, *map(parts.mask_of, parts.found)], axis=-1).astype(np.uint8)
    return build_object(
        pixels,
        source,
        describe_segments(tumour, origin, tracking_uid, segments),
        origin,
        ("SEG", contrast),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        series_number=SERIES_NUMBERS[contrast],
        **described_as(contrast, several=len(segments) > 1),
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
    origin = origin_of(volumes, tumour, version, made_at, job.depends_on).also(job.engine, *earlier_input(job.earlier))
    known = known_tracking_uid(job)
    for contrast in SERIES_NUMBERS:
        kind, name, source = f"SEG {contrast}", f"seg_{contrast.lower()}", volumes[contrast]
        mask = segment_on_source(stack, tumour, source, contrast)
        parts = parts_on_source(stack, tumour.labels, mask, source, contrast) if tumour.labels else None
        seg = build_seg(mask, source, contrast, tumour, origin, known, parts)
        job.results[kind] = save(seg, job.output_folder / f"{name}.dcm")
        if labelmap:
            seg = build_labelmap(mask, source, contrast, tumour, origin, known, parts)
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
        write_segs(job, self._version, time_of(job, self._version, self._clock), **self._asked)
