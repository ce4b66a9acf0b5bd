"""Write the report: a Comprehensive 3D SR of what was measured, predicted, and left open.

It is written last, and is the root of the set: its evidence (PS3.3 C.17.2) names every other result beside the images,
so that whoever has the report finds all of them, as IHE AI Results wants.

TID 1500 with the title of CID 7021 that viewers show as text; one TID 1411 group for each segment, one TID 1501
group for each marker, as IHE AI Results wants every result under a tracking identifier of its own. TID 1500 and
1501 are extensible (PS3.16): limits of use, series used and notes are TEXT items under concepts of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from typing import Any

import highdicom as hd
import pydicom
from highdicom import sr
from pydicom import Dataset

from operators import codes
from operators.domain import Check, Marker, MarkerValue, Outcome, Selection
from operators.earlier import comparable, comparison_sentences
from operators.headers import calendar_date
from operators.integrated import read_together
from operators.report_identity import SERIES_NUMBER, report_origin, time_of
from operators.results import Origin, anonymous, finish, headers_of, save, writable
from operators.revision import as_previous_version, replaced_by
from operators.segmentation_form import LABELMAP_TWINS, Form
from operators.stage import Job, StageOperator, needed
from operators.statements import LIKELY, LIMITS_OF_USE, MARKER_LABELS, MOVED, REPLACES, moment, strongest
from operators.write_comparison import comparison_group
from operators.write_labelmap import SERIES_NUMBERS as LABELMAP_SERIES_NUMBERS
from operators.write_parts import identify, in_english, observer, private_scheme, separate, text_item
from operators.write_sr_groups import Group, tracking_of, tumour_groups

_NAMED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")

Writable = Callable[[str], str]


def marker_group(marker: Marker, origin: Origin, as_text: Writable = str) -> Group:
    """Report one marker (TID 1501): its value and how certain that is, or that it was not assessed and why.

    The marker's probability is that of the alteration.
    """
    label, alteration = MARKER_LABELS[marker.name]
    group = sr.MeasurementsAndQualitativeEvaluations(
        sr.TrackingIdentifier(uid=origin.uid("tracking", marker.name), identifier=label),
        algorithm_id=identify(marker.model, marker.model_version) if marker.model else None,
        measurements=_certainty(marker),
        qualitative_evaluations=[
            sr.QualitativeEvaluation(codes.MARKER_CONCEPTS[marker.name], codes.marker_value(marker.name, marker.value))
        ],
    )
    said = "Not assessed" if marker.probability is None else f"Probability of {alteration} {marker.probability:.0%}"
    if (marker.name, marker.value) in LIKELY:
        said = f"{LIKELY[marker.name, marker.value].capitalize()}. {said}"
    comment = f"{said}: {marker.reason}" if marker.reason else said
    if told := strongest(marker.moved_by):
        comment += ". " + MOVED.format(groups=", ".join(f"{group} x {factor}" for group, factor in told))
    group[0].ContentSequence.append(text_item(codes.COMMENT, as_text(comment)))
    return group


def _certainty(marker: Marker) -> list[sr.Measurement]:
    """How certain an assessed marker is, in percent; an indeterminate one claims no certainty of a value."""
    if marker.probability is None:
        return []
    said = {codes.PROBABILITY: marker.probability}
    if marker.coverage is not None:
        said[codes.COVERAGE] = marker.coverage
    if marker.value is not MarkerValue.INDETERMINATE:
        altered = marker.value is MarkerValue.ALTERED
        said[codes.CERTAINTY] = marker.probability if altered else 1.0 - marker.probability
    return [sr.Measurement(name, round(100.0 * share, 1), codes.PERCENT) for name, share in said.items()]


def closing_items(selection: Selection | None, notes: Sequence[str], as_text: Writable) -> Iterator[sr.TextContentItem]:
    """Say which series were used and why, and what was seen in reading and preprocessing them."""
    chosen = selection.chosen if selection else {}
    for contrast in sorted(chosen):
        verdict = chosen[contrast]
        series = f"series {verdict.series.number}" if verdict.series.number is not None else "an unnumbered series"
        described = f'{contrast}: {series}, "{verdict.series.description}": {verdict.reason}'
        yield text_item(codes.SERIES_USED, as_text(described))
    for note in notes:
        yield text_item(codes.PROCESSING_NOTE, as_text(note))


def _engine_note(job: Job) -> tuple[str, ...]:
    """Say what ran the network: another engine or precision may place a voxel at the edge differently."""
    return (f"The segmenting network ran on {job.engine}.",) if job.engine else ()


def _revision_note(job: Job) -> tuple[str, ...]:
    """Say that an earlier result of the same study no longer holds."""
    if job.replaces is None:
        return ()
    return (REPLACES.format(when=moment(job.replaces.made)),)


def quality_items(checks: Sequence[Check]) -> Iterator[sr.TextContentItem]:
    """Say what the quality checks warn of."""
    for check in checks:
        if check.outcome is Outcome.WARN:
            yield text_item(codes.QUALITY_WARNING, f"{check.name}: {check.reason}")


def reading_items(markers: Sequence[Marker]) -> Iterator[sr.TextContentItem]:
    """Say what the markers suggest together, where any was assessed."""
    if any(marker.probability is not None for marker in markers):
        yield text_item(codes.INTEGRATED_READING, str(read_together(markers)))


def comparison_items(job: Job) -> Iterator[sr.TextContentItem]:
    """Say in a sentence what has changed since the earlier examination, where there was one."""
    if job.earlier is not None:
        tumour = needed(job.tumour)
        model = (tumour.model, tumour.model_version)
        said = comparison_sentences(job.earlier, needed(job.findings), _today(job), model)
        yield text_item(codes.COMPARISON, " ".join(said))


def _earlier_groups(job: Job, lesion: str) -> Iterator[Group]:
    """Report the earlier examination's tumour, and its parts that are told apart now too, under their tracking UIDs.

    Each is a TID 1501 group.
    """
    if job.earlier is not None:
        algorithm = identify(job.earlier.model or "unknown", job.earlier.model_version)
        for segment, now_mm3 in comparable(job.earlier, needed(job.findings)).items():
            tracking = tracking_of(segment, job.earlier.tracking_uid or lesion)
            yield comparison_group(job.earlier, segment, now_mm3, _today(job), tracking, algorithm)


def _today(job: Job) -> date:
    """Return the date of this examination; a job that is compared has one."""
    return needed(calendar_date(headers_of(needed(job.volumes))[0], "StudyDate"))


def build_report(job: Job, seg: Dataset, lesion: str, origin: Origin, as_text: Writable = str) -> sr.MeasurementReport:
    """Lay the report out in the order in which it is read (TID 1500); `lesion` is the lesion's tracking UID."""
    stack = needed(job.stack)
    compared_on = None if job.earlier is None else _today(job)
    now, then = tumour_groups(job, seg, lesion, origin, compared_on), _earlier_groups(job, lesion)
    report = sr.MeasurementReport(
        observer(origin),
        codes.BRAIN_MRI,
        [*now, *then, *(marker_group(marker, origin, as_text) for marker in job.markers)],
        title=codes.REPORT_TITLE,
        language_of_content_item_and_descendants=in_english(),
    )
    content = report[0].ContentSequence
    # Ahead of the measurements, which come last: nobody should read those first.
    limits = text_item(codes.LIMITS_OF_USE, LIMITS_OF_USE)
    for item in (limits, *quality_items(job.checks), *comparison_items(job), *reading_items(job.markers)):
        content.insert(len(content) - 1, item)
    notes = (*job.notes, *stack.notes, *_engine_note(job), *_revision_note(job))
    content.extend(closing_items(job.selection, notes, as_text))
    separate(report[0])
    return report


