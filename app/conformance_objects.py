"""What the node creates, as tables for the conformance statement: one row an object, one row an attribute.

tests/test_conformance.py compares them with objects really written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module

from pydicom import uid

from operators.results import PRODUCT, SERIAL_NUMBER
from operators.segmentation_form import LABEL_MAP_STORAGE

Attributes = Mapping[str, str]
"""Keyword of an attribute at the top level, and what is in it."""


@dataclass(frozen=True)
class CreatedObject:
    """One kind of object that the node makes."""

    title: str
    writer: str
    """Its module under operators, which holds its SERIES_NUMBER."""
    sop_class: uid.UID
    iod: str
    """Section of PS3.3."""
    description: str
    """Series Description."""
    how_many: str
    attributes: Attributes = field(default_factory=dict)
    """Beside those that all have."""
    key: str = ""
    """Which of the writer's SERIES_NUMBERS, where it has several."""
    transfer_syntax: uid.UID = uid.ExplicitVRLittleEndian

    @property
    def series_number(self) -> int:
        """Series Number, as the writer has it."""
        # By name: who imports all the stages is the pipeline alone.
        writer = import_module(f"operators.{self.writer}")
        return int(writer.SERIES_NUMBERS[self.key] if self.key else writer.SERIES_NUMBER)


COMMON: Attributes = {
    "SpecificCharacterSet": "the source's; absent where the source has none",
    "InstanceCreationDate": "when the object was made, by the node's clock, in local time",
    "InstanceCreationTime": "as Instance Creation Date",
    "SOPClassUID": "see the table above",
    "SOPInstanceUID": "derived, see UIDs",
    "StudyDate": "the source's",
    "SeriesDate": "as Instance Creation Date",
    "ContentDate": "as Instance Creation Date",
    "StudyTime": "the source's",
    "SeriesTime": "as Instance Creation Date",
    "ContentTime": "as Instance Creation Date",
    "AccessionNumber": "the source's",
    "Modality": "SEG, SR, OT (pictures) or DOC (report page), by the object",
    "Manufacturer": PRODUCT,
    "ReferringPhysicianName": "the source's",
    "StudyDescription": "the source's; absent where the source has none",
    "SeriesDescription": "see the table above",
    "ManufacturerModelName": PRODUCT,
    "PatientName": "the source's",
    "PatientID": "the source's",
    "IssuerOfPatientID": "the source's; absent where the source has none",
    "PatientBirthDate": "the source's",
    "PatientSex": "the source's",
    "DeviceSerialNumber": f"{SERIAL_NUMBER}: software has none",
    "SoftwareVersions": "version of this software",
    "ContributingEquipmentSequence": (
        "the scanner of the source (109101, DCM), this software and the library that writes the object (109102, DCM)"
    ),
    "StudyInstanceUID": "the source's",
    "SeriesInstanceUID": "derived, see UIDs",
    "StudyID": "the source's",
    "SeriesNumber": "see the table above",
    "InstanceNumber": "1; of attention maps counted up",
}
"""Attributes that every object has."""

