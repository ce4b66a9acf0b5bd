"""The phantom's DICOM headers, in the dialects of three vendors.

Descriptions, image types and private elements follow what such scanners write; every value that could be a
patient's is invented. Dates are fixed and UIDs are hashed from the options, so that files never change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from operators.domain import Contrast

DATE = "20260915"


class Vendor(StrEnum):
    """Whose dialect the headers speak."""

    SIEMENS = "siemens"
    GE = "ge"
    PHILIPS = "philips"


@dataclass(frozen=True)
class Timing:
    """What physics a sequence has, times in ms."""

    repetition: float
    echo: float
    inversion: float | None
    scanning: tuple[str, ...]
    variant: tuple[str, ...]
    train: int
    flip_degrees: float


TIMING_2D: Mapping[Contrast, Timing] = {
    Contrast.T1: Timing(520, 12, None, ("SE",), ("SP", "OSP"), 1, 90),
    Contrast.T1C: Timing(520, 12, None, ("SE",), ("SP", "OSP"), 1, 90),
    Contrast.T2: Timing(4800, 102, None, ("SE",), ("SK", "SP"), 15, 150),
    Contrast.FLAIR: Timing(9000, 114, 2500, ("SE", "IR"), ("SK", "SP", "MP"), 21, 150),
}
TIMING_3D: Mapping[Contrast, Timing] = {
    Contrast.T1: Timing(2100, 3.2, 900, ("GR", "IR"), ("SP", "MP"), 1, 9),
    Contrast.T1C: Timing(2100, 3.2, 900, ("GR", "IR"), ("SP", "MP"), 1, 9),
    Contrast.T2: Timing(3200, 408, None, ("SE",), ("SK", "SP"), 282, 120),
    Contrast.FLAIR: Timing(5000, 386, 1800, ("SE", "IR"), ("SK", "SP", "MP"), 251, 120),
}
DESCRIPTIONS: Mapping[Vendor, Mapping[Contrast, str]] = {
    Vendor.SIEMENS: {
        Contrast.T1: "t1_se_tra",
        Contrast.T1C: "t1_se_tra_KM",
        Contrast.T2: "t2_tse_tra",
        Contrast.FLAIR: "t2_tirm_tra_dark-fluid",
    },
    Vendor.GE: {
        Contrast.T1: "Ax T1 SE",
        Contrast.T1C: "+C Ax T1 SE",
        Contrast.T2: "Ax T2 FRFSE",
        Contrast.FLAIR: "Ax T2 FLAIR",
    },
    # This vendor's operators repeat T1 after contrast and often write that nowhere.
    Vendor.PHILIPS: {
        Contrast.T1: "T1W_SE",
        Contrast.T1C: "T1W_SE",
        Contrast.T2: "T2W_TSE",
        Contrast.FLAIR: "FLAIR_longTR",
    },
}
MAKERS: Mapping[Vendor, tuple[str, str, str]] = {
    Vendor.SIEMENS: ("SIEMENS", "Avanto", "syngo MR B17"),
    Vendor.GE: ("GE MEDICAL SYSTEMS", "Signa HDxt", "15"),
    Vendor.PHILIPS: ("Philips Medical Systems", "Achieva", "3.2.1"),
}
IMAGE_TYPES: Mapping[Vendor, list[str]] = {
    Vendor.SIEMENS: ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"],
    Vendor.GE: ["ORIGINAL", "PRIMARY", "OTHER"],
    Vendor.PHILIPS: ["ORIGINAL", "PRIMARY", "M_SE", "M", "SE"],
}
ORDER = (Contrast.T1, Contrast.T2, Contrast.FLAIR, Contrast.T1C)
"""The order of acquisition: T1 after contrast comes last."""


def uid(*entropy: object) -> str:
    """Hash a UID from what it stands for."""
    return str(generate_uid(entropy_srcs=["glioma-node phantom", *map(str, entropy)]))


def study_header(identity: str, age_years: int) -> Dataset:
    """Patient, study and frame of reference; `identity` names the phantom for its UIDs."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.PatientName = "Phantom^Glioma"
    ds.PatientID = "PHANTOM-0001"
    ds.PatientBirthDate = f"{int(DATE[:4]) - age_years}0301"
    ds.PatientSex = "F"
    ds.PatientAge = f"{age_years:03d}Y"
    ds.PatientWeight = 70
    ds.StudyInstanceUID = uid(identity, "study")
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = DATE
    ds.StudyTime = "100000"
    ds.AccessionNumber = "PHANTOM1"
    ds.StudyID = "1"
    ds.StudyDescription = "MR BRAIN GLIOMA PHANTOM"
    ds.ReferringPhysicianName = ""
    ds.FrameOfReferenceUID = uid(identity, "frame of reference")
    ds.PositionReferenceIndicator = ""
    ds.PatientPosition = "HFS"
    ds.InstitutionName = "Synthetic Hospital"
    return ds


