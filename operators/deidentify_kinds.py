"""Which objects can be de-identified, and why others cannot."""

from __future__ import annotations

from pydicom import Dataset, uid
from pydicom.datadict import tag_for_keyword

from operators import codes
from operators.results import PRODUCT
from operators.segmentation_form import LABEL_MAP_STORAGE

DESCRIPTIONS = frozenset({
    "AI whole tumour on T1C (research)", "AI whole tumour on FLAIR (research)",
    "AI tumour probability on T1C (research)", "AI diameters on T1C (research)", "AI glioma report (research)",
    "AI attention maps, not the reported answer (research)",
    "AI key images (research)",
})  # fmt: skip
"""Series Descriptions of this node's own; every other goes."""
IS_DOCUMENT = "it is a document, whose pages cannot be cleaned"
_UNCLEANABLE = {
    "EncapsulatedDocument": IS_DOCUMENT,
    "GraphicAnnotationSequence": "it holds annotations, which cannot be cleaned",
    "WaveformSequence": "it holds a recording, which cannot be cleaned",
}
"""By what an object holds: why it cannot be de-identified."""
_TITLES = {(code.value, code.scheme_designator) for code in (codes.REPORT_TITLE, codes.MEASUREMENTS_TITLE)}
_PIXELS = {tag_for_keyword(keyword) for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")}
_PLAIN = {
    uid.MRImageStorage, uid.EnhancedMRImageStorage, uid.LegacyConvertedEnhancedMRImageStorage,
    uid.EnhancedMRColorImageStorage, uid.CTImageStorage, uid.EnhancedCTImageStorage,
    uid.LegacyConvertedEnhancedCTImageStorage, uid.PositronEmissionTomographyImageStorage, uid.EnhancedPETImageStorage,
    uid.LegacyConvertedEnhancedPETImageStorage, uid.SegmentationStorage, uid.UID(LABEL_MAP_STORAGE),
    uid.ParametricMapStorage,
}  # fmt: skip
"""Kinds of image in whose pixels scanners write no text, unless the image says that it holds some."""


def why_not(header: Dataset) -> str:
    """Say why an object cannot be de-identified; empty where it can."""
    kind = uid.UID(str(header.get("SOPClassUID") or ""))
    if not kind or "DirectoryRecordSequence" in header:
        return "it is a directory, or nothing says what it is"
    if kind.is_private:
        return "it is of a private kind"
    if any(not header.get(keyword) for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")):
        return "it lacks a UID: is it whole?"
    if "ContentSequence" in header and not _is_own_report(header):
        return "it is a report of other software, whose text cannot be cleaned"
    for keyword, reason in _UNCLEANABLE.items():
        if keyword in header:
            return reason
    return _why_not_pixels(header, kind)


def _why_not_pixels(header: Dataset, kind: uid.UID) -> str:
    burned = str(header.get("BurnedInAnnotation") or "").strip()
    if burned == "YES":
        return "its pixels hold text (Burned In Annotation)"
    if "Image Storage" in kind.name and _PIXELS.isdisjoint(header.keys()):
        return "it is an image without pixels: is it whole?"
    if "PixelData" in header and burned != "NO" and kind not in _PLAIN:
        return "nothing says that its pixels hold no text (Burned In Annotation)"
    return ""


def _is_own_report(header: Dataset) -> bool:
    title = header.get("ConceptNameCodeSequence")
    return (
        str(header.get("Manufacturer") or "") == PRODUCT
        and bool(title)
        and (str(title[0].get("CodeValue")), str(title[0].get("CodingSchemeDesignator"))) in _TITLES
    )
