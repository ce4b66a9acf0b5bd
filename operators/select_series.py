"""Find T1, T1C, T2 and FLAIR among a study's series, and say of each series what it was taken for and why.

Facts go before words: modality and image type, then physics, then the description, in whatever language; words and
physics that contradict each other make a series unusable. Contrast agent that nobody wrote down is inferred from
the order of acquisition. Reasons never quote a description, for somebody may have typed a name into it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydicom import Dataset

from operators.domain import REQUIRED, Contrast, Selection, Series, Study, Verdict
from operators.errors import MissingSequence
from operators.headers import b_value, first, number, values
from operators.series_geometry import coverage_mm, plane, slice_count
from operators.series_words import forbidden_kind, read_agent, read_words
from operators.stage import Job, StageOperator, needed

IMAGE_TYPES = {
    "LOCALIZER": "localizer", "ADC": "ADC map", "DIFFUSION": "diffusion", "TRACEW": "diffusion",
    "FA": "diffusion tensor",
    "PERFUSION": "perfusion", "ASL": "perfusion", "CBF": "perfusion", "RCBF": "perfusion", "RCBV": "perfusion",
    "TTP": "perfusion", "MTT": "perfusion", "SUBTRACTION": "derived", "SUBTRACT": "derived",
    "PROJECTION IMAGE": "derived",
    "MPR": "derived", "MIN IP": "derived", "MIP": "derived", "PHASE MAP": "phase image", "P": "phase image",
    "VELOCITY": "angiography", "SWI": "susceptibility", "FMRI": "functional",
}  # fmt: skip
"""Values of Image Type (0008,0008) that no wanted series has."""
NO_AGENT = {"", "no", "n", "none", "no contrast", "without", "nein", "non", "0", "unknown"}
LEAST_COVERAGE_MM = 80.0
"""A series that covers less of the head is taken only where nothing better is there."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One series as the rules see it."""

    series: Series
    kind: str
    """A contrast's name, or what else it is."""
    reason: str
    sure: bool = True
    """For T1: whether it is known if contrast agent had been given."""


def select_series(study: Study) -> Selection:
    """Choose a series for each contrast.

    Raises MissingSequence where T1C or FLAIR has none, listing what was seen.
    """
    selection, candidates = _assess(study)
    missing = [c for c in REQUIRED if c not in selection.chosen]
    if missing:
        names = " and ".join(f"no {c}" for c in missing)
        seen = "; ".join(f"{_label(c.series)} {c.kind}" for c in candidates)
        raise MissingSequence(f"the study has {names}; send {' and '.join(missing)}. Seen: {seen}")
    return selection


def assess(study: Study) -> Selection:
    """Choose as `select_series` does, without an error where a contrast is missing."""
    return _assess(study)[0]


def recognised(study: Study) -> frozenset[Contrast]:
    """Say which contrasts a study that may still be arriving has so far."""
    return frozenset(_assess(study)[0].chosen)


def _assess(study: Study) -> tuple[Selection, list[Candidate]]:
    candidates = settle_agent([classify(series) for series in study.series])
    chosen = {c: max(found, key=_rank) for c in Contrast if (found := [k for k in candidates if k.kind == c])}
    verdicts = tuple(_verdict(candidate, chosen) for candidate in candidates)
    return Selection({v.contrast: v for v in verdicts if v.contrast is not None}, verdicts), candidates


def _verdict(candidate: Candidate, chosen: dict[Contrast, Candidate]) -> Verdict:
    best = chosen.get(Contrast(candidate.kind)) if candidate.kind in set(Contrast) else None
    if best is candidate:
        return Verdict(candidate.series, Contrast(candidate.kind), candidate.reason, candidate.kind)
    if best is None:
        return Verdict(candidate.series, None, f"{candidate.kind}: {candidate.reason}", candidate.kind)
    reason = f"{candidate.kind}, but {_label(best.series)} is {_advantage(best, candidate)}"
    return Verdict(candidate.series, None, reason, candidate.kind)


