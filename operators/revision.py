"""What this node said of the same study before, when it held fewer images; a new result replaces it, and says so.

Documents point back by Predecessor Documents Sequence (PS3.3 C.17.2). Objects that are no documents have nothing of
the kind: of a result set the report is the root, and what it points to stands and falls with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydicom import Dataset

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
    """Choose what a document replaces: the latest one of its kind, never itself made again after a crash."""
    return next((p for p in predecessors if p.series_number == series_number and p.sop_instance_uid != own_uid), None)


def as_previous_version(replaced: Predecessor | None) -> list[Dataset] | None:
    """Put it as the library wants it."""
    if replaced is None:
        return None
    item = Dataset()
    item.StudyInstanceUID, item.SeriesInstanceUID = replaced.study_uid, replaced.series_uid
    item.SOPClassUID, item.SOPInstanceUID = replaced.sop_class_uid, replaced.sop_instance_uid
    return [item]


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
    )
