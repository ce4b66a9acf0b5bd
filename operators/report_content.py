"""What the report page says, gathered from a job in one language; nothing of how it looks.

The only place beside the result objects' own headers that holds the patient's identity: no repr shows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pydicom import Dataset
from pydicom.multival import MultiValue

from operators.domain import Diameter, Findings, Marker, MarkerValue, Outcome, Selection
from operators.earlier import comparison_sentences
from operators.headers import calendar_date
from operators.integrated import read_together
from operators.language import Language
from operators.report_words import Words
from operators.results import PRODUCT, Origin
from operators.segment_table import SEGMENTS
from operators.slice_picture import LONG, OUTLINE, SHORT, key_slice
from operators.stage import Job, needed
from operators.statements import REACHES_EDGE, THE_TUMOUR, moment, strongest, volume_figure

TrainingData = Mapping[str, Mapping[str, str]]
"""By a model's version, and then by language: one line on what the model learnt from."""


@dataclass(frozen=True)
class Figure:
    """One number; without a unit the value is a remark in its place."""

    label: str
    value: str
    unit: str
    colour: str
    """As on the pictures."""
    range: str = ""
    """Where it would lie on a person's outline; empty where that is not known."""


@dataclass(frozen=True)
class PartLine:
    """One part of the tumour: its volume and diameters, or a remark in their place."""

    label: str
    colour: str
    """As on the pictures."""
    values: tuple[str, ...]
    found: bool


@dataclass(frozen=True)
class MarkerLine:
    """What is said of one marker."""

    alteration: str
    beside: str
    said: str
    value: MarkerValue
    reason: str
    probability: float | None
    open_between: tuple[float, float] | None


@dataclass(frozen=True)
class Suggestion:
    """What the markers suggest together."""

    text: str
    confirm: str


@dataclass(frozen=True)
class Content:
    """All that the page says."""

    words: Words = field(repr=False)
    identity: tuple[tuple[str, str], ...] = field(repr=False)
    """Labels and values; the first is the patient's name."""
    warnings: tuple[str, ...]
    checked: str
    """Stands in the place of warnings where there are none."""
    caption: str
    figures: tuple[Figure, ...]
    """Empty where no tumour was found."""
    parts: tuple[PartLine, ...]
    """Of the tumour, where the network tells them apart."""
    comparison: str
    """With an earlier examination; empty where there was none."""
    suggestion: Suggestion | None
    markers: tuple[MarkerLine, ...]
    models: tuple[tuple[str, str], ...]
    """Each model with its version, and what it learnt from."""
    sources: str
    made: str


def content_of(
    job: Job, header: Dataset, words: Words, language: Language, origin: Origin, data: TrainingData
) -> Content:
    """Gather a finished job's page; `header` is the source's, for the patient's identity."""
    findings, stack = needed(job.findings), needed(job.stack)
    place = {"index": key_slice(stack, findings) + 1, "count": stack.geometry.spatial_shape[0]}
    found = findings.tumour_mm3 > 0.0
    caption = [words.where.format(**place), *([words.outline] if found else []), words.side, *_remarks(findings, words)]
    doubts = [c.reason for c in job.checks if c.outcome is not Outcome.PASS]
    if findings.reaches_edge:
        doubts.append(REACHES_EDGE.format(what=THE_TUMOUR))
    warnings = tuple(_sentence(words.phrases(doubt)) for doubt in doubts)
    checked = words.no_warning.format(count=len(job.checks)) if job.checks else words.no_check
    return Content(
        words,
        tuple(identity_of(header, words)),
        warnings,
        checked,
        words.between.join(caption),
        tuple(_figures(findings, words)) if found else (),
        tuple(_parts(findings, words)) if found else (),
        _comparison(job, header, words),
        _suggestion(job.markers, words),
        tuple(_marker_line(marker, words) for marker in job.markers),
        tuple(_models(job, words, language, data)),
        _sources(job.selection, job.engine, words),
        _made(job, origin, words),
    )


def _remarks(findings: Findings, words: Words) -> Iterator[str]:
    """Say what the figures are of, where that does not go without saying."""
    if findings.parts > 1:
        yield words.parts.format(count=findings.parts)
    if findings.tumour_interval_mm3 is not None:
        yield words.range.format(percent=f"{findings.tumour_interval_mm3.level:.0%}")


def _made(job: Job, origin: Origin, words: Words) -> str:
    """Say who made the page and when, and which one it replaces."""
    made = words.made.format(product=PRODUCT, version=origin.version, when=origin.made_at.strftime("%Y-%m-%d %H:%M"))
    if job.replaces is None:
        return made
    return words.between.join([made, words.replaces.format(when=moment(job.replaces.made))])


def identity_of(header: Dataset, words: Words) -> Iterator[tuple[str, str]]:
    """Give who the patient is, as the source says it; what it does not say is empty."""
    yield words.patient, person(_text(header, "PatientName"))
    yield words.patient_id, _text(header, "PatientID")
    yield words.born, day(_text(header, "PatientBirthDate"))
    yield words.study_date, day(_text(header, "StudyDate"))
    yield words.accession, _text(header, "AccessionNumber")


def person(name: str) -> str:
    """Write a DICOM person name as people do: "Family, Given", or without comma in ideographs; both where both are."""
    alphabetic, ideographic, *_ = (*name.split("="), "", "")
    written = [_ordered(group) for group in (alphabetic, ideographic)]
    first, second = written
    return f"{first} ({second})" if first and second else first or second