SEGMENTATION: Attributes = {
    "ImageType": "DERIVED\\PRIMARY",
    "ReferencedSeriesSequence": "the one series that was segmented, with its images",
    "SourceImageSequence": "the same images",
    "BodyPartExamined": "BRAIN",
    "FrameOfReferenceUID": "the source's",
    "PositionReferenceIndicator": "the source's",
    "DimensionOrganizationSequence": "one, its UID derived",
    "DimensionIndexSequence": "segment number, then image position",
    "DimensionOrganizationType": "3D where the planes are evenly spaced",
    "SamplesPerPixel": "1",
    "PhotometricInterpretation": "MONOCHROME2",
    "NumberOfFrames": "planes of the source series, empty ones too; as often as there are segments",
    "Rows": "the source's",
    "Columns": "the source's",
    "BitsAllocated": "1",
    "BitsStored": "1",
    "HighBit": "0",
    "PixelRepresentation": "0",
    "LossyImageCompression": "the source's, with ratio and method where it is 01; 00 where the source has none",
    "SegmentationType": "BINARY",
    "SegmentSequence": "one segment; several of a network that tells parts of the tumour apart; see below",
    "SegmentsOverlap": "NO; YES of several segments",
    "ContentLabel": "WHOLE_TUMOUR; of several segments TUMOUR_PARTS",
    "ContentDescription": "Whole tumour, or tumour and its parts, on the series' contrast, automatic",
    "ContentCreatorName": PRODUCT,
    "PresentationLUTShape": "IDENTITY",
    "SharedFunctionalGroupsSequence": "plane orientation, pixel measures, of one segment its identification",
    "PerFrameFunctionalGroupsSequence": (
        "frame content, plane position, derivation image: the image of that plane; of several segments identification"
    ),
    "PixelData": "1 is tumour, or the part of it",
}
LABEL_MAP: Attributes = {
    **SEGMENTATION,
    "DimensionIndexSequence": "image position",
    "BitsAllocated": "8",
    "BitsStored": "8",
    "HighBit": "7",
    "PixelPaddingValue": "0",
    "SegmentationType": "LABELMAP",
    "NumberOfFrames": "planes of the source series, empty ones too",
    "SegmentSequence": "the tumour or its parts, then the background, number 0: each value of Pixel Data has its item",
    "SegmentsOverlap": "NO",
    "SharedFunctionalGroupsSequence": "plane orientation, pixel measures",
    "PerFrameFunctionalGroupsSequence": "frame content, plane position, derivation image: the image of that plane",
    "PixelData": "1 is tumour, or each part of it its segment's number; 0 is no tumour",
}
PROBABILITY: Attributes = {
    **SEGMENTATION,
    "NumberOfFrames": "planes of the source series, empty ones too",
    "SegmentSequence": "one segment, see below",
    "SegmentsOverlap": "NO",
    "SharedFunctionalGroupsSequence": "plane orientation, pixel measures, segment identification",
    "PerFrameFunctionalGroupsSequence": "frame content, plane position, derivation image: the image of that plane",
    "BitsAllocated": "8",
    "BitsStored": "8",
    "HighBit": "7",
    "SegmentationType": "FRACTIONAL",
    "SegmentationFractionalType": "PROBABILITY",
    "MaximumFractionalValue": "255",
    "ContentLabel": "TUMOUR_PROB",
    "ContentDescription": "Whole tumour on T1C, the network's own probability, refined",
    "PixelData": "255ths; 128 and more where the BINARY segmentation has tumour, unless the planes are tilted",
}
REPORT: Attributes = {
    "CodingSchemeIdentificationSequence": "the private scheme",
    "ReferencedPerformedProcedureStepSequence": "empty",
    "ValueType": "CONTAINER",
    "ConceptNameCodeSequence": "the title, see below",
    "ContinuityOfContent": "SEPARATE, in every container",
    "PerformedProcedureCodeSequence": "empty",
    "CurrentRequestedProcedureEvidenceSequence": (
        "every image analysed, and every other result of the set: the report is its root"
    ),
    "PredecessorDocumentsSequence": "what the node said of this study before; else absent",
    "CompletionFlag": "COMPLETE",
    "VerificationFlag": "UNVERIFIED: no person has checked it",
    "PreliminaryFlag": "PRELIMINARY",
    "ContentTemplateSequence": "template 1500 of DCMR",
    "ContentSequence": "see below",
}
PICTURE: Attributes = {
    "ImageType": "DERIVED\\SECONDARY",
    "ConversionType": "DI",
    "DerivationDescription": "what is drawn",
    "SourceImageSequence": "the T1C images that are drawn on; absent where their planes are not axial",
    "BodyPartExamined": "BRAIN",
    "DateOfSecondaryCapture": "as Instance Creation Date",
    "TimeOfSecondaryCapture": "as Instance Creation Date",
    "PatientOrientation": "L\\P",
    "SamplesPerPixel": "3",
    "PhotometricInterpretation": "RGB",
    "PlanarConfiguration": "0",
    "Rows": "of the picture",
    "Columns": "of the picture",
    "BitsAllocated": "8",
    "BitsStored": "8",
    "HighBit": "7",
    "PixelRepresentation": "0",
    "BurnedInAnnotation": "NO: the pixels hold no patient identity",
    "PixelData": "uncompressed",
}

