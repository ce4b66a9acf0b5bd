"""Read what an earlier report of this node said of the same patient, and compare.

Only reports of this node are read: another's volume may be of another part of the tumour.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date

from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import Comprehensive3DSRStorage

from models.segments import Segment
from operators import codes
from operators.domain import Earlier, Findings
from operators.headers import calendar_date
from operators.results import PRODUCT
from operators.segment_table import SEGMENTS
from operators.segmentation_form import LABEL_MAP_STORAGE
from operators.statements import percent_figure, volume_figure

_EVIDENCE = ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
OTHER_METHOD = "Then another model or version measured: some of the change may be the method's."


@dataclass(frozen=True)
class Change:
    """From then to now."""

    days: int
    percent: float | None
    """Of the volume then; None where there was none then."""


def volume_then(earlier: Earlier, segment: Segment) -> float:
    """Return the volume that a segment had, in ml."""
    return earlier.tumour_ml if segment is Segment.WHOLE else earlier.parts_ml[segment]


def comparable(earlier: Earlier, findings: Findings) -> dict[Segment, float]:
    """Give the volume now, in mm3, of each segment that was looked for then too: the whole, and like with like."""
    parts = {s: part.tumour_mm3 for s, part in findings.segments.items() if s in earlier.parts_ml}
    return {Segment.WHOLE: findings.tumour_mm3, **parts}


def change_since(earlier: Earlier, now_mm3: float, today: date, segment: Segment = Segment.WHOLE) -> Change:
    """Compare a segment's volumes."""
    then = volume_then(earlier, segment) * 1000.0
    percent = 100.0 * (now_mm3 - then) / then if then > 0.0 else None
    return Change((today - earlier.examined_on).days, percent)


def comparison_sentences(earlier: Earlier, findings: Findings, today: date, model: tuple[str, str]) -> list[str]:
    """Say what was, what is and what changed; `model` is the name and version that measures now."""
    said = []
    for segment, now_mm3 in comparable(earlier, findings).items():
        change, label = change_since(earlier, now_mm3, today, segment), SEGMENTS[segment].label
        then, now = (f"{volume_figure(mm3)} ml" for mm3 in (1000.0 * volume_then(earlier, segment), now_mm3))
        percent = "" if change.percent is None else f", {percent_figure(change.percent)}"
        if segment is Segment.WHOLE:
            days = f"{change.days} day" if change.days == 1 else f"{change.days} days"
            said.append(f"{label} {then} on {earlier.examined_on.isoformat()}, {now} now{percent} in {days}.")
        else:
            said.append(f"{label}: {then} then, {now} now{percent}.")
    if (earlier.model, earlier.model_version) != model:
        said.append(OTHER_METHOD)
    return said


def latest_before(reports: Iterable[Dataset], header: Dataset) -> Earlier | None:
    """Choose the report of the patient's latest examination before that of `header`; None where there is none.

    Of several reports of one examination the one made last counts; of two of one analysis, one on BINARY and one on
    LABELMAP segmentations, the former, as every node has it, whatever its PACS got.
    """
    today = calendar_date(header, "StudyDate")
    if today is None:
        return None
    found = []
    for report in reports:
        if is_ours(report) and same_patient(report, header) and report.StudyInstanceUID != header.StudyInstanceUID:
            earlier = read_earlier(report)
            if earlier is not None and earlier.examined_on < today:
                made = f"{report.ContentDate}{report.ContentTime}"
                rank = (earlier.examined_on, made, not _on_labelmaps(report), earlier.report_uid)
                found.append((rank, earlier))
    return max(found, key=lambda entry: entry[0])[1] if found else None


def _on_labelmaps(report: Dataset) -> bool:
    """Say whether a report refers to segmentations as label maps."""
    return any(
        reference.get("ReferencedSOPClassUID") == LABEL_MAP_STORAGE
        for evidence in _EVIDENCE
        for study in report.get(evidence, ())
        for series in study.get("ReferencedSeriesSequence", ())
        for reference in series.get("ReferencedSOPSequence", ())
    )


def is_ours(report: Dataset) -> bool:
    """Say whether a dataset is a report that this node made."""
    return (
        report.get("SOPClassUID") == Comprehensive3DSRStorage
        and report.get("Manufacturer") == PRODUCT
        and _is_named(report, codes.REPORT_TITLE)
    )


