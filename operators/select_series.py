"""Find T1, T1C, T2 and FLAIR among a study's series, and say of each series what it was taken for and why.

Evidence from image type, physics, words, timing within the study and, where those leave doubt, from the image is
added up (series_kinds); what stays undecided is "unknown" and not used. Then the best series of each contrast is
chosen (series_choice). The rules in prose, with figures: docs/series.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from operators.decoder import Decoder
from operators.domain import REQUIRED, Contrast, Selection, Series, Study, Verdict
from operators.errors import MissingSequence, StudyRejected
from operators.headers import NO_VALUE, values
from operators.pixels import HERE
from operators.series_agent import LookAt, moments_of, settle
from operators.series_choice import Merit, advantage, has_broken_slices, merit
from operators.series_evidence import decide, evidence_of, words
from operators.series_geometry import geometry_fault, plane
from operators.series_kinds import CONTRASTS, UNKNOWN, Evidence
from operators.series_pixels import contrast_points, look_at
from operators.series_rules import Rules
from operators.settings_digest import digest_of
from operators.stage import Job, StageOperator, needed

IMAGE_ALONE = 2.0
"""Points of an image where the header tells nothing and the sequence could be anything: not enough to be taken."""
WITHOUT_AGENT = ("asl", "spin label")
"""Perfusion imaging that needs no contrast agent."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One series as the rules see it."""

    series: Series
    kind: str
    """A contrast's name, or what else it is."""
    confidence: float
    """Probability of `kind`, 0 to 1."""
    reason: str


def select_series(study: Study, rules: Rules = (), decoder: Decoder = HERE) -> Selection:
    """Choose a series for each contrast; `rules` are the site's own.

    Raises MissingSequence where T1C or FLAIR has none, listing what was seen, PixelDataRefused where images that have
    to be looked at are not what their headers say.
    """
    selection, candidates = _assess(study, rules, decoder)
    missing = [c for c in REQUIRED if c not in selection.chosen]
    if missing:
        names = " and ".join(f"no {c}" for c in missing)
        seen = "; ".join(f"{_label(c.series)} {c.kind}" for c in candidates)
        raise MissingSequence(f"the study has {names}; send {' and '.join(missing)}. Seen: {seen}")
    return selection


def assess(study: Study, rules: Rules = (), decoder: Decoder = HERE) -> Selection:
    """Choose as `select_series` does, without an error where a contrast is missing."""
    return _assess(study, rules, decoder)[0]


def recognised(study: Study, rules: Rules = ()) -> frozenset[Contrast]:
    """Say which contrasts a study that may still be arriving has so far, from headers alone."""
    return frozenset(_assess(study, rules, None)[0].chosen)


def _assess(study: Study, rules: Rules, decoder: Decoder | None) -> tuple[Selection, list[Candidate]]:
    """Choose; without a decoder no image is looked at. Raises StudyRejected where a header's values are none."""
    try:
        return _weighed(study, rules, decoder)
    except NO_VALUE as error:
        # The error's own text quotes the value.
        raise StudyRejected("a header holds values that cannot be read; send the study again") from error


def _weighed(study: Study, rules: Rules, decoder: Decoder | None) -> tuple[Selection, list[Candidate]]:
    look: LookAt | None = None
    if decoder is not None:
        look = lru_cache(maxsize=None)(partial(look_at, decoder=decoder))
    candidates = _settle_agent([classify(s, rules, look) for s in study.series], rules, look)
    moments = moments_of(study.series)
    merits = {id(c): merit(c.series, c.kind, moments.get(id(c.series), 0.0)) for c in candidates if c.kind in CONTRASTS}
    chosen = {c: best for c in Contrast if (best := _best(c, candidates, merits)) is not None}
    verdicts = tuple(_verdict(candidate, chosen, merits) for candidate in candidates)
    return Selection({v.contrast: v for v in verdicts if v.contrast is not None}, verdicts), candidates


