"""Verify a folder of result objects: every validator there is on each of them, then the set as a whole.

What is no result, such as the images of the study, is not judged; references to it may lead out of the folder.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    ExtensibleSRStorage,
    KeyObjectSelectionDocumentStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from operators.errors import StudyRejected
from operators.segmentation_form import LABEL_MAP_STORAGE
from operators.validators import (
    READING_ERRORS,
    Judgement,
    ResultObject,
    Ruling,
    Said,
    by_dciodvfy,
    by_dsrdump,
    by_reading,
    by_tables,
    references,
    ruling_on,
)

KINDS: Mapping[str, str] = {
    SegmentationStorage: "SEG",
    LABEL_MAP_STORAGE: "SEG",
    BasicTextSRStorage: "SR",
    EnhancedSRStorage: "SR",
    ComprehensiveSRStorage: "SR",
    Comprehensive3DSRStorage: "SR",
    ExtensibleSRStorage: "SR",
    KeyObjectSelectionDocumentStorage: "KO",
    EncapsulatedPDFStorage: "PDF",
    SecondaryCaptureImageStorage: "SC",
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage: "SC",
    MultiFrameTrueColorSecondaryCaptureImageStorage: "SC",
}
"""SOP classes of results, and what their objects are called."""
DOCUMENTS = ("SR", "KO")
VALIDATORS: Mapping[str, Callable[[ResultObject], Said]] = {
    "dciodvfy": by_dciodvfy,
    "DCMTK dsrdump": by_dsrdump,
    "PS3.3 Type 1 and 2": by_tables,
    "read back": by_reading,
}
SET = "all objects"
PREAMBLE = 128
"""Bytes ahead of the four letters by which a DICOM file is known (PS3.10 section 7.1)."""
SHARED = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID")
"""What all objects of a set have alike."""
EVIDENCE = ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")


def verify_folder(folder: Path) -> list[Judgement]:
    """Judge all result objects below a folder, and then the set that they make.

    Raises StudyRejected where the folder holds no result object.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' warnings quote values
        results, judgements = find_results(folder)
        if not results and not judgements:
            raise StudyRejected(f"{folder} holds no DICOM result objects (SEG, SR, KO, PDF, Secondary Capture)")
        for result in results:
            judgements += judge(result)
        return judgements + list(_judge_set(results))


def find_results(folder: Path) -> tuple[list[ResultObject], list[Judgement]]:
    """Read the result objects below a folder; of DICOM files that cannot be read, say so."""
    results, broken = [], []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and _is_dicom(p)):
        name = str(path.relative_to(folder))
        try:
            kind = KINDS.get(str(dcmread(path, specific_tags=["SOPClassUID"], stop_before_pixels=True).SOPClassUID))
            if kind is not None:
                results.append(ResultObject(path, name, kind, dcmread(path)))
        except (*READING_ERRORS, InvalidDicomError) as error:
            complaint = f"cannot be read: {type(error).__name__}"
            broken.append(Judgement(name, "?", "read back", Ruling.FAILED, (complaint,)))
    return results, broken


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(PREAMBLE + 4)[PREAMBLE:] == b"DICM"


def judge(result: ResultObject) -> Iterator[Judgement]:
    """Let every validator for its kind judge one object."""
    for name, validator in VALIDATORS.items():
        if validator is not by_dsrdump or result.kind in DOCUMENTS:
            yield Judgement(result.name, result.kind, name, *validator(result))


def object_faults(path: Path) -> list[str]:
    """Say what all validators together have against one object; those that are not installed say nothing."""
    result = ResultObject(path, path.name, KINDS.get(str(dcmread(path).SOPClassUID), ""), dcmread(path))
    judged = [j for j in judge(result) if j.ruling is Ruling.FAILED]
    return [f"{j.validator}: {complaint}" for j in judged for complaint in j.complaints]


def _judge_set(results: Sequence[ResultObject]) -> Iterator[Judgement]:
    """Judge whether the objects belong together."""
    for name, faults in (
        ("one patient and study", _strangers(results)),
        ("UIDs are unique", _doubles(results)),
        ("references resolve", [fault for result in results for fault in _dangling(result, results)]),
    ):
        yield Judgement(SET, "set", name, *ruling_on(faults))