def same_patient(one: Dataset, other: Dataset) -> bool:
    """Say whether two objects are of one patient: the same Patient ID, and nothing that speaks against it.

    Hospitals reuse identifiers of each other's; issuer and birth date tell them apart where they are there.
    """
    first, second = (_identity(header) for header in (one, other))
    return (
        bool(first[0])
        and first[0] == second[0]
        and all(not a or not b or a == b for a, b in zip(first[1:], second[1:], strict=True))
    )


def _identity(header: Dataset) -> tuple[str, ...]:
    names = ("PatientID", "IssuerOfPatientID", "PatientBirthDate")
    return tuple(str(header.get(name) or "").strip() for name in names)


def read_earlier(report: Dataset) -> Earlier | None:
    """Read a report's tumour; None where it holds neither a volume nor that no tumour was found."""
    examined_on = calendar_date(report, "StudyDate")
    if examined_on is None:
        return None
    # A report that compares holds the volumes of both examinations: the other's is marked as such.
    groups = [group for group in _groups(report) if _number(group, codes.DAYS_BETWEEN) is None]
    for group in groups:
        volume = _number(group, codes.VOLUME)
        missing = _code(group, codes.TUMOUR_DETECTION) == codes.NOT_DETECTED.value
        if (volume is None and not missing) or _part_of(group) is not None:
            continue
        return Earlier(
            examined_on=examined_on,
            study_uid=str(report.StudyInstanceUID),
            tumour_ml=volume or 0.0,
            long_axis_mm=_number(group, codes.LONG_AXIS),
            short_axis_mm=_number(group, codes.SHORT_AXIS),
            tracking_uid=None if missing else _tracking_uid(group),
            model=_text(group, codes.ALGORITHM_NAME),
            model_version=_text(group, codes.ALGORITHM_VERSION),
            report_uid=str(report.SOPInstanceUID),
            parts_ml={part: ml for part, ml in map(_part_volume, groups) if part is not None and ml is not None},
        )
    return None


def _part_of(group: Dataset) -> Segment | None:
    """Say which part of the tumour a group is on; None where it is on the whole, or on something else."""
    found = _code(group, codes.FINDING)
    return next((s for s, row in SEGMENTS.items() if row.code.value == found and s is not Segment.WHOLE), None)


def _part_volume(group: Dataset) -> tuple[Segment | None, float | None]:
    """Read the volume of a part in ml; 0 where it was not found."""
    missing = _code(group, codes.PART_DETECTION) == codes.NOT_DETECTED.value
    return _part_of(group), 0.0 if missing else _number(group, codes.VOLUME)


def _groups(report: Dataset) -> Iterator[Dataset]:
    """Give every measurement group (TID 1411, 1501)."""
    for part in report.get("ContentSequence", ()):
        if _is_named(part, codes.IMAGING_MEASUREMENTS):
            yield from (g for g in part.get("ContentSequence", ()) if _is_named(g, codes.MEASUREMENT_GROUP))


def _is_named(item: Dataset, name: Code) -> bool:
    concept = item.get("ConceptNameCodeSequence")
    return bool(concept) and (concept[0].get("CodeValue"), concept[0].get("CodingSchemeDesignator")) == (
        name.value,
        name.scheme_designator,
    )


def _item(group: Dataset, name: Code) -> Dataset | None:
    return next((item for item in group.get("ContentSequence", ()) if _is_named(item, name)), None)


def _number(group: Dataset, name: Code) -> float | None:
    item = _item(group, name)
    values = item.get("MeasuredValueSequence") if item is not None else None
    return float(values[0].NumericValue) if values else None


def _code(group: Dataset, name: Code) -> str:
    item = _item(group, name)
    return str(item.ConceptCodeSequence[0].CodeValue) if item is not None else ""


def _text(group: Dataset, name: Code) -> str:
    item = _item(group, name)
    return str(item.TextValue) if item is not None else ""


def _tracking_uid(group: Dataset) -> str | None:
    item = _item(group, codes.TRACKING_UID)
    return str(item.UID) if item is not None else None
