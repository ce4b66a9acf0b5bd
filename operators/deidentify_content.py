"""Clean the text of this node's own reports (PS3.15 E.3.4, Clean Structured Content Option).

Text is kept where this software made it up of words and figures of its own, and cut where it may repeat what a header,
an archive or a peer said. Any text under a concept that is not known here is replaced. What is left is searched for
UIDs and dates, which become those that stand for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date

from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import EncapsulatedPDFStorage

from operators import codes

REMOVED = "REMOVED"
EVIDENCE = ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
ShiftDate = Callable[[date], date]
RenameUid = Callable[[str], str]

_UID = re.compile(r"\b[0-2](?:\.(?:0|[1-9]\d*)){4,}\b")
"""Versions and addresses have fewer parts."""
_DATE = re.compile(r"\b(\d{4})-(\d{2})-(\d{2})(?: \d{2}:\d{2})?\b")
_SERIES = re.compile(r"(?:T1C?|T2|FLAIR): (?:series -?\d+|an unnumbered series)(?=, \")")
_HISTORY = re.compile(r"(Earlier examinations could not all be looked for): .*")


def _nothing(_: str) -> str:
    return REMOVED


def _as_it_is(text: str) -> str:
    return text


def _series_alone(text: str) -> str:
    """Cut the series' description, and the reason, which may quote it."""
    found = _SERIES.match(text)
    return found[0] if found else REMOVED


def _without_peer(text: str) -> str:
    """Cut which archive did not answer."""
    found = _HISTORY.fullmatch(text)
    return f"{found[1]}." if found else text


_OWN_WORDS = (
    *(Code(value, "DCM", "") for value in ("121013", "121014", "121015", "121016")),  # the observing device: TID 1004
    Code("112039", "DCM", ""),  # Tracking Identifier
    *(codes.ALGORITHM_NAME, codes.ALGORITHM_VERSION, Code("122405", "DCM", "")),  # TID 4019
    *(codes.LIMITS_OF_USE, codes.QUALITY_WARNING, codes.INTEGRATED_READING, codes.COMMENT),
    *(codes.COMPARISON, codes.TIME_POINT, codes.SUBJECT_TIME_POINT),
)
_CLEANERS: Mapping[tuple[str, str], Callable[[str], str]] = {
    **{(code.value, code.scheme_designator): _as_it_is for code in _OWN_WORDS},
    (codes.SERIES_USED.value, codes.PRIVATE_SCHEME): _series_alone,
    (codes.PROCESSING_NOTE.value, codes.PRIVATE_SCHEME): _without_peer,
}
_OF_TIME = {
    (code.value, code.scheme_designator)
    for code in (codes.COMPARISON, codes.TIME_POINT, codes.TIME_POINT_ORDER, codes.SUBJECT_TIME_POINT)
}
_DAYS_BETWEEN = (codes.DAYS_BETWEEN.value, codes.PRIVATE_SCHEME)


def clean_items(items: Iterable[Dataset], rename: RenameUid, shift: ShiftDate | None) -> list[Dataset]:
    """Clean content items in place, at every depth, and return those that stay.

    Without `shift`, what compares two examinations goes: the Basic Profile leaves nothing of what lies between them.
    """
    kept = []
    for item in items:
        name = _name(item)
        if shift is None and (name in _OF_TIME or _is_of_another_time(item)):
            continue
        if item.get("ValueType") == "TEXT":
            text = _CLEANERS.get(name, _nothing)(str(item.TextValue))
            item.TextValue = _without_dates(_UID.sub(lambda found: rename(found[0]), text), shift)
        if "ContentSequence" in item:
            item.ContentSequence = clean_items(item.ContentSequence, rename, shift)
        kept.append(item)
    return kept


def without_pages(studies: Iterable[Dataset]) -> list[Dataset]:
    """Take report pages out of a report's evidence: no page is de-identified, so none is in the set."""
    for study in studies:
        for series in study.ReferencedSeriesSequence:
            kept = [r for r in series.ReferencedSOPSequence if r.ReferencedSOPClassUID != EncapsulatedPDFStorage]
            series.ReferencedSOPSequence = kept
        study.ReferencedSeriesSequence = [s for s in study.ReferencedSeriesSequence if s.ReferencedSOPSequence]
    return [study for study in studies if study.ReferencedSeriesSequence]


def _name(item: Dataset) -> tuple[str, str]:
    concept = item.get("ConceptNameCodeSequence")
    if not concept:
        return ("", "")
    return str(concept[0].get("CodeValue", "")), str(concept[0].get("CodingSchemeDesignator", ""))


def _is_of_another_time(item: Dataset) -> bool:
    """Say whether a group holds an earlier examination's measurements."""
    return any(_name(child) == _DAYS_BETWEEN for child in item.get("ContentSequence") or ())


def _without_dates(text: str, shift: ShiftDate | None) -> str:
    def other(found: re.Match[str]) -> str:
        if shift is None:
            return REMOVED
        try:
            day = date(int(found[1]), int(found[2]), int(found[3]))
        except ValueError:
            return REMOVED
        return shift(day).isoformat() + found[0][10:]

    return _DATE.sub(other, text)