def build_sr(
    job: Job, segs: Sequence[Dataset], lesion: str, origin: Origin, form: Form = "binary"
) -> sr.Comprehensive3DSR:
    """Make the report object, and note in the job what it replaces; `segs` are those written, the first on T1C.

    What else was written is named as evidence. The report on label maps is an object of its own, in its own series.
    """
    headers = headers_of(needed(job.volumes))
    patient = headers[0]
    kind, number = ["SR"], SERIES_NUMBER
    if form == "labelmap":
        kind, number = ["SR", form], LABELMAP_SERIES_NUMBERS["SR"]
    own_uid = origin.uid("instance", *kind)
    job.replaces = replaced_by(own_uid, number, job.predecessors)
    result = sr.Comprehensive3DSR(
        evidence=[*map(anonymous, headers), *segs, *_others(job)],
        content=build_report(job, segs[0], lesion, origin, lambda text: writable(text, patient)),
        series_instance_uid=origin.uid("series", *kind),
        series_number=number,
        sop_instance_uid=own_uid,
        instance_number=1,
        is_complete=True,
        previous_versions=as_previous_version(job.replaces),
        series_description="AI glioma report (research)",
        coding_schemes=[private_scheme()],
        contributing_equipment=[hd.ContributingEquipment(**origin.equipment)],
        **origin.device,
        **origin.stamps,
    )
    finish(result, patient, origin)
    return result


def write_sr(job: Job, version: str, made_at: datetime) -> None:
    """Write a job's report into its output folder and list it in its results; all other results come first.

    Where there are label maps too, a second report refers to those: a reference resolves only to what a PACS gets.
    """
    origin = report_origin(job, version, made_at)
    kinds = ("SEG T1C", "SEG FLAIR")
    binary = _segs(job, *kinds)
    lesion = str(binary[0].SegmentSequence[0].TrackingUID)
    if LABELMAP_TWINS[kinds[0]] in job.results:
        segs = _segs(job, *(LABELMAP_TWINS[kind] for kind in kinds))
        job.results[LABELMAP_TWINS["SR"]] = save(
            build_sr(job, segs, lesion, origin, "labelmap"), job.output_folder / "sr_labelmap.dcm"
        )
    # Last: what this one replaces is what the page speaks of.
    job.results["SR"] = save(build_sr(job, binary, lesion, origin), job.output_folder / "sr.dcm")


def _segs(job: Job, *kinds: str) -> list[Dataset]:
    return [pydicom.dcmread(job.results[kind], stop_before_pixels=True) for kind in kinds]


def _others(job: Job) -> list[Dataset]:
    """Read who the results are that belong to both forms of the report: not the segmentations in the one or the other.

    What is read is what evidence has of an object.
    """
    forms = {*LABELMAP_TWINS, *LABELMAP_TWINS.values()}
    paths = (path for kind, path in job.results.items() if path.suffix == ".dcm" and kind not in forms)
    return [pydicom.dcmread(path, specific_tags=list(_NAMED)) for path in paths]


class WriteSrOperator(StageOperator):
    """All findings, and all results written, to the report."""

    def __init__(self, fragment: Any, *args: Any, version: str, clock: Callable[[], datetime], **kwargs: Any) -> None:
        self._version, self._clock = version, clock
        super().__init__(fragment, *args, **kwargs)

    def process(self, job: Job) -> None:
        """Add "SR" to `job.results`, and "SR labelmap" where label maps were written."""
        write_sr(job, self._version, time_of(job, self._version, self._clock))
