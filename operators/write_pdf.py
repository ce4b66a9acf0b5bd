"""Write the report page: one A4 page for people, as an Encapsulated PDF (PS3.3 A.45.1).

The library has no class for it, so its modules are filled here: Encapsulated Document Series and Encapsulated Document
(PS3.3 C.24), SC Equipment (C.8.6.1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import highdicom as hd
from highdicom.base import SOPClass
from pydicom import Dataset
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

from operators import codes
from operators.domain import REQUIRED, Predecessor
from operators.language import Language
from operators.report_content import TrainingData, content_of
from operators.report_identity import report_origin, report_replaced, time_of
from operators.report_page import draw_page
from operators.report_words import WORDS
from operators.results import Origin, finish, headers_of, save
from operators.revision import as_predecessors, replaced_by
from operators.settings_digest import digest_of
from operators.slice_picture import render_panel
from operators.stage import Job, StageOperator, needed

SERIES_NUMBER = 9004
PICTURE_PIXELS = 720
"""Side of a picture: 200 to the inch at its largest on the page."""
TITLE = "Glioma AI report (research)"
"""In English whatever the page's language: the source's character set may hold no other."""


def build_page(job: Job, language: Language, data: TrainingData, origin: Origin) -> bytes:
    """Draw the page as PDF."""
    words, header = WORDS[language], headers_of(needed(job.volumes))[0]
    stack, tumour, findings = needed(job.stack), needed(job.tumour), needed(job.findings)
    pictures = [(c.value, render_panel(stack, tumour, findings, c, PICTURE_PIXELS)) for c in REQUIRED]
    return draw_page(content_of(job, header, words, language, origin, data), pictures, language, origin)


def build_pdf(
    page: bytes,
    headers: Sequence[Dataset],
    language: Language,
    origin: Origin,
    predecessors: Sequence[Predecessor] = (),
) -> Dataset:
    """Wrap a PDF as a DICOM object; `headers` are those of the images that it was made from.

    Of `predecessors`, it names the latest page as what it replaces.
    """
    own_uid = origin.uid("instance", "PDF", language)
    result = SOPClass(
        study_instance_uid=headers[0].StudyInstanceUID,
        series_instance_uid=origin.uid("series", "PDF", language),
        series_number=SERIES_NUMBER,
        sop_instance_uid=own_uid,
        sop_class_uid=EncapsulatedPDFStorage,
        instance_number=1,
        modality="DOC",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description="AI glioma report page (research)",
        **origin.device,
        **origin.stamps,
    )
    result.ContributingEquipmentSequence = [hd.ContributingEquipment(**origin.equipment)]
    result.ConversionType = "WSD"  # made on a workstation: not scanned from paper
    result.AcquisitionDateTime = None  # of several series
    result.BurnedInAnnotation = "YES"
    result.RecognizableVisualFeatures = "NO"
    result.SourceInstanceSequence = [_reference(header) for header in headers]
    replaced = replaced_by(own_uid, SERIES_NUMBER, predecessors)
    if replaced is not None:
        result.PredecessorDocumentsSequence = as_predecessors(replaced)
    result.DocumentTitle = TITLE
    result.ConceptNameCodeSequence = [hd.sr.CodedConcept(*codes.REPORT_TITLE)]
    result.VerificationFlag = "UNVERIFIED"
    result.MIMETypeOfEncapsulatedDocument = "application/pdf"
    result.EncapsulatedDocumentLength = len(page)
    result.EncapsulatedDocument = page + b"\0" * (len(page) % 2)
    finish(result, headers[0], origin)
    return result


def _reference(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return item


def write_pdf(
    job: Job, version: str, made_at: datetime, language: Language = "en", data: TrainingData | None = None
) -> None:
    """Write a job's report page into its output folder and list it in its results."""
    origin = report_origin(job, version, made_at)
    if job.replaces is None:
        job.replaces = report_replaced(job, origin)
    # What models learnt from is told on the page alone.
    origin = origin.also(digest_of("training data", sorted((data or {}).items())))
    page = build_page(job, language, data or {}, origin)
    result = build_pdf(page, headers_of(needed(job.volumes)), language, origin, job.predecessors)
    job.results["PDF"] = save(result, job.output_folder / "report.pdf.dcm")


class PdfOperator(StageOperator):
    """All findings to a page for people."""

    def __init__(
        self,
        fragment: Any,
        *args: Any,
        version: str,
        clock: Callable[[], datetime],
        language: Language = "en",
        training_data: Mapping[str, Mapping[str, str]] | None = None,
        **kwargs: Any,
    ) -> None:
        """`training_data` says of each model, by version and language, what it learnt from."""
        self._version, self._clock, self._language, self._data = version, clock, language, training_data or {}
        super().__init__(fragment, *args, **kwargs)

    def process(self, job: Job) -> None:
        """Add "PDF" to `job.results`."""
        write_pdf(job, self._version, time_of(job, self._version, self._clock), self._language, self._data)
