"""The report's groups on the tumour and on each of its parts: what was measured, or that nothing was found.

A TID 1411 group refers to its segment. A label map has no segment for a union of parts, as a voxel has one label only:
there the whole tumour and the core are reported in TID 1501 groups, which say of which parts they are the union.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from typing import Any

from highdicom import sr
from pydicom import Dataset

from models.segments import Segment
from operators import codes
from operators.domain import Findings, Interval, Stack, TumourMap
from operators.results import Origin, part_uid
from operators.segment_table import SEGMENTS
from operators.stage import Job, needed
from operators.statements import (
    NO_PART,
    NO_SEGMENT_OF_ITS_OWN,
    NO_TUMOUR,
    REACHES_EDGE,
    SEVERAL_PARTS,
    SEVERAL_REGIONS,
    THE_TUMOUR,
    THIS_PART,
    TRUST_UNKNOWN,
    UNCERTAINTY,
    UNION,
    millilitres,
    tenths,
)
from operators.write_comparison import SECOND, time_point
from operators.write_parts import add_uncertainty, identify, text_item

Group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations | sr.MeasurementsAndQualitativeEvaluations


def tumour_groups(
    job: Job, seg: Dataset, lesion: str, origin: Origin, compared_on: date | None = None
) -> Iterator[Group]:
    """Report the whole tumour and then each part, found or not; where there is no tumour, only that.

    `seg` is the segmentation that is referred to, `lesion` the lesion's tracking UID. `compared_on` is the date of this
    examination where the report compares it with an earlier one: then each group is at the second time point.
    """
    stack, tumour, findings = needed(job.stack), needed(job.tumour), needed(job.findings)
    if findings.tumour_mm3 == 0.0:
        yield no_tumour_group(tumour, origin, compared_on)
        return
    yield segment_group(Segment.WHOLE, findings, stack, tumour, seg, lesion, compared_on)
    for segment, measured in findings.segments.items():
        if measured.tumour_mm3 > 0.0:
            yield segment_group(segment, measured, stack, tumour, seg, lesion, compared_on)
        else:
            yield no_part_group(segment, tumour, lesion, compared_on)


def _second(compared_on: date | None) -> sr.TimePointContext | None:
    return None if compared_on is None else time_point(compared_on, SECOND)


def tracking_of(segment: Segment, lesion: str) -> sr.TrackingIdentifier:
    """Name a lesion or a part of it, the same in every examination; `lesion` is the lesion's own tracking UID."""
    uid = lesion if segment is Segment.WHOLE else part_uid(lesion, segment)
    return sr.TrackingIdentifier(uid=uid, identifier=SEGMENTS[segment].label)


def segment_group(
    segment: Segment,
    findings: Findings,
    stack: Stack,
    tumour: TumourMap,
    seg: Dataset,
    lesion: str,
    compared_on: date | None = None,
) -> Group:
    """Report one segment's measurements against it (TID 1411), or a union's that has no segment (TID 1501)."""
    described: dict[str, Any] = {
        "tracking_identifier": tracking_of(segment, lesion),
        "time_point_context": _second(compared_on),
        "finding_category": codes.ABNORMAL_STRUCTURE,
        "finding_type": SEGMENTS[segment].code,
        "finding_sites": [sr.FindingSite(anatomic_location=codes.BRAIN)],
        "algorithm_id": identify(tumour.model, tumour.model_version),
        "measurements": list(_measurements(findings)),
    }
    number = _number_of(segment, seg)
    if number is None:
        group: Group = sr.MeasurementsAndQualitativeEvaluations(**described)
    else:
        source = sr.SourceSeriesForSegmentation(seg.ReferencedSeriesSequence[0].SeriesInstanceUID)
        reference = sr.ReferencedSegment(seg.SOPClassUID, seg.SOPInstanceUID, number, source_series=source)
        group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=reference, **described)
    said = [*_how_measured(segment, findings, stack, tumour), *_union(segment, tumour, has_segment=number is not None)]
    for sentence in said:
        group[0].ContentSequence.append(text_item(codes.COMMENT, sentence))
    return group


def _number_of(segment: Segment, seg: Dataset) -> int | None:
    """Find a segment in a segmentation; None where it has none for it."""
    label = SEGMENTS[segment].label
    return next((int(item.SegmentNumber) for item in seg.SegmentSequence if item.SegmentLabel == label), None)


