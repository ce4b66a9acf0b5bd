"""Enhanced multi-frame MR made of single-frame images, as scanners store a whole acquisition in one object.

Frames keep the order of the images; several echoes, b-values, stacks and time points may lie in one object.

Source: PS3.3 A.36.2 (IOD), C.7.6.16 (functional groups), C.7.6.17 (dimensions), C.8.13 (MR macros).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.uid import EnhancedMRImageStorage

from app.phantom_headers import uid

FROM_TOP = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "SliceLocation",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "WindowCenter",
    "WindowWidth",
    "RepetitionTime",
    "EchoTime",
    "EchoNumbers",
    "InversionTime",
    "EchoTrainLength",
    "FlipAngle",
    "NumberOfAverages",
    "ImagingFrequency",
    "PixelBandwidth",
    "ScanningSequence",
    "SequenceVariant",
    "ScanOptions",
    "ImagedNucleus",
    "DiffusionBValue",
    "DiffusionDirectionality",
    "TemporalPositionIdentifier",
    "AcquisitionDate",
    "AcquisitionTime",
    "ContrastBolusAgent",
    "StackID",
)
"""Single-frame attributes whose place in enhanced MR is a functional group."""
DIMENSIONS = (
    ("StackID", "FrameContentSequence"),
    ("InStackPositionNumber", "FrameContentSequence"),
    ("TemporalPositionIndex", "FrameContentSequence"),
    ("EffectiveEchoTime", "MREchoSequence"),
)


DERIVED = {"ADC": "ADC", "SUB": "SUBTRACTION", "REFORMATTED": "RESAMPLED"}
"""Marks in the image type of derived images, and the derived pixel contrast they stand for."""


def item(**attributes: object) -> Dataset:
    """Make a sequence item of what is not None."""
    ds = Dataset()
    for keyword, value in attributes.items():
        if value is not None:
            setattr(ds, keyword, value)
    return ds


def as_enhanced(images: Sequence[Dataset]) -> Dataset:
    """Make one enhanced MR image of single-frame ones of a series, each a frame in the order given."""
    first = images[0]
    ds = Dataset()
    # Copies: setting a value would change the image's own.
    ds.update({e.tag: deepcopy(e) for e in first if e.keyword not in FROM_TOP and not e.tag.is_private})
    ds.SOPClassUID = EnhancedMRImageStorage
    ds.SOPInstanceUID = uid(first.SOPInstanceUID, "enhanced", len(images))
    ds.InstanceNumber = 1
    ds.NumberOfFrames = len(images)
    _say_what_it_is(ds, first)
    organisation = uid(ds.SOPInstanceUID, "dimensions")
    ds.DimensionOrganizationSequence = [item(DimensionOrganizationUID=organisation)]
    ds.DimensionIndexSequence = [
        item(
            DimensionOrganizationUID=organisation, DimensionIndexPointer=_tag(name), FunctionalGroupPointer=_tag(group)
        )
        for name, group in DIMENSIONS
    ]
    ds.SharedFunctionalGroupsSequence = [_shared(first)]
    ds.PerFrameFunctionalGroupsSequence = [
        _per_frame(image, place) for image, place in zip(images, _places(images), strict=True)
    ]
    ds.PixelData = b"".join(image.PixelData for image in images)
    return ds


def _tag(keyword: str) -> int:
    return int(tag_for_keyword(keyword) or 0)


def _say_what_it_is(ds: Dataset, first: Dataset) -> None:
    """Add what the IOD wants at the top (PS3.3 C.8.13.1, C.8.13.2)."""
    ds.ImageType = _image_type(first)
    ds.PixelPresentation, ds.VolumetricProperties, ds.VolumeBasedCalculationTechnique = "MONOCHROME", "VOLUME", "NONE"
    ds.ComplexImageComponent, ds.AcquisitionContrast = "MAGNITUDE", _weighting(first)
    ds.AcquisitionDateTime = f"{first.AcquisitionDate}{first.AcquisitionTime}"
    if ds.ImageType[0] == "ORIGINAL":
        _say_how_it_was_taken(ds, first)
    else:
        del ds.MRAcquisitionType
    ds.ResonantNucleus, ds.KSpaceFiltering, ds.ApplicableSafetyStandardAgency = "1H", "NONE", "IEC"
    ds.DeviceSerialNumber, ds.ContentQualification = "0", "RESEARCH"
    ds.BurnedInAnnotation, ds.LossyImageCompression = "NO", "00"
    ds.PresentationLUTShape, ds.AcquisitionContextSequence = "IDENTITY", []
    if "ContrastBolusAgent" in first:
        ds.ContrastBolusAgentSequence = [_contrast_agent()]


def _say_how_it_was_taken(ds: Dataset, first: Dataset) -> None:
    """Add the pulse sequence of an original image (PS3.3 C.8.13.4)."""
    ds.PulseSequenceName = first.SeriesDescription[:16]
    ds.AcquisitionDuration = 240.0
    spin = "SE" in first.ScanningSequence
    ds.EchoPulseSequence = "SPIN" if spin else "GRADIENT"
    if spin:
        ds.MultipleSpinEcho = "NO"
    ds.MultiPlanarExcitation, ds.PhaseContrast, ds.TimeOfFlightContrast = "NO", "NO", "NO"
    ds.SteadyStatePulseSequence, ds.EchoPlanarPulseSequence = "NONE", "NO"
    ds.SaturationRecovery, ds.SpectrallySelectedSuppression = "NO", "NONE"
    ds.OversamplingPhase, ds.GeometryOfKSpaceTraversal, ds.RectilinearPhaseEncodeReordering = (
        "NONE",
        "RECTILINEAR",
        "LINEAR",
    )
    ds.SegmentedKSpaceTraversal, ds.NumberOfKSpaceTrajectories = "SINGLE", 1
    if ds.MRAcquisitionType == "3D":
        ds.CoverageOfKSpace = "FULL"


def _image_type(image: Dataset) -> list[str]:
    """Write an image type as enhanced MR does (PS3.3 C.8.16.1, C.8.13.3.1.1)."""
    flavour = "DIFFUSION" if "DIFFUSION" in image.ImageType else "OTHER"
    derived = next((contrast for mark, contrast in DERIVED.items() if mark in image.ImageType), "NONE")
    return [image.ImageType[0], "PRIMARY", flavour, derived]


def _weighting(first: Dataset) -> str:
    if "DiffusionBValue" in first:
        return "DIFFUSION"
    if "IR" in first.ScanningSequence and "SE" in first.ScanningSequence:
        return "FLUID_ATTENUATED"
    return "T1" if float(first.RepetitionTime) < 2500 and float(first.EchoTime) < 30 else "T2"


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _contrast_agent() -> Dataset:
    agent = _code("C-B03CB", "SRT", "Gadolinium")
    agent.ContrastBolusAgentNumber = 1
    agent.ContrastBolusAdministrationRouteSequence = [_code("G-D101", "SNM3", "Intravenous route")]
    agent.ContrastBolusIngredientCodeSequence = [_code("C-17800", "SRT", "Gadolinium")]
    agent.ContrastBolusVolume, agent.ContrastBolusIngredientConcentration = 7.0, 604.0
    return agent


def _given() -> Dataset:
    return item(
        ContrastBolusAgentNumber=1,
        ContrastBolusAgentAdministered="YES",
        ContrastBolusAgentDetected="YES",
        ContrastBolusAgentPhase="POST_CONTRAST",
    )


def _shared(first: Dataset) -> Dataset:
    inverted = "InversionTime" in first
    return item(
        PixelMeasuresSequence=[
            item(
                PixelSpacing=first.PixelSpacing,
                SliceThickness=first.SliceThickness,
                SpacingBetweenSlices=first.get("SpacingBetweenSlices"),
            )
        ],
        FrameAnatomySequence=[item(FrameLaterality="U", AnatomicRegionSequence=[_code("12738006", "SCT", "Brain")])],
        MRTimingAndRelatedParametersSequence=[
            item(
                RepetitionTime=first.RepetitionTime,
                FlipAngle=first.FlipAngle,
                EchoTrainLength=first.EchoTrainLength,
                RFEchoTrainLength=first.EchoTrainLength,
                GradientEchoTrainLength=0,
                OperatingModeSequence=[
                    item(OperatingModeType=kind, OperatingMode="IEC_NORMAL")
                    for kind in ("STATIC FIELD", "RF", "GRADIENT")
                ],
                GradientOutputType="DB_DT",
                GradientOutput=0.0,
                SpecificAbsorptionRateSequence=[
                    item(SpecificAbsorptionRateDefinition="IEC_WHOLE_BODY", SpecificAbsorptionRateValue=0.1)
                ],
            )
        ],
        MRFOVGeometrySequence=[
            item(
                InPlanePhaseEncodingDirection="ROW",
                MRAcquisitionFrequencyEncodingSteps=int(first.Columns),
                MRAcquisitionPhaseEncodingStepsInPlane=int(first.Rows),
                MRAcquisitionPhaseEncodingStepsOutOfPlane=1 if first.MRAcquisitionType == "3D" else None,
                PercentSampling=100.0,
                PercentPhaseFieldOfView=100.0,
            )
        ],
        MRModifierSequence=[
            item(
                InversionRecovery="YES" if inverted else "NO",
                InversionTimes=[float(first.InversionTime)] if inverted else None,
                FlowCompensation="NONE",
                Spoiling="NONE",
                T2Preparation="NO",
                SpectrallySelectedExcitation="NONE",
                SpatialPresaturation="NONE",
                PartialFourier="NO",
                ParallelAcquisition="NO",
            )
        ],
        MRImagingModifierSequence=[
            item(
                MagnetizationTransfer="NONE",
                BloodSignalNulling="NO",
                Tagging="NONE",
                TransmitterFrequency=float(first.ImagingFrequency),
                PixelBandwidth=float(first.PixelBandwidth),
            )
        ],
        MRReceiveCoilSequence=[
            item(
                ReceiveCoilName="HEAD",
                ReceiveCoilManufacturerName="",
                ReceiveCoilType="VOLUME",
                QuadratureReceiveCoil="YES",
            )
        ],
        MRTransmitCoilSequence=[
            item(TransmitCoilName="BODY", TransmitCoilManufacturerName="", TransmitCoilType="BODY")
        ],
        ContrastBolusUsageSequence=[_given()] if "ContrastBolusAgent" in first else None,
        MRAveragesSequence=[item(NumberOfAverages=float(first.NumberOfAverages))],
    )


def _per_frame(image: Dataset, place: Mapping[str, object]) -> Dataset:
    moment = f"{image.AcquisitionDate}{image.AcquisitionTime}"
    groups = item(
        FrameContentSequence=[
            item(
                FrameAcquisitionDateTime=moment,
                FrameReferenceDateTime=moment,
                FrameAcquisitionDuration=240000.0,
                FrameAcquisitionNumber=int(image.AcquisitionNumber),
                **place,
            )
        ],
        PlanePositionSequence=[item(ImagePositionPatient=image.ImagePositionPatient)],
        PlaneOrientationSequence=[item(ImageOrientationPatient=image.ImageOrientationPatient)],
        PixelValueTransformationSequence=[
            item(
                RescaleSlope=image.get("RescaleSlope", "1"),
                RescaleIntercept=image.get("RescaleIntercept", "0"),
                RescaleType="US",
            )
        ],
        FrameVOILUTSequence=[item(WindowCenter=image.WindowCenter, WindowWidth=image.WindowWidth)],
        MRImageFrameTypeSequence=[
            item(
                FrameType=_image_type(image),
                PixelPresentation="MONOCHROME",
                VolumetricProperties="VOLUME",
                VolumeBasedCalculationTechnique="NONE",
                ComplexImageComponent="PHASE" if "P" in image.ImageType else "MAGNITUDE",
                AcquisitionContrast=_weighting(image),
            )
        ],
        MREchoSequence=[item(EffectiveEchoTime=float(image.EchoTime))],
    )
    if "DiffusionBValue" in image:
        groups.MRDiffusionSequence = [
            item(
                DiffusionBValue=float(image.DiffusionBValue),
                DiffusionDirectionality="ISOTROPIC" if image.DiffusionBValue else "NONE",
            )
        ]
    return groups


def _places(images: Sequence[Dataset]) -> Iterable[dict[str, object]]:
    """Say for each image where in the dimensions it lies: its stack, place in it, time point and echo."""
    stacks = [str(image.get("StackID", "1")) for image in images]
    normal = np.cross(*np.array(images[0].ImageOrientationPatient, float).reshape(2, 3))
    heights = [round(float(np.array(i.ImagePositionPatient, float) @ normal), 3) for i in images]
    times = [int(image.get("TemporalPositionIdentifier", 1)) for image in images]
    echoes = [float(image.EchoTime) for image in images]
    known: list[list[Any]] = [stacks, heights, times, echoes]
    ranks = [{v: 1 + k for k, v in enumerate(sorted(set(values)))} for values in known]
    for stack, height, time, echo in zip(stacks, heights, times, echoes, strict=True):
        index = [rank[value] for rank, value in zip(ranks, (stack, height, time, echo), strict=True)]
        yield {
            "StackID": stack,
            "InStackPositionNumber": index[1],
            "TemporalPositionIndex": time,
            "DimensionIndexValues": index,
        }