def classify(series: Series) -> Candidate:
    """Say what one series is by itself; whether T1 came after contrast agent may stay open."""
    for rule in (_by_modality, _by_image_type, _by_physics, _by_words):
        kind, reason = rule(series)
        if kind:
            return Candidate(series, kind, reason)
    contrast, reason = _contrast(series)
    if contrast is not Contrast.T1:
        return Candidate(series, str(contrast or "unknown"), reason)
    return _with_agent(series, reason)


def _by_modality(series: Series) -> tuple[str, str]:
    if series.modality != "MR":
        return "other modality", f"modality is {series.modality or 'not given'}, not MR"
    if "Rows" not in series.header:
        return "no image", "holds no pixel data"
    if slice_count(series) < 3:
        return "too few slices", f"has {slice_count(series)} of the 3 slices a volume needs"
    if re.search("SPINE", str(series.header.get("BodyPartExamined", "")).upper()):
        return "spine", "body part examined is the spine"
    return "", ""


def _by_image_type(series: Series) -> tuple[str, str]:
    for value in values(series.header, "ImageType"):
        kind = IMAGE_TYPES.get(value.upper().strip()) or (
            "diffusion" if value.upper().startswith("DIFFUSION") else None
        )
        if kind:
            return kind, f"image type (0008,0008) holds {value.upper()}"
    return "", ""


def _by_physics(series: Series) -> tuple[str, str]:
    header = series.header
    weighting = b_value(header)
    if weighting:
        return "diffusion", f"diffusion weighting of {weighting:g} s/mm2"
    if str(header.get("AngioFlag", "N")) == "Y":
        return "angiography", "is flagged as angiography (0018,0025)"
    scanning, echo = set(values(header, "ScanningSequence")), number(header, "EchoTime")
    if "EP" in scanning and "IR" not in scanning:
        return "echo-planar", "is echo-planar: diffusion, perfusion or function"
    if "GR" in scanning and "SE" not in scanning and echo is not None and 12 < echo < 60:
        return "susceptibility", f"is a gradient echo of TE {echo:g} ms"
    return "", ""


def _by_words(series: Series) -> tuple[str, str]:
    kind = forbidden_kind(words(series))
    return (kind, f"its description names {kind}") if kind else ("", "")


def _physics(header: Dataset) -> tuple[Contrast | None, str]:
    """Contrast that TR, TE and TI make, with their values."""
    tr, te, ti = (number(header, k) for k in ("RepetitionTime", "EchoTime", "InversionTime"))
    shown = ", ".join(f"{n} {v:g} ms" for n, v in (("TR", tr), ("TE", te), ("TI", ti)) if v)
    if not te or not tr:
        return None, shown
    if ti and ti >= 1400 and te >= 60 and tr >= 3500:
        return Contrast.FLAIR, shown
    if te >= 60 and tr >= 1800 and not ti:
        return Contrast.T2, shown
    if te <= 35 and (tr <= 1300 or (ti and ti <= 1400)):
        return Contrast.T1, shown
    return None, shown


def _contrast(series: Series) -> tuple[Contrast | None, str]:
    """Weigh words against physics."""
    named, instead = read_words(words(series))
    made, shown = _physics(series.header)
    if instead:
        return None, f"its description names {instead}"
    if named is None and made is None:
        return None, f"neither description nor timing ({shown or 'none given'}) tells a contrast"
    if named is None:
        return made, f"timing of {made} ({shown}); the description tells nothing"
    if made is None:
        return _unless_absurd(named, series, shown)
    return _agreed(named, made, shown)


def _agreed(named: Contrast, made: Contrast, shown: str) -> tuple[Contrast | None, str]:
    if made is named:
        return named, f"description and timing ({shown}) say {named}"
    if {named, made} == {Contrast.T2, Contrast.FLAIR}:
        return Contrast.FLAIR, f"FLAIR: description says {named}, timing ({shown}) says {made}"
    return None, f"description says {named}, but timing ({shown}) says {made}"


def _unless_absurd(named: Contrast, series: Series, shown: str) -> tuple[Contrast | None, str]:
    """Trust a description that timing neither bears out nor contradicts."""
    echo = number(series.header, "EchoTime")
    if echo and ((named is Contrast.T1) == (echo > 50)):
        return None, f"description says {named}, but an echo time of {echo:g} ms does not"
    return named, f"description says {named}" + (f"; timing ({shown}) does not speak against it" if shown else "")