def _best(contrast: Contrast, candidates: Sequence[Candidate], merits: Mapping[int, Merit]) -> Candidate | None:
    """Choose among the candidates of a contrast; T1 and T2 are left out rather than taken broken."""
    found = [c for c in candidates if c.kind == contrast and (contrast in REQUIRED or not has_broken_slices(c.series))]
    return max(found, key=lambda c: merits[id(c)].rank) if found else None


def _verdict(candidate: Candidate, chosen: Mapping[Contrast, Candidate], merits: Mapping[int, Merit]) -> Verdict:
    kind, sure, why = candidate.kind, round(candidate.confidence, 3), candidate.reason
    if kind not in CONTRASTS:
        text = why if kind == UNKNOWN else f"{kind}: {why}"
        return Verdict(candidate.series, None, text, kind, sure)
    best = chosen.get(Contrast(kind))
    if best is candidate:
        return Verdict(candidate.series, Contrast(kind), why, kind, sure)
    if has_broken_slices(candidate.series):
        why = f"{kind}, but not used: {geometry_fault(candidate.series)}"
    elif best is not None:
        why = f"{kind}, but {_label(best.series)} is {advantage(merits[id(best)], merits[id(candidate)])}"
    return Verdict(candidate.series, None, why, kind, sure)


def classify(series: Series, rules: Rules = (), look: LookAt | None = None) -> Candidate:
    """Say what one series is by itself, T1C counting as T1; the image is looked at only where headers leave doubt."""
    evidence = evidence_of(series, rules)
    kind, confidence, reason = decide(evidence)
    if look is not None and plane(series) == "axial" and _doubtful(kind, evidence):
        seen = look(series)
        points = contrast_points(seen) if seen else {}
        if not evidence and not {"SE", "IR"} & set(values(series.header, "ScanningSequence")):
            points = {k: min(p, IMAGE_ALONE) for k, p in points.items()}
        if points:
            kind, confidence, reason = decide([*evidence, Evidence("the image", points)])
        elif kind == UNKNOWN and evidence:
            reason += "; the image does not decide"
    return Candidate(series, kind, confidence, reason)


def _doubtful(kind: str, evidence: Sequence[Evidence]) -> bool:
    """Say whether a verdict rests on one source alone, or on none."""
    if kind == UNKNOWN:
        return all(e.kind in CONTRASTS for e in evidence)
    return kind in CONTRASTS and sum(e.points.get(kind, 0) >= 3 for e in evidence) < 2


def _settle_agent(candidates: list[Candidate], rules: Rules, look: LookAt | None) -> list[Candidate]:
    """Part T1 from T1C."""
    places = [k for k, c in enumerate(candidates) if c.kind == "T1"]
    given = [c.series for c in candidates if c.kind == "perfusion" and _injects(c.series)]
    everything = [c.series for c in candidates]
    settled = settle([candidates[k].series for k in places], given, everything, rules, look)
    for k, (kind, sure, why) in ((places[n], verdict) for n, verdict in settled.items()):
        found = candidates[k]
        reason = f"{found.reason}; {why}"
        candidates[k] = replace(found, kind=kind, confidence=found.confidence * sure, reason=reason)
    return candidates


def _injects(series: Series) -> bool:
    text = " ".join([words(series), *values(series.header, "ImageType")]).lower()
    return not any(name in text for name in WITHOUT_AGENT)


def _label(series: Series) -> str:
    return "a series without number" if series.number is None else f"series {series.number}"


class SelectSeriesOperator(StageOperator):
    """Adds the selection to the job."""

    def __init__(self, *args: object, rules: Rules = (), decoder: Decoder = HERE, **kwargs: object) -> None:
        self._rules, self._decoder = rules, decoder
        self._digest = digest_of("series", rules)
        super().__init__(*args, **kwargs)

    def process(self, job: Job) -> None:
        """Choose among the study's series."""
        job.selection = select_series(needed(job.study), self._rules, self._decoder)
        job.depends_on = (*job.depends_on, self._digest)