MEASUREMENTS: Attributes = {
    "ReferencedPerformedProcedureStepSequence": "empty",
    "ValueType": "CONTAINER",
    "ConceptNameCodeSequence": "(126000, DCM, Imaging Measurement Report): viewers take such a report into their list",
    "ContinuityOfContent": "SEPARATE, in every container",
    "PerformedProcedureCodeSequence": "empty",
    "CurrentRequestedProcedureEvidenceSequence": "the T1C images that the diameters lie on",
    "PredecessorDocumentsSequence": "what the node said of this study before; else absent",
    "CompletionFlag": "COMPLETE",
    "VerificationFlag": "UNVERIFIED: no person has checked it",
    "PreliminaryFlag": "PRELIMINARY",
    "ContentTemplateSequence": "template 1500 of DCMR",
    "ContentSequence": "both diameters as lines on that image: a group for the tumour, and one for its enhancing part",
}
PAGE: Attributes = {
    "AcquisitionDateTime": "empty: of several series",
    "ConversionType": "WSD",
    "BurnedInAnnotation": "YES: the page names the patient",
    "RecognizableVisualFeatures": "NO",
    "SourceInstanceSequence": "every image analysed",
    "PredecessorDocumentsSequence": "the page that the node made of this study before; else absent",
    "DocumentTitle": "Glioma AI report (research)",
    "ConceptNameCodeSequence": "as the report's title",
    "VerificationFlag": "UNVERIFIED: no person has checked it",
    "MIMETypeOfEncapsulatedDocument": "application/pdf",
    "EncapsulatedDocument": "one A4 page, fonts embedded",
    "EncapsulatedDocumentLength": "in bytes, without padding",
}

_SEG, _SR, _SC = uid.SegmentationStorage, uid.Comprehensive3DSRStorage, uid.SecondaryCaptureImageStorage
_PDF, _MAP = uid.EncapsulatedPDFStorage, uid.UID(LABEL_MAP_STORAGE)
LABELMAP_ONLY, BINARY_ONLY = "1, for a labelmap destination alone", "1; none for a labelmap destination"
_T1C, _FLAIR = "AI whole tumour on T1C (research)", "AI whole tumour on FLAIR (research)"
_REPORT = "AI glioma report (research)"
CREATED = (
    CreatedObject("Segmentation on T1C", "write_seg", _SEG, "A.51", _T1C, BINARY_ONLY, SEGMENTATION, "T1C"),
    CreatedObject("Label map on T1C", "write_labelmap", _MAP, "A.51", _T1C, LABELMAP_ONLY, LABEL_MAP, "T1C"),
    CreatedObject("Segmentation on FLAIR", "write_seg", _SEG, "A.51", _FLAIR, BINARY_ONLY, SEGMENTATION, "FLAIR"),
    CreatedObject("Label map on FLAIR", "write_labelmap", _MAP, "A.51", _FLAIR, LABELMAP_ONLY, LABEL_MAP, "FLAIR"),
    CreatedObject(
        "Probability on T1C",
        "write_probability",
        _SEG,
        "A.51",
        "AI tumour probability on T1C (research)",
        "1, where `node.results.probability_map` asks for it",
        PROBABILITY,
    ),
    CreatedObject(
        "Diameters",
        "write_measurements",
        _SR,
        "A.35.13",
        "AI diameters on T1C (research)",
        "1; none where T1C was not acquired axially or there is no tumour",
        MEASUREMENTS,
    ),
    CreatedObject("Key image", "write_capture", _SC, "A.8.1", "AI key images (research)", "1", PICTURE, "key image"),
    CreatedObject(
        "Attention maps",
        "write_capture",
        _SC,
        "A.8.1",
        "AI attention maps, not the reported answer (research)",
        "1 for each marker that is assessed and has a network; none with `node.results.attention_maps: false`",
        PICTURE,
        "attention",
    ),
    CreatedObject("Report page", "write_pdf", _PDF, "A.45.1", "AI glioma report page (research)", "1", PAGE),
    CreatedObject("Report", "write_sr", _SR, "A.35.13", _REPORT, BINARY_ONLY, REPORT),
    CreatedObject("Report on label maps", "write_labelmap", _SR, "A.35.13", _REPORT, LABELMAP_ONLY, REPORT, "SR"),
)
"""Every object that a study's analysis makes, in the order in which they are sent."""