def _with_agent(series: Series, reason: str) -> Candidate:
    said = read_agent(words(series))
    agent = str(first(series.header, "ContrastBolusAgent") or "").strip().lower() not in NO_AGENT
    if said is None and agent:
        return Candidate(series, Contrast.T1C, f"{reason}; contrast agent is recorded (0018,0010)")
    if said:
        return Candidate(series, Contrast.T1C, f"{reason}; description says after contrast agent")
    if said is False:
        return Candidate(series, Contrast.T1, f"{reason}; description says before contrast agent")
    return Candidate(series, Contrast.T1, f"{reason}; no contrast agent is recorded", sure=False)


def settle_agent(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Find T1 series that nobody marked, taken after contrast agent was given.

    Three signs count: perfusion imaging or a marked T1C went before, or, where no T1C is marked, an identical T1.
    """
    given = [(t, c.kind) for c in candidates if c.kind in ("perfusion", Contrast.T1C) and (t := taken_at(c.series))]
    marked = any(c.kind == Contrast.T1C for c in candidates)
    earliest: dict[tuple[Any, ...], str] = {}
    for candidate in candidates:
        if candidate.kind == Contrast.T1 and (moment := taken_at(candidate.series)):
            twin = _protocol(candidate.series)
            earliest[twin] = min(moment, earliest.get(twin, moment))
    return [_settled(c, given, {} if marked else earliest) for c in candidates]


def _settled(
    candidate: Candidate, given: Sequence[tuple[str, str]], earliest: Mapping[tuple[Any, ...], str]
) -> Candidate:
    """Turn one unmarked T1 into T1C if something earlier says so; `earliest` knows the first of each kind of T1."""
    moment = taken_at(candidate.series)
    if candidate.kind != Contrast.T1 or candidate.sure or not moment:
        return candidate
    if given and moment > min(given)[0]:
        before = "a T1 with contrast agent" if min(given)[1] == Contrast.T1C else "perfusion imaging"
        return replace(candidate, kind=Contrast.T1C, reason=f"T1 taken after {before}, so after contrast agent")
    if moment > earliest.get(_protocol(candidate.series), moment):
        why = "T1 that repeats an earlier one with the same description and timing, so after contrast agent"
        return replace(candidate, kind=Contrast.T1C, reason=why)
    return candidate


def _protocol(series: Series) -> tuple[Any, ...]:
    header = series.header
    return (words(series), number(header, "RepetitionTime"), number(header, "EchoTime"), plane(series))


def _rank(candidate: Candidate) -> tuple[bool, bool, bool, float, str]:
    """Order candidates for one contrast: the greatest is chosen."""
    series = candidate.series
    original = "DERIVED" not in values(series.header, "ImageType")
    covered = coverage_mm(series) >= LEAST_COVERAGE_MM
    return covered, plane(series) == "axial", original, slice_count(series), taken_at(series)


def _advantage(best: Candidate, other: Candidate) -> str:
    names = ("covers more of the head", "axial", "original, not derived", "of more slices", "a later repeat")
    for name, mine, yours in zip(names, _rank(best), _rank(other), strict=True):
        if mine != yours:
            return f"better: {name}"
    return "equal and came first"


def words(series: Series) -> str:
    """Description and protocol name in lower case, underscores as spaces where words are told apart."""
    text = series.description or str(series.header.get("ProtocolName") or "")
    return re.sub(r"(?<=[a-z0-9])_|_(?=[a-z0-9])", " ", text.lower()).replace("-w", "w")


def taken_at(series: Series) -> str:
    """Date and time of acquisition as one sortable text; empty if unknown."""
    for kind in ("Acquisition", "Series", "Content"):
        moments = [str(i.header.get(f"{kind}Time") or "") for i in series.instances]
        if all(moments):
            return str(series.header.get(f"{kind}Date") or "") + min(moments)
    return ""


def _label(series: Series) -> str:
    return "a series without number" if series.number is None else f"series {series.number}"


class SelectSeriesOperator(StageOperator):
    """Adds the selection to the job."""

    def process(self, job: Job) -> None:
        """Choose among the study's series."""
        job.selection = select_series(needed(job.study))