def mr_header(study: Dataset, identity: str, vendor: Vendor, contrast: Contrast, *, volumetric: bool) -> Dataset:
    """Header of one MR series, all but what belongs to a single slice; `volumetric` picks a 3-D sequence."""
    ds = _series_header(study, identity, vendor, contrast, 1 + ORDER.index(contrast))
    ds.SOPClassUID = MRImageStorage
    ds.Modality = "MR"
    ds.ImageType = IMAGE_TYPES[vendor]
    timing = (TIMING_3D if volumetric else TIMING_2D)[contrast]
    ds.ScanningSequence = list(timing.scanning)
    ds.SequenceVariant = list(timing.variant)
    ds.ScanOptions = ""
    ds.MRAcquisitionType = "3D" if volumetric else "2D"
    ds.RepetitionTime = timing.repetition
    ds.EchoTime = timing.echo
    if timing.inversion is not None:
        ds.InversionTime = timing.inversion
    ds.EchoTrainLength = timing.train
    ds.FlipAngle = timing.flip_degrees
    ds.NumberOfAverages = 1
    ds.ImagingFrequency = 63.87
    ds.ImagedNucleus = "1H"
    ds.EchoNumbers = 1
    ds.MagneticFieldStrength = 1.5
    ds.PixelBandwidth = 150
    if contrast is Contrast.T1C and vendor is not Vendor.PHILIPS:
        ds.ContrastBolusAgent = "Gadolinium"
    _add_private(ds, vendor)
    return ds


def ct_header(study: Dataset, identity: str) -> Dataset:
    """Header of a CT series of the same head."""
    ds = _series_header(study, identity, Vendor.SIEMENS, Contrast.T1, 1)
    ds.SOPClassUID = CTImageStorage
    ds.Modality = "CT"
    ds.SeriesDescription = ds.ProtocolName = "Head 5.0 H31s"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.KVP = 120
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = -1024, 1, "HU"
    return ds


def _series_header(study: Dataset, identity: str, vendor: Vendor, contrast: Contrast, number: int) -> Dataset:
    ds = Dataset()
    ds.update(study)
    ds.Manufacturer, ds.ManufacturerModelName, ds.SoftwareVersions = MAKERS[vendor]
    ds.SeriesInstanceUID = uid(identity, "series", contrast)
    ds.SeriesNumber = number
    ds.AcquisitionNumber = 1
    ds.SeriesDescription = ds.ProtocolName = DESCRIPTIONS[vendor][contrast]
    ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = f"10{5 * number:02d}00"
    ds.BodyPartExamined = "BRAIN"
    return ds


def _add_private(ds: Dataset, vendor: Vendor) -> None:
    if vendor is Vendor.SIEMENS:
        block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x08, "CS", "IMAGE NUM 4")
    elif vendor is Vendor.GE:
        block = ds.private_block(0x0043, "GEMS_PARM_01", create=True)
        block.add_new(0x39, "IS", [0, 0, 0, 0])
    else:
        block = ds.private_block(0x2001, "Philips Imaging DD 001", create=True)
        block.add_new(0x03, "FL", 0.0)


def file_meta(ds: Dataset) -> FileMetaDataset:
    """File meta information of an instance that is not compressed."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta
