"""What the report says of an earlier examination: a measurement group of its own, at its own time point.

TID 1501 with TID 1502 (time point context). The lesion keeps its tracking UID from examination to examination, so a
reader of both reports can put them side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from highdicom import sr

from models.segments import Segment
from operators import codes
from operators.domain import Earlier
from operators.earlier import change_since, volume_then
from operators.segment_table import SEGMENTS

FIRST, SECOND = 1, 2
"""Order of the two time points."""


def time_point(examined_on: date, order: int) -> sr.TimePointContext:
    """Name an examination by its date (TID 1502)."""
    return sr.TimePointContext(
        time_point=examined_on.isoformat(),
        time_point_order=order,
        subject_time_point_identifier=examined_on.isoformat(),
    )


def comparison_group(
    earlier: Earlier,
    segment: Segment,
    now_mm3: float,
    today: date,
    tracking: sr.TrackingIdentifier,
    algorithm: sr.AlgorithmIdentification,
) -> sr.MeasurementsAndQualitativeEvaluations:
    """Report what was measured of a segment then, how long ago that is, and how its volume has changed since."""
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking,
        time_point_context=time_point(earlier.examined_on, FIRST),
        finding_category=codes.ABNORMAL_STRUCTURE,
        finding_type=SEGMENTS[segment].code,
        finding_sites=[sr.FindingSite(anatomic_location=codes.BRAIN)],
        algorithm_id=algorithm,
        measurements=list(_measurements(earlier, segment, now_mm3, today)),
    )
    text = sr.TextContentItem(
        codes.COMMENT, f"Earlier examination, from its report {earlier.report_uid}", sr.RelationshipTypeValues.CONTAINS
    )
    group[0].ContentSequence.append(text)
    return group


def _measurements(earlier: Earlier, segment: Segment, now_mm3: float, today: date) -> Iterator[sr.Measurement]:
    yield sr.Measurement(codes.VOLUME, volume_then(earlier, segment), codes.MILLILITRE, method=codes.VOXEL_SUM)
    if segment is Segment.WHOLE:
        for name, length in ((codes.LONG_AXIS, earlier.long_axis_mm), (codes.SHORT_AXIS, earlier.short_axis_mm)):
            if length is not None:
                yield sr.Measurement(name, length, codes.MILLIMETRE)
    change = change_since(earlier, now_mm3, today, segment)
    yield sr.Measurement(codes.DAYS_BETWEEN, change.days, codes.DAY)
    if change.percent is not None:
        yield sr.Measurement(codes.VOLUME_CHANGE, round(change.percent, 1) + 0.0, codes.PERCENT)  # never -0