def _ordered(group: str) -> str:
    """Order the components of one group: family, given, middle, prefix, suffix (PS3.5 section 6.2.1)."""
    family, *given = (part.strip() for part in group.split("^"))
    rest = " ".join(part for part in given if part)
    joint = "" if re.search(r"[\u3400-\u9fff]", group) else ", "
    return joint.join(part for part in (family, rest) if part)


def day(text: str) -> str:
    """Write a DICOM date (YYYYMMDD) as YYYY-MM-DD; anything else stays as it is."""
    found = re.fullmatch(r"(\d{4})\.?(\d{2})\.?(\d{2})", text)
    return "-".join(found.groups()) if found else text


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    # A backslash in a name makes several values of it.
    parts = value if isinstance(value, MultiValue) else [value]
    return "\\".join("" if part is None else str(part).strip() for part in parts)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _figures(findings: Findings, words: Words) -> Iterator[Figure]:
    cubic_mm, interval = findings.tumour_mm3, findings.tumour_interval_mm3
    range_ = "" if interval is None else f"{volume_figure(interval.low)}–{volume_figure(interval.high)}"
    yield Figure(words.volume, volume_figure(cubic_mm), "ml", OUTLINE, range_)
    for label, axis, colour in (
        (words.long_axis, findings.long_axis, LONG),
        (words.short_axis, findings.short_axis, SHORT),
    ):
        yield _diameter(label, axis, colour, words)


def _parts(findings: Findings, words: Words) -> Iterator[PartLine]:
    for segment, part in findings.segments.items():
        axes = (part.long_axis, part.short_axis)
        values = (
            f"{volume_figure(part.tumour_mm3)} ml",
            *(words.not_measured if axis is None else f"{axis.millimetres:.1f} mm" for axis in axes),
        )
        row, found = SEGMENTS[segment], part.tumour_mm3 > 0.0
        yield PartLine(words.phrases(row.label), row.web_colour, values if found else (words.part_not_found,), found)


def _comparison(job: Job, header: Dataset, words: Words) -> str:
    today = calendar_date(header, "StudyDate")
    if job.earlier is None or today is None:
        return ""
    tumour, findings = needed(job.tumour), needed(job.findings)
    sentences = comparison_sentences(job.earlier, findings, today, (tumour.model, tumour.model_version))
    return " ".join(map(words.phrases, sentences))


def _diameter(label: str, axis: Diameter | None, colour: str, words: Words) -> Figure:
    if axis is None:
        return Figure(label, words.not_measured, "", colour)
    ends = axis.interval_mm
    range_ = "" if ends is None else f"{ends.low:.1f}–{ends.high:.1f}"
    return Figure(label, f"{axis.millimetres:.1f}", "mm", colour, range_)


def _marker_line(marker: Marker, words: Words) -> MarkerLine:
    return MarkerLine(
        words.alterations[marker.name],
        words.beside.get(marker.name, ""),
        words.value_of(marker.name, marker.value),
        marker.value,
        _because(marker, words),
        marker.probability,
        marker.open_between,
    )


def _because(marker: Marker, words: Words) -> str:
    """Say why a marker is read so or not at all, and what moved the answer most where the model tells."""
    reason = _sentence(words.phrases(marker.reason))
    told = [f"{words.phrases(group)} ×{factor}" for group, factor in strongest(marker.moved_by)]
    moved = words.moved.format(groups=words.comma.join(told)) if told else ""
    return words.full_stop.join(filter(None, (reason, moved)))


def _suggestion(markers: Sequence[Marker], words: Words) -> Suggestion | None:
    """Read the markers together, where any was assessed."""
    if all(marker.probability is None for marker in markers):
        return None
    reading, say = read_together(markers), words.phrases
    beside = []
    if reading.probability is not None:
        beside.append(words.weakest.format(percent=f"{reading.probability:.0%}"))
    if reading.grade_probability is not None:
        beside.append(words.grade.format(hint=say(reading.grade_hint), percent=f"{reading.grade_probability:.0%}"))
    if reading.to_confirm:
        beside.append(words.confirm.format(tests=words.tests.join(map(say, reading.to_confirm))))
    return Suggestion(say(reading.text), " ".join(beside))


def _models(job: Job, words: Words, language: Language, data: TrainingData) -> Iterator[tuple[str, str]]:
    """Name every model that spoke or kept silent, once, the segmenting one first."""
    tumour = needed(job.tumour)
    named = {(tumour.model, tumour.model_version): words.outlines}
    named |= {(m.model, m.model_version): words.alterations[m.name] for m in job.markers if m.model}
    for (name, version), purpose in named.items():
        said = data.get(version, {})
        yield (
            words.model.format(name=name, version=version, purpose=purpose),
            said.get(language) or said.get("en") or words.data_unknown,
        )


def _sources(selection: Selection | None, engine: str, words: Words) -> str:
    """Say which series were used, and what ran the network."""
    chosen = selection.chosen if selection else {}
    numbers = (
        f"{contrast} {words.unnumbered if verdict.series.number is None else verdict.series.number}"
        for contrast, verdict in sorted(chosen.items())
    )
    parts = [words.series.format(numbers=", ".join(numbers))] if chosen else []
    return words.between.join([*parts, *([words.engine.format(engine=engine)] if engine else [])])