def _strangers(results: Sequence[ResultObject]) -> list[str]:
    """Name objects of another patient or study than the first; what differs is not quoted."""
    faults = []
    for keyword in SHARED:
        first = str(results[0].dataset.get(keyword, "")) if results else ""
        faults += [
            f"{result.name} has another {keyword} than {results[0].name}"
            for result in results[1:]
            if str(result.dataset.get(keyword, "")) != first
        ]
    return faults


def _doubles(results: Sequence[ResultObject]) -> list[str]:
    """Name SOP instances that are there twice, and series that hold more than one kind of object."""
    counts = Counter(str(result.dataset.SOPInstanceUID) for result in results)
    faults = [f"{uid} is the SOP Instance UID of {n} files" for uid, n in counts.items() if n > 1]
    kinds: dict[str, set[str]] = {}
    for result in results:
        kinds.setdefault(str(result.dataset.SeriesInstanceUID), set()).add(str(result.dataset.get("Modality", "")))
    return faults + [f"series {uid} holds {' and '.join(sorted(k))}" for uid, k in kinds.items() if len(k) > 1]


def _dangling(result: ResultObject, results: Sequence[ResultObject]) -> Iterator[str]:
    """Name references that lead nowhere: to a result or segment that is not there, or to what is no evidence.

    What an object replaces lies in another set, and need not be there.
    """
    replaced = {id(r) for r in references(*(result.dataset.get("PredecessorDocumentsSequence") or ()))}
    present = {str(other.dataset.SOPInstanceUID): other.dataset for other in results}
    for reference in references(result.dataset):
        uid, sop_class = str(reference.ReferencedSOPInstanceUID), str(reference.get("ReferencedSOPClassUID", ""))
        if uid in present:
            if present[uid].SOPClassUID != sop_class:
                yield f"{result.name} refers to {uid} as what it is not"
            yield from (
                f"{result.name} refers to segment {number} of {uid}, which has none"
                for number in _segments(reference) - _described(present[uid])
            )
        elif sop_class in KINDS and id(reference) not in replaced:
            yield f"{result.name} refers to a {KINDS[sop_class]} that is not here: {uid}"
    if result.kind in DOCUMENTS:
        evidence = {
            str(r.ReferencedSOPInstanceUID) for k in EVIDENCE for r in references(*(result.dataset.get(k) or ()))
        }
        content = references(*(result.dataset.get("ContentSequence") or ()))
        for uid in sorted({str(r.ReferencedSOPInstanceUID) for r in content} - evidence):
            yield f"{result.name} refers to {uid}, which is not among its evidence"


def _segments(reference: Dataset) -> set[int]:
    numbers = reference.get("ReferencedSegmentNumber")
    if numbers is None:
        return set()
    return {int(n) for n in numbers} if isinstance(numbers, Sequence) else {int(numbers)}


def _described(dataset: Dataset) -> set[int]:
    return {int(segment.SegmentNumber) for segment in dataset.get("SegmentSequence", ())}


def describe_judgements(judgements: Sequence[Judgement], *, strict: bool) -> dict[str, Any]:
    """Give all judgements and what they come to; `strict` lets a validator that is not installed count as failed."""
    failed = [j for j in judgements if j.ruling is Ruling.FAILED]
    absent = sorted({j.validator for j in judgements if j.ruling is Ruling.NOT_INSTALLED})
    unknown = {
        v: sorted(j.subject for j in judgements if (j.validator, j.ruling) == (v, Ruling.NOT_JUDGED))
        for v in VALIDATORS
    }
    objects = len({j.subject for j in judgements if j.kind != "set"})
    closing = [f"{objects} objects, {len(judgements)} judgements, {len(failed)} failed"]
    if absent:
        counts = "which fails a strict verification" if strict else "so this is no full verification"
        closing.append(f"not installed and therefore not passed: {', '.join(absent)}, {counts}")
    closing += [f"{v} does not know, so the others alone judged: {', '.join(o)}" for v, o in unknown.items() if o]
    return {
        "passed": not failed and not (strict and absent),
        "not_installed": absent,
        "judgements": [
            {
                "object": j.subject,
                "kind": j.kind,
                "validator": j.validator,
                "outcome": str(j.ruling),
                "complaints": list(j.complaints),
            }
            for j in judgements
        ],
        "closing": "; ".join(closing),
    }