def _measurements(findings: Findings) -> Iterator[sr.Measurement]:
    ml = millilitres(findings.tumour_mm3)
    volume = sr.Measurement(codes.VOLUME, ml, codes.MILLILITRE, method=codes.VOXEL_SUM)
    yield add_uncertainty(volume, ml, _limits(findings.tumour_interval_mm3, millilitres), codes.MILLILITRE)
    for name, axis in ((codes.LONG_AXIS, findings.long_axis), (codes.SHORT_AXIS, findings.short_axis)):
        if axis is not None:
            length = sr.Measurement(name, tenths(axis.millimetres), codes.MILLIMETRE)
            limits = _limits(axis.interval_mm, tenths)
            yield add_uncertainty(length, tenths(axis.millimetres), limits, codes.MILLIMETRE)


def _limits(interval: Interval | None, rounded: Callable[[float], float]) -> tuple[float, float] | None:
    return None if interval is None else (rounded(interval.low), rounded(interval.high))


def _how_measured(segment: Segment, findings: Findings, stack: Stack, tumour: TumourMap) -> Iterator[str]:
    """Say what the figures are of, and how far they can be trusted."""
    whole = segment is Segment.WHOLE
    if findings.slice_index is not None:
        yield _where_measured(stack, findings.slice_index, "the tumour" if whole else "this part")
    if findings.reaches_edge:
        yield REACHES_EDGE.format(what=THE_TUMOUR if whole else THIS_PART)
    if findings.parts > 1:
        # Where the network tells parts apart, "parts" are those.
        yield (SEVERAL_PARTS if tumour.labels is None else SEVERAL_REGIONS).format(count=findings.parts)
    if findings.tumour_interval_mm3 is not None:
        yield UNCERTAINTY.format(percent=f"{findings.tumour_interval_mm3.level:.0%}")
    elif not whole:
        yield TRUST_UNKNOWN


def _where_measured(stack: Stack, index: int, within: str) -> str:
    return (
        f"Both axes lie in axial plane {index + 1} of {stack.geometry.spatial_shape[0]} through T1C, counted from the "
        f"feet. The short axis is the longest line at a right angle to the long axis that stays inside {within}."
    )


def _union(segment: Segment, tumour: TumourMap, *, has_segment: bool) -> Iterator[str]:
    """Say of which parts a segment is the union, where the network tells parts apart."""
    if tumour.labels is None or segment in tumour.labels.legend:
        return
    parts = [SEGMENTS[p].label.lower() for p in tumour.labels.parts_of(segment) if p in tumour.labels.found]
    yield UNION.format(whole=SEGMENTS[segment].label.lower(), parts=", ".join(parts))
    if not has_segment:
        yield NO_SEGMENT_OF_ITS_OWN


def no_tumour_group(tumour: TumourMap, origin: Origin, compared_on: date | None = None) -> Group:
    """Report that no tumour was found (TID 1501)."""
    group = sr.MeasurementsAndQualitativeEvaluations(
        sr.TrackingIdentifier(uid=origin.uid("tracking", "detection"), identifier="Tumour detection"),
        time_point_context=_second(compared_on),
        finding_sites=[sr.FindingSite(anatomic_location=codes.BRAIN)],
        algorithm_id=identify(tumour.model, tumour.model_version),
        qualitative_evaluations=[sr.QualitativeEvaluation(codes.TUMOUR_DETECTION, codes.NOT_DETECTED)],
    )
    group[0].ContentSequence.append(text_item(codes.COMMENT, NO_TUMOUR))
    return group


def no_part_group(segment: Segment, tumour: TumourMap, lesion: str, compared_on: date | None = None) -> Group:
    """Report that a part which the network can tell was not found in the tumour (TID 1501)."""
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_of(segment, lesion),
        time_point_context=_second(compared_on),
        finding_category=codes.ABNORMAL_STRUCTURE,
        finding_type=SEGMENTS[segment].code,
        finding_sites=[sr.FindingSite(anatomic_location=codes.BRAIN)],
        algorithm_id=identify(tumour.model, tumour.model_version),
        qualitative_evaluations=[sr.QualitativeEvaluation(codes.PART_DETECTION, codes.NOT_DETECTED)],
    )
    group[0].ContentSequence.append(text_item(codes.COMMENT, NO_PART))
    return group
