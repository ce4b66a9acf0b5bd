"""What this node said of the same study before: of fewer images, or by another version; a new result replaces it.

Documents point back by Predecessor Documents Sequence (PS3.3 C.17.2). Objects that are no documents have nothing of
the kind: of a result set the report is the root, and what it points to stands and falls with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from pydicom import Dataset
from pydicom.valuerep import DT

from operators.domain import Predecessor
from operators.earlier import is_ours, read_earlier, same_patient
from operators.results import PRODUCT


def predecessors_among(documents: Iterable[Dataset], header: Dataset) -> tuple[Predecessor, ...]:
    """Choose the documents that this node made of the study of `header`, the latest first."""
    found = [
        _predecessor(document)
        for document in documents
        if document.get("Manufacturer") == PRODUCT
        and document.get("StudyInstanceUID") == header.StudyInstanceUID
        and same_patient(document, header)
    ]
    return tuple(sorted(found, key=lambda p: (p.made, p.sop_instance_uid), reverse=True))


def replaced_by(own_uid: str, series_number: int, predecessors: Sequence[Predecessor]) -> Predecessor | None:
    """Choose what a document replaces: the latest one of its kind, never itself, and nothing that came of itself.

    A document that is made again, though a later one is there, would else point to what points back to it.
    """
    later = {own_uid}
    while grown := {p.sop_instance_uid for p in predecessors if p.replaces & later} - later:
        later |= grown
    return next((p for p in predecessors if p.series_number == series_number and p.sop_instance_uid not in later), None)


def as_previous_version(replaced: Predecessor | None) -> list[Dataset] | None:
    """Put it as the library wants it."""
    if replaced is None:
        return None
    item = Dataset()
    item.StudyInstanceUID, item.SeriesInstanceUID = replaced.study_uid, replaced.series_uid
    item.SOPClassUID, item.SOPInstanceUID = replaced.sop_class_uid, replaced.sop_instance_uid
    return [item]


def as_predecessors(replaced: Predecessor) -> list[Dataset]:
    """Put it as in an object that the library does not write (PS3.3 Table C.17-3)."""
    instance, series, study = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPClassUID = replaced.sop_class_uid
    instance.ReferencedSOPInstanceUID = replaced.sop_instance_uid
    series.SeriesInstanceUID, series.ReferencedSOPSequence = replaced.series_uid, [instance]
    study.StudyInstanceUID, study.ReferencedSeriesSequence = replaced.study_uid, [series]
    return [study]


def _predecessor(document: Dataset) -> Predecessor:
    said = read_earlier(document) if is_ours(document) else None
    return Predecessor(
        int(document.get("SeriesNumber") or 0),
        str(document.StudyInstanceUID),
        str(document.SeriesInstanceUID),
        str(document.SOPClassUID),
        str(document.SOPInstanceUID),
        f"{document.get('ContentDate', '')}{document.get('ContentTime', '')}",
        said.tracking_uid if said else None,
        _made_at(document),
        frozenset(_replaced(document)),
    )


def _made_at(document: Dataset) -> datetime | None:
    """Read when a document was made: from the item that names this software, which has the offset from UTC too."""
    for item in document.get("ContributingEquipmentSequence", ()):
        if item.get("Manufacturer") == PRODUCT and item.get("ContributionDateTime"):
            said = DT(str(item.ContributionDateTime))
            return datetime.combine(said.date(), said.timetz())
    return None


def _replaced(document: Dataset) -> Iterator[str]:
    for study in document.get("PredecessorDocumentsSequence", ()):
        for series in study.get("ReferencedSeriesSequence", ()):
            yield from (str(r.ReferencedSOPInstanceUID) for r in series.get("ReferencedSOPSequence", ()))
